"""A code in z for every picture of a data set without captions: its layout.

Nothing else tells such pictures apart. A generator that is asked for all of them at once, by
losses that compare each with its own real picture, learns their mean; and in features that mean
has strokes, the same ones in every picture. The last numbers of z therefore describe the picture:
they are the principal components of its miniature, standardised, so that codes are distributed
like the normal numbers of z in inference. The generator's layout (networks/generator.py) begins as
their inverse, and a model keeps the codes of some pictures, from which it mixes its own layouts. It
is BicycleGAN's conditional VAE (1711.11586) with a fixed linear encoder.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import GeneratorConfig, ModelConfig
from ..data.dataset import PictureDataset
from ..networks.generator import Generator
from ..networks.networks import Networks
from .config import TrainingConfig
from .latent_codes import LIMIT, principal_components

MAX_PICTURES = 4096  # from which the components are computed
MAX_BANK = 1024  # pictures whose codes a model keeps
CHUNK = 128
NUM_W = 1024


class LayoutCodes:
    """axes [C * side * side, K], mean [C * side * side] and deviation [K] of miniatures."""

    def __init__(self, dataset: PictureDataset, side: int, num_codes: int) -> None:
        self.side = side
        order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0))
        parts = order[:MAX_PICTURES].split(CHUNK)
        x = torch.cat([self._miniatures(dataset.batch(index)) for index in parts])
        self.mean = x.mean(dim=0)
        x = x - self.mean
        self.axes, self.deviation = principal_components(x, num_codes)
        self.bank = self._codes(x[:MAX_BANK])

    @classmethod
    def of(
        cls, dataset: PictureDataset, model: ModelConfig, training: TrainingConfig
    ) -> LayoutCodes | None:
        """None where the model has no layout, and for a training with captions."""
        generator = model.generator
        if not isinstance(generator, GeneratorConfig) or not generator.layout_side:
            return None
        if training.stage != "pretrain" or not training.pairs_weight:
            return None
        return cls(dataset, generator.layout_side, generator.num_codes)

    def _codes(self, x: Tensor) -> Tensor:
        """[n, K] of centred miniatures."""
        return (x @ self.axes / self.deviation).clamp(-LIMIT, LIMIT)

    def _miniatures(self, pictures: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(pictures, self.side).flatten(1)

    def write(self, z: Tensor, real: Tensor) -> Tensor:
        """z [n, z_dim] with the codes of real pictures [n, C, H, W] as its last numbers."""
        code = self._codes(self._miniatures(real) - self.mean)
        return torch.cat([z[:, : -code.shape[1]], code], dim=1)

    def to(self, device: torch.device) -> LayoutCodes:
        """Move in place."""
        for name in ("mean", "axes", "deviation", "bank"):
            setattr(self, name, getattr(self, name).to(device))
        return self

    @torch.no_grad()
    def install(self, networks: Networks) -> None:
        """Set weights by which w holds the code of z, and the layout is what it describes.

        The code gets the directions in which w varies least, so that a trained mapping loses least.
        """
        generator = networks.generator
        assert isinstance(generator, Generator) and generator.layout is not None
        mapping, layout, num_codes = generator.mapping, generator.layout, len(self.deviation)
        rng = torch.Generator().manual_seed(0)
        z = torch.randn(NUM_W, generator.config.z_dim, generator=rng)
        z[:, -num_codes:] = 0
        pooled = networks.conditioning.null_pooled.detach().cpu().expand(NUM_W, -1)
        mapping.train()  # codes as they are
        w = mapping(z, pooled)
        _, directions = torch.linalg.eigh(torch.cov(w.t().double()))  # ascending
        own = directions[:, :num_codes].to(w)  # [dim, K]
        for parameter in (mapping.out.weight, mapping.out.bias):
            parameter.sub_(own @ (own.t() @ parameter))
        mapping.code_in.weight.copy_(own)
        assert isinstance(mapping.bank, Tensor)
        mapping.bank.copy_(self.bank)
        layout.from_w.weight.copy_((self.axes * self.deviation) @ own.t())
        layout.from_w.bias.copy_(self.mean)
