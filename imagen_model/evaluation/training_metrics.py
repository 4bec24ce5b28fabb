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
        return self.lite1.pooled(self.dataset.batch(self.index))

    def __call__(self, networks: Networks) -> dict[str, float]:
        generated = self.lite1.pooled(self._generated(networks))
        figures = {"kid_lite1": kernel_distance(self.real, generated)}
        texts = self.captions.text[self.index]
        if bool((texts >= 0).any()):
            similarity = F.normalize(generated, dim=1) @ F.normalize(self.real, dim=1).t()
            nearest = texts[similarity.argmax(dim=1)]
            figures["retrieval_r1"] = float((nearest == texts)[texts >= 0].float().mean())
        return figures

    @torch.no_grad()
    def _generated(self, networks: Networks) -> Tensor:
        z_dim = networks.generator.config.z_dim
        z = torch.randn(len(self.index), z_dim, generator=torch.Generator().manual_seed(1))
        return torch.cat(
            [
                networks.generate(part.to(networks.device), self.captions.captions(index)).cpu()
                for part, index in zip(z.split(BATCH), self.index.split(BATCH), strict=True)
            ]
        ).float()
