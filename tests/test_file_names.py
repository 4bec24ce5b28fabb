"""Names in another encoding than UTF-8, as old disks have them: read, written and named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import imagen_model as im
from imagen_model.cli import main as imagen
from imagen_model.data import streaming

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems have only Unicode")
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def folder(tmp_path) -> Path:
    """Class folders caf\\xe9 and tea, of four pictures each, one of them damaged."""
    root = Path(os.fsdecode(os.fsencode(tmp_path) + b"/d\xe9ssins"))
    rng = np.random.default_rng(0)
    for name in (b"caf\xe9", b"tea"):
        (root / os.fsdecode(name)).mkdir(parents=True)
        for i in range(4):
            array = rng.integers(256, size=(40, 40, 3), dtype=np.uint8)
            Image.fromarray(array).save(root / os.fsdecode(name) / os.fsdecode(b"%d\xfc.png" % i))
    (root / os.fsdecode(b"tea") / os.fsdecode(b"bad\xe9.png")).write_bytes(b"no picture")
    return root


@pytest.mark.parametrize("streamed", [False, True])
def test_training_reads_them_and_writes_its_model(folder, tmp_path, monkeypatch, capsys, streamed):
    if streamed:
        monkeypatch.setattr(streaming, "memory_for_pictures", lambda: 0)
    options = ["--resolution", "32", "--batch", "4", "--device", "cpu"]
    assert (
        imagen(["train", str(folder), "--out", str(tmp_path / "run"), "--kimg", ".004", *options])
        == 0
    )
    model = im.load(tmp_path / "run" / "latest.safetensors")
    assert model.card["data"] == model.card["data"] | {"name": folder.name, "pictures": 8}
    again = ["--resume", "--kimg", ".008"]
    assert imagen(["train", str(folder), "--out", str(tmp_path / "run"), *again]) == 0


def test_a_prepared_folder_names_what_it_skipped(folder, tmp_path, capsys):
    report = tmp_path / "report.json"
    for kind, source in (("folder", ["--source", str(folder)]), ("shards", [str(folder)])):
        out = ["--out", str(tmp_path / kind), "--json", str(report)]
        assert imagen(["data", kind, *source, *out]) == 0
        (skipped,) = json.loads(report.read_text(encoding="utf-8"))["skipped"]
        assert "bad\udce9.png: not a readable picture" in skipped
        manifest = json.loads((tmp_path / kind / "manifest.json").read_text(encoding="utf-8"))
        assert manifest["source"] == str(folder)
    lines = (tmp_path / "folder" / "train" / "metadata.jsonl").read_text(encoding="utf-8")
    assert {json.loads(line)["text"] for line in lines.splitlines()} == {"caf?", "tea"}


def test_what_is_printed_and_written_does_not_depend_on_the_locale(folder, tmp_path):
    report = tmp_path / "report.json"
    out = ["--out", str(tmp_path / "out"), "--json", str(report)]
    done = subprocess.run(
        [sys.executable, "-m", "imagen_model", "data", "folder", "--source", folder, *out],
        cwd=ROOT,
        env={**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "bad\\udce9.png: not a readable picture" in done.stdout
    assert json.loads(report.read_text(encoding="utf-8"))["pictures"] == 8
