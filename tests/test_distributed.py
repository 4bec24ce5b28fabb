"""Several processes train what one would."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import imagen_model as im

pytestmark = pytest.mark.slow  # several processes, each with all of torch
ROOT = Path(__file__).resolve().parent.parent
BATCH = 8
RPGAN = ("--objective", "rpgan", "--gamma", "0.1")
PARTS = ("--accumulate", "2")
TIMING = {"seconds", "img_per_sec"}
OF_OWN_ROWS = {"diversity", "overfit"}  # each process sees its own pictures; the log is the mean


def train(data: Path, run: Path, *extra: str, steps: int, processes: int) -> dict:
    """Run the trainer as people do; returns the means over the last steps."""
    launcher = (
        ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
        if processes > 1
        else []
    )
    command = [
        sys.executable, *launcher, "-m", "imagen_model", "train", str(data), "--out", str(run),
        "--resolution", "32", "--batch", str(BATCH), "--kimg", str(steps * BATCH / 1000), *extra,
    ]  # fmt: skip
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("trained 0.0 kimg") == 1  # one of them speaks
    return json.loads((run / "stats.jsonl").read_text().splitlines()[-1])


@pytest.mark.parametrize(
    ("steps", "rel", "extra"),
    [
        pytest.param(1, 1e-5, (), id="one step"),
        pytest.param(6, 1e-3, (), id="six steps"),
        pytest.param(1, 1e-3, RPGAN, id="rpgan"),
        pytest.param(1, 1e-4, PARTS, id="in parts"),
    ],
)
def test_two_processes_have_the_loss_curve_of_one(emoji_folder, tmp_path, steps, rel, extra):
    """To rounding in the first step. Adam then makes more of it where gradients are nearly zero,
    and penalties by finite differences make ten thousand times as much."""
    alone = train(emoji_folder, tmp_path / "one", *extra, steps=steps, processes=1)
    together = train(emoji_folder, tmp_path / "two", *extra, steps=steps, processes=2)
    assert alone.keys() == together.keys()
    for name in alone.keys() - TIMING - OF_OWN_ROWS:
        assert together[name] == pytest.approx(alone[name], rel=rel, abs=1e-5), name
    model = im.load(tmp_path / "two" / "latest.safetensors")
    assert model.sample("rocket").shape == (1, 4, 32, 32)


def test_a_batch_that_cannot_be_shared_is_refused(emoji_folder, tmp_path):
    with pytest.raises(AssertionError, match="batch is 8; expected a multiple of the 3 processes"):
        train(emoji_folder, tmp_path / "three", steps=1, processes=3)
