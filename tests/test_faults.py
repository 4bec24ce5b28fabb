"""A run whose state is damaged, that lacks memory, or that another training shares.

Kills and full disks are in test_kills.py.
"""

from __future__ import annotations

import pytest
import torch

from imagen_model.cli import main
from imagen_model.training.run_lock import run_lock
from imagen_model.training.state import STATE, saved_state
from imagen_model.training.trainer import Trainer


def weights(trainer: Trainer) -> list[torch.Tensor]:
    return [p.detach().clone() for p in trainer.networks.parameters()]


def same(ours: Trainer, theirs: Trainer) -> bool:
    pairs = zip(weights(ours), weights(theirs), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


# -- two trainings ---------------------------------------------------------------------------------


def test_a_second_training_in_the_same_folder_is_refused_and_changes_nothing(trainer):
    first, second = trainer(), trainer()
    refused = []

    def start_another(progress):
        before = {p: p.stat().st_mtime_ns for p in first.out.rglob("*")}
        with pytest.raises(ValueError, match=r"another training is at work in .*run; wait"):
            second.run()
        refused.append(before == {p: p.stat().st_mtime_ns for p in first.out.rglob("*")})

    first.run(start_another)
    assert refused and all(refused)
    assert second.progress.cur_nimg == 0
    again = trainer()
    assert again.resume()  # the lock ended with the run
    again.run()


def test_the_command_refuses_a_run_that_trains_before_it_reads_the_pictures(
    emoji_folder, tmp_path, capsys
):
    run = tmp_path / "run"
    run.mkdir()
    with run_lock(run):
        code = main(["train", str(emoji_folder), "--out", str(run), "--kimg", "1", "--resume"])
    err = capsys.readouterr().err
    assert code == 1
    assert err.count("\n") == 1 and "another training is at work" in err
    assert "reading" not in err


# -- a damaged state -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["networks.safetensors", "optimizer-d.safetensors", "progress.json"]
)
@pytest.mark.parametrize("damage", ["cut off", "empty", "zeros"])
def test_a_damaged_state_falls_back_to_the_one_before_and_loses_no_more(
    trainer, caplog, name, damage
):
    t = trainer()
    t.run(lambda progress: t.save())  # after every step, as every few minutes
    file = t.out / STATE / name
    data = file.read_bytes()
    file.write_bytes({"cut off": data[:-9], "empty": b"", "zeros": bytes(len(data))}[damage])
    again = trainer()
    assert again.resume() and again.progress.cur_nimg == 32
    assert "state was damaged and is now state.damaged" in caplog.text
    whole = trainer("whole")
    whole.run()
    assert same(again, whole)  # the state before it is that of the last step, saved twice
    again.save()
    assert saved_state(t.out) == t.out / STATE
    third = trainer()
    assert third.resume() and same(third, whole)


# -- the memory ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried ..."),
        MemoryError(),
    ],
    ids=["CUDA", "CPU", "Python"],
)
def test_too_little_memory_in_a_step_is_one_line_and_the_run_goes_on_from_there(
    trainer, monkeypatch, error
):
    t = trainer()
    update = type(t.train_step)._update_discriminator

    def exhausted(self, *args):
        if t.progress.cur_nimg == 16:
            raise error
        return update(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(type(t.train_step), "_update_discriminator", exhausted)
        with pytest.raises(ValueError, match=r"out of memory with a batch of 8 .* accumulate 2"):
            t.run()
    again = trainer()
    assert again.resume() and again.progress.cur_nimg == 16
    again.run()
    whole = trainer("whole")
    whole.run()
    assert same(again, whole)


def test_other_failures_of_a_step_keep_their_words(trainer, monkeypatch):
    t = trainer()

    def broken(*args, **options):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(t, "train_step", broken)
    with pytest.raises(RuntimeError, match="mat1 and mat2 shapes"):
        t.run()
