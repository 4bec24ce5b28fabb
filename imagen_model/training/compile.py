"""The networks by torch.compile, where this machine has a compiler.

Compiled are the generator's blocks, one by one: they are alike, so the first one's code serves all.
On a GPU also the convolutions: its tail, the discriminator's trunk and lite0; on a CPU they are
faster as they are (docs/log/experiments.md). The discriminator's heads stay as they are: the cache
of spectral norm, which step.py opens and closes, must stay outside the compiled code.
What is differentiated twice (exact penalties, a look ahead) stays as well: torch cannot compile it.
Weights keep their names and places, so checkpoints do not know of any of this.
"""

from __future__ import annotations

import logging
import sysconfig
from pathlib import Path

import torch
from torch import nn
from torch.utils._triton import has_triton

from ..networks.discriminator import Discriminator
from ..networks.generator import Generator
from ..networks.networks import Networks
from .config import TrainingConfig

logger = logging.getLogger(__name__)


def compile_networks(networks: Networks, lite0: nn.Module, training: TrainingConfig) -> bool:
    """In place; compiling itself happens in the first steps. Where this machine cannot, one line
    says why, nothing changes, and False is returned."""
    parts = worth_compiling(networks, lite0, training, networks.device)
    reason = why_not(networks.device) if parts else "preset dcgan has nothing that gains by it"
    if reason is not None:
        logger.warning("training without --compile: %s", reason)
        return False
    for part in parts:
        part.compile()
    return True


def worth_compiling(
    networks: Networks, lite0: nn.Module, training: TrainingConfig, device: torch.device
) -> list[nn.Module]:
    generator, discriminator = networks.generator, networks.discriminator
    if not isinstance(generator, Generator) or not isinstance(discriminator, Discriminator):
        return []
    parts: list[nn.Module] = list(generator.blocks)
    if device.type == "cpu":
        return parts
    exact = training.penalty == "exact" and bool(training.r1_gamma or training.r2_gamma)
    twice = exact or training.objective == "wgan-gp"
    parts.append(generator.tail)
    if not twice:
        parts.append(lite0)
    if not (twice or training.unrolled_steps):
        parts.append(discriminator.trunk)
    return parts


def why_not(device: torch.device) -> str | None:
    """What torch.compile lacks on this machine; None where it should work."""
    if device.type == "cuda":
        return None if has_triton() else "Triton is missing, or the GPU is too old for it"
    from torch._inductor.cpp_builder import get_cpp_compiler  # heavy

    try:
        get_cpp_compiler()
    except RuntimeError:
        return "there is no C++ compiler"
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        return "Python's header files are missing (python3-dev)"
    return None
