"""Edits of latents: style mixing (StyleGAN, 1812.04948), walks, steps along directions.

All of it is arithmetic on the latents' own device; no picture is generated here.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .latent import Latent

CURVES = ("slerp", "linear")
MAX_FRAMES = 4096
MIN_ANGLE = 1e-4  # radians between two points; below it slerp interpolates linearly


def mixed(coarse: Latent, fine: Latent, *, from_block: int) -> Latent:
    """Blocks below `from_block` from `coarse`, the others from `fine`; both in w.

    A single latent on one side serves all of the other's. Seeds, which choose open styles, are
    those of `coarse`. ValueError for z, for blocks that do not exist and for counts that do not
    fit.
    """
    if coarse.space != "w" or fine.space != "w":
        raise ValueError("style mixing needs latents in w; expected both to come from into_w")
    if coarse.values.shape[1:] != fine.values.shape[1:]:
        raise ValueError("the two latents are of different models; sample both with the same one")
    num_blocks = coarse.values.shape[1]
    if not 0 <= from_block <= num_blocks:
        raise ValueError(f"from_block is {from_block}; expected 0 to {num_blocks}")
    n = max(len(coarse), len(fine))
    if not {len(coarse), len(fine)} <= {1, n}:
        raise ValueError(
            f"{len(coarse)} coarse and {len(fine)} fine latents; expected equal counts, or one"
        )
    a, b = (x.values.expand(n, -1, -1) for x in (coarse, fine))
    seeds = coarse.seeds * (n // len(coarse))
    return Latent("w", torch.cat([a[:, :from_block], b[:, from_block:]], dim=1), seeds)


def walk(latent: Latent, frames: int, *, loop: bool = False, curve: str = "slerp") -> Latent:
    """`frames` latents that interpolate through all latents of a batch, in order.

    A loop returns to the first, without repeating it at the end. curve: "slerp" keeps z's length,
    so that pictures half-way are as crisp as the others; "linear" is always used for w.
    """
    if curve not in CURVES:
        raise ValueError(f"curve is {curve!r}; expected one of {', '.join(CURVES)}")
    if not 1 <= frames <= MAX_FRAMES:
        raise ValueError(f"frames is {frames}; expected 1 to {MAX_FRAMES}")
    if len(latent) < 2:
        raise ValueError("a walk needs 2 latents or more; raise the batch size")
    n = len(latent)
    steps = torch.arange(frames) * (n / frames) if loop else torch.linspace(0, n - 1, frames)
    begin = steps.floor().long().clamp(max=n - 1 if loop else n - 2)
    end = (begin + 1) % n
    share = (steps - begin).to(latent.values)
    a, b = latent.values[begin], latent.values[end]
    join = slerp if curve == "slerp" and latent.space == "z" else torch.lerp
    share = share.view(-1, *[1] * (a.ndim - 1))
    return Latent(latent.space, join(a, b, share), tuple(latent.seeds[i] for i in begin.tolist()))


def slerp(a: Tensor, b: Tensor, share: Tensor) -> Tensor:
    """Along the great circle from a to b [N, D], lengths interpolated linearly. share [N, 1]."""
    length = torch.lerp(a.norm(dim=1, keepdim=True), b.norm(dim=1, keepdim=True), share)
    a, b = F.normalize(a, dim=1), F.normalize(b, dim=1)
    angle = (a * b).sum(dim=1, keepdim=True).clamp(-1, 1).arccos()
    near = angle < MIN_ANGLE
    angle = angle.clamp(min=MIN_ANGLE)
    arc = (((1 - share) * angle).sin() * a + (share * angle).sin() * b) / angle.sin()
    return length * torch.where(near, torch.lerp(a, b, share), arc)


def moved(latent: Latent, direction: Tensor, strength: float) -> Latent:
    """`moved_along` one direction."""
    return moved_along(latent, [(direction, strength)])


def moved_along(latent: Latent, ways: Sequence[tuple[Tensor, float]]) -> Latent:
    """w latents after steps along directions [dim], in all blocks; a step of strength 1 is as long
    as the root mean square of w before all steps, so that strengths suit every model and the order
    of the steps does not matter."""
    if latent.space != "w":
        raise ValueError("a direction moves latents in w; expected them to come from into_w")
    values = latent.values
    spread = values.square().mean(dim=(1, 2), keepdim=True).sqrt()
    for direction, strength in ways:
        if direction.shape != values.shape[2:]:
            raise ValueError("the direction is of another model; expected that of the latents")
        values = values + strength * spread * direction.to(values) * direction.numel() ** 0.5
    return Latent("w", values, latent.seeds)
