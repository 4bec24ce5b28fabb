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
    """fp32 means fp32: TF32 off, so that a GPU generates what a CPU generates."""
    matmul = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        with torch.backends.cudnn.flags(
            enabled=torch.backends.cudnn.enabled, benchmark=False, allow_tf32=False
        ):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = matmul


@contextlib.contextmanager
def autocast(device: torch.device) -> Iterator[None]:
    """bf16 on a GPU; attention without cuDNN's kernel, which is planned anew for every length of
    the captions. On a CPU nothing changes."""
    if device.type == "cuda":
        with torch.autocast("cuda", dtype=torch.bfloat16), sdpa_kernel(ATTENTION):
            yield
    else:
        yield


def channels_last(module: M) -> M:
    """Convolutions in the layout that CPUs and tensor cores like; in place, returns the module."""
    return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def fast_layout(device: torch.device) -> torch.memory_format:
    """Of the pictures that depthwise convolutions see: a CPU likes channels last, for which cuDNN
    takes a kernel a few channels."""
    return torch.channels_last if device.type == "cpu" else torch.contiguous_format
