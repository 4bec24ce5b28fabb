"""The CNN discriminator: five convolutional stages, logits per patch, projection on the condition.

The trunk follows R3GAN (2501.05441): inverted bottlenecks with grouped convolutions, leaky ReLU,
no normalisation, Fix-up initialisation (1901.09321). The frozen-feature variant adds the heads of
Projected GAN (2111.01007) on EfficientNet-lite0, mixed across channels and scales by fixed random
convolutions. The condition enters after the last map, by projection (1802.05637), so that another
caption for a picture costs only a dot product. Logits: high = real.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from ..config import DiscriminatorConfig
from .efficientnet import LEVEL_CHANNELS

LEAK = 0.2


@dataclass(frozen=True)
class DiscriminatorOutput:
    """The heads' outputs for N pictures, before the condition enters."""

    patch_logits: tuple[Tensor, ...]  # one map [N, h, w] a head
    embedding: Tensor  # [N, heads, embed_dim], of unit length

    def realism(self) -> Tensor:
        """[N] mean over patches, then over heads."""
        return torch.stack([logits.mean(dim=(1, 2)) for logits in self.patch_logits]).mean(dim=0)

    def realism_map(self, size: int) -> Tensor:
        """[N, size, size] mean over heads of the patch logits, resampled to the picture."""
        maps = [
            F.interpolate(m[:, None], size=(size, size), mode="bilinear") for m in self.patch_logits
        ]
        return torch.stack(maps).mean(dim=0).squeeze(1)

    def match(self, cond: Tensor) -> Tensor:
        """[N, heads] dot products with the embedded conditions [N, heads, embed_dim]."""
        return (self.embedding * cond).sum(dim=2)

    def match_matrix(self, cond: Tensor) -> Tensor:
        """[N, M] dot products of all pairs of N pictures and M conditions, mean over heads."""
        return torch.einsum("nhd,mhd->nm", self.embedding, cond) / self.embedding.shape[1]

    def logits(self, cond: Tensor) -> tuple[Tensor, ...]:
        """One [N, patches] per head: high = real and matching."""
        match = self.match(cond)
        return tuple(
            logits.flatten(1) + match[:, i : i + 1] for i, logits in enumerate(self.patch_logits)
        )

    def detach(self) -> DiscriminatorOutput:
        return DiscriminatorOutput(
            tuple(m.detach() for m in self.patch_logits), self.embedding.detach()
        )


class Bottleneck(nn.Module):
    """1x1 -> grouped 3x3 -> 1x1, residual; the last convolution starts at zero (Fix-up)."""

    def __init__(self, channels: int, group_size: int) -> None:
        super().__init__()
        hidden = channels * 2
        self.expand = nn.Conv2d(channels, hidden, 1)
        self.grouped = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden // group_size)
        self.project = nn.Conv2d(hidden, channels, 1, bias=False)
        nn.init.zeros_(self.project.weight)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.leaky_relu(self.expand(x), LEAK)
        return x + self.project(F.leaky_relu(self.grouped(hidden), LEAK))


class Stage(nn.Module):
    """A transition to `c_out` channels, then residual blocks at one resolution."""

    def __init__(self, c_in: int, c_out: int, *, blocks: int, group_size: int, down: bool) -> None:
        super().__init__()
        self.transition = nn.Conv2d(c_in, c_out, 1)
        self.down = down
        self.blocks = nn.Sequential(*(Bottleneck(c_out, group_size) for _ in range(blocks)))

    def forward(self, x: Tensor) -> Tensor:
        if self.down:  # bilinear resampling; exact halving is a 2x2 mean
            x = F.avg_pool2d(x, 2)
        return self.blocks(self.transition(x))


