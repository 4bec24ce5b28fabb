"""`imagen convert`: the reference article's .pth files, read as weights only -> one checkpoint of
preset dcgan."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from torch import Tensor, nn

from .checkpoint import save_checkpoint
from .config import DcganDiscriminatorConfig, DcganGeneratorConfig, ModelConfig, dcgan
from .networks.dcgan import DcganDiscriminator, DcganGenerator
from .networks.networks import Networks


def convert(generator: Path, out: Path, *, discriminator: Path | None = None) -> dict:
    """Write `out` from `generator_N.pth` and its `discriminator_N.pth`; returns the card.

    `discriminator` defaults to the file of that name beside the generator. ValueError in one line
    if a file is missing, is not a state dict, or holds other networks.
    """
    generator = Path(generator)
    discriminator = discriminator or generator.with_name(
        generator.name.replace("generator", "discriminator")
    )
    if discriminator == generator:
        raise ValueError(f"{generator} has no 'generator' in its name; name the discriminator too")
    try:
        config, state = from_article(_read(generator), _read(discriminator))
    except ValueError as error:
        raise ValueError(f"{generator}: {error}") from None
    networks = Networks.seeded(config, 0)
    # the null condition and batch normalisation's counters keep their initial values
    networks.load_state_dict(networks.state_dict() | state)
    card = {
        "name": out.stem,
        "stage": "pretrain",
        "data": {"name": "unknown: converted"},
        "converted_from": [generator.name, discriminator.name],
    }
    return save_checkpoint(out, config, networks, card)


def _read(path: Path) -> dict:
    if not path.is_file():
        raise ValueError(f"no file {path}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError, pickle.UnpicklingError):
        raise ValueError(f"{path} is not a state dict that can be read as weights only") from None
    if not isinstance(state, dict):
        raise ValueError(f"{path} holds a {type(state).__name__}; expected a state dict")
    return state


NUM_GENERATOR_TENSORS = 10 * 2 + 8 * 4  # ten convolutions, eight batch normalisations


def from_article(
    generator: dict[str, Tensor], discriminator: dict[str, Tensor]
) -> tuple[ModelConfig, dict[str, Tensor]]:
    """The article's two state dicts under this library's names.

    Layers are matched by order, not by name; ValueError names the one that does not fit.
    """
    g, d = _tensors(generator), _tensors(discriminator)
    if not g or not d or g[0].ndim != 4 or d[0].ndim != 4:
        raise ValueError("expected the state dicts of two convolutional networks")
    channels = [t for t in g if t.ndim == 4][-1].shape[1]
    if len(g) == NUM_GENERATOR_TENSORS - 2:
        raise ValueError(
            "the last layer is missing, as in the article, so the output is not a picture yet; "
            "train with preset dcgan"
        )
    config = dcgan(channels=channels, width=g[0].shape[0], discriminator_width=d[0].shape[0])
    assert isinstance(config.generator, DcganGeneratorConfig)
    assert isinstance(config.discriminator, DcganDiscriminatorConfig)
    state = _renamed("generator", DcganGenerator(config.generator), g)
    return config, state | _renamed("discriminator", DcganDiscriminator(config.discriminator), d)


def _renamed(kind: str, network: nn.Module, tensors: list[Tensor]) -> dict[str, Tensor]:
    """`tensors` under the names of `network`'s, matched by order."""
    wanted = {name: tensor for name, tensor in network.state_dict().items() if tensor.ndim}
    if len(wanted) != len(tensors):
        raise ValueError(f"the {kind} has {len(tensors)} tensors; expected {len(wanted)}")
    for (name, ours), theirs in zip(wanted.items(), tensors, strict=True):
        if ours.shape != theirs.shape:
            raise ValueError(
                f"the {kind}'s {name} has shape {tuple(theirs.shape)}; expected {tuple(ours.shape)}"
            )
    return {f"{kind}.{name}": tensor.float() for name, tensor in zip(wanted, tensors, strict=True)}


def _tensors(state: dict[str, Tensor]) -> list[Tensor]:
    """Weights and running statistics in order, without batch normalisation's counters."""
    return [t for t in state.values() if isinstance(t, Tensor) and t.ndim]
