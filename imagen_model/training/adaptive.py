"""Settings that are adapted at every tick: augmentation and the penalties' weight.

Augmentation follows ADA (2006.06676): its probability rises while the discriminator overfits to the
training pictures. ADA counts the signs of D(x). RpGAN and hinge leave the logits' zero open, so
here signs are relative to the midpoint between real and generated pictures.

A good gamma is not known beforehand (R3GAN's differ by a factor of 30,000 between data sets), but
the penalties' share of the discriminator's loss can be kept within a band. The band is ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from .config import TrainingConfig

AUGMENT_RAMP_KIMG = 500.0  # from p 0 to 1, as ADA has it
PENALTY_SHARE = (0.05, 0.25)  # of the discriminator's loss and the penalties together
GAMMA_FACTOR = 1.25  # a tick
MAX_SCALE = 1e4


@dataclass
class AdaptiveControls:
    """The values in use now."""

    augment_p: float
    gamma_scale: float = 1.0

    def adapt(self, training: TrainingConfig, line: Mapping[str, float], *, kimg: float) -> None:
        """Adapt after `kimg` more images, whose means are in `line` (a line of stats.jsonl)."""
        if training.augment_target:
            direction = 1 if line["overfit"] > training.augment_target else -1
            moved = self.augment_p + direction * kimg / AUGMENT_RAMP_KIMG
            self.augment_p = min(max(moved, training.augment_min), training.augment_max)
        penalties = [line[name] for name in ("r1_penalty", "r2_penalty") if name in line]
        if training.auto_gamma and penalties:
            weighted = self._gamma(training) / 2 * sum(penalties)
            share = weighted / max(weighted + abs(line["d_loss"]), 1e-12)
            low, high = PENALTY_SHARE
            if share > high:
                self.gamma_scale /= GAMMA_FACTOR
            elif share < low:
                self.gamma_scale *= GAMMA_FACTOR
            self.gamma_scale = min(max(self.gamma_scale, 1 / MAX_SCALE), MAX_SCALE)

    def shown(self, training: TrainingConfig) -> dict[str, float]:
        """For a line of stats.jsonl."""
        gamma = self._gamma(training)
        return {"augment_p": self.augment_p} | ({"gamma": gamma} if gamma else {})

    def _gamma(self, training: TrainingConfig) -> float:
        return max(training.r1_gamma, training.r2_gamma) * self.gamma_scale

    def to_dict(self) -> dict[str, float]:
        return asdict(self)


def overfit(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """E sign(D(x) - c), c halfway between the mean logits [N] of real and of generated pictures: 0
    without overfitting, 1 if every training picture is recognised."""
    middle = (real_logits.mean() + fake_logits.mean()) / 2
    return torch.sign(real_logits - middle).mean()
