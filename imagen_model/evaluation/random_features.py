"""Eyes that were never trained: random convolutions, always the same.

Where a Frechet distance on trained features and one on these disagree, the trained ones have a
blind spot (as 2203.06026 found for Inception), or training has learned to please its own.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from ..features import as_rgb

CHANNELS = (3, 32, 64, 128, 256)
BATCH = 64


class RandomConvolutions:
    """Four strided 3x3 convolutions with He's weights (1502.01852) of one fixed seed."""

    name = "random convolutions"

    def __init__(self) -> None:
        rng = torch.Generator().manual_seed(0)
        self.weights = [
            torch.randn(c_out, c_in, 3, 3, generator=rng) * math.sqrt(2 / (9 * c_in))
            for c_in, c_out in pairwise(CHANNELS)
        ]

    @torch.no_grad()
    def pooled(self, pictures: Tensor) -> Tensor:
        """Pictures [N, C, H, W] in [-1, 1] -> features [N, 256]."""
        features = []
        for part in pictures.split(BATCH):
            x = as_rgb(part)
            for weight in self.weights:
                x = F.relu(F.conv2d(x, weight, stride=2, padding=1))
            features.append(x.mean(dim=(2, 3)))
        return torch.cat(features)
