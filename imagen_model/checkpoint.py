"""Checkpoints: a safetensors file with one model's tensors, configuration and card; never pickle.

Keys are `generator.*` (EMA weights), `discriminator.*` and `conditioning.*`. Matrices may be int8
(storage/int8.py), which load as fp32. The metadata is in checkpoint_header.py.
"""

from __future__ import annotations

import datetime
import hashlib
import json
from pathlib import Path

import torch
from torch import Tensor

from .checkpoint_header import FORMAT, opened
from .config import ModelConfig
from .networks.networks import Networks
from .storage.files import brief, json_of, write_atomically
from .storage.int8 import dequantized, quantized
from .storage.tensor_file import save_tensors


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


def load_checkpoint(path: Path) -> tuple[ModelConfig, Networks, dict]:
    """Read, verify and build on the CPU in fp32; ValueError in one line if anything is wrong."""
    path = Path(path)
    with opened(path) as file:
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
