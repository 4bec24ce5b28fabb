"""z -> w -> pictures: the mapping network, truncation, and the one forward pass."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from einops import repeat
from torch import Tensor

from ..condition import Condition, settle_styles
from ..networks.generator import check_tile
from ..networks.networks import Networks
from ..networks.precision import full_precision
from ..progress import OnPictures
from .latent import Latent, random_latent

MAX_TRUNCATION = 2.0
AVERAGE_SAMPLES = 128  # of z, for w_avg
BATCH = 64  # pictures of up to BATCH_SIDE pixels a side
BATCH_SIDE = 128


def fitting_batch(resolution: int, most: int = BATCH) -> int:
    """How many pictures are computed at once: fewer where they are larger than BATCH_SIDE, so that
    they take the same memory."""
    return max(1, most * BATCH_SIDE**2 // max(resolution, BATCH_SIDE) ** 2)


def batches(count: int, size: int) -> Iterator[slice]:
    """Consecutive slices of up to `size` rows that cover `count` rows."""
    return (slice(begin, min(begin + size, count)) for begin in range(0, count, size))


def average_w(networks: Networks, condition: Condition) -> Tensor:
    """w_avg [N, dim]: the mean of w over a fixed sample of z, for each condition."""
    z = random_latent(range(AVERAGE_SAMPLES), networks.generator.config.z_dim).values
    z = z.to(condition.pooled).repeat(len(condition), 1)
    _, _, pooled = networks.conditioning(condition)
    w = networks.generator.mapping(z, pooled.repeat_interleave(AVERAGE_SAMPLES, dim=0))
    return w.unflatten(0, (len(condition), AVERAGE_SAMPLES)).mean(dim=1)


def to_w(
    networks: Networks, z: Tensor, condition: Condition, *, truncation_psi: float = 1.0
) -> Tensor:
    """z [N, z_dim] or w [N, num_blocks, dim] -> w, truncated by truncation_psi.

    w' = w_avg + psi (w - w_avg): 1 leaves w, 0 gives the condition's average picture.
    """
    w = z
    if z.ndim == 2:
        _, _, pooled = networks.conditioning(condition)
        w = networks.generator.mapping(z, pooled)
        w = repeat(w, "n d -> n b d", b=networks.generator.config.num_blocks)
    if truncation_psi != 1.0:
        w = torch.lerp(average_w(networks, condition)[:, None], w, truncation_psi)
    return w


def check_truncation(psi: float) -> None:
    """ValueError where psi is not a number from 0 to MAX_TRUNCATION."""
    if not 0 <= psi <= MAX_TRUNCATION:  # false for nan too
        raise ValueError(f"truncation is {psi:g}; expected 0 to {MAX_TRUNCATION:g}")


def expand(networks: Networks, condition: Condition, n: int) -> Condition:
    """The condition for n pictures: one row serves all, otherwise one row each.

    ValueError for other counts, and for conditions of another model.
    """
    config = networks.conditioning.config
    for what, got, expected in (
        ("styles", condition.style.shape[1], len(config.styles)),
        ("numbers per token", condition.pooled.shape[1], config.dim),
    ):
        if got != expected:
            raise ValueError(
                f"the condition is of another model (it has {got} {what}, this model {expected}); "
                "encode it with this model"
            )
    if len(condition) == n:
        return condition
    if len(condition) == 1:
        return condition[torch.zeros(n, dtype=torch.long, device=condition.pooled.device)]
    raise ValueError(f"{len(condition)} conditions do not fit {n} pictures; expected 1 or {n}")


def fitted(networks: Networks, condition: Condition, latent: Latent) -> tuple[Condition, Latent]:
    """As many conditions as latents: a side with one row is repeated for all of the other's.

    ValueError for counts that do not fit, and for conditions or latents of another model.
    """
    config = networks.generator.config
    expected = (config.z_dim,) if latent.space == "z" else (config.num_blocks, config.dim)
    shape = tuple(latent.values.shape[1:])
    if shape != expected:
        raise ValueError(
            f"latents of shape {shape} do not fit this model, whose are {expected}; sample them "
            "with this model"
        )
    if len(latent) == 1:
        n = len(condition)
        latent = Latent(latent.space, latent.values.expand(n, *shape), latent.seeds * n)
    return expand(networks, condition, len(latent)), latent


def settled(networks: Networks, condition: Condition, latent: Latent, rows: slice) -> Condition:
    """`condition`, which is of `rows` of the latent, on the model's device with its style chosen:
    an open style is chosen by z, or in w by the z of the seed."""
    condition = condition.to(device=networks.device, dtype=torch.float32)
    if latent.space == "z":
        z = latent.values[rows]
    else:
        z = random_latent(latent.seeds[rows], networks.generator.config.z_dim).values
    return condition.with_style(settle_styles(condition.style, z.to(condition.style)))


def _on_device(
    networks: Networks, condition: Condition, latent: Latent, batch_size: int
) -> Iterator[tuple[slice, Tensor, Condition]]:
    """Batches: rows, their z or w, and their settled conditions, on the model's device."""
    for rows in batches(len(latent), batch_size):
        point = latent.values[rows].to(device=networks.device, dtype=torch.float32)
        yield rows, point, settled(networks, condition[rows], latent, rows)


@torch.no_grad()
def draw(
    networks: Networks,
    condition: Condition,
    latent: Latent,
    *,
    truncation_psi: float = 1.0,
    tile: str = "none",
    batch_size: int | None = None,
    progress: OnPictures | None = None,
) -> Tensor:
    """Pictures [N, C, H, W] in [-1, 1] on the CPU, fp32.

    One condition serves all latents, or one each; one latent serves several conditions. `progress`
    is called after each batch and may raise to cancel. ValueError for latents of another model, and
    for a truncation_psi outside 0...2.
    """
    check_tile(tile)
    check_truncation(truncation_psi)
    condition, latent = fitted(networks, condition, latent)
    batch_size = batch_size or fitting_batch(networks.generator.config.resolution)
    pictures = []
    with full_precision():
        for rows, point, cond in _on_device(networks, condition, latent, batch_size):
            if latent.space == "z":
                point = to_w(networks, point, cond, truncation_psi=truncation_psi)
            tokens, mask, _ = networks.conditioning(cond)
            generated = networks.generator.synthesis(point, tokens, mask, tile=tile)
            pictures.append(generated.float().cpu().contiguous())
            if progress is not None:
                progress(rows.stop, len(latent), pictures[-1])
    return torch.cat(pictures)


@torch.no_grad()
def into_w(
    networks: Networks,
    condition: Condition,
    latent: Latent,
    *,
    truncation_psi: float = 1.0,
    progress: OnPictures | None = None,
) -> Latent:
    """Latents in z or w with their conditions -> w latents, truncated as in `to_w`.

    One condition serves all latents, or one each. `progress` is called after each batch, and may
    raise to cancel. ValueError for a truncation_psi outside 0...2.
    """
    check_truncation(truncation_psi)
    condition, latent = fitted(networks, condition, latent)
    parts = []
    with full_precision():
        for rows, point, cond in _on_device(networks, condition, latent, BATCH):
            parts.append(to_w(networks, point, cond, truncation_psi=truncation_psi).cpu())
            if progress is not None:
                progress(rows.stop, len(latent), None)
    return Latent("w", torch.cat(parts), latent.seeds)
