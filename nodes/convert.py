"""Conversion between ComfyUI's tensors and the library's.

ComfyUI: IMAGE [B, H, W, 3 or 4] in [0, 1]; MASK [B, H, W] or [H, W], 1 = transparent.
Library: pictures [N, C, H, W] in [-1, 1]; four channels are premultiplied RGBA.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ..imagen_model import Condition, Latent, straight
from .types import LatentLink

if TYPE_CHECKING:
    from .host import HostedModel

BACKGROUNDS = {"white": 1.0, "black": 0.0, "none": None}


def to_image_and_mask(pictures: Tensor, background: str) -> tuple[Tensor, Tensor]:
    """Library pictures -> IMAGE over `background` ("none": straight colour) and MASK."""
    colour, alpha = straight(pictures)
    if colour.shape[1] == 1:
        colour = colour.expand(-1, 3, -1, -1)
    if alpha is None:
        alpha = torch.ones_like(colour[:, :1])
    if background not in BACKGROUNDS:
        raise ValueError(f"background is {background!r}; expected {', '.join(BACKGROUNDS)}")
    paper = BACKGROUNDS[background]
    if paper is not None:
        colour = colour * alpha + paper * (1 - alpha)
    return colour.permute(0, 2, 3, 1).contiguous(), 1 - alpha.squeeze(1)


def gathered(
    batches: Iterable[Tensor], count: int, background: str, device: torch.device
) -> tuple[Tensor, Tensor]:
    """to_image_and_mask of `count` pictures that come in batches. Beside the result there is never
    more than one batch in memory, however many frames a film has."""
    image, mask, done = torch.empty(0), torch.empty(0), 0
    for pictures in batches:
        parts = to_image_and_mask(pictures, background)
        if not done:
            image, mask = (torch.empty(count, *part.shape[1:], device=device) for part in parts)
        rows = slice(done, done + len(pictures))
        image[rows], mask[rows] = parts
        done = rows.stop
    return image, mask


def to_pictures(image: Tensor, mask: Tensor | None = None) -> Tensor:
    """IMAGE, with its MASK or its own fourth channel -> library pictures."""
    x = image.permute(0, 3, 1, 2).float()
    if x.shape[1] not in (1, 3, 4):
        raise ValueError(f"the image has {x.shape[1]} channels; expected 1, 3 or 4")
    colour, alpha = x[:, :3], x[:, 3:4] if x.shape[1] == 4 else None
    if mask is not None:
        colour = colour.expand(-1, 3, -1, -1)
        alpha = 1 - masks_of(mask, image)[:, None].float().to(x.device)
        if alpha.shape[2:] != x.shape[2:]:  # LoadImage without alpha gives a 64x64 mask
            alpha = F.interpolate(alpha, size=x.shape[2:], mode="bilinear")
    if alpha is None:
        return colour * 2 - 1
    return torch.cat([colour * alpha, alpha], dim=1) * 2 - 1


def masks_of(mask: Tensor | None, image: Tensor) -> Tensor:
    """MASK [B, H, W], one for each picture of IMAGE. One mask serves all; None means opaque."""
    if mask is None:
        return image.new_zeros(image.shape[:3])
    mask = mask.reshape(-1, *mask.shape[-2:])
    if len(mask) not in (1, len(image)):
        raise ValueError(
            f"{len(mask)} masks do not fit {len(image)} images; expected 1 or {len(image)}"
        )
    return mask.expand(len(image), -1, -1)


def latent_to_link(
    latent: Latent, model: HostedModel | None = None, condition: Condition | None = None
) -> LatentLink:
    """Latents as a link, with the model and the condition that they were made for."""
    link: LatentLink = {"space": latent.space, "values": latent.values, "seeds": latent.seeds}
    if model is not None:
        link["model"] = model
    if condition is not None:
        link["condition"] = condition
    return link


def link_to_latent(link: LatentLink) -> Latent:
    return Latent(link["space"], link["values"], tuple(link["seeds"]))


def made_for(
    model: HostedModel | None, condition: Condition | None, *links: LatentLink
) -> tuple[HostedModel, Condition]:
    """The model and the condition that are linked, else those that the latents come with.

    ValueError where there is neither.
    """
    models = [model, *(link.get("model") for link in links)]
    conditions = [condition, *(link.get("condition") for link in links)]
    found_model = next((x for x in models if x is not None), None)
    found_condition = next((x for x in conditions if x is not None), None)
    if found_model is None or found_condition is None:
        missing = "model" if found_model is None else "condition"
        raise ValueError(
            f"the latents come without a {missing}; link one to {missing}, here or on "
            "Imagen Random Latent"
        )
    return found_model, found_condition
