"""The terms that use pairs: one real picture for each (caption, style).

Feature matching in frozen lite0 features and a low-resolution L1 tell the generator what the
caption looks like, long before a discriminator could; a contrast among the pictures of the batch
tells it what sets this one apart, which an average of the likely ones would miss (2101.04702).
Frozen features reward a stroke that stands in every picture: the excess of common detail takes it
away (docs/experiments.md, "A mark in every picture").
Captions that several pictures share are the subject of codes.py.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .losses import info_nce

CONTRAST_WEIGHT = 0.1  # at 0.5, with features centred, its gradient drowned the others
CONTRAST_TEMPERATURE = 0.1
COMMON_WEIGHT = 500.0  # at 2000 feature matching suffers (docs/experiments.md)


def feature_contrast(real_pooled: Tensor, fake_pooled: Tensor) -> Tensor:
    """InfoNCE (XMC-GAN's image-image term, 2101.04702): generated picture i is nearer to its own
    real picture than to the others of the batch, by the cosine of features [N, F]."""
    real, fake = F.normalize(real_pooled, dim=1), F.normalize(fake_pooled, dim=1)
    return info_nce(fake @ real.t() / CONTRAST_TEMPERATURE)


def common_detail(excess: Tensor) -> Tensor:
    """The mean square of the mean drawing's excess: the fine detail [N, C, H, W] that drawings have
    over their real pictures.

    Over pairs of different drawings, as in the unbiased estimate of MMD (0805.2368), so that detail
    of a drawing's own costs nothing: 0 in the mean where no two have it in common, and below 0 by
    chance. A single drawing has nothing in common: 0.
    """
    n = len(excess)
    of_mean, of_each = excess.mean(dim=0).square().mean(), excess.square().mean()
    return (n * of_mean - of_each) / max(1, n - 1)
