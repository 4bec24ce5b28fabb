"""torch.compile for the networks, where this machine has a compiler.

The generator's blocks are compiled one by one; they are alike, so the first one's code serves all.
On a GPU the convolutions are compiled too: the tail, the discriminator's trunk and lite0. On a CPU
these are faster without (docs/log/experiments.md). Not compiled are the discriminator's heads,
because step.py opens and closes the cache of spectral norm outside of compiled code, and whatever
is differentiated twice (exact penalties, unrolled steps), which torch cannot compile. Parameters
keep their names, so checkpoints do not change.
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
    """In place; the first steps compile. Where this machine cannot, it logs the reason and returns
    False."""
    parts = worth_compiling(networks, lite0, training, networks.device)
    reason = why_not(networks.device) if parts else "preset dcgan would not become faster"
    if reason is not None:
        logger.warning("training is not compiled: %s", reason)
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
