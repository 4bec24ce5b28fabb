"""A mark that pictures carry at the same place, whatever they show.

A generator can learn a stroke that pleases its judges and put it everywhere; no distance between
features notices. Averaged over many pictures, what they show blurs and such a mark stays.
"""

from __future__ import annotations

from torch import Tensor

from ..networks.perceptual import fine_detail


def shared_artifact(pictures: Tensor) -> float:
    """How much of the fine detail of [N, C, H, W] is the same in all: 0 none, 1 all of it.

    Real pictures share a little, too.
    """
    fine = fine_detail(pictures[:, :3].mean(dim=1, keepdim=True))  # [N, 1, H, W]
    power = float(fine.square().mean())
    return float(fine.mean(dim=0).square().mean()) / power if power else 0.0
