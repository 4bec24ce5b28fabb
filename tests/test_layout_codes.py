"""Without captions, a picture has its layout in z, and a model draws new layouts like those."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import tiny_model_config

import imagen_model as im
from imagen_model.data.dataset import InMemoryDataset
from imagen_model.data.item import Item
from imagen_model.networks.generator import Layout, Mapping
from imagen_model.networks.networks import Networks
from imagen_model.training.latent_codes import LIMIT
from imagen_model.training.layout_codes import LayoutCodes
from imagen_model.training.options import TrainOptions
from imagen_model.training.setup import prepare

SIDE, COUNT, NUM_CODES = 16, 48, 30


@pytest.fixture(scope="module")
def pictures() -> InMemoryDataset:
    """Soft random shapes, which few numbers describe."""
    coarse = torch.rand(COUNT, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    pixels = (F.interpolate(coarse, size=32, mode="bicubic").clamp(0, 1) * 255).byte()
    return InMemoryDataset([Item(Path(str(i))) for i in range(COUNT)], pixels)


@pytest.fixture(scope="module")
def codes(pictures) -> LayoutCodes:
    return LayoutCodes(pictures, SIDE, NUM_CODES)


@pytest.fixture
def installed(codes) -> tuple[Mapping, Layout]:
    """The mapping and the layout of a new model, with these codes."""
    model = tiny_model_config()
    sizes = {"dim": 64, "z_dim": 40, "layout_side": SIDE, "layout_bank": COUNT}
    generator = replace(model.generator, **sizes)
    networks = Networks.seeded(replace(model, generator=generator), 0)
    codes.install(networks)
    return networks.generator.mapping, networks.generator.layout


def trained(folder: Path, out: Path, **options) -> Path:
    trainer = prepare(
        folder,
        out,
        TrainOptions(resolution=32, **{"kimg": 0.016, "batch": 8} | options),
        device=torch.device("cpu"),
        progress=lambda label: lambda done, total: None,
    )
    trainer.run()
    return out / "latest.safetensors"


def test_codes_are_standard_and_end_z(codes, pictures):
    z = codes.write(torch.full((COUNT, 40), 9.0), pictures.batch(torch.arange(COUNT)))
    num = NUM_CODES
    assert (z[:, :-num] == 9).all()
    code = z[:, -num:]
    assert code.abs().max() <= LIMIT
    told = code[:, -8:]  # the last ones vary most
    assert told.mean(dim=0).abs().max() < 0.2 and (told.std(dim=0) - 1).abs().max() < 0.2


def test_a_new_model_lays_out_what_a_code_describes(installed, codes, pictures):
    mapping, layout = installed
    real = pictures.batch(torch.arange(COUNT))
    z = codes.write(torch.randn(COUNT, 40, generator=torch.Generator().manual_seed(1)), real)
    width = mapping.cond_in.in_features
    mapping.train()
    with torch.no_grad():
        picture = layout.from_w(mapping(z, torch.ones(COUNT, width)))
    small = F.adaptive_avg_pool2d(real, SIDE).flatten(1)
    error = (picture - small).square().mean() / (small - small.mean(dim=0)).square().mean()
    assert error < 0.02, error


def test_trained_models_lay_out_mixtures_of_training_pictures(installed, codes):
    mapping, _ = installed
    mapping.eval()
    with torch.no_grad():
        own = mapping.recall(codes.bank * 3)  # far in the direction of a picture: that picture
        assert F.cosine_similarity(own, codes.bank).min() > 0.99
        noise = torch.randn(64, codes.bank.shape[1], generator=torch.Generator().manual_seed(2))
        mixed = mapping.recall(noise)
    assert (mixed.norm(dim=1) / codes.bank.norm(dim=1).mean() - 1).abs().mean() < 0.5
    assert len(mixed.unique(dim=0)) == 64


def test_a_folder_without_captions_gets_a_layout_that_is_saved(emoji_folder, tmp_path):
    path = trained(emoji_folder, tmp_path / "run", stage="pretrain", preset="nano")
    model = im.load(path)
    generator = model.networks.generator
    assert generator.config.layout_side and len(generator.mapping.bank) > 1
    assert generator.mapping.bank.any()
    latent = model.latent(range(4))
    pictures = model.draw(model.encode_text(""), latent)
    again = model.draw(model.encode_text(""), model.into_w(model.encode_text(""), latent))
    assert torch.allclose(pictures, again, atol=1e-4)  # w holds the layout too
    assert len(pictures.unique(dim=0)) == 4


def test_captions_and_other_starts(emoji_folder, tmp_path):
    """Captions alone make no layout; a start from a model without one gets it, and one from a model
    with one keeps it for captions."""
    text = trained(emoji_folder, tmp_path / "text", preset="nano")
    assert not im.load(text).networks.generator.config.layout_side
    pretrained = trained(emoji_folder, tmp_path / "p", stage="pretrain", init=str(text))
    generator = im.load(pretrained).networks.generator
    assert generator.config.layout_side and generator.mapping.bank.any()
    second = im.load(trained(emoji_folder, tmp_path / "t2", stage="text", init=str(pretrained)))
    assert second.networks.generator.config.layout_side


def test_a_resumed_run_goes_on_exactly(emoji_folder, tmp_path):
    options = {"stage": "pretrain", "preset": "nano"}
    whole = trained(emoji_folder, tmp_path / "whole", kimg=0.032, **options)
    trained(emoji_folder, tmp_path / "parts", kimg=0.016, **options)
    trainer = prepare(
        emoji_folder,
        tmp_path / "parts",
        TrainOptions(kimg=0.032),
        device=torch.device("cpu"),
        progress=lambda label: lambda done, total: None,
        resume=True,
    )
    assert trainer.progress.cur_nimg == 16
    codes = im.load(whole).networks.generator.mapping.bank
    assert torch.equal(trainer.networks.generator.mapping.bank, codes)
    trainer.run()
    assert im.load(tmp_path / "parts" / "latest.safetensors").networks.generator.mapping.bank.any()