class Trunk(nn.Module):
    """Five stages from the picture to a 4x4 map."""

    NUM_STAGES = 5

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        widths = [min(config.width << i, config.max_width) for i in range(self.NUM_STAGES)]
        # Four halvings lead from 64 px to 4. Larger pictures are unshuffled first; smaller ones
        # are halved less often.
        self.shrink = max(1, config.resolution // 64)
        self.stem = nn.Conv2d(config.channels * self.shrink**2, widths[0], 3, padding=1)
        self.stages = nn.ModuleList()
        size, c_in = config.resolution // self.shrink, widths[0]
        sizes = {"blocks": config.blocks_per_stage, "group_size": config.group_size}
        for i, width in enumerate(widths):
            down = i > 0 and size > 4
            self.stages.append(Stage(c_in, width, down=down, **sizes))
            size, c_in = size // 2 if down else size, width
        self.out_channels = widths[-1]

    def forward(self, x: Tensor) -> Tensor:
        x = F.leaky_relu(self.stem(F.pixel_unshuffle(x, self.shrink)), LEAK)
        for stage in self.stages:
            x = stage(x)
        return x


class Head(nn.Module):
    """Feature map [N, C, h, w] -> (patch logits [N, h, w], embedding [N, embed_dim])."""

    def __init__(self, in_channels: int, hidden: int, embed_dim: int) -> None:
        super().__init__()
        self.conv = spectral_norm(nn.Conv2d(in_channels, hidden, 3, padding=1))
        self.logit = spectral_norm(nn.Conv2d(hidden, 1, 1))
        self.embed = nn.Linear(hidden, embed_dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.leaky_relu(self.conv(x), LEAK)
        return self.logit(x).squeeze(1), self.embed(x.mean(dim=(2, 3)))


class FeatureMixer(nn.Module):
    """Fixed random 1x1 convolutions across channels, then top-down sums across scales (2111.01007).

    The weights are sampled once, stored in the checkpoint and never trained.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.across = nn.ModuleList(nn.Conv2d(c, channels, 1, bias=False) for c in LEVEL_CHANNELS)
        for conv in self.across:
            assert isinstance(conv, nn.Conv2d)
            nn.init.kaiming_normal_(conv.weight, nonlinearity="linear")
        self.requires_grad_(False)

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        mixed, above = [], None
        for conv, level in zip(reversed(self.across), reversed(levels), strict=True):
            x = conv(level)
            if above is not None:
                x = (x + F.interpolate(above, size=x.shape[2:], mode="nearest")) * 0.5**0.5
            mixed.append(x)
            above = x
        return mixed[::-1]


class Discriminator(nn.Module):
    """The trunk's head first, then, in the frozen-feature variant, one head per level of lite0.

    The caller computes lite0's levels and passes them in; training shares them with the
    feature-matching term.
    """

    def __init__(self, config: DiscriminatorConfig, cond_dim: int, num_styles: int) -> None:
        super().__init__()
        self.config = config
        self.trunk = Trunk(config)
        heads = [Head(self.trunk.out_channels, config.max_width, config.embed_dim)]
        if config.features:
            self.mixer = FeatureMixer(config.feature_channels)
            heads += [
                Head(config.feature_channels, config.feature_channels, config.embed_dim)
                for _ in LEVEL_CHANNELS
            ]
        self.heads = nn.ModuleList(heads)
        width = len(heads) * config.embed_dim
        self.text_in = nn.Linear(cond_dim, width)
        self.style_in = nn.Linear(num_styles, width, bias=False) if num_styles else None
        self.match_scale = nn.Parameter(torch.tensor(4.0))

    def forward(self, pictures: Tensor, levels: list[Tensor] | None) -> DiscriminatorOutput:
        """pictures [N, C, H, W] in [-1, 1] and, for the frozen-feature variant, lite0's levels."""
        maps = [self.trunk(pictures)]
        if self.config.features:
            assert levels is not None
            maps += self.mixer(levels)
        outputs = [head(m) for head, m in zip(self.heads, maps, strict=True)]
        logits, embeddings = zip(*outputs, strict=True)
        return DiscriminatorOutput(logits, F.normalize(torch.stack(embeddings, dim=1), dim=2))

    def embed_condition(self, pooled: Tensor, style: Tensor) -> Tensor:
        """pooled [N, cond_dim], style weights [N, num_styles] -> [N, heads, embed_dim]."""
        x = self.text_in(pooled)
        if self.style_in is not None:
            x = x + self.style_in(style)
        x = x.view(len(pooled), len(self.heads), self.config.embed_dim)
        return F.normalize(x, dim=2) * self.match_scale
