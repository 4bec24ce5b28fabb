"""Checkpoints: what is saved comes back, and what is wrong is said in one line."""

import json
import logging
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import tiny_model_config
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import imagen_model as im
from imagen_model import bundled
from imagen_model.checkpoint import load_checkpoint, save_checkpoint, tensors_sha256
from imagen_model.checkpoint_header import read_metadata
from imagen_model.config import PRESETS, preset
from imagen_model.networks.networks import Networks
from imagen_model.storage.tensor_file import TensorFile, read_tensors


def refusal(path: Path) -> str:
    """The one line with which `path` is refused; it names the file."""
    with pytest.raises(ValueError, match=r".") as caught:
        im.load(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def rewritten(source: Path, path: Path, *, rehash: bool = True, tensors=None, **metadata) -> Path:
    """A copy of a checkpoint with other tensors or metadata, its hash put right."""
    with safe_open(source, framework="pt") as file:
        meta = file.metadata()
    tensors = tensors or load_file(source)
    meta |= {f"imagen.{key}": value for key, value in metadata.items()}
    if rehash and "card" not in metadata:
        card = json.loads(meta["imagen.card"]) | {"sha256": tensors_sha256(tensors)}
        meta["imagen.card"] = json.dumps(card)
    save_file(tensors, path, metadata=meta)
    return path


@pytest.fixture
def path(tmp_path):
    return tmp_path / "broken.safetensors"


def test_a_checkpoint_comes_back_as_it_was(tiny_checkpoint, tiny_config, tiny_networks):
    config, networks, card = load_checkpoint(tiny_checkpoint)
    assert config == tiny_config
    saved, loaded = tiny_networks.state_dict(), networks.state_dict()
    assert saved.keys() == loaded.keys()
    assert all(torch.equal(saved[name], loaded[name]) for name in saved)
    assert not networks.training
    assert not any(p.requires_grad for p in networks.parameters())
    assert card["name"] == "tiny"
    assert card["sha256"] == tensors_sha256(saved)
    assert len(card["date"]) == len("2026-01-01")


def test_names_have_the_three_prefixes(tiny_checkpoint):
    prefixes = {name.split(".")[0] for name in load_file(tiny_checkpoint)}
    assert prefixes == {"generator", "discriminator", "conditioning"}
    metadata = read_metadata(tiny_checkpoint)
    assert metadata["imagen.format"] == "1"
    assert json.loads(metadata["imagen.config"])["preset"] == "tiny"


def test_a_loaded_model_takes_the_name_of_its_file(tiny_model):
    assert tiny_model.name == "tiny"
    assert tiny_model.resolution == 32
    assert tiny_model.styles == ("fluent-3d", "fluent-flat", "noto", "twemoji")


@torch.no_grad()
def test_an_int8_checkpoint_is_small_and_draws_almost_the_same(
    tmp_path, tiny_checkpoint, tiny_model
):
    small = tmp_path / "small.safetensors"
    save_checkpoint(small, tiny_model.config, tiny_model.networks, tiny_model.card, int8=True)
    assert small.stat().st_size < 0.4 * tiny_checkpoint.stat().st_size
    model = im.load(small)
    assert next(model.networks.parameters()).dtype == torch.float32
    drawn = [
        m.sample("a key", seeds=range(4), style="noto").flatten(1) for m in (model, tiny_model)
    ]
    assert (drawn[0] - drawn[1]).abs().mean() < 0.02
    assert F.cosine_similarity(*drawn).min() > 0.995


@pytest.mark.parametrize("int8", [False, True])
def test_a_model_without_styles_and_text_comes_back(tmp_path, int8):
    config = tiny_model_config(styles=(), text_encoder="", features=False)
    path = tmp_path / "plain.safetensors"
    save_checkpoint(path, config, Networks.seeded(config, 0), {"name": "plain"}, int8=int8)
    assert im.load(path).sample("").shape == (1, 4, 32, 32)


def test_saving_again_replaces_in_one_step(tmp_path, tiny_config, tiny_networks):
    path = tmp_path / "deep" / "model.safetensors"
    for name in ("first", "second"):
        save_checkpoint(path, tiny_config, tiny_networks, {"name": name})
    assert json.loads(read_metadata(path)["imagen.card"])["name"] == "second"
    assert list(path.parent.iterdir()) == [path]


def test_a_missing_file_is_refused(path):
    assert refusal(path) == f"no checkpoint {path}"


def test_a_folder_is_refused(tmp_path):
    refusal(tmp_path)


@pytest.mark.parametrize("keep", [0, 5, 1000, -100])
def test_a_truncated_file_is_refused(tiny_checkpoint, path, keep):
    path.write_bytes(tiny_checkpoint.read_bytes()[:keep])
    assert "not a readable safetensors file" in refusal(path)


HEADERS = {
    "overlap": '{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},'
    ' "b": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}',
    "gap": '{"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}',
    "outside": '{"a": {"dtype": "F32", "shape": [2000], "data_offsets": [0, 8000]}}',
    "shape": '{"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}',
    "negative": '{"a": {"dtype": "F32", "shape": [-1, -2], "data_offsets": [0, 8]}}',
    "text": '{"a": {"dtype": "F32", "shape": "2", "data_offsets": [0, 8]}}',
    "type": '{"a": {"dtype": "F7", "shape": [2], "data_offsets": [0, 8]}}',
    "list": "[]",
    "null": '{"a": null}',
    "metadata": '{"__metadata__": {"imagen.format": 1}}',
    "no metadata": '{"__metadata__": null}',
    "deep": "[" * 100_000,
}


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
def test_a_header_that_does_not_describe_the_file_is_refused(path, header):
    path.write_bytes(len(header).to_bytes(8, "little") + header.encode() + bytes(8))
    assert "not a readable safetensors file" in refusal(path)


def test_every_type_and_shape_is_read_as_safetensors_reads_it(path):
    tensors = {
        str(dtype): torch.arange(6).reshape(2, 3).to(dtype)
        for dtype in (torch.float64, torch.float16, torch.bfloat16, torch.int8, torch.uint8)
    }
    tensors |= {
        "bool": torch.tensor([True, False]),
        "none": torch.zeros(0, 3),
        "one": torch.ones([]),
    }
    save_file(tensors, path, metadata={"key": "value"})
    read, metadata = read_tensors(path)
    assert metadata == {"key": "value"} and read.keys() == tensors.keys()
    for name, tensor in load_file(path).items():
        assert read[name].dtype == tensor.dtype and torch.equal(read[name], tensor), name


OVERWRITTEN = """
import sys
import imagen_model as im
from imagen_model import checkpoint

path, moment = sys.argv[1:]
hashed = checkpoint.tensors_sha256

def begin_cp(tensors=None):
    open(path, "r+b").truncate(4096)
    return tensors and hashed(tensors)

if moment == "during":
    checkpoint.tensors_sha256 = begin_cp
model = im.load(path)
if moment == "after":
    begin_cp()
print(tuple(model.sample("").shape))
"""


@pytest.mark.parametrize("moment", ["during", "after"])
def test_a_file_that_is_overwritten_in_place_does_not_kill_who_loads_it(
    tiny_checkpoint, path, moment
):
    shutil.copyfile(tiny_checkpoint, path)
    command = [sys.executable, "-c", OVERWRITTEN, path, moment]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "(1, 4, 32, 32)\n"), done.stderr


