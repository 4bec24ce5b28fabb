"""Numbers and memory layout: full fp32, bf16 autocast for training, channels last."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TypeVar

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

M = TypeVar("M", bound=nn.Module)
ATTENTION = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """TF32 is off, so that a GPU generates what a CPU generates."""
    matmul = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        enabled = torch.backends.cudnn.enabled
        with torch.backends.cudnn.flags(enabled=enabled, benchmark=False, allow_tf32=False):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = matmul


@contextlib.contextmanager
def autocast(device: torch.device) -> Iterator[None]:
    """bf16 on a GPU, with attention kernels other than cuDNN's, which makes a new plan for every
    caption length. On a CPU nothing changes."""
    if device.type == "cuda":
        with torch.autocast("cuda", dtype=torch.bfloat16), sdpa_kernel(ATTENTION):
            yield
    else:
        yield


def channels_last(module: M) -> M:
    """Convolutions in the layout that is fast on CPUs and tensor cores; in place, returns the
    module."""
    return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def fast_layout(device: torch.device) -> torch.memory_format:
    """The faster layout of pictures for depthwise convolutions: with channels last, cuDNN launches
    one kernel per few channels."""
    return torch.channels_last if device.type == "cpu" else torch.contiguous_format
