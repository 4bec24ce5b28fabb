"""Pictures -> latents: the w, one for each block, whose picture is nearest.

StyleGAN2's projector (1912.04958) in the per-block space of Image2StyleGAN (1904.03189). The loss
differs: it is training's matching loss (lite0 features and a low-resolution L1), with a weak pull
towards the condition's average, so that the result can still be edited. Nothing is random: the same
picture gives the same latent, whatever else is in the batch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor

from ..condition import Condition
from ..networks.efficientnet import EfficientNetLite, as_rgb
from ..networks.networks import Networks
from ..networks.perceptual import L1_WEIGHT, feature_matching, low_resolution_l1
from ..networks.precision import full_precision
from ..progress import OnPictures
from ..storage.images import as_model_pictures
from .latent import Latent, random_latent
from .sampling import average_w, batches, expand, fitting_batch, settled, to_w

STEPS = 100
MAX_STEPS = 10_000
CANDIDATES = 8  # seeds 0, 1, ...; the search starts at the nearest
START_PSI = 0.5  # truncation of the candidates
LEARNING_RATE = 0.2  # in units of w's own spread
PULL = 0.01  # weight of the squared distance to the average, in the same units
PREVIEW_EVERY = 5  # steps
BATCH = 16  # pictures; a step on a CPU then takes under a second, so it can be cancelled


def invert(
    networks: Networks,
    lite0: EfficientNetLite | None,
    pictures: Tensor,
    condition: Condition,
    *,
    steps: int = STEPS,
    batch_size: int | None = None,
    progress: OnPictures | None = None,
) -> Latent:
    """w latents of pictures [N, C, H, W] in [-1, 1] of any size, `batch_size` at once.

    One condition serves all, or one each. Where it leaves the style open, the latent's seed is one
    that chooses the nearest style. `progress` is called for each candidate of the start and after
    each step, every few of them with the newest pictures; it may raise to cancel.
    """
    if not 1 <= steps <= MAX_STEPS:
        raise ValueError(f"steps is {steps}; expected 1 to {MAX_STEPS}")
    config = networks.generator.config
    batch_size = batch_size or fitting_batch(config.resolution, BATCH)
    found: list[Tensor] = []
    seeds: list[int] = []
    # Autograd refuses tensors made in inference mode, in which ComfyUI loads and runs everything,
    # so that all inputs are copied outside of it.
    with torch.inference_mode(False), torch.enable_grad(), full_precision():
        networks, lite0 = copy.deepcopy((networks, lite0))
        networks.requires_grad_(False)
        target = as_model_pictures(
            pictures.clone(), resolution=config.resolution, channels=config.channels
        )
        condition = expand(networks, condition, len(target))
        condition = condition[torch.arange(len(target), device=condition.pooled.device)]
        total = -(-len(target) // batch_size) * steps

        def check_cancelled() -> None:
            if progress is not None:
                progress(len(found) * steps, total, None)

        for rows in batches(len(target), batch_size):
            part = target[rows].to(networks.device)
            search = Search(networks, lite0, part, condition[rows], check_cancelled)
            for step in range(steps):
                generated = search.step(1 - step / steps)
                if progress is not None:
                    newest = generated.cpu() if step % PREVIEW_EVERY == 0 else None
                    progress(len(found) * steps + step + 1, total, newest)
            found.append(search.w.detach().cpu())
            seeds += search.seeds
    return Latent("w", torch.cat(found), tuple(seeds))


class Search:
    """Optimises one batch, from the nearest candidates towards the pictures."""

    def __init__(
        self,
        networks: Networks,
        lite0: EfficientNetLite | None,
        target: Tensor,
        condition: Condition,
        check: Callable[[], object],
    ) -> None:
        self.synthesis, self.lite0, self.target = networks.generator.synthesis, lite0, target
        with torch.no_grad():
            self.start, self.seeds = nearest_candidate(networks, target, condition, check)
            latent = Latent("w", self.start, tuple(self.seeds))
            condition = settled(networks, condition, latent, slice(None))
            self.tokens, self.mask, _ = networks.conditioning(condition)
            self.average = average_w(networks, condition)[:, None]  # [N, 1, dim]
            self.real_levels, self.real_pooled = self.features(target)
        self.spread = self.start.square().mean(dim=(1, 2), keepdim=True).sqrt()
        self.offset = torch.zeros_like(self.start).requires_grad_()  # in units of the spread
        self.optimizer = torch.optim.Adam([self.offset], betas=(0.9, 0.99))

    @property
    def w(self) -> Tensor:
        """[N, num_blocks, dim] the current point."""
        return self.start + self.spread * self.offset

    def step(self, left: float) -> Tensor:
        """One step of Adam; returns the pictures before it. `left`, the share of steps that are
        left, scales the learning rate."""
        for group in self.optimizer.param_groups:
            group["lr"] = LEARNING_RATE * left
        w = self.w
        generated = self.synthesis(w, self.tokens, self.mask)
        away = ((w - self.average) / self.spread).square().mean()
        # both are means over the batch; times N, a picture's gradient is its own
        loss = len(w) * (self.distance(generated) + PULL * away)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return generated.detach()

    def distance(self, generated: Tensor) -> Tensor:
        """Of generated pictures from the target: L1 and, with lite0, features."""
        loss = L1_WEIGHT * low_resolution_l1(self.target, generated)
        if self.lite0 is None:
            return loss
        levels, pooled = self.features(generated)
        return loss + feature_matching(self.real_levels, levels, self.real_pooled, pooled)

    def features(self, pictures: Tensor) -> tuple[list[Tensor], Tensor]:
        """lite0's levels and pooled features; empty without lite0."""
        if self.lite0 is None:
            return [], pictures.new_zeros(len(pictures), 0)
        levels = self.lite0(as_rgb(pictures))
        return levels, self.lite0.pool(levels[-1])


def nearest_candidate(
    networks: Networks, target: Tensor, condition: Condition, check: Callable[[], object]
) -> tuple[Tensor, list[int]]:
    """w [N, num_blocks, dim] and seeds of the candidates whose pictures are nearest in L1.

    `check` is called before each candidate and may raise to stop.
    """
    config, n = networks.generator.config, len(target)
    nearest = target.new_full((n,), torch.inf)
    start = target.new_zeros(n, config.num_blocks, config.dim)
    seeds = torch.zeros(n, dtype=torch.long, device=target.device)
    for seed in range(CANDIDATES):
        check()
        z = random_latent([seed], config.z_dim).values.expand(n, -1)
        settled_condition = settled(networks, condition, Latent("z", z, (seed,) * n), slice(None))
        w = to_w(networks, z.to(target), settled_condition, truncation_psi=START_PSI)
        tokens, mask, _ = networks.conditioning(settled_condition)
        generated = networks.generator.synthesis(w, tokens, mask)
        distance = (generated - target).abs().mean(dim=(1, 2, 3))
        nearer = distance < nearest
        nearest = torch.where(nearer, distance, nearest)
        start = torch.where(nearer[:, None, None], w, start)
        seeds = torch.where(nearer, seed, seeds)
    return start, seeds.tolist()