def test_a_file_that_another_replaces_is_read_to_its_end(tiny_checkpoint, path):
    save_file({"a": torch.zeros(3)}, path)
    with TensorFile(path) as file:
        path.with_name("new").write_bytes(tiny_checkpoint.read_bytes())
        path.with_name("new").replace(path)
        assert file.tensors()["a"].tolist() == [0, 0, 0]
    assert im.load(path).name == "broken"


def test_a_file_that_is_cut_off_while_it_is_read_is_refused(tiny_checkpoint, path, monkeypatch):
    shutil.copyfile(tiny_checkpoint, path)
    read = TensorFile.tensors

    def cut(file, *args):
        os.truncate(path, 100_000)
        return read(file, *args)

    monkeypatch.setattr(TensorFile, "tensors", cut)
    assert "cut off while it was read" in refusal(path)


def test_a_renamed_png_is_refused(path):
    with path.open("wb") as file:
        Image.new("RGB", (64, 64)).save(file, format="PNG")
    assert "not a readable safetensors file" in refusal(path)


def test_other_safetensors_are_refused(path):
    save_file({"weight": torch.zeros(3)}, path)
    assert "not an Imagen GAN checkpoint" in refusal(path)


@pytest.mark.parametrize("number", ["0", "2", "999"])
def test_an_unknown_format_number_is_refused(tiny_checkpoint, path, number):
    rewritten(tiny_checkpoint, path, format=number)
    assert f"format {number}; this version reads up to 1" in refusal(path)


