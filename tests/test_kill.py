"""A run that is killed at any moment: nothing is corrupt, and it goes on as if nothing had been."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import imagen_model as im

pytestmark = pytest.mark.slow
KILLS = 20
CHILD = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
sys.path.insert(0, {tests!r})
from conftest import tiny_model_config
from imagen_model.data.captions import CaptionSampler
from imagen_model.data.dataset import load_pictures
from imagen_model.data.folder import read_items
from imagen_model.training import trainer as module
from imagen_model.training.config import RunConfig, TrainingConfig
module.SAVE_EVERY_SEC = 0.2
pictures = load_pictures(read_items(Path({data!r})), resolution=32, channels=4)
training = TrainingConfig(
    batch=8, kimg=2.4, lr=2e-3, warmup_kimg=0.1, tick_kimg=0.12, snapshot_kimg=0.4
)
trainer = module.Trainer(
    RunConfig(tiny_model_config(), training, Path({run!r}), {{"name": "run"}}),
    pictures,
    CaptionSampler(pictures.items, pictures.styles),
    device=torch.device("cpu"),
)
trainer.resume()
print("ready", flush=True)
trainer.run()
"""


def start(data: Path, run: Path) -> subprocess.Popen:
    """A process that trains, or goes on, and has begun to."""
    code = CHILD.format(tests=str(Path(__file__).parent), data=str(data), run=str(run))
    child = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent.parent,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert child.stdout is not None
    with child.stdout as said:
        assert said.readline() == "ready\n"
    return child


def curve(run: Path) -> list[dict]:
    lines = [json.loads(line) for line in (run / "stats.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in ("seconds", "img_per_sec")} for row in lines]


def test_twenty_kills_change_nothing(emoji_folder, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    started = time.monotonic()
    assert start(emoji_folder, whole).wait() == 0
    seconds = time.monotonic() - started
    moments = random.Random(0)
    for _ in range(KILLS):
        child = start(emoji_folder, parts)
        time.sleep(moments.uniform(0, seconds / KILLS))  # half of the run, all in all
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
        for file in parts.glob("[!.]*.safetensors"):
            assert torch.isfinite(im.load(file).sample("rocket")).all()
    assert start(emoji_folder, parts).wait() == 0
    assert curve(parts) == curve(whole)  # one thread: to the last bit
    one, other = (load_file(run / "latest.safetensors") for run in (whole, parts))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not list(parts.glob(".*")), "a half-written file was left"
