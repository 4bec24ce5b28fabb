"""Checkpoints: a safetensors file with one model's tensors, configuration and card; never pickle.

Keys are `generator.*` (EMA weights), `discriminator.*` and `conditioning.*`. The metadata has
`imagen.format` (an integer), `imagen.config` (JSON) and `imagen.card` (JSON, with the sha256 of the
tensors). Matrices may be int8 (storage/int8.py), which load as fp32.
"""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from .config import ModelConfig
from .networks.networks import Networks
from .storage.files import brief, json_of, save_tensors, write_atomically
from .storage.int8 import dequantized, quantized
from .storage.tensor_file import TensorFile

FORMAT = 1
# The parts of a card that the program reads, with their types; a list has those of its items.
CARD: dict[str, Any] = {
    "name": str,
    "stage": str,
    "notice": str,
    "sha256": str,
    "lite0": str,
    "data": {"name": str},
    "judge": {"real": (int, float), "generated": (int, float)},
    "lineage": [{"name": str}],
    "figures": {"retrieval": {"text": dict.fromkeys(("r1", "chance", "ceiling"), (int, float))}},
    "text_encoder": {"name": str},
    "adapter": {"sha256": str, "strength": (int, float)},
}


def tensors_sha256(tensors: dict[str, Tensor]) -> str:
    """Hash of names, types, shapes and bytes, sorted by name."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def save_checkpoint(
    path: Path, config: ModelConfig, networks: Networks, card: dict, *, int8: bool = False
) -> dict:
    """Write atomically; returns the card as written, with date and hash added."""
    state = {k: v.detach().cpu().contiguous() for k, v in networks.state_dict().items()}
    if int8:
        state = quantized(state)
    card = {
        **card,
        "date": card.get("date") or datetime.date.today().isoformat(),
        "sha256": tensors_sha256(state),
    }
    metadata = {
        "imagen.format": str(FORMAT),
        "imagen.config": json.dumps(config.to_dict()),
        "imagen.card": json.dumps(card, ensure_ascii=False),
    }
    write_atomically(Path(path), lambda p: save_tensors(state, p, metadata))
    return card


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a checkpoint; ValueError with one line for anything else."""
    with _opened(Path(path)) as file:
        return file.metadata


@contextmanager
def _opened(path: Path) -> Iterator[TensorFile]:
    """A checkpoint, its metadata checked. ValueError with one line where it is none, and where the
    block cannot read its tensors."""
    if not path.is_file():
        raise ValueError(f"no checkpoint {path}")
    try:
        with TensorFile(path) as file:
            _check_metadata(path, file.metadata)
            yield file
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path} is not a readable safetensors file (truncated, or another kind): "
            f"{brief(error)}"
        ) from None


def _check_metadata(path: Path, metadata: dict[str, str]) -> None:
    """ValueError for the metadata of another format, or damaged."""
    if "imagen.format" not in metadata:
        raise ValueError(
            f"{path} is a safetensors file, but not an Imagen GAN checkpoint (no imagen.format)"
        )
    try:
        version = int(metadata["imagen.format"])
        parts = [json_of(metadata[f"imagen.{part}"]) for part in ("config", "card")]
        if not all(isinstance(part, dict) for part in parts):
            raise ValueError
        check_card(parts[1], CARD)
    except (KeyError, ValueError):
        raise ValueError(f"{path} has damaged metadata; download or export it again") from None
    if not 1 <= version <= FORMAT:
        raise ValueError(
            f"{path} has checkpoint format {version}; this version reads up to {FORMAT}"
        )


def check_card(card: object, parts: Any) -> None:
    """ValueError where a part of a card is of another type than its program reads it as; `parts` is
    as CARD. A part may be missing."""
    if isinstance(parts, dict):
        if not isinstance(card, dict):
            raise ValueError(f"{card!r} in the card; expected an object")
        for name in parts.keys() & card.keys():
            check_card(card[name], parts[name])
    elif isinstance(parts, list):
        if not isinstance(card, list):
            raise ValueError(f"{card!r} in the card; expected a list")
        for part in card:
            check_card(part, parts[0])
    elif not isinstance(card, parts):
        raise ValueError(f"{card!r} in the card is of the wrong type")


def load_checkpoint(path: Path) -> tuple[ModelConfig, Networks, dict]:
    """Read, verify and build on the CPU in fp32; ValueError in one line if anything is wrong."""
    path = Path(path)
    with _opened(path) as file:
        metadata, stored = file.metadata, file.tensors()
    try:
        config = ModelConfig.from_dict(json_of(metadata["imagen.config"]))
    except ValueError as error:
        raise ValueError(f"{path}: {brief(error)}") from None
    card = json_of(metadata["imagen.card"])
    if card.get("sha256") != tensors_sha256(stored):
        raise ValueError(f"{path} is damaged: its tensors do not have the hash that its card names")
    try:
        state = dequantized(stored)
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {brief(error)}") from None
    for name, tensor in stored.items():  # int8 rows are finite if their scales are
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ValueError(f"{path} holds NaN or infinite weights (first in {name})")
    if sum(tensor.numel() for tensor in state.values()) < config.min_weights:
        raise ValueError(f"{path} does not fit its own configuration (it has too few weights)")
    networks = Networks.to_be_filled(config)
    expected = {(name, tensor.shape) for name, tensor in networks.state_dict().items()}
    wrong = expected ^ {(name, tensor.shape) for name, tensor in state.items()}
    if wrong:
        raise ValueError(f"{path} does not fit its own configuration (first at {min(wrong)[0]})")
    networks.load_state_dict(state)
    return config, networks.eval().requires_grad_(False), card
