"""Discriminator scores of pictures: realism, its map, and the match with a prompt."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..condition import Condition
from ..networks.efficientnet import EfficientNetLite, as_rgb
from ..networks.networks import Networks
from ..networks.precision import full_precision
from ..progress import OnPictures
from ..storage.images import as_model_pictures
from .sampling import batches, expand, fitting_batch


@dataclass(frozen=True)
class Scores:
    """Logits of N pictures: higher is better.

    Realism is zero half-way between the means of real and generated pictures in training.
    """

    realism: Tensor  # [N]
    match: Tensor | None  # [N] with a condition
    realism_map: Tensor  # [N, R, R]

    @property
    def total(self) -> Tensor:
        """[N] the sum, by which pictures are ranked."""
        return self.realism if self.match is None else self.realism + self.match

    @property
    def order(self) -> Tensor:
        """[N] indices from best to worst; equal scores keep their order."""
        return self.total.argsort(descending=True, stable=True)


@torch.no_grad()
def score(
    networks: Networks,
    lite0: EfficientNetLite | None,
    pictures: Tensor,
    condition: Condition | None = None,
    *,
    midpoint: float = 0.0,
    batch_size: int | None = None,
    progress: OnPictures | None = None,
) -> Scores:
    """Score pictures [N, C, H, W] in [-1, 1] of any size; one condition serves all, or one each.

    `midpoint` is the realism logit that counts as zero.
    """
    discriminator = networks.discriminator
    config = discriminator.config
    x = as_model_pictures(pictures, resolution=config.resolution, channels=config.channels)
    if condition is not None:
        condition = expand(networks, condition, len(x))
    realism, match, maps = [], [], []
    with full_precision():
        for rows in batches(len(x), batch_size or fitting_batch(config.resolution)):
            part = x[rows].to(networks.device)
            levels = lite0(as_rgb(part)) if lite0 is not None else None
            output = discriminator(part, levels)
            realism.append(output.realism().cpu())
            maps.append(output.realism_map(config.resolution).cpu())
            if condition is not None:
                cond = condition[rows].to(device=networks.device, dtype=torch.float32)
                embedded = discriminator.embed_condition(cond.pooled, cond.style)
                match.append(output.match(embedded).mean(dim=1).cpu())
            if progress is not None:
                progress(rows.stop, len(x), None)
    matches = torch.cat(match) if match else None
    return Scores(torch.cat(realism) - midpoint, matches, torch.cat(maps) - midpoint)


COLOURS = ((0.70, 0.09, 0.17), (0.97, 0.97, 0.97), (0.13, 0.40, 0.67))  # red, white, blue


def map_colours(realism_map: Tensor) -> Tensor:
    """[N, H, W] logits -> [N, 3, H, W] in [-1, 1]: red is generated, white undecided, blue real."""
    generated, neutral, real = (realism_map.new_tensor(c).view(1, 3, 1, 1) for c in COLOURS)
    certainty = torch.tanh(realism_map)[:, None]  # [-1, 1]
    end = torch.where(certainty > 0, real, generated)
    return torch.lerp(neutral.expand_as(end), end, certainty.abs()) * 2 - 1
