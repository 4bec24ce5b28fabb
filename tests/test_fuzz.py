"""Damaged files and values are read or refused in one line: a slice of tools/fuzz.py, and each kind
of fault that it has found."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import shutil
import sqlite3
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

import imagen_model as im
from imagen_model.checkpoint import save_checkpoint, tensors_sha256
from imagen_model.cli import main
from imagen_model.config import ConditioningConfig
from imagen_model.data.folder import read_items
from imagen_model.data.prepare.dicom import build_dicom
from imagen_model.data.prepare.folder import build_folder
from imagen_model.data.prepare.labelled import append_labelled
from imagen_model.feedback.adapter import apply_adapter, load_adapter
from imagen_model.feedback.rating_syntax import parse_ratings
from imagen_model.feedback.recipe import regenerated
from imagen_model.feedback.store import Store
from imagen_model.inference.latent import Latent

ROOT = Path(__file__).resolve().parent.parent
SAVED = Path(__file__).parent / "fixtures" / "saved_0.1.0"
MODEL = SAVED / "run" / "latest.safetensors"
DEEP = "[" * 100_000 + "]" * 100_000


@pytest.fixture(scope="module")
def model() -> im.Model:
    return im.load(MODEL)


def fuzz(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "tools" / "fuzz.py", *arguments]
    return subprocess.run([str(word) for word in command], capture_output=True, text=True)


@pytest.mark.skipif(sys.platform == "win32", reason="measures with getrusage and setitimer")
def test_a_thousand_damaged_files_and_values_are_read_or_refused_in_one_line(tmp_path):
    done = fuzz("--cases", 990, "--seed", 20261128, "--json", tmp_path / "found.json")
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["cases"] == 990 and not found["faults"]
    assert {target for target, counts in found["counts"].items() if counts.get("read")} >= {
        "checkpoint", "adapter", "pictures", "images", "webdataset", "dicom", "audio", "ratings",
        "exports", "nodes",
    }  # fmt: skip


# -- models and adapters --------------------------------------------------------------------------


def rewritten(source: Path, target: Path, tensors: dict | None = None, **card: object) -> Path:
    """A copy with other tensors or other parts of its card, its hash right."""
    data = source.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    metadata = json.loads(data[8 : 8 + size])["__metadata__"]
    tensors = {**safetensors.torch.load(data), **(tensors or {})}
    facts = json.loads(metadata["imagen.card"]) | card | {"sha256": tensors_sha256(tensors)}
    metadata["imagen.card"] = json.dumps(facts)
    safetensors.torch.save_file(tensors, target, metadata)
    return target


@pytest.mark.parametrize(
    "card",
    [
        {"judge": [1, 2]}, {"judge": {"real": "1"}}, {"data": []}, {"figures": {"retrieval": 3}},
        {"lineage": [1]}, {"notice": {}}, {"adapter": "x"}, {"text_encoder": 1},
    ],
    ids=lambda card: next(iter(card)),
)  # fmt: skip
def test_a_card_whose_parts_have_other_types_is_refused(card, tmp_path):
    path = rewritten(MODEL, tmp_path / "m.safetensors", **card)
    with pytest.raises(ValueError, match=r"m\.safetensors has damaged metadata"):
        im.load(path)


def test_a_card_that_lacks_parts_is_read(tmp_path):
    path = rewritten(
        MODEL, tmp_path / "m.safetensors", judge={}, figures={"retrieval": {"text": {}}}
    )
    assert "styles: noto" in im.load(path).summary()


def test_an_int8_scale_of_another_length_is_refused(model, tmp_path):
    save_checkpoint(tmp_path / "m.safetensors", model.config, model.networks, {}, int8=True)
    name = "generator.blocks.0.modulation.weight.int8_scale"
    path = rewritten(tmp_path / "m.safetensors", tmp_path / "n.safetensors", {name: torch.ones(3)})
    with pytest.raises(ValueError, match=r"n\.safetensors is damaged: the int8 weights .* scale"):
        im.load(path)


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"reward.theta": torch.ones(3, dtype=torch.int32)}, "damaged metadata|no floats"),
        ({"reward.theta": torch.ones(1)}, "its tensor reward.theta is 1; expected "),
        (
            {"reward.mean": torch.ones(9), "reward.projection": torch.ones(9, 3)},
            "is 9 x 3; expected ",
        ),
    ],
    ids=["type", "shape", "features"],
)
def test_an_adapter_whose_parts_do_not_fit_is_refused(tensors, words, model, tmp_path):
    path = rewritten(SAVED / "adapter.safetensors", tmp_path / "a.safetensors", tensors)
    with pytest.raises(ValueError, match=words):
        apply_adapter(model, load_adapter(path)).draw(model.encode_text(""), model.latent([0]))


def test_what_a_message_quotes_of_a_file_is_short(tmp_path):
    header = json.dumps({"__metadata__": {"x" * 100_000: 1}}).encode()
    (tmp_path / "m.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    for read in (im.load, load_adapter):
        with pytest.raises(ValueError, match=r"m\.safetensors is not a readable") as refused:
            read(tmp_path / "m.safetensors")
        assert len(str(refused.value)) < 1000


def test_what_a_message_quotes_of_a_configuration_is_short(tmp_path):
    data = MODEL.read_bytes()
    metadata = json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])["__metadata__"]
    config = json.loads(metadata["imagen.config"])
    config["generator"]["long " * 20_000] = 1
    metadata["imagen.config"] = json.dumps(config)
    safetensors.torch.save_file(safetensors.torch.load(data), tmp_path / "m.safetensors", metadata)
    with pytest.raises(ValueError, match=r"m\.safetensors: not a model configuration") as refused:
        im.load(tmp_path / "m.safetensors")
    assert len(str(refused.value)) < 1000


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("metadata.csv", "long " * 20_000 + "\n", "has the columns long long"),
        ("metadata.csv", "file_name\n" + " " * 2000 + "\n", "no readable picture in"),
        ("metadata.jsonl", json.dumps({"file_name": "a.png", "weight": "x" * 20_000}), "line 1"),
        ("metadata.jsonl", json.dumps({"file_name": "a.png", "weight": 10**400}), "weight is inf"),
    ],
    ids=["columns", "file name", "weight", "huge weight"],
)
def test_what_a_message_quotes_of_a_table_is_short(name, text, words, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / name).write_text(text)
    with pytest.raises((ValueError, OSError), match=words) as refused:
        build_folder(tmp_path / "data", tmp_path / "out", resolution=32)
    assert len(str(refused.value)) < 1000


@pytest.mark.parametrize("candidates", [float("inf"), float("nan"), 1e300])
def test_an_adapter_with_an_impossible_number_is_refused(candidates, tmp_path):
    source = SAVED / "adapter.safetensors"
    path = rewritten(source, tmp_path / "a.safetensors", candidates=candidates)
    with pytest.raises(ValueError, match=r"damaged metadata|is damaged"):
        load_adapter(path)


# -- JSON that is nested too deeply ---------------------------------------------------------------


def test_deep_json_in_metadata_is_refused_with_its_line(tmp_path):
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png"}\n' + DEEP)
    with pytest.raises(ValueError, match=r"metadata\.jsonl line 2: .* nested too deeply"):
        read_items(tmp_path)


def test_deep_json_in_an_export_is_refused_with_its_line(tmp_path, capsys):
    (tmp_path / "in.jsonl").write_text(DEEP)
    command = ["ratings", "--store", tmp_path / "r.sqlite", "--import", tmp_path / "in.jsonl"]
    assert main([str(word) for word in command]) == 1
    assert re.match(r"error: \S+in\.jsonl, line 1 is no rating: ", capsys.readouterr().err)


# -- ratings --------------------------------------------------------------------------------------


def damaged_store(path: Path, column: str, value: object) -> Path:
    shutil.copy(SAVED / "ratings.sqlite", path)
    database = sqlite3.connect(path)
    database.execute(f"UPDATE pictures SET {column} = ?", (value,))
    database.commit()
    database.close()
    return path


@pytest.mark.parametrize(
    "recipe",
    ["[]", "{", '{"seed": 1}', '{"model": "m", "seed": 1, "other": 2}', DEEP,
     '{"model": "m", "seed": 1, "truncation": []}', '{"model": "m", "seed": 1, "text": null}'],
)  # fmt: skip
def test_a_rating_with_a_damaged_recipe_is_named(recipe, tmp_path, capsys):
    path = damaged_store(tmp_path / "r.sqlite", "recipe", recipe)
    assert main(["ratings", "--store", str(path), "--list"]) == 1
    assert re.match(r"error: the rating 'a' in \S+r\.sqlite is damaged: ", capsys.readouterr().err)
    assert main(["ratings", "--store", str(path), "--delete", "a"]) == 0


@pytest.mark.parametrize("column", ["picture", "other"])
def test_a_rating_whose_picture_is_gone_is_named(column, tmp_path, capsys):
    path = tmp_path / "r.sqlite"
    shutil.copy(SAVED / "ratings.sqlite", path)
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute(f"UPDATE ratings SET {column} = 'gone' WHERE kind = 'pair'")
        database.commit()
    assert main(["ratings", "--store", str(path), "--list"]) == 1
    expected = r"error: the rating '\w+' in \S+r\.sqlite is damaged: a picture of it is missing"
    assert re.match(expected, capsys.readouterr().err)


def test_a_store_with_damaged_pages_is_named(tmp_path, capsys):
    path = tmp_path / "r.sqlite"
    data = bytearray((SAVED / "ratings.sqlite").read_bytes())
    data[4096:] = b"\xff" * (len(data) - 4096)
    path.write_bytes(data)
    assert main(["ratings", "--store", str(path), "--list"]) == 1
    assert re.match(r"error: the ratings in \S+r\.sqlite are damaged: ", capsys.readouterr().err)


@pytest.mark.parametrize("png", [b"\x89PNG\r\n\x1a\n", b""])
def test_kept_pixels_that_are_no_png_are_refused(png, model, tmp_path):
    with Store(damaged_store(tmp_path / "r.sqlite", "png", png)) as store:
        pictures = [rating.picture for rating in store.ratings()]
    with pytest.raises(ValueError, match="rated picture is no readable PNG"):
        regenerated(model, pictures)


@pytest.mark.parametrize(
    "values", [{}, {"float32": "A", "shape": [1]}, {"float32": "", "shape": "x"},
               {"float32": base64.b64encode(b"\0" * 8).decode(), "shape": [3]}],
)  # fmt: skip
def test_damaged_numbers_of_a_recipe_are_refused(values, model, tmp_path):
    recipe = {"model": model.card["sha256"], "seed": 1, "values": values}
    path = damaged_store(tmp_path / "r.sqlite", "recipe", json.dumps(recipe))
    database = sqlite3.connect(path)
    database.execute("UPDATE pictures SET png = NULL")
    database.execute("DELETE FROM ratings WHERE kind = 'pair'")
    database.commit()
    database.close()
    with Store(path) as store:
        pictures = [rating.picture for rating in store.ratings()]
    with pytest.raises(ValueError, match="damaged numbers"):
        regenerated(model, pictures)


def test_a_long_word_is_not_quoted_whole():
    with pytest.raises(ValueError, match="expected") as refused:
        parse_ratings("\0" * 5000, [])
    assert len(str(refused.value)) < 1000


# -- sound, DICOM, pictures and latents -----------------------------------------------------------


@pytest.mark.parametrize("peak", [1e30, 3e38])
def test_samples_of_any_amplitude_are_scaled_to_a_sound_s(peak):
    wave = torch.sin(torch.arange(16_000) * 0.2)[None]
    analysed, same = im.analyze_audio(wave * peak, 16_000), im.analyze_audio(wave, 16_000)
    for name, level in same.levels.items():
        assert np.allclose(analysed.levels[name], level, atol=1e-4)
    assert np.allclose(analysed.melody, same.melody, atol=1e-4)
    with pytest.raises(ValueError, match="no words were recognized"):  # as in any tone
        im.transcribe([(wave * peak, 16_000)])


def test_a_dicom_file_without_frames_is_named(tmp_path):
    pydicom = pytest.importorskip("pydicom")
    from pydicom.data import get_testdata_file

    data = pydicom.dcmread(get_testdata_file("MR_small.dcm"))
    data.NumberOfFrames = -1
    data.save_as(tmp_path / "a.dcm")
    with pytest.raises(ValueError, match=r"a\.dcm: holds no frames"):
        build_dicom([tmp_path / "a.dcm"], tmp_path / "out", resolution=32)


@pytest.mark.parametrize("shape", [(1, 33, 8, 8), (1, 4, 0, 8), (0, 3, 8, 8), (4, 8, 8)])
def test_tensors_that_are_no_pictures_are_refused_by_every_use(shape, model, tmp_path):
    pictures = torch.zeros(shape)
    condition = model.encode_text("")
    uses = (
        lambda: model.score(pictures), lambda: model.invert(pictures, condition, steps=1),
        lambda: im.contact_sheet(pictures, columns=1), lambda: im.upscale(pictures),
    )  # fmt: skip
    for use in uses:
        with pytest.raises(ValueError, match="pictures have shape"):
            use()
    if len(pictures):
        with pytest.raises(ValueError, match="pictures have shape"):
            append_labelled(tmp_path / "set", list(pictures), ["a"])


@pytest.mark.parametrize(
    "values", [torch.zeros(1, 8, dtype=torch.uint8), torch.zeros(8), torch.zeros(1, 3, 8)]
)
def test_tensors_that_are_no_latents_are_refused(values):
    with pytest.raises(ValueError, match="expected floats with 2 dimensions"):
        Latent("z", values, (0,))


def test_the_shard_of_a_stranger_with_deep_json_is_refused(tmp_path):
    pytest.importorskip("webdataset")
    import io
    import tarfile

    Image.new("RGB", (8, 8)).save(tmp_path / "0.png")
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        tar.add(tmp_path / "0.png", "0.png")
        member = tarfile.TarInfo("0.json")
        member.size = len(DEEP)
        tar.addfile(member, io.BytesIO(DEEP.encode()))
    (tmp_path / "0.png").unlink()
    with pytest.raises(ValueError, match=r"0\.json holds no valid metadata .*nested too deeply"):
        read_items(tmp_path)


def test_a_style_of_a_million_characters_is_refused_at_once(model):
    style, started = "long " * 200_000, time.process_time()
    with pytest.raises(ValueError, match="this model knows: "):
        model.encode_text("a cat", style=style)
    assert time.process_time() - started < 1
    with pytest.raises(ValueError, match=r"styles is .* expected names"):
        ConditioningConfig(styles=(style,))
