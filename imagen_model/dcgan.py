"""The reference article's own two networks, repaired so that they run: preset `dcgan`.

They are kin to DCGAN (1511.06434). The generator takes a noise *image* down to two pixels a side
and up again; as printed it stops one transposed convolution short of a picture, and both networks
expect one channel where the data has three. Here the last layer is added and the channels are the
picture's; everything else is as the article has it. The discriminator's sigmoid is part of the
loss (losses.py), so that it returns logits like every other judge here.

The interface is that of generator.py and discriminator.py: w is z itself, and nothing conditions.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from .config import DcganDiscriminatorConfig, DcganGeneratorConfig, ModelConfig, dcgan
from .discriminator import LEAK, Judgement

NUM_GENERATOR_TENSORS = 10 * 2 + 8 * 4  # ten convolutions, eight batch normalisations


def conv(c_in: int, c_out: int) -> nn.Conv2d:
    """Half the resolution."""
    return nn.Conv2d(c_in, c_out, 4, stride=2, padding=1)


def deconv(c_in: int, c_out: int) -> nn.ConvTranspose2d:
    """Twice the resolution."""
    return nn.ConvTranspose2d(c_in, c_out, 4, stride=2, padding=1)


class Unchanged(nn.Module):
    """The mapping network of a generator that has none: w is z."""

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
        """w [N, 1, side * side]; ValueError for seamless pictures, which it can't draw."""
        if tile != "none":
            raise ValueError(f"tile is {tile!r}; a dcgan model draws with 'none' only")
        side = self.config.resolution
        return self.layers(w.reshape(len(w), 1, side, side))


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

    def forward(self, pictures: Tensor, levels: list[Tensor] | None) -> Judgement:
        logits = self.layers(pictures).squeeze(1)
        return Judgement((logits,), logits.new_zeros(len(pictures), 1, 1))

    def embed_condition(self, pooled: Tensor, style: Tensor) -> Tensor:
        """[N, 1, 1] zeros: every condition fits every picture alike."""
        return pooled.new_zeros(len(pooled), 1, 1)


def from_article(
    generator: dict[str, Tensor], discriminator: dict[str, Tensor]
) -> tuple[ModelConfig, dict[str, Tensor]]:
    """The article's two state dicts, whatever its layers are called, in the names used here.

    Layers are taken in their order; ValueError says which one does not fit.
    """
    g, d = _tensors(generator), _tensors(discriminator)
    if not g or not d or g[0].ndim != 4 or d[0].ndim != 4:
        raise ValueError("expected the state dicts of two convolutional networks")
    channels = [t for t in g if t.ndim == 4][-1].shape[1]
    if len(g) == NUM_GENERATOR_TENSORS - 2:
        raise ValueError(
            "the last layer is missing, as in the article: what it draws is no picture yet; "
            "train with --preset dcgan"
        )
    config = dcgan(channels=channels, width=g[0].shape[0], judge_width=d[0].shape[0])
    assert isinstance(config.generator, DcganGeneratorConfig)
    assert isinstance(config.discriminator, DcganDiscriminatorConfig)
    state = _renamed("generator", DcganGenerator(config.generator), g)
    return config, state | _renamed("discriminator", DcganDiscriminator(config.discriminator), d)


def _renamed(kind: str, network: nn.Module, tensors: list[Tensor]) -> dict[str, Tensor]:
    """`tensors` in the order and under the names of `network`'s."""
    wanted = {name: tensor for name, tensor in network.state_dict().items() if tensor.ndim}
    if len(wanted) != len(tensors):
        raise ValueError(f"the {kind} has {len(tensors)} tensors; expected {len(wanted)}")
    for (name, ours), theirs in zip(wanted.items(), tensors, strict=True):
        if ours.shape != theirs.shape:
            raise ValueError(
                f"the {kind}'s {name} has shape {tuple(theirs.shape)}; expected {tuple(ours.shape)}"
            )
    return {f"{kind}.{name}": t.float() for name, t in zip(wanted, tensors, strict=True)}


def _tensors(state: dict[str, Tensor]) -> list[Tensor]:
    """Weights and running statistics in order, without the counters of batch normalisation."""
    return [t for t in state.values() if isinstance(t, torch.Tensor) and t.ndim]
