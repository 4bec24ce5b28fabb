"""What the tests share: a tiny emoji set, a tiny untrained model, and a way to train one."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import imagen_model as im
from imagen_model.checkpoint import save_checkpoint
from imagen_model.conditioning.minilm import text_encoder_hash
from imagen_model.config import (
    ConditioningConfig,
    DiscriminatorConfig,
    GeneratorConfig,
    ModelConfig,
)
from imagen_model.data.captions import CaptionSampler
from imagen_model.data.dataset import InMemoryDataset, load_pictures
from imagen_model.data.folder import read_items
from imagen_model.data.prepare.emoji import build_emoji
from imagen_model.networks.efficientnet import lite0_hash
from imagen_model.networks.networks import Networks
from imagen_model.training.config import RunConfig, TrainingConfig
from imagen_model.training.trainer import Trainer
from studio.host import find_host
from studio.server import Server, running

EMOJI_STYLES = ("fluent-3d", "fluent-flat", "noto", "twemoji")
EMOJI_SOURCES = Path(__file__).parent / "fixtures" / "emoji_sources"


def tiny_model_config(
    *,
    channels: int = 4,
    resolution: int = 32,
    num_blocks: int = 3,
    features: bool = True,
    styles: tuple[str, ...] = EMOJI_STYLES,
    text_encoder: str | None = None,
) -> ModelConfig:
    """The smallest model that has every part of a real one."""
    return ModelConfig(
        preset="tiny",
        generator=GeneratorConfig(
            resolution=resolution,
            channels=channels,
            dim=32,
            num_blocks=num_blocks,
            grid=4,
            z_dim=16,
            tail_channels=8,
        ),
        discriminator=DiscriminatorConfig(
            resolution=resolution,
            channels=channels,
            width=16,
            max_width=32,
            embed_dim=16,
            features=features,
            feature_channels=16,
        ),
        conditioning=ConditioningConfig(
            styles=styles,
            text_encoder=text_encoder_hash() if text_encoder is None else text_encoder,
        ),
    )


@pytest.fixture(scope="session")
def emoji_sources() -> Path:
    """A node_modules folder with twelve emoji in four styles."""
    return EMOJI_SOURCES


@pytest.fixture(scope="session")
def emoji_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The twelve emoji in four styles, built at 32 pixels: 49 pictures to train on, 3 held out."""
    out = tmp_path_factory.mktemp("data") / "emoji"
    build_emoji(out, resolution=32, styles=EMOJI_STYLES, source=EMOJI_SOURCES)
    return out


@pytest.fixture(scope="session")
def emoji_pictures(emoji_folder: Path) -> InMemoryDataset:
    return load_pictures(read_items(emoji_folder), resolution=32, channels=4)


@pytest.fixture(scope="session")
def emoji_captions(emoji_pictures: InMemoryDataset) -> CaptionSampler:
    return CaptionSampler(emoji_pictures.items, emoji_pictures.styles)


@pytest.fixture(scope="session")
def tiny_config() -> ModelConfig:
    return tiny_model_config()


@pytest.fixture(scope="session")
def tiny_networks(tiny_config: ModelConfig) -> Networks:
    """Untrained, frozen; don't change it."""
    return Networks.seeded(tiny_config, 0).eval().requires_grad_(False)


@pytest.fixture
def trainer(emoji_pictures, emoji_captions, tmp_path):
    """Builds a trainer of the tiny model: 8 images a step, 4 steps unless told otherwise."""

    def build(out: str = "run", model=None, **training) -> Trainer:
        settings = {"batch": 8, "kimg": 0.032, "lr": 2e-3, "warmup_kimg": 0.016} | training
        model_config = model or tiny_model_config()
        return Trainer(
            RunConfig(model_config, TrainingConfig(**settings), tmp_path / out, {"name": out}),
            emoji_pictures,
            emoji_captions,
            device=torch.device("cpu"),
        )

    return build


@pytest.fixture(scope="session")
def tiny_checkpoint(
    tmp_path_factory: pytest.TempPathFactory, tiny_config: ModelConfig, tiny_networks: Networks
) -> Path:
    path = tmp_path_factory.mktemp("models") / "tiny.safetensors"
    card = {"name": "tiny", "data": {"name": "emoji"}, "lite0": lite0_hash()}
    save_checkpoint(path, tiny_config, tiny_networks, card)
    return path


@pytest.fixture(scope="session")
def tiny_model(tiny_checkpoint: Path) -> im.Model:
    return im.load(tiny_checkpoint)


@pytest.fixture
def generator() -> torch.Generator:
    """A random generator with a fixed seed."""
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the server's extra_model_paths.yaml lists."""
    return tmp_path_factory.mktemp("elsewhere")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, shared_folder: Path) -> Iterator[Server]:
    """A real ComfyUI with this pack in it, on a base directory of its own; its extra paths are not
    to be written to."""
    base = tmp_path_factory.mktemp("comfyui")
    folders = {"imagen": "imagen", "imagen_datasets": "datasets"}
    paths = {"shared": {"base_path": str(shared_folder), **folders}}
    (shared_folder / "paths.yaml").write_text(json.dumps(paths), encoding="utf-8")
    arguments = ("--extra-model-paths-config", str(shared_folder / "paths.yaml"))
    with running(find_host(Path(sys.executable)), base=base, arguments=arguments) as server:
        yield server
    assert not list(shared_folder.rglob("*.safetensors"))


@pytest.fixture(scope="module")
def host(server: Server, emoji_folder: Path) -> Iterator[Server]:
    """The server with models of every kind, for the time of one file of tests."""
    from every_node import furnished

    yield from furnished(server, emoji_folder)
