"""The configuration of training and of one run: frozen dataclasses, validated when built."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from ..config import ModelConfig
from .losses import OBJECTIVES

STAGES = ("pretrain", "text")
PENALTIES = ("finite-difference", "exact")


@dataclass(frozen=True)
class TrainingConfig:
    """The defaults are for the frozen-feature discriminator with captions."""

    stage: str = "text"  # pretrain: no captions; text: with captions
    objective: str = "hinge"
    batch: int = 32
    seed: int = 0
    kimg: float = 0.0  # stop after so many thousand images; 0: no such limit
    minutes: float = 0.0  # stop after so many minutes of training; 0: no such limit
    lr: float = 8e-4  # at the start, then a cosine down to lr_end
    lr_end: float = 5e-5
    d_lr_ratio: float = 0.5
    mapping_lr_ratio: float = 1.0  # StyleGAN has 0.01, but here the caption passes through it too
    judge_fraction: float = 0.05  # of the run, at its end: only the discriminator learns
    warmup_kimg: float = 2.0
    g_beta1: float = 0.8  # momentum averages the noise of the matching term, a regression
    d_beta1: float = 0.0
    beta2: float = 0.99
    clip: float = 1.0  # maximum norm of the generator's gradient
    r1_gamma: float = 0.0
    r2_gamma: float = 0.0
    penalty: str = "finite-difference"  # how R1 and R2 are computed; exact is the slow reference
    lipschitz_weight: float = 10.0  # of wgan-gp's penalty
    recompute_blocks: bool = False  # of the generator, in the backward pass: less memory, slower
    auto_gamma: bool = False  # keep the penalties' share of D's loss in a band (adaptive.py)
    unrolled_steps: int = 0  # of D, in the generator's loss (unrolled.py)
    augment_p: float = 0.4  # at the start; fixed unless augment_target is set
    augment_target: float = 0.0  # of `overfit` in adaptive.py; 0: p is fixed
    augment_min: float = 0.0
    augment_max: float = 0.8
    ema_halflife_kimg: float = 10.0
    adversarial_weight: float = 0.2
    pairs_weight: float = 1.0  # of matching with the real picture of the caption or latent code
    wrong_caption_weight: float = 0.25
    info_nce_weight: float = 1.0  # of D's loss; the generator's has it times adversarial_weight
    tick_kimg: float = 2.0
    snapshot_kimg: float = 20.0
    keep_snapshots: int = 0  # how many of the newest are kept; 0: all
    accumulate: int = 1  # micro-batches per batch: less memory, the same gradients
    compile: bool = False  # torch.compile the networks, where there is a compiler

    def __post_init__(self) -> None:
        def check(ok: bool, name: str, expected: str) -> None:
            if not ok:
                raise ValueError(f"{name} is {getattr(self, name)!r}; expected {expected}")

        check(self.stage in STAGES, "stage", " or ".join(STAGES))
        check(self.objective in OBJECTIVES, "objective", " or ".join(OBJECTIVES))
        check(1 <= self.batch <= 65536, "batch", "1 to 65536")
        for name in ("kimg", "minutes", "r1_gamma", "r2_gamma", "lipschitz_weight"):
            check(getattr(self, name) >= 0, name, "0 or more")
        check(self.lr >= self.lr_end > 0, "lr", f"at least lr_end ({self.lr_end})")
        check(0 <= self.judge_fraction < 1, "judge_fraction", "0 to under 1")
        check(0 <= self.augment_p <= 1, "augment_p", "0 to 1")
        check(0 <= self.augment_target < 1, "augment_target", "0 to under 1")
        check(0 <= self.augment_min <= self.augment_max <= 1, "augment_min", "0 to augment_max")
        check(0 <= self.unrolled_steps <= 100, "unrolled_steps", "0 to 100")
        check(self.penalty in PENALTIES, "penalty", " or ".join(PENALTIES))
        check(self.keep_snapshots >= 0, "keep_snapshots", "0 or more")
        check(1 <= self.accumulate <= self.batch, "accumulate", f"1 to the batch ({self.batch})")
        if self.unrolled_steps and self.accumulate > 1:
            raise ValueError(
                "unroll and accumulate exclude each other: unrolling needs whole batches"
            )
        if not (self.kimg or self.minutes):
            raise ValueError("nothing says when to stop: give kimg or minutes")

    def to_dict(self) -> dict:
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class RunConfig:
    """One run: the model, its training, the folder and the card."""

    model: ModelConfig
    training: TrainingConfig
    out: Path
    card: dict
