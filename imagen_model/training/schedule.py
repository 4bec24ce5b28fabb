"""The schedules of a run: the learning rate, and the order of items."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .config import TrainingConfig

DISCRIMINATOR_ONLY_LR_RATIO = 0.5  # of both learning rates, in the last part of a run


def discriminator_only(training: TrainingConfig, fraction: float) -> bool:
    """Whether a run is in its last part, which trains only the discriminator."""
    return fraction > 1 - training.judge_fraction


def lr_factor(training: TrainingConfig, *, fraction: float, cur_nimg: int) -> float:
    """The factor of the base learning rates: linear warm-up, then a cosine down to lr_end; a second
    cosine while only the discriminator is trained."""
    t, joint = training, 1 - training.judge_fraction
    warmup = t.warmup_kimg * 1000
    warm = min(1.0, cur_nimg / warmup) if warmup else 1.0
    if discriminator_only(t, fraction):
        top, done = t.lr * DISCRIMINATOR_ONLY_LR_RATIO, (fraction - joint) / t.judge_fraction
    else:
        top, done = t.lr, fraction / joint
    cosine = 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
    return warm * (t.lr_end + (top - t.lr_end) * cosine) / t.lr


class EpochOrder:
    """The order of items: each `weight` times per epoch on average, shuffled by the seed."""

    def __init__(self, weights: Tensor, seed: int) -> None:
        self.weights = weights / weights.max()
        self.seed = seed
        self.seek(0, 0)

    def seek(self, epoch: int, cursor: int) -> None:
        """Go to item `cursor` of an epoch."""
        self.epoch, self.cursor = epoch, cursor
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        keep = torch.rand(len(self.weights), generator=generator) < self.weights
        chosen = keep.nonzero().squeeze(1)
        self._order = chosen[torch.randperm(len(chosen), generator=generator)]

    def next(self, n: int) -> Tensor:
        """The next n indices; moves the cursor."""
        parts = []
        while n > 0:
            part = self._order[self.cursor : self.cursor + n]
            parts.append(part)
            n -= len(part)
            self.cursor += len(part)
            if self.cursor >= len(self._order):
                self.seek(self.epoch + 1, 0)
        return torch.cat(parts)

    def peek(self, n: int) -> Tensor:
        """The next n indices; the cursor stays."""
        here = self.epoch, self.cursor, self._order
        index = self.next(n)
        self.epoch, self.cursor, self._order = here
        return index


def crossed(before: int, after: int, every_kimg: float) -> bool:
    every = max(1, round(every_kimg * 1000))
    return before // every != after // every
