"""One batch, or a part of it, as both networks see it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..conditioning import Condition
from .augment import AugmentDraw


@dataclass(frozen=True)
class Chance:
    """The random numbers of a step, a row a picture."""

    augment: AugmentDraw
    background: Tensor  # [N, 3, 1, 1]
    noise: dict[str, Tensor]  # of the penalties, by name

    def __getitem__(self, rows: slice) -> Chance:
        noise = {name: values[rows] for name, values in self.noise.items()}
        return Chance(self.augment[rows], self.background[rows], noise)


@dataclass(frozen=True)
class Batch:
    """What the discriminator sees of real and drawn pictures: both under one augmentation.

    The levels are lite0's, empty where nothing looks at them.
    """

    real: Tensor  # [N, C, H, W]
    fake: Tensor  # [N, C, H, W], with the generator's graph where the batch is played in one part
    real_levels: list[Tensor]
    fake_levels: list[Tensor]
    condition: Condition
    has_words: bool  # any condition of the whole team's batch
    chance: Chance
    plain: Tensor  # [N, C, H, W], drawn pictures before augmentation, without a graph
    rows: slice  # of this process's batch
