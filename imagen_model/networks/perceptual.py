"""Distances between two batches of pictures: in frozen lite0 features, and in colours and layout.

Training (training/objective.py) and inversion (inference/inversion.py) minimise both. Neither
detects an artifact that all pictures share; `fine_detail` does (evaluation/shared_artifact.py).
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

L1_WEIGHT = 3.0  # against feature matching, whose value is several times larger


def feature_matching(
    real_levels: list[Tensor],
    generated_levels: list[Tensor],
    real_pooled: Tensor,
    generated_pooled: Tensor,
) -> Tensor:
    """Mean squared difference of channel-normalised features, summed over levels (1801.03924),
    plus one minus the cosine of the pooled features [N, F]."""
    total = generated_pooled.new_zeros(())
    for real, generated in zip(real_levels, generated_levels, strict=True):
        difference = F.normalize(real, dim=1, eps=1e-3) - F.normalize(generated, dim=1, eps=1e-3)
        total = total + difference.square().sum(dim=1).mean()  # sum over channels
    return total + (1 - F.cosine_similarity(real_pooled, generated_pooled, dim=1)).mean()


def low_resolution_l1(real: Tensor, generated: Tensor) -> Tensor:
    """L1 at a half and an eighth of the resolution: colours and layout, not texture."""
    total = generated.new_zeros(())
    for side in (real.shape[2] // 2, real.shape[2] // 8):
        small_generated, small_real = (F.adaptive_avg_pool2d(x, side) for x in (generated, real))
        total = total + F.l1_loss(small_generated, small_real)
    return total


def fine_detail(pictures: Tensor) -> Tensor:
    """[N, C, H, W] pictures minus their local mean over an eighth of the side."""
    height, width = pictures.shape[2:]
    reach = max(1, height // 16)
    rows, columns = (_means(side, reach).to(pictures) for side in (height, width))
    return pictures - rows @ pictures @ columns.t()


@lru_cache
def _means(side: int, reach: int) -> Tensor:
    """[side, side] the matrix that takes means over 2 * reach + 1 neighbours; beyond an end, the
    last one counts again. Two products with it are many times faster than pooling."""
    with torch.inference_mode(False):  # training may use it later
        places = torch.arange(side)[:, None] + torch.arange(-reach, reach + 1)
        share = torch.full(places.shape, 1 / places.shape[1])
        return torch.zeros(side, side).scatter_add_(1, places.clamp(0, side - 1), share)
