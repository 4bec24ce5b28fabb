"""Signals during a training: it ends within its step, all is saved, and nothing is repeated."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

import imagen_model as im
from imagen_model.training import state
from imagen_model.training.interrupt import STOPPING, stop_request


def stats(run: Path) -> list[dict]:
    lines = [json.loads(line) for line in (run / "stats.jsonl").read_text().splitlines()]
    return [
        {k: v for k, v in line.items() if k not in ("seconds", "img_per_sec")} for line in lines
    ]


def weights(run: Path) -> dict[str, bytes]:
    state = im.load(run / "latest.safetensors").networks.state_dict()
    return {name: tensor.numpy().tobytes() for name, tensor in state.items()}


@pytest.fixture
def interrupted(trainer, monkeypatch):
    """A run that gets a signal in the middle of its second step, when the data position has moved
    and no network has been trained, and more of them at every file that it then saves."""

    def run(number: int):
        before = signal.signal(number, signal.SIG_DFL)  # the tests themselves may run under nohup
        try:
            return interrupted_by(number)
        finally:
            signal.signal(number, before)

    def interrupted_by(number: int):
        t = trainer("parts", tick_kimg=0.008)
        batch, saved, calls = t.dataset.batch, state.save_tensors, []

        def signalled(*args):
            calls.append(args)
            if len(calls) == 3:  # the first is the grid of real pictures
                signal.raise_signal(number)
            return batch(*args)

        def signalled_again(*args, **options):
            signal.raise_signal(number)
            return saved(*args, **options)

        with monkeypatch.context() as patch:
            patch.setattr(type(t.dataset), "batch", lambda self, *args: signalled(*args))
            patch.setattr(state, "save_tensors", signalled_again)
            with pytest.raises(KeyboardInterrupt):
                t.run()
        return t

    return run


def test_a_run_stopped_at_any_check_goes_on_as_if_it_had_not_been(trainer):
    def stop() -> None:
        calls.append(t.progress.cur_nimg)
        if len(calls) == number:
            raise KeyboardInterrupt

    options = {"tick_kimg": 0.008, "kimg": 0.024, "accumulate": 2}
    checks = 6  # in a step: before each half is generated, and around both halves' gradients
    whole = trainer("whole", **options)
    whole.run()
    for number in (1, 4, checks, checks + 1):  # the last is in the third step
        calls: list[int] = []
        t = trainer(f"stopped-{number}", **options)
        with pytest.raises(KeyboardInterrupt):
            t.run(check=stop)
        assert t.progress.cur_nimg == calls[-1] == (8 if number <= checks else 16)
        again = trainer(f"stopped-{number}", **options)
        assert again.resume()
        again.run()
        assert stats(again.out) == stats(whole.out)
        assert weights(again.out) == weights(whole.out)


@pytest.mark.parametrize("number", STOPPING, ids=lambda number: number.name)
def test_a_signal_inside_a_step_and_more_during_the_save_lose_nothing(number, interrupted, trainer):
    t = interrupted(number)
    assert t.progress.cur_nimg == 8  # the step that was under way has been broken off
    assert im.load(t.out / "latest.safetensors").resolution == 32
    again = trainer("parts", tick_kimg=0.008)
    assert again.resume() and again.progress.cur_nimg == 8
    again.run()
    whole = trainer("whole", tick_kimg=0.008)
    whole.run()
    assert stats(again.out) == stats(whole.out)


def test_a_signal_that_is_ignored_stays_ignored():
    number = STOPPING[-1]
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with stop_request() as stop:
            signal.raise_signal(number)
        assert not stop.requested
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)


def test_handlers_are_put_back():
    before = [signal.getsignal(number) for number in STOPPING]
    with stop_request() as stop:
        signal.raise_signal(STOPPING[0])
        assert stop.requested
    assert [signal.getsignal(number) for number in STOPPING] == before


def test_a_run_that_ended_before_its_first_save_leaves_no_lines_behind(trainer):
    t = trainer("run", tick_kimg=0.008)
    t.out.mkdir()
    (t.out / "stats.jsonl").write_text('{"kimg": 0.008}\n{"kimg": 0.016}\n{"ki')
    assert not t.resume()
    t.run()
    assert [line["kimg"] for line in stats(t.out)] == [0.008, 0.016, 0.024, 0.032]
