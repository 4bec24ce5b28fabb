"""A batch, or a micro-batch of it, with all inputs of both networks' losses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..condition import Condition
from ..device import sent
from ..networks.efficientnet import EfficientNetLite, as_rgb
from ..networks.precision import autocast
from .augment import Augmentation, random_background
from .config import TrainingConfig

Generate = Callable[[slice], Tensor]  # rows -> generated pictures [n, C, H, W] in [-1, 1]


@dataclass(frozen=True)
class StepNoise:
    """The random numbers of a step, one row per picture."""

    augment: Augmentation
    background: Tensor  # [N, 3, 1, 1]
    penalty: dict[str, Tensor]  # noise of the gradient penalties, by their names

    @classmethod
    def sample(
        cls,
        shape: torch.Size,
        training: TrainingConfig,
        augment_p: float,
        *,
        generator: torch.Generator,
        device: torch.device,
    ) -> StepNoise:
        """For a whole batch of pictures of `shape` [., C, H, W]."""
        t = training
        augment = Augmentation.sample(t.batch, augment_p, generator=generator, device=device)
        background = random_background(t.batch, generator, device)
        penalty = {}
        if t.penalty != "exact":
            for name, gamma in (("r1_penalty", t.r1_gamma), ("r2_penalty", t.r2_gamma)):
                if gamma:
                    penalty[name] = torch.randn((t.batch, *shape[1:]), generator=generator)
        if t.objective == "wgan-gp":
            penalty["between"] = torch.rand(t.batch, 1, 1, 1, generator=generator)
        return cls(augment, background, {k: sent(v, device) for k, v in penalty.items()})

    def __getitem__(self, rows: slice) -> StepNoise:
        penalty = {name: values[rows] for name, values in self.penalty.items()}
        return StepNoise(self.augment[rows], self.background[rows], penalty)


@dataclass(frozen=True)
class Batch:
    """Real and generated pictures under the same augmentation, with their frozen features.

    The levels are lite0's, empty where nothing uses them.
    """

    real: Tensor  # [N, C, H, W]
    generated: Tensor  # [N, C, H, W], with the generator's graph where there is one micro-batch
    real_levels: list[Tensor]
    generated_levels: list[Tensor]
    condition: Condition
    has_words: bool  # any condition of the whole batch, over all processes
    noise: StepNoise
    plain: Tensor  # [N, C, H, W], generated pictures before augmentation, without a graph
    rows: slice  # of this process's batch


class BatchBuilder:
    """Generates, augments, and computes frozen features."""

    def __init__(
        self, lite0: EfficientNetLite, *, device: torch.device, uses_features: bool
    ) -> None:
        self.lite0, self.device, self.uses_features = lite0, device, uses_features

    def build(
        self,
        generate: Generate,
        real: Tensor,
        condition: Condition,
        noise: StepNoise,
        *,
        has_words: bool,
        rows: slice,
    ) -> Batch:
        """The micro-batch `rows` of real pictures, conditions and noise."""
        noise = noise[rows]
        with autocast(self.device):
            real = noise.augment(real[rows])
            with torch.no_grad():
                levels = [level.float() for level in self.features(real, noise.background)]
        generated, generated_levels, plain = self._generated(generate, rows, noise)
        return Batch(
            real.float(), generated, levels, generated_levels, condition[rows], has_words, noise,
            plain, rows,
        )  # fmt: skip

    def generate_again(self, batch: Batch, generate: Generate) -> Batch:
        """The same batch, its pictures generated anew, with gradients."""
        generated, levels, _ = self._generated(generate, batch.rows, batch.noise)
        return replace(batch, generated=generated, generated_levels=levels)

    def _generated(
        self, generate: Generate, rows: slice, noise: StepNoise
    ) -> tuple[Tensor, list[Tensor], Tensor]:
        """Augmented pictures, their levels, and the pictures before augmentation."""
        with autocast(self.device):
            plain = generate(rows)
            generated = noise.augment(plain)
            levels = self.features(generated, noise.background)
        return generated.float(), [level.float() for level in levels], plain.detach().float()

    def features(self, pictures: Tensor, background: Tensor) -> list[Tensor]:
        """lite0's levels of pictures over `background`; empty where nothing uses them."""
        return self.lite0(as_rgb(pictures, background)) if self.uses_features else []
