"""The terms that use pairs: one real picture for each (caption, style).

Feature matching in frozen lite0 features and a low-resolution L1 tell the generator what the
caption looks like, long before a discriminator could; a contrast among the pictures of the batch
tells it what sets this one apart, which an average of the likely ones would miss (2101.04702).
Captions that several pictures share are the subject of codes.py.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .augment import downsampled
from .losses import info_nce

L1_WEIGHT = 3.0  # against feature matching, whose value is several times larger
CONTRAST_WEIGHT = 0.1  # at 0.5, with features centred, its gradient drowned the others
CONTRAST_TEMPERATURE = 0.1


def feature_matching(
    real_levels: list[Tensor], fake_levels: list[Tensor], real_pooled: Tensor, fake_pooled: Tensor
) -> Tensor:
    """Mean squared difference of channel-normalised features, summed over levels (1801.03924),
    plus one minus the cosine of the pooled features [N, F]."""
    total = fake_pooled.new_zeros(())
    for real, fake in zip(real_levels, fake_levels, strict=True):
        difference = F.normalize(real, dim=1, eps=1e-3) - F.normalize(fake, dim=1, eps=1e-3)
        total = total + difference.square().sum(dim=1).mean()
    return total + (1 - F.cosine_similarity(real_pooled, fake_pooled, dim=1)).mean()


def feature_contrast(real_pooled: Tensor, fake_pooled: Tensor) -> Tensor:
    """InfoNCE (XMC-GAN's image-image term, 2101.04702): generated picture i is nearer to its own
    real picture than to the others of the batch, by the cosine of features [N, F]."""
    real, fake = F.normalize(real_pooled, dim=1), F.normalize(fake_pooled, dim=1)
    return info_nce(fake @ real.t() / CONTRAST_TEMPERATURE)


def low_resolution_l1(real: Tensor, fake: Tensor) -> Tensor:
    """L1 at a half and an eighth of the resolution: colours and layout, not texture."""
    half, eighth = real.shape[2] // 2, real.shape[2] // 8
    return F.l1_loss(downsampled(fake, half), downsampled(real, half)) + F.l1_loss(
        downsampled(fake, eighth), downsampled(real, eighth)
    )