@pytest.mark.parametrize(
    "damage",
    [
        {"format": "one"},
        {"card": '{"name": "tin'},
        {"card": "[]"},
        {"card": "null"},
        {"config": "{"},
        {"config": "3"},
    ],
)
def test_damaged_metadata_is_refused(tiny_checkpoint, path, damage):
    rewritten(tiny_checkpoint, path, **damage)
    assert "damaged metadata" in refusal(path)


@pytest.mark.parametrize(
    ("part", "values"),
    [
        ("generator", {"num_blok": 1}),
        ("generator", {"num_heads": 0}),
        ("generator", {"resolution": 48}),
        ("generator", None),
        ("discriminator", {"width": 5}),
        ("generator", {"dim": 1 << 20}),
        ("generator", {"num_blocks": 10**9}),
        ("generator", {"num_registers": -1}),
        ("generator", {"tail_channels": "8"}),
        ("discriminator", {"embed_dim": 10**9}),
        ("conditioning", {"dim": 10**9}),
        ("conditioning", {"styles": [["a"]]}),
    ],
)
def test_a_configuration_that_this_version_does_not_know_is_refused(
    tiny_checkpoint, tiny_config, path, part, values
):
    config = tiny_config.to_dict()
    config[part] = values and {**config[part], **values}
    rewritten(tiny_checkpoint, path, config=json.dumps(config))
    refusal(path)


def test_a_configuration_that_does_not_fit_the_tensors_is_refused(
    tiny_checkpoint, tiny_config, path
):
    config = tiny_config.to_dict()
    config["generator"]["num_blocks"] = 6
    rewritten(tiny_checkpoint, path, config=json.dumps(config))
    assert "does not fit its own configuration" in refusal(path)


@pytest.mark.parametrize("name", PRESETS)
def test_a_configuration_never_claims_fewer_weights_than_it_has(name):
    config = preset(name, styles=("a", "b", "c"))
    weights = sum(t.numel() for t in Networks.seeded(config, 0).state_dict().values())
    assert 0.5 * weights < config.min_weights <= weights


