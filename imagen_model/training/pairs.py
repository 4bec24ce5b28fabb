"""The terms that use pairs: one real picture for each (caption, style).

Feature matching in frozen lite0 features and a low-resolution L1 tell the generator what the
caption looks like, long before a discriminator could. Captions that several pictures share are the
subject of codes.py.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ..features import EfficientNetLite
from .augment import downsampled

L1_WEIGHT = 3.0  # against feature matching, whose value is several times larger


def feature_matching(
    real_levels: list[Tensor], fake_levels: list[Tensor], lite0: EfficientNetLite
) -> Tensor:
    """Mean squared difference of channel-normalised features, summed over levels (1801.03924),
    plus one minus the cosine of the pooled features."""
    total = fake_levels[0].new_zeros(())
    for real, fake in zip(real_levels, fake_levels, strict=True):
        difference = F.normalize(real, dim=1, eps=1e-3) - F.normalize(fake, dim=1, eps=1e-3)
        total = total + difference.square().sum(dim=1).mean()
    real, fake = lite0.pool(real_levels[-1]), lite0.pool(fake_levels[-1])
    return total + (1 - F.cosine_similarity(real, fake, dim=1)).mean()


def low_resolution_l1(real: Tensor, fake: Tensor) -> Tensor:
    """L1 at a half and an eighth of the resolution: colours and layout, not texture."""
    half, eighth = real.shape[2] // 2, real.shape[2] // 8
    return F.l1_loss(downsampled(fake, half), downsampled(real, half)) + F.l1_loss(
        downsampled(fake, eighth), downsampled(real, eighth)
    )
