"""The int8 format of bundled weights: each row of a matrix has one fp16 scale."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

SCALE_SUFFIX = ".int8_scale"
Network = TypeVar("Network", bound=nn.Module)


def quantized(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Matrices become int8 rows with one fp16 scale a row; everything else becomes fp16."""
    result = {}
    for name, tensor in state.items():
        if tensor.ndim < 2:
            result[name] = tensor.half().contiguous()
            continue
        rows = tensor.flatten(1)
        scale = (rows.abs().amax(dim=1).clamp(min=1e-8) / 127).half()  # [rows]
        rows = rows / scale.float()[:, None]
        result[name] = rows.round().clamp(-127, 127).to(torch.int8).view_as(tensor).contiguous()
        result[name + SCALE_SUFFIX] = scale
    return result


def dequantized(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """fp32 tensors of a state dict written by `quantized`; ValueError where a scale is missing or
    does not fit."""
    result = {}
    for name, tensor in state.items():
        if name.endswith(SCALE_SUFFIX):
            continue
        result[name] = tensor.float()
        if tensor.dtype == torch.int8:
            scale = state.get(name + SCALE_SUFFIX, tensor)
            if tensor.ndim < 2 or scale.shape != tensor.shape[:1]:
                raise ValueError(f"the int8 weights {name} are without their scale, one a row")
            result[name] *= scale.float().view(-1, *[1] * (tensor.ndim - 1))
    return result


def frozen(build: Callable[[], Network], state: dict[str, Tensor]) -> Network:
    """The built network with fp32 `state`, in eval mode.

    Its initial weights, overwritten at once, leave the global generator alone.
    """
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False):
        network = build().eval().requires_grad_(False)
        network.load_state_dict(state)
    return network
