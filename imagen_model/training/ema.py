"""Exponential moving average of the networks, with a half-life in images that ramps up.

The half-life is at most a twentieth of the images so far, so that early weights are forgotten early
(as in StyleGAN2-ADA, 2006.06676).
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from ..networks.networks import Networks

RAMP = 0.05


def halflife_images(cur_nimg: int, halflife_kimg: float) -> float:
    return max(min(halflife_kimg * 1000, cur_nimg * RAMP), 1e-8)


class Ema:
    """`module` is the averaged copy; call `update` after every step."""

    def __init__(self, source: Networks, halflife_kimg: float) -> None:
        self.module = copy.deepcopy(source).eval().requires_grad_(False)
        self.halflife_kimg = halflife_kimg

    @torch.no_grad()
    def update(self, source: Networks, *, cur_nimg: int, batch: int) -> None:
        decay = 0.5 ** (batch / halflife_images(cur_nimg, self.halflife_kimg))
        averages: list[Tensor] = list(self.module.parameters())
        torch._foreach_lerp_(averages, list(source.parameters()), 1 - decay)
        for own, other in zip(self.module.buffers(), source.buffers(), strict=True):
            own.copy_(other)  # running statistics are averages already
