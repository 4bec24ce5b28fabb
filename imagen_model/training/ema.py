"""Exponential moving average of the drawing networks, with a half-life in images that ramps up.

The half-life is at most a twentieth of the images seen, so that early weights are forgotten early
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
    """`module` is a copy that follows; update it after every step."""

    def __init__(self, source: Networks, halflife_kimg: float) -> None:
        self.module = copy.deepcopy(source).eval().requires_grad_(False)
        self.halflife_kimg = halflife_kimg

    @torch.no_grad()
    def update(self, source: Networks, *, cur_nimg: int, batch: int) -> None:
        decay = 0.5 ** (batch / halflife_images(cur_nimg, self.halflife_kimg))
        ours: list[Tensor] = list(self.module.parameters())
        theirs: list[Tensor] = list(source.parameters())
        torch._foreach_lerp_(ours, theirs, 1 - decay)
        for mine, other in zip(self.module.buffers(), source.buffers(), strict=True):
            mine.copy_(other)  # running statistics are averages already
