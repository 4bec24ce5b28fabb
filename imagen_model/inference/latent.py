"""Latents: points in z or w, and the noise of a seed.

Noise is the counter-based Philox bit stream (whose raw output numpy keeps stable across versions)
through Box-Muller, on the CPU, so that a seed gives the same picture on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

SEED_RANGE = 1 << 64
MAX_PICTURES = 65536  # in one call; more is taken for a typing error


@dataclass(frozen=True)
class Latent:
    """N points of the latent space, and their seeds.

    space "z": values [N, z_dim], truncation applies. space "w": values [N, num_blocks, dim],
    truncation does not apply. Where a condition leaves the style open, z or the seed chooses it.
    """

    space: Literal["z", "w"]
    values: Tensor
    seeds: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.space not in ("z", "w"):
            raise ValueError(f"latent space is {self.space!r}; expected 'z' or 'w'")
        expected = {"z": 2, "w": 3}[self.space]
        if self.values.ndim != expected or not self.values.is_floating_point():
            raise ValueError(
                f"latents in {self.space} are {self.values.dtype} of shape "
                f"{list(self.values.shape)}; expected floats with {expected} dimensions"
            )
        if len(self.values) != len(self.seeds):
            raise ValueError(f"{len(self.values)} latents have {len(self.seeds)} seeds")

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows: slice) -> Latent:
        return Latent(self.space, self.values[rows], self.seeds[rows])


def noise(seed: int, count: int) -> np.ndarray:
    """`count` standard normal numbers of one seed (taken modulo 2^64), fp32."""
    half = (count + 1) // 2
    raw = np.random.Philox(key=seed % SEED_RANGE).random_raw(2 * half)
    uniform = ((raw >> np.uint64(11)) + 0.5) * 2.0**-53  # in (0, 1)
    radius, angle = np.sqrt(-2 * np.log(uniform[:half])), 2 * np.pi * uniform[half:]
    normal = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
    return normal[:count].astype(np.float32)


def random_latent(seeds: Sequence[int], z_dim: int) -> Latent:
    """One z per seed: row i depends on seeds[i] alone."""
    if not 1 <= len(seeds) <= MAX_PICTURES:
        raise ValueError(f"asked for {len(seeds)} pictures; expected 1 to {MAX_PICTURES}")
    seeds = tuple(int(seed) % SEED_RANGE for seed in seeds)
    values = torch.from_numpy(np.stack([noise(seed, z_dim) for seed in seeds]))
    return Latent("z", values, seeds)
