"""Seeds -> z -> w -> pictures.

A seed's noise comes from the counter-based Philox bit stream (whose raw output numpy keeps stable
across versions) by Box-Muller, on the CPU, so that a seed means the same picture on every machine;
the loop over seeds here is the only loop over samples there is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from einops import repeat
from torch import Tensor

from .conditioning import Condition
from .conditioning.condition import settle_styles
from .generator import check_tile
from .networks import Networks

SEED_RANGE = 1 << 64
MAX_PICTURES = 65536  # in one call; more is a slip of the keyboard
AVERAGE_DRAWS = 128  # z draws behind w_avg
BATCH = 64
Progress = Callable[[int, int, Tensor | None], object]  # done, total, the newest pictures


@dataclass(frozen=True)
class Latent:
    """N points of the latent space, and the seeds that they came from.

    space "z": values [N, z_dim], truncation applies. space "w": values [N, num_blocks, dim], used
    as they are; where the condition leaves the style open, the seeds still choose it.
    """

    space: Literal["z", "w"]
    values: Tensor
    seeds: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.space not in ("z", "w"):
            raise ValueError(f"latent space is {self.space!r}; expected 'z' or 'w'")
        if len(self.values) != len(self.seeds):
            raise ValueError(f"{len(self.values)} latents have {len(self.seeds)} seeds")

    def __len__(self) -> int:
        return len(self.values)


def noise(seed: int, count: int) -> np.ndarray:
    """`count` standard normal numbers of one seed (taken modulo 2^64), fp32."""
    half = (count + 1) // 2
    raw = np.random.Philox(key=seed % SEED_RANGE).random_raw(2 * half)
    uniform = ((raw >> np.uint64(11)) + 0.5) * 2.0**-53  # in (0, 1)
    radius, angle = np.sqrt(-2 * np.log(uniform[:half])), 2 * np.pi * uniform[half:]
    normal = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
    return normal[:count].astype(np.float32)


def random_latent(seeds: Sequence[int], z_dim: int) -> Latent:
    """One z a seed: row i depends on seeds[i] alone."""
    if not 1 <= len(seeds) <= MAX_PICTURES:
        raise ValueError(f"asked for {len(seeds)} pictures; expected 1 to {MAX_PICTURES}")
    seeds = tuple(int(seed) % SEED_RANGE for seed in seeds)
    values = torch.from_numpy(np.stack([noise(seed, z_dim) for seed in seeds]))
    return Latent("z", values, seeds)


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """fp32 means fp32: TF32 off, so that a GPU draws what a CPU draws."""
    matmul = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        with torch.backends.cudnn.flags(
            enabled=torch.backends.cudnn.enabled, benchmark=False, allow_tf32=False
        ):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = matmul


def average_w(networks: Networks, condition: Condition) -> Tensor:
    """w_avg [N, dim]: the mean of w over fixed draws of z, for each condition."""
    z = random_latent(range(AVERAGE_DRAWS), networks.generator.config.z_dim).values
    z = z.to(condition.pooled)
    _, _, pooled = networks.conditioning(condition)
    pooled = pooled.repeat_interleave(AVERAGE_DRAWS, dim=0)
    w = networks.generator.mapping(z.repeat(len(condition), 1), pooled)
    return w.unflatten(0, (len(condition), AVERAGE_DRAWS)).mean(dim=1)


def to_w(
    networks: Networks, z: Tensor, condition: Condition, *, truncation_psi: float = 1.0
) -> Tensor:
    """z [N, z_dim] or w [N, num_blocks, dim] -> w, drawn towards w_avg by truncation_psi.

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


def expand(networks: Networks, condition: Condition, n: int) -> Condition:
    """The condition for n pictures: one row serves all, otherwise one row each.

    ValueError for other counts, and for conditions of another model.
    """
    config = networks.conditioning.config
    for what, got, wanted in (
        ("styles", condition.style.shape[1], len(config.styles)),
        ("numbers a token", condition.pooled.shape[1], config.dim),
    ):
        if got != wanted:
            raise ValueError(
                f"the condition is of another model (it has {got} {what}, this model {wanted}); "
                "encode it with this model"
            )
    if len(condition) == n:
        return condition
    if len(condition) == 1:
        return condition[torch.zeros(n, dtype=torch.long, device=condition.pooled.device)]
    raise ValueError(f"{len(condition)} conditions do not fit {n} pictures; expected 1 or {n}")


def fitted(networks: Networks, condition: Condition, latent: Latent) -> tuple[Condition, Latent]:
    """As many conditions as latents: where one side has one row, it serves all of the other's.

    ValueError for counts that do not fit, and for conditions or latents of another model.
    """
    config = networks.generator.config
    wanted = (config.z_dim,) if latent.space == "z" else (config.num_blocks, config.dim)
    if tuple(latent.values.shape[1:]) != wanted:
        raise ValueError(
            f"latents of shape {tuple(latent.values.shape[1:])} do not fit this model, whose are "
            f"{wanted}; draw them with this model"
        )
    if len(latent) == 1:
        n = len(condition)
        latent = Latent(latent.space, latent.values.expand(n, *wanted), latent.seeds * n)
    return expand(networks, condition, len(latent)), latent


def settled(networks: Networks, condition: Condition, latent: Latent, rows: slice) -> Condition:
    """Conditions of `rows` on the model's device; where the style is open z chooses it, in w the z
    of the seed."""
    condition = condition.to(device=networks.device, dtype=torch.float32)
    if latent.space == "z":
        z = latent.values[rows]
    else:
        z = random_latent(latent.seeds[rows], networks.generator.config.z_dim).values
    return condition.with_style(settle_styles(condition.style, z.to(condition.style)))


@torch.no_grad()
def draw(
    networks: Networks,
    condition: Condition,
    latent: Latent,
    *,
    truncation_psi: float = 1.0,
    tile: str = "none",
    batch_size: int = BATCH,
    progress: Progress | None = None,
) -> Tensor:
    """Pictures [N, C, H, W] in [-1, 1] on the CPU, fp32.

    One condition serves all latents, or one each; one latent serves several conditions. `progress`
    is called after each batch and may raise to cancel. ValueError for latents of another model.
    """
    check_tile(tile)
    condition, latent = fitted(networks, condition, latent)
    values = latent.values
    device = networks.device
    pictures = []
    with full_precision():
        for begin in range(0, len(values), batch_size):
            rows = slice(begin, begin + batch_size)
            point = values[rows].to(device=device, dtype=torch.float32)
            cond = settled(networks, condition[rows], latent, rows)
            if latent.space == "z":
                point = to_w(networks, point, cond, truncation_psi=truncation_psi)
            tokens, mask, _ = networks.conditioning(cond)
            drawn = networks.generator.synthesis(point, tokens, mask, tile=tile)
            pictures.append(drawn.float().cpu().contiguous())
            if progress is not None:
                progress(min(begin + batch_size, len(values)), len(values), pictures[-1])
    return torch.cat(pictures)
