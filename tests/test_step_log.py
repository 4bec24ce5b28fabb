"""A step does not wait for the device: nothing is read from it until the log is fetched."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from imagen_model.training import trainer as trainer_module
from imagen_model.training.divergence import MAX_GAP, PATIENCE
from imagen_model.training.options import TrainOptions
from imagen_model.training.setup import prepare
from imagen_model.training.step_log import StepLog

READS = ("_local_scalar_dense", "is_nonzero", "nonzero")  # each waits for a GPU


class Reads(TorchDispatchMode):
    """Counts the operations that bring a value of a tensor to Python."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function.__name__.split(".")[0] in READS
        return function(*args, **(kwargs or {}))


def make_trainer(data: Path, out: Path, **options) -> trainer_module.Trainer:
    return prepare(
        data,
        out,
        TrainOptions(resolution=32, seed=0, **{"kimg": 0.064, "batch": 8} | options),
        device=torch.device("cpu"),
        progress=lambda label: lambda done, total: None,
    )


@pytest.mark.parametrize(
    "options", [{}, {"objective": "rpgan"}, {"accumulate": 2}], ids=["hinge", "rpgan", "parts"]
)
def test_a_step_reads_nothing_from_the_device(emoji_folder, tmp_path, options):
    trainer = make_trainer(emoji_folder, tmp_path / "run", **options)
    step = trainer.train_step
    counts = []

    def counted(*args, **kwargs):
        with Reads() as reads:
            log = step(*args, **kwargs)
        counts.append(reads.count)
        return log

    trainer.train_step = counted
    trainer.step()
    trainer.step()
    assert counts == [0, 0]


def test_scalars_that_wait_make_the_same_log(emoji_folder, tmp_path, monkeypatch):
    """Also if some steps are fetched together, some alone, and the last ones at the end."""
    texts = []
    for number, every in enumerate((1, 3)):
        run = tmp_path / f"run{number}"
        trainer = make_trainer(emoji_folder, run)
        trainer.log.fetch_every = every
        trainer.run()
        lines = (run / "stats.jsonl").read_text().splitlines()
        texts.append([line.split('"lr"')[1] for line in lines])  # after the seconds
    assert texts[0] == texts[1]


def test_steps_after_a_return_to_a_good_state_are_not_counted(emoji_folder, tmp_path, caplog):
    """Of steps that are fetched together, those after the return trained a state that is gone."""
    trainer = make_trainer(emoji_folder, tmp_path / "run")
    trainer.log.fetch_every = 100
    good = trainer.step
    bad = {"real_logits": torch.tensor(MAX_GAP * 2), "fake_logits": torch.tensor(0.0)}
    trainer.step = lambda: good() | bad
    trainer.run()
    returns = [record for record in caplog.records if "good state" in record.getMessage()]
    assert PATIENCE < 8  # the run has eight steps, which one line of the log covers
    assert len(returns) == 1 and trainer.guard.lr_scale == 0.5


def test_scalars_keep_their_names_and_order():
    log = StepLog(torch.device("cpu"))
    log.add({"a": torch.tensor(1.0), "b": torch.tensor(2.0)})
    log.add({"b": torch.tensor(math.nan)})
    assert log.is_due
    first, second = log.fetch()
    assert first == {"a": 1.0, "b": 2.0} and list(second) == ["b"] and math.isnan(second["b"])
    assert log.fetch() == []
    log.accumulate(first)
    log.accumulate(second)  # what is not finite does not count
    log.accumulate({"a": 2.0})
    assert log.take_means() == {"a": 1.5, "b": 2.0} and log.values == {}
