"""Scores by the discriminator: how real a picture looks, where, and how well it fits a prompt."""

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
from .sampling import BATCH, expand


@dataclass(frozen=True)
class Scores:
    """Logits of N pictures: higher is better.

    Realism is zero half-way between what the model's real and generated pictures got in training.
    """

    realism: Tensor  # [N]
    match: Tensor | None  # [N] with a condition
    realism_map: Tensor  # [N, R, R] realism of each place

    @property
    def total(self) -> Tensor:
        """[N] what ranking goes by."""
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
    batch_size: int = BATCH,
    progress: OnPictures | None = None,
) -> Scores:
    """Judge pictures [N, C, H, W] in [-1, 1] of any size; one condition serves all, or one each.

    `midpoint` is the realism logit that counts as zero.
    """
    discriminator = networks.discriminator
    config = discriminator.config
    x = as_model_pictures(pictures, resolution=config.resolution, channels=config.channels)
    if condition is not None:
        condition = expand(networks, condition, len(x))
    device = networks.device
    realism, match, maps = [], [], []
    with full_precision():
        for begin in range(0, len(x), batch_size):
            rows = slice(begin, begin + batch_size)
            part = x[rows].to(device)
            levels = lite0(as_rgb(part)) if lite0 is not None else None
            output = discriminator(part, levels)
            realism.append(output.realism().cpu())
            maps.append(output.realism_map(config.resolution).cpu())
            if condition is not None:
                cond = condition[rows].to(device=device, dtype=torch.float32)
                embedded = discriminator.embed_condition(cond.pooled, cond.style)
                match.append(output.match(embedded).mean(dim=1).cpu())
            if progress is not None:
                progress(min(begin + batch_size, len(x)), len(x), None)
    return Scores(
        torch.cat(realism) - midpoint,
        torch.cat(match) if match else None,
        torch.cat(maps) - midpoint,
    )


GENERATED_COLOUR, NEUTRAL_COLOUR, REAL_COLOUR = (
    (0.70, 0.09, 0.17),
    (0.97, 0.97, 0.97),
    (0.13, 0.40, 0.67),
)


def map_colours(realism_map: Tensor) -> Tensor:
    """[N, H, W] logits -> [N, 3, H, W] in [-1, 1]: red looks drawn, white undecided, blue real."""
    generated, neutral, real = (
        realism_map.new_tensor(c).view(1, 3, 1, 1)
        for c in (GENERATED_COLOUR, NEUTRAL_COLOUR, REAL_COLOUR)
    )
    certainty = torch.tanh(realism_map)[:, None]  # [-1, 1]
    end = torch.where(certainty > 0, real, generated)
    return torch.lerp(neutral.expand_as(end), end, certainty.abs()) * 2 - 1
