"""One batch as both networks see it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..conditioning import Condition


@dataclass(frozen=True)
class Batch:
    """What the discriminator sees of real and drawn pictures: both under one augmentation.

    The levels are lite0's, empty where nothing looks at them.
    """

    real: Tensor  # [N, C, H, W]
    fake: Tensor  # [N, C, H, W], with the generator's graph
    real_levels: list[Tensor]
    fake_levels: list[Tensor]
    condition: Condition
    has_words: bool  # any condition of the whole team's batch
    background: Tensor  # [N, 3, 1, 1]
