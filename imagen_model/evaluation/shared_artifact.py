"""An artifact that all pictures share at the same place, whatever they show.

A generator can learn a stroke that its discriminator rewards and put it everywhere; no distance
between features shows it. In the mean of many pictures their contents blur, and such a stroke
stays.
"""

from __future__ import annotations

from torch import Tensor

from ..networks.perceptual import fine_detail


def shared_artifact(pictures: Tensor) -> float:
    """How much of the fine detail of [N, C, H, W] is the same in all: 0 none, 1 all of it.

    Real pictures share a little as well.
    """
    fine = fine_detail(pictures[:, :3].mean(dim=1, keepdim=True))  # [N, 1, H, W]
    power = float(fine.square().mean())
    return float(fine.mean(dim=0).square().mean()) / power if power else 0.0
