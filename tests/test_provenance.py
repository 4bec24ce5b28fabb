"""Every picture says what made it, to people and to ComfyUI."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

import imagen_model as im
from imagen_model.checkpoint import load_checkpoint, save_checkpoint
from imagen_model.cli import main
from imagen_model.config import preset
from imagen_model.data.folder import read_notice
from imagen_model.data.image_reader import read_picture
from imagen_model.data.prepare.labelled import append_labelled
from imagen_model.networks.efficientnet import lite0_hash
from imagen_model.networks.networks import Networks
from imagen_model.storage.images import save_png
from imagen_model.storage.provenance import NOT_FOR_DIAGNOSIS, model_facts, read_facts


def test_info_prints_what_made_a_picture_from_which_it_is_generated_again(
    tiny_checkpoint, tmp_path, capsys
):
    sample = ["sample", "--model", str(tiny_checkpoint), "--prompt", "a red apple"]
    generated = tmp_path / "generated"
    ask = ["--seed", "7", "--style", "noto", "--truncation", "0.7", "--out", str(generated)]
    assert main([*sample, *ask]) == 0
    (path,) = generated.iterdir()
    capsys.readouterr()
    assert main(["info", str(path)]) == 0
    made = json.loads(capsys.readouterr().out)["imagen"]
    model = im.load(str(tiny_checkpoint))
    assert made["model"] == model.name and made["sha256"] == model.card["sha256"]
    assert made["code_version"] == im.__version__
    assert "notice" not in made and "adapter" not in made
    again = model.sample(
        made["prompt"], seeds=[made["seed"]], style=made["style"], truncation=made["truncation"]
    )
    save_png(again[0], tmp_path / "again.png", None)
    with Image.open(path) as first, Image.open(tmp_path / "again.png") as second:
        assert np.array_equal(np.asarray(first), np.asarray(second))
        assert second.info.get("imagen") is None


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (None, "does not say how it was made"),
        (b"no picture", "is not a readable picture"),
        ("{", "has a damaged record of how it was made"),
    ],
)
def test_a_picture_that_says_nothing_is_one_line(tmp_path, capsys, content, line):
    path = tmp_path / "a.png"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        from PIL.PngImagePlugin import PngInfo

        info = PngInfo()
        if content:
            info.add_text("imagen", content)
        Image.new("RGB", (4, 4)).save(path, pnginfo=info)
    assert main(["info", str(path)]) == 1
    error = capsys.readouterr().err
    assert line in error and error.count("\n") == 1 and "Traceback" not in error


def test_a_data_set_s_files_name_model_seed_caption_and_graph(tmp_path, tiny_model):
    pictures = tiny_model.sample("snail", seeds=[3, 4])
    facts = model_facts(tiny_model.name, tiny_model.card) | {"style": "noto"}
    graph = {"1": {"class_type": "ImagenLoadModel", "inputs": {"model_name": "tiny"}}}
    written = append_labelled(
        tmp_path, pictures, ["snail", "cat"], style="noto",
        facts=[facts | {"seed": 3}, facts | {"seed": 4}], graph=graph,
    )  # fmt: skip
    for path, seed, caption in zip(written, (3, 4), ("snail", "cat"), strict=True):
        found = read_facts(path)
        assert found["prompt"] == graph  # where ComfyUI looks for it
        made = found["imagen"]
        assert (made["model"], made["seed"], made["prompt"]) == ("tiny", seed, caption)
    with pytest.raises(ValueError, match="facts of 3 pictures do not fit 2; expected 1 or 2"):
        append_labelled(tmp_path, pictures, ["snail"], facts=[facts] * 3)


# -- what is no finding ---------------------------------------------------------------------------


@pytest.fixture
def scans(tmp_path):
    """A grey set as `imagen data dicom` leaves it."""
    folder = tmp_path / "scans" / "train"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(6):
        Image.fromarray(rng.integers(0, 256, (32, 32), dtype=np.uint8)).save(folder / f"{i}.png")
    (folder.parent / "manifest.json").write_text(json.dumps({"notice": NOT_FOR_DIAGNOSIS}))
    return folder.parent


def trained(data, out, *more: str) -> dict:
    """The card of a run of two steps."""
    choices = ["--resolution", "32", "--batch", "2", "--kimg", "0.004", *more]
    assert main(["train", str(data), "--out", str(out), *choices]) == 0
    return load_checkpoint(out / "latest.safetensors")[2]


def test_the_notice_of_scans_goes_with_every_model_and_picture(scans, tmp_path, capsys):
    assert read_notice(scans) == read_notice(scans / "train") == NOT_FOR_DIAGNOSIS
    assert trained(scans, tmp_path / "run")["notice"] == NOT_FOR_DIAGNOSIS
    model = tmp_path / "run" / "latest.safetensors"
    out = tmp_path / "scan.png"
    assert main(["sample", "--model", str(model), "--out", str(out)]) == 0
    made = read_facts(out)["imagen"]
    assert made["notice"] == NOT_FOR_DIAGNOSIS
    # also of a model that was trained from it with other data
    (scans / "manifest.json").unlink()
    card = trained(scans, tmp_path / "more", "--init", str(model))
    assert card["notice"] == NOT_FOR_DIAGNOSIS


def test_scans_are_saved_in_16_bits_and_others_in_8(tmp_path, capsys):
    config = preset("nano", resolution=32, channels=1)
    torch.manual_seed(0)
    networks = Networks(config)
    for name, notice in (("scans", {"notice": NOT_FOR_DIAGNOSIS}), ("digits", {})):
        card = {"name": name, "lite0": lite0_hash(), **notice}
        save_checkpoint(tmp_path / f"{name}.safetensors", config, networks, card)
        out = tmp_path / f"{name}.png"
        sample = ["sample", "--model", str(tmp_path / f"{name}.safetensors"), "--out", str(out)]
        assert main(sample) == 0
    with Image.open(tmp_path / "scans.png") as deep, Image.open(tmp_path / "digits.png") as plain:
        assert deep.mode.startswith("I") and plain.mode == "L"
        fine, coarse = np.asarray(deep).astype(float) / 65535, np.asarray(plain) / 255.0
    assert np.abs(fine - coarse).max() < 0.51 / 255
    assert len(np.unique(fine)) > len(np.unique(coarse))
    # and the library reads both alike
    read = [
        read_picture(tmp_path / f"{name}.png", resolution=32, channels=1).astype(int)
        for name in ("scans", "digits")
    ]
    assert np.abs(read[0] - read[1]).max() <= 1
