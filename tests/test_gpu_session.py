"""The script for a borrowed GPU runs from end to end, here on the CPU and on twelve emoji."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import EMOJI_SOURCES

import imagen_model as im
from imagen_model.evaluation.features import PACKAGE

SCRIPT = Path(__file__).resolve().parent.parent / "tools" / "gpu_session.py"
MIB = 2**20


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    """Runs one part; its results go to a folder of their own."""
    folder = tmp_path_factory.mktemp("gpu")

    def run(part: str, *options: str) -> Path:
        out = folder / f"out-{part}"
        command = [sys.executable, str(SCRIPT), part, "--folder", str(folder / "pack"), *options]
        done = subprocess.run(command, env={"OUT": str(out), "OMP_NUM_THREADS": "1"}, text=True,
                              capture_output=True, cwd=folder)  # fmt: skip
        assert done.returncode == 0, done.stderr
        return out

    return run


def test_a_session_trains_within_its_minutes_and_measures_what_it_made(session, tiny_checkpoint):
    pytest.importorskip(PACKAGE)
    packing = ("--source", str(EMOJI_SOURCES), "--model", str(tiny_checkpoint))
    session("pack", *packing, "--without-wheels")
    small = ("--device", "cpu", "--resolution", "32")
    began = time.monotonic()
    out = session("train", *small, "--minutes", "0.45", "--batch", "8", "--lr", "1e-3")
    assert time.monotonic() - began < 60  # with the start of Python
    model = im.load(out / "model.safetensors")
    assert (out / "model.safetensors").stat().st_size < 16 * MIB
    assert model.card["kimg"] > 0 and model.card["lineage"][0]["name"] == "tiny"
    assert set(model.styles) > {"noto-v1", "emojione", "fxemoji", "streamline"}
    assert {path.suffix for path in out.iterdir()} == {".safetensors", ".jsonl", ".png"}
    out = session("measure", *small, "--batches", "4", "--presets", "nano")
    speeds = json.loads((out / "speed.json").read_text())["training, images per second"]
    assert speeds["nano, 32 px, batch 4"] > 0
    figures = json.loads((out / "evaluation.json").read_text())
    assert figures["retrieval"]["text"]["pairs"] == 6 and figures["fd_spatial"] > 0
    assert (out / "evaluation.html").stat().st_size < 16 * MIB
