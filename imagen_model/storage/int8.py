"""The int8 form in which weights are bundled: rows of a matrix with one fp16 scale each."""

from __future__ import annotations

import torch
from torch import Tensor

SCALE_SUFFIX = ".int8_scale"


def quantized(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Matrices as int8 rows with one fp16 scale a row, everything else as fp16."""
    result = {}
    for name, tensor in state.items():
        if tensor.ndim < 2:
            result[name] = tensor.half().contiguous()
            continue
        scale = tensor.flatten(1).abs().amax(dim=1).clamp(min=1e-8) / 127  # [rows]
        scale = scale.half()
        rows = tensor.flatten(1) / scale.float()[:, None]
        result[name] = rows.round().clamp(-127, 127).to(torch.int8).view_as(tensor).contiguous()
        result[name + SCALE_SUFFIX] = scale
    return result


def dequantized(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """fp32 tensors of a state dict written by `quantized`."""
    result = {}
    for name, tensor in state.items():
        if name.endswith(SCALE_SUFFIX):
            continue
        result[name] = tensor.float()
        if tensor.dtype == torch.int8:
            scale = state[name + SCALE_SUFFIX].float()
            result[name] *= scale.view(-1, *[1] * (tensor.ndim - 1))
    return result
