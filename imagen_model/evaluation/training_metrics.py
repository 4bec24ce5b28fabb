"""A few metrics of a model while it trains, on a small set that stays the same.

KID is fit for small sets (2112.10039 shows that FD is not). Retrieval here is among pictures that
training has seen, so it measures whether captions are followed, not whether they are understood.
`evaluate` has the complete figures, on held-out pictures.
"""

from __future__ import annotations

from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.captions import CaptionSampler
from ..data.dataset import PictureDataset
from ..inference.sampling import fitting_batch
from ..networks.networks import Networks
from .distribution import kernel_distance
from .features import Lite1

NUM_PICTURES = 512
BATCH = 32


class TrainingMetrics:
    """`kid_lite1` and, where there are captions, `retrieval_r1` of networks in training."""

    def __init__(
        self, dataset: PictureDataset, captions: CaptionSampler, *, num: int = NUM_PICTURES
    ) -> None:
        """ValueError where lite1's package is not installed."""
        self.lite1 = Lite1()
        self.dataset, self.captions = dataset, captions
        order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0))
        self.index = order[:num]

    @cached_property
    def real(self) -> Tensor:
        """[N, F] features of the real pictures."""
        parts = [self.dataset.batch(index) for index in self.index.split(BATCH)]
        return torch.cat([self.lite1.pooled(part) for part in parts])

    def __call__(self, networks: Networks) -> dict[str, float]:
        generated = self._generated(networks)
        figures = {"kid_lite1": kernel_distance(self.real, generated)}
        texts = self.captions.text[self.index]
        if bool((texts >= 0).any()):
            similarity = F.normalize(generated, dim=1) @ F.normalize(self.real, dim=1).t()
            nearest = texts[similarity.argmax(dim=1)]
            figures["retrieval_r1"] = float((nearest == texts)[texts >= 0].float().mean())
        return figures

    @torch.no_grad()
    def _generated(self, networks: Networks) -> Tensor:
        """[N, F] features of generated pictures."""
        config = networks.generator.config
        z = torch.randn(len(self.index), config.z_dim, generator=torch.Generator().manual_seed(1))
        size = fitting_batch(config.resolution, BATCH)
        parts = []
        for part, index in zip(z.split(size), self.index.split(size), strict=True):
            condition = self.captions.captions(index)
            generated = networks.generate(part.to(networks.device), condition)
            parts.append(self.lite1.pooled(generated.cpu().float()))
        return torch.cat(parts)
