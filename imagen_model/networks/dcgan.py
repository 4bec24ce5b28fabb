"""Preset `dcgan`: the two networks of the reference article, corrected so that they run.

They resemble DCGAN (1511.06434). The generator reduces a noise *image* to two pixels a side and
enlarges it again. As printed, it lacks the last transposed convolution, and both networks expect
one channel where the data has three. Here the layer is added and the channels are the picture's.
The discriminator's sigmoid is part of the loss (training/losses.py), so it returns logits.

The interface is that of generator.py and discriminator.py: w is z, and the condition is ignored.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from ..config import DcganDiscriminatorConfig, DcganGeneratorConfig
from .discriminator import LEAK, DiscriminatorOutput


def conv(c_in: int, c_out: int) -> nn.Conv2d:
    """Half the resolution."""
    return nn.Conv2d(c_in, c_out, 4, stride=2, padding=1)


def deconv(c_in: int, c_out: int) -> nn.ConvTranspose2d:
    """Twice the resolution."""
    return nn.ConvTranspose2d(c_in, c_out, 4, stride=2, padding=1)


class Unchanged(nn.Module):
    """The identity as mapping network: w is z."""

    def forward(self, z: Tensor, cond_pooled: Tensor) -> Tensor:
        return z


class DcganGenerator(nn.Module):
    """z [N, side * side], a noise image, -> pictures [N, C, side, side] in [-1, 1]."""

    def __init__(self, config: DcganGeneratorConfig) -> None:
        super().__init__()
        self.config = config
        self.mapping = Unchanged()
        widths = [config.width << i for i in range(5)]
        layers: list[nn.Module] = [conv(1, config.width), nn.LeakyReLU(LEAK)]
        for c_in, c_out in pairwise(widths):
            layers += [conv(c_in, c_out), nn.BatchNorm2d(c_out), nn.LeakyReLU(LEAK)]
        for c_in, c_out in pairwise(widths[::-1]):
            layers += [deconv(c_in, c_out), nn.BatchNorm2d(c_out), nn.LeakyReLU(LEAK)]
        self.layers = nn.Sequential(*layers, deconv(config.width, config.channels), nn.Tanh())

    def forward(self, z: Tensor, tokens: Tensor, mask: Tensor, pooled: Tensor) -> Tensor:
        return self.synthesis(z[:, None], tokens, mask)

    def synthesis(self, w: Tensor, tokens: Tensor, mask: Tensor, *, tile: str = "none") -> Tensor:
        """w [N, 1, side * side]; ValueError for seamless pictures."""
        if tile != "none":
            raise ValueError(f"tile is {tile!r}; a dcgan model generates with 'none' only")
        side = self.config.resolution
        return self.layers(w.reshape(-1, 1, side, side))


class DcganDiscriminator(nn.Module):
    """Five convolutions to a map of logits, 2x2 at 64 px."""

    def __init__(self, config: DcganDiscriminatorConfig) -> None:
        super().__init__()
        self.config = config
        widths = [config.width << i for i in range(4)]
        layers: list[nn.Module] = [conv(config.channels, widths[0]), nn.LeakyReLU(LEAK)]
        for c_in, c_out in pairwise(widths):
            layers += [conv(c_in, c_out), nn.BatchNorm2d(c_out), nn.LeakyReLU(LEAK)]
        self.layers = nn.Sequential(*layers, conv(widths[-1], 1))

    def forward(self, pictures: Tensor, levels: list[Tensor] | None) -> DiscriminatorOutput:
        logits = self.layers(pictures).squeeze(1)
        return DiscriminatorOutput((logits,), logits.new_zeros(len(pictures), 1, 1))

    def embed_condition(self, pooled: Tensor, style: Tensor) -> Tensor:
        """[N, 1, 1] zeros: no condition changes the logits."""
        return pooled.new_zeros(len(pooled), 1, 1)
