"""An upscaler of one's own: trained on pictures at their full size, stopped and resumed, used."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from test_cli import imagen, one_line, opened  # noqa: F401 (a fixture)

import imagen_model as im
from imagen_model.data.folder import read_items
from imagen_model.inference.upscaler import load_upscaler, save_upscaler
from imagen_model.storage.tensor_file import read_tensors, save_tensors
from imagen_model.training.upscaler import UpscalerOptions, UpscalerTraining
from imagen_model.training.upscaler_data import CROP, MARGIN, pairs_of, read_patches


@pytest.fixture(scope="module")
def art(tmp_path_factory) -> Path:
    """24 pictures of discs, of several sizes and shapes, some of them opaque; one is too small and
    one is damaged."""
    folder = tmp_path_factory.mktemp("art") / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(24):
        width, height = 80 + 16 * (i % 5), 72 + 24 * (i % 3)
        y, x = np.mgrid[:height, :width]
        inside = (x - width / 2) ** 2 + (y - height / 2) ** 2 < (height / 3) ** 2
        pixels = np.zeros((height, width, 4), np.uint8)
        pixels[..., :3] = np.where(inside[..., None], rng.integers(0, 255, 3), 255)
        pixels[..., 3] = 255 if i % 2 else inside * 255
        Image.fromarray(pixels).save(folder / f"{i:02d}.png")
    Image.new("RGB", (40, 200)).save(folder / "small.png")
    (folder / "torn.png").write_bytes((folder / "00.png").read_bytes()[:60])
    return folder


def training(art: Path, steps: int = 3, **options: int) -> UpscalerTraining:
    chosen = UpscalerOptions(steps=steps, **options)
    return UpscalerTraining(
        read_patches(read_items(art), scale=chosen.scale, seed=0, most=60), chosen
    )


# From a folder to a large sample


def test_three_commands_lead_from_a_folder_to_a_large_sample(imagen, art, tmp_path):  # noqa: F811
    run, own = tmp_path / "run", tmp_path / "own"
    train = ("train", art, "--out", run, "--resolution", 32, "--kimg", 0.008, "--batch", 4)
    assert imagen(*train)[0] == 0
    code, out, _ = imagen("train-upscaler", art, "--out", own, "--steps", 3, "--seed", 5)
    assert code == 0 and "23 pictures, 1 too small" in out
    assert "bicubic" in out and "trained 3 steps" in out
    assert opened(own / "comparison.png").size[1] == 3 * CROP
    command = ("sample", "--model", run / "latest.safetensors", "--seed", 1)
    assert imagen(*command, "--out", tmp_path / "small.png")[0] == 0
    large = ("--upscale", own / "latest.safetensors", "--out", tmp_path / "large.png")
    assert imagen(*command, *large)[0] == 0
    image = opened(tmp_path / "large.png")
    assert image.size == (128, 128)
    facts = json.loads(image.info["imagen"])
    card = load_upscaler(own / "latest.safetensors").card
    assert facts["upscaler"] == {"name": "own", "sha256": card["sha256"]}
    assert card["data"] == {"name": "pictures", "pictures": 23} and card["figures"]["upscaler"]
    expected = im.load(run / "latest.safetensors").sample("", seeds=[1])
    network = load_upscaler(own / "latest.safetensors")
    expected = im.to_image(im.upscale(expected, network=network)[0])
    assert np.abs(np.asarray(image, int) - np.asarray(expected, int)).max() <= 1


def test_an_upscaler_of_two_learns_with_pictures_of_a_model(
    imagen, art, tiny_checkpoint, tmp_path  # noqa: F811
):  # fmt: skip
    own = tmp_path / "own"
    command = ("train-upscaler", art, "--out", own, "--scale", 2, "--steps", 3)
    assert imagen(*command, "--model", tiny_checkpoint, "--json", tmp_path / "facts.json")[0] == 0
    assert json.loads((tmp_path / "facts.json").read_text())["scale"] == 2
    network = load_upscaler(own / "latest.safetensors")
    assert network.card["generated_by"] == "tiny"
    pictures = torch.rand(1, 4, 150, 20) * 2 - 1
    large = im.upscale(pictures, network=network, tile="x")
    assert large.shape == (1, 4, 300, 40)
    sizes = ("sample", "--model", tiny_checkpoint, "--upscale", own / "latest.safetensors")
    assert imagen(*sizes, "--out", tmp_path / "two.png")[0] == 0
    assert opened(tmp_path / "two.png").size == (64, 64)


# Training


def test_small_crops_are_the_targets_reduced_but_for_their_faults(art):
    patches = read_patches(read_items(art), scale=4, seed=0, most=60)
    assert patches.pixels.shape[1:] == (4, CROP + 8 * MARGIN, CROP + 8 * MARGIN)
    assert patches.num_pictures == 24 and patches.num_small == 1 and len(patches.skipped) == 1
    small, large = pairs_of(patches.batch(torch.arange(24)), 4, torch.Generator().manual_seed(0))
    assert small.shape == (24, 4, 16, 16) and large.shape == (24, 4, 64, 64)
    assert (F.avg_pool2d(large, 4) - small).abs().mean() < 0.1
    assert (large[:, :3] <= large[:, 3:] + 1e-6).all()  # premultiplied


def test_training_brings_its_pictures_nearer_than_bilinear_enlargement(art, monkeypatch):
    run = training(art, steps=28)
    small, large = run.batch()
    monkeypatch.setattr(run, "batch", lambda: (small, large))
    bilinear = F.l1_loss(F.interpolate(small, scale_factor=4, mode="bilinear"), large)
    while run.done < run.options.l1_steps:
        loss = run.step()["l1"]
    assert loss < 0.99 * float(bilinear)  # after 20 steps


def test_a_stopped_run_goes_on_as_if_it_had_not_been_stopped(art, tmp_path):
    whole = training(art)
    whole.run(tmp_path / "whole", {"name": "x"})

    def stop(progress: object) -> None:
        if progress.done == 1:  # type: ignore[attr-defined]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        training(art).run(tmp_path / "run", {"name": "x"}, stop)
    again = training(art)
    again.resume(tmp_path / "run")
    assert again.done == 1
    told = []
    again.run(tmp_path / "run", {"name": "x"}, told.append)
    assert [(p.done, p.steps) for p in told] == [(2, 3), (3, 3)]
    assert told[-1].eta_sec == 0 and told[0].eta_sec > 0
    for ours, theirs in zip(again.average.parameters(), whole.average.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert load_upscaler(tmp_path / "run" / "latest.safetensors").card["steps"] == 3


def test_a_seed_means_the_same_training(art):
    first, same, other = (training(art, seed=seed) for seed in (1, 1, 2))
    losses = [run.step()["l1"] for run in (first, same, other)]
    assert losses[0] == losses[1] != losses[2]


# What people get wrong


def test_what_cannot_be_trained_is_one_line(imagen, art, tmp_path):  # noqa: F811
    tiny = tmp_path / "tiny"
    tiny.mkdir()
    shutil.copy(art / "small.png", tiny)
    used = tmp_path / "used"
    training(art, scale=2).save(used, {})
    for data, options, words in (
        (tmp_path / "gone", (), f"no folder {tmp_path / 'gone'}"),
        (tiny, (), "all pictures are smaller than 64 pixels a side; expected larger ones"),
        (art, ("--steps", 0), "steps is 0; expected 1 to 1000000"),
        (art, ("--model", "gone"), "gone"),
        (art, ("--out", art / "own"), "whose pictures it would join"),
        (art, ("--out", art / "00.png"), "which is a file; expected a folder"),
        (art, ("--out", used), "already holds a run; go on with --resume"),
        (art, ("--out", used, "--resume"), "holds an upscaler of scale 2; expected scale 2, or"),
    ):
        code, _, err = imagen("train-upscaler", data, "--out", tmp_path / "out", *options)
        assert code == 1 and one_line(err) and words in err, (options, err)
    code, _, err = imagen("train-upscaler", art, "--out", tmp_path / "out", "--scale", 3)
    assert code == 2 and "invalid choice: 3" in err
    with pytest.raises(ValueError, match="scale is 3; expected 2 or 4"):
        UpscalerOptions(scale=3)
    with pytest.raises(ValueError, match="have 8 pixels a side; expected 16 or more"):
        UpscalerTraining(
            read_patches(read_items(art), scale=4, seed=0, most=24),
            UpscalerOptions(),
            generated=torch.zeros(4, 4, 8, 8),
        )


def test_a_file_that_is_no_upscaler_is_one_line(imagen, art, tiny_checkpoint, tmp_path):  # noqa: F811
    path = tmp_path / "own.safetensors"
    save_upscaler(path, training(art).average, {"name": "own"})
    tensors, metadata = read_tensors(path)
    damaged = tmp_path / "damaged.safetensors"
    save_tensors({**tensors, "out.bias": tensors["out.bias"] + 1}, damaged, metadata)
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(path.read_bytes()[:-9])
    huge = tmp_path / "huge.safetensors"
    save_tensors(tensors, huge, {**metadata, "config": json.dumps({"width": 10**6})})
    for file, words in (
        (tmp_path / "gone.safetensors", "are missing; name another file"),
        (tiny_checkpoint, "is not an upscaler; expected one by imagen train-upscaler"),
        (damaged, "is damaged (its tensors do not have the hash"),
        (cut, "is not a readable safetensors file"),
        (huge, "is damaged (width is 1000000; expected 1 or more, at most 256)"),
    ):
        out = tmp_path / "x.png"
        command = ("sample", "--model", tiny_checkpoint, "--out", out, "--upscale", file)
        code, _, err = imagen(*command)
        assert code == 1 and one_line(err) and words in err, err
        assert not out.exists()
