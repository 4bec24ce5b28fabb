"""`imagen convert`: the article's .pth files into one checkpoint. They are read as weights only."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch

from .checkpoint import save_checkpoint
from .dcgan import from_article
from .networks import Networks


def convert(generator: Path, out: Path, *, discriminator: Path | None = None) -> dict:
    """Write `out` from `generator_N.pth` and its `discriminator_N.pth`; returns the card.

    Without `discriminator` it is looked for beside the generator under that name. ValueError with
    one line where a file is missing, is no state dict, or holds other networks.
    """
    generator = Path(generator)
    discriminator = discriminator or generator.with_name(
        generator.name.replace("generator", "discriminator")
    )
    if discriminator == generator:
        raise ValueError(f"{generator} has no 'generator' in its name; name the --discriminator")
    try:
        config, state = from_article(_read(generator), _read(discriminator))
    except ValueError as error:
        raise ValueError(f"{generator}: {error}") from None
    networks = Networks.seeded(config, 0)
    # the null condition and batch normalisation's counters stay as they were made
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
