"""Devices: sending tensors without waiting, and what a lack of memory looks like."""

from __future__ import annotations

import torch
from torch import Tensor


def sent(tensor: Tensor, device: torch.device | str) -> Tensor:
    """The tensor on `device`. A GPU gets it from pinned memory: an ordinary copy would first wait
    until the GPU has done all the work that it was given before."""
    if torch.device(device).type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def is_out_of_memory(error: BaseException) -> bool:
    """PyTorch has a class of its own for this on CUDA only."""
    words = ("out of memory", "can't allocate memory")
    said = isinstance(error, RuntimeError) and any(w in str(error) for w in words)
    return said or isinstance(error, MemoryError)