def test_a_small_file_that_claims_a_huge_network_costs_no_memory(tiny_config, path):
    """788 bytes: within the sizes that are allowed, 80 GB of weights."""
    config = tiny_config.to_dict()
    config["generator"] |= {"dim": 4096, "num_blocks": 96, "readout_every": 3}
    card = {"sha256": tensors_sha256({})}
    metadata = {"imagen.format": "1", "imagen.config": config, "imagen.card": card}
    save_file(
        {}, path, {k: v if k == "imagen.format" else json.dumps(v) for k, v in metadata.items()}
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "does not fit its own configuration" in refusal(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


def test_metadata_that_is_nested_deeply_is_refused(tiny_checkpoint, path):
    rewritten(tiny_checkpoint, path, config="[" * 100_000 + "]" * 100_000)
    assert "damaged metadata" in refusal(path)


def test_tampered_tensors_are_refused(tiny_checkpoint, path):
    tensors = load_file(tiny_checkpoint)
    tensors["generator.grid"][0, 0] += 1e-3
    rewritten(tiny_checkpoint, path, tensors=tensors, rehash=False)
    assert "is damaged" in refusal(path)


def test_a_flipped_bit_is_refused(tiny_checkpoint, path):
    data = bytearray(tiny_checkpoint.read_bytes())
    data[-1000] ^= 1
    path.write_bytes(data)
    assert "is damaged" in refusal(path)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused_even_with_a_matching_hash(
    tiny_checkpoint, path, bad
):
    tensors = load_file(tiny_checkpoint)
    tensors["conditioning.null_pooled"].fill_(bad)
    rewritten(tiny_checkpoint, path, tensors=tensors)
    message = refusal(path)
    assert "NaN or infinite" in message
    assert "conditioning.null_pooled" in message


def test_int8_weights_without_their_scale_are_refused(tiny_checkpoint, path):
    tensors = load_file(tiny_checkpoint)
    tensors["generator.grid"] = tensors["generator.grid"].to(torch.int8)
    rewritten(tiny_checkpoint, path, tensors=tensors)
    assert "without their scale" in refusal(path)


def test_missing_and_surplus_tensors_are_refused_by_name(tiny_checkpoint, path):
    tensors = load_file(tiny_checkpoint)
    grid = tensors.pop("generator.grid")
    rewritten(tiny_checkpoint, path, tensors=tensors)
    assert "generator.grid" in refusal(path)
    rewritten(tiny_checkpoint, path, tensors={**tensors, "generator.grid": grid, "extra": grid + 1})
    assert "extra" in refusal(path)


def test_a_model_of_another_lite0_is_refused_by_name(tmp_path, tiny_config, tiny_networks):
    path = tmp_path / "other-judge.safetensors"
    save_checkpoint(path, tiny_config, tiny_networks, {"lite0": "0" * 64})
    with pytest.raises(ValueError, match="other-judge was trained with another lite0"):
        im.load(path)


# -- bundled names --------------------------------------------------------------------------------


@pytest.fixture
def models(tmp_path, monkeypatch, tiny_checkpoint):
    """A folder of bundled models: three versions of one family, none of another."""
    folder = tmp_path / "models"
    folder.mkdir()
    for name in ("toy-32-v2", "toy-32-v10", "toy-64-v1"):
        shutil.copyfile(tiny_checkpoint, folder / f"{name}.safetensors")
    monkeypatch.setattr(bundled, "MODELS_DIR", folder)
    monkeypatch.setattr(bundled, "ALIASES", {"toy": "toy-64-v1"})
    return folder


def test_bundled_models_are_listed_by_name(models):
    assert sorted(im.bundled_models()) == ["toy-32-v10", "toy-32-v2", "toy-64-v1"]


def test_an_alias_is_the_best_of_its_family(models):
    assert im.load("toy").name == "toy-64-v1"


@pytest.mark.parametrize(
    ("name", "successor"),
    [("toy-32-v1", "toy-32-v10"), ("toy-64-v0", "toy-64-v1"), ("toy-128-v1", "toy-64-v1")],
)
def test_an_earlier_version_falls_to_its_successor_with_one_warning(
    models, caplog, name, successor
):
    with caplog.at_level(logging.WARNING):
        assert im.load(name).name == successor
    (record,) = caplog.records
    assert name in record.message
    assert successor in record.message


def test_a_version_that_is_there_gives_no_warning(models, caplog):
    assert im.load("toy-32-v2").name == "toy-32-v2"
    assert not caplog.records


def test_an_unknown_name_is_refused_with_the_nearest(models):
    with pytest.raises(ValueError, match=r"no model 'toi' \(did you mean toy\?\).*toy-32-v10"):
        im.load("toi")
    with pytest.raises(ValueError, match="no model 'zzzzzz'; bundled"):
        im.load("zzzzzz")
    with pytest.raises(ValueError, match="no model named"):
        im.load(" ")


def test_the_alias_of_this_package_names_a_bundled_model():
    assert set(bundled.ALIASES.values()) <= im.bundled_models().keys()
