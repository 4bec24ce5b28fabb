"""The report before training: sizes, captions, and pictures that are there twice."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from imagen_model.cli import main
from imagen_model.data.dataset import load_pictures
from imagen_model.data.folder import read_items
from imagen_model.data.statistics import Fingerprints, describe_captions, near_duplicates


def drawing(seed: int, side: int = 120) -> Image.Image:
    """Something with shapes and colours of its own."""
    rng = np.random.default_rng(seed)
    noise = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8))
    return noise.resize((side, side), Image.Resampling.BICUBIC)


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "pictures"
    root.mkdir()
    for seed in range(30):
        drawing(seed).save(root / f"{seed:02d}.png")
    return root


def duplicates(folder) -> dict[str, str]:
    samples = read_items(folder)
    pictures = load_pictures(samples, resolution=32, channels=3)
    names = [s.path.name for s in samples]
    found = near_duplicates(pictures.fingerprints())
    return {names[later]: names[first] for later, first in found.items()}


def test_copies_are_found_however_they_were_saved(folder):
    assert duplicates(folder) == {}
    (folder / "x-same.png").write_bytes((folder / "03.png").read_bytes())
    drawing(4).save(folder / "x-poor.jpg", quality=60)
    drawing(5).resize((77, 77)).save(folder / "x-small.webp")
    drawing(6).filter(ImageFilter.GaussianBlur(1.5)).save(folder / "x-soft.png")
    assert duplicates(folder) == {
        "x-same.png": "03.png",
        "x-poor.jpg": "04.png",
        "x-small.webp": "05.png",
        "x-soft.png": "06.png",
    }


def test_the_same_shape_in_another_colour_is_no_copy(folder):
    red, green, blue = drawing(7).split()
    Image.merge("RGB", (blue, red, green)).save(folder / "x.png")
    assert duplicates(folder) == {}


def test_every_copy_of_many_counts_once(folder):
    for i in range(20):
        drawing(8).save(folder / f"x{i:02d}.png")
    assert duplicates(folder) == {f"x{i:02d}.png": "08.png" for i in range(20)}


def test_skin_tones_of_an_emoji_are_no_copies(emoji_pictures):
    samples = emoji_pictures.items
    tones = {i for i, s in enumerate(samples) if s.hexcode != s.base}
    assert tones and not tones & near_duplicates(emoji_pictures.fingerprints()).keys()


def test_fourteen_thousand_pictures_take_seconds():
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (7000, 4, 32, 32), generator=generator, dtype=torch.uint8)
    pixels = torch.cat([pixels, pixels])
    started = time.process_time()
    found = near_duplicates(Fingerprints.of(pixels))
    assert time.process_time() - started < 10  # 98 million pairs one by one would take minutes
    assert found == {i + 7000: i for i in range(7000)}


def test_a_blank_set_is_one_picture_many_times():
    found = near_duplicates(Fingerprints.of(torch.full((50, 3, 16, 16), 255, dtype=torch.uint8)))
    assert set(found) == set(range(1, 50))
    one = near_duplicates(Fingerprints.of(torch.zeros(1, 1, 16, 16, dtype=torch.uint8)))
    assert one == {}


def test_captions_are_counted_by_what_the_encoder_knows():
    assert describe_captions(["a", "b"]) == "all there"
    assert describe_captions(["a", "", ""]) == "2 missing"
    assert describe_captions(["красное яблоко", "苹果", "café", "🍎", "tea 茶"]) == (
        "all there, 2 in scripts of which the English text encoder knows little"
    )


def test_training_and_preparing_print_the_report(folder, tmp_path, capsys):
    (folder / "x.png").write_bytes((folder / "03.png").read_bytes())
    drawing(40, side=16).save(folder / "tiny.png")
    drawing(41, side=300).save(folder / "wide.png")
    (folder / "00.txt").write_text("a cloud", encoding="utf-8")
    train = ("train", folder, "--out", tmp_path / "run", "--kimg", 1, "--batch", 2, "--dry-run")
    facts = tmp_path / "facts.json"
    assert main([str(word) for word in (*train, "--json", facts)]) == 0
    told = capsys.readouterr().out
    plan = json.loads(facts.read_text())
    assert plan["source sizes"] == "16 to 300 px, median 120"
    assert plan["duplicates"] == "1, such as x.png like 03.png"
    assert plan["captions"] == "32 missing" and plan["duplicates"] in told
    data = ("data", "folder", "--source", folder, "--out", tmp_path / "out", "--resolution", 32)
    assert main([str(word) for word in data]) == 0
    told = capsys.readouterr().out
    assert "source sizes: 16 to 300 px, median 120" in told and "captions: 32 missing" in told
    assert "near duplicates: 1, such as" in told
