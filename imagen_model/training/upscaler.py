"""The training of an upscaler (inference/upscaler.py) on pictures at their full size.

The first steps minimise L1 alone. Then the loss is L1, feature matching and a hinge loss against
the library's own discriminator, heads on lite0 included: with all losses from the first step, it
fails (docs/log/experiments.md). Pictures that a model generated may take part: they have no target,
and need only look real and keep their colours.
"""

from __future__ import annotations

import copy
import datetime
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import COND_DIM, DiscriminatorConfig
from ..inference.upscaler import SCALES, Upscaler, UpscalerConfig, save_upscaler
from ..networks.discriminator import Discriminator
from ..networks.efficientnet import as_rgb, lite0, lite0_hash
from ..networks.perceptual import feature_matching
from ..networks.precision import channels_last
from ..version import __version__
from .augment import random_background
from .interrupt import stop_request
from .losses import hinge_d, hinge_g
from .objective import over_heads
from .run_lock import run_lock
from .state import load_state, read_progress, save_state, saved_state
from .trainer import LATEST
from .upscaler_data import CROP, Patches, over_flat_colours, pairs_of, random_crops

PAIRS, GENERATED = 12, 4  # pairs, and generated pictures without a target, per step
L1_SHARE = 5 / 7  # of the steps, at their beginning
ADVERSARIAL_COST = 4.0  # of a later step, in L1 steps; for the time left
LR, LR_ADVERSARIAL, LR_END = 1e-3, 3e-4, 3e-5  # at the start, after the L1 steps, at the end
L1_WEIGHT, ADVERSARIAL_WEIGHT = 20.0, 0.05
EMA_DECAY = 0.998
SAVE_EVERY = 200  # steps
MAX_STEPS = 1_000_000


@dataclass(frozen=True)
class UpscalerOptions:
    """How an upscaler is trained."""

    scale: int = 4
    steps: int = 4200
    seed: int = 0

    def __post_init__(self) -> None:
        if self.scale not in SCALES:
            raise ValueError(f"scale is {self.scale}; expected 2 or 4")
        if not 1 <= self.steps <= MAX_STEPS:
            raise ValueError(f"steps is {self.steps}; expected 1 to {MAX_STEPS}")

    @property
    def l1_steps(self) -> int:
        return round(self.steps * L1_SHARE)


class UpscalerProgress(NamedTuple):
    """After a step."""

    done: int
    steps: int
    losses: dict[str, float]
    eta_sec: float


class UpscalerTraining:
    """Both networks, their optimisers, and the average of the upscaler's weights."""

    def __init__(
        self,
        patches: Patches,
        options: UpscalerOptions,
        *,
        generated: Tensor | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        """`generated` [N, 4, H, W] are pictures that a model generated, of any size from that of a
        small crop."""
        self.patches, self.generated = patches, generated
        self.options, self.device = options, torch.device(device)
        self.small_px = CROP // options.scale
        if generated is not None and min(generated.shape[2:]) < self.small_px:
            raise ValueError(
                f"the generated pictures have {generated.shape[2]} pixels a side; expected "
                f"{self.small_px} or more"
            )
        self.done = 0
        self.rng = torch.Generator().manual_seed(options.seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            upscaler = Upscaler(UpscalerConfig(scale=options.scale))
            config = DiscriminatorConfig(resolution=CROP, width=16, max_width=64)
            discriminator = Discriminator(config, COND_DIM, 0)
        self.upscaler = channels_last(upscaler.to(self.device))
        self.average = copy.deepcopy(self.upscaler).requires_grad_(False)
        self.discriminator = channels_last(discriminator.to(self.device))
        self.lite0 = copy.deepcopy(lite0()).to(self.device)
        trained = [p for p in self.discriminator.parameters() if p.requires_grad]
        self.modules = {
            "upscaler": self.upscaler,
            "average": self.average,
            "discriminator": self.discriminator,
        }
        self.optimizers = {
            "upscaler": torch.optim.Adam(self.upscaler.parameters(), betas=(0.9, 0.99)),
            "discriminator": torch.optim.Adam(trained, betas=(0.0, 0.99)),
        }

    # -- one step ---------------------------------------------------------------------------------

    def batch(self) -> tuple[Tensor, Tensor]:
        """Small crops, of which those after the first PAIRS have no target, and their targets
        [PAIRS, 4, CROP, CROP]."""
        index = self.patches.weights.multinomial(PAIRS, replacement=True, generator=self.rng)
        small, large = pairs_of(self.patches.batch(index), self.options.scale, self.rng)
        if self.generated is not None:
            rows = torch.randint(len(self.generated), (GENERATED,), generator=self.rng)
            crops = random_crops(self.generated[rows], self.small_px, self.rng)
            small = torch.cat([small, over_flat_colours(crops, self.rng)])
        if torch.rand((), generator=self.rng) < 0.5:
            small, large = small.flip(3), large.flip(3)
        return small.to(self.device), large.to(self.device)

    def step(self) -> dict[str, float]:
        """Train on one batch; returns the losses."""
        self._set_lr()
        small, large = self.batch()
        if self.done < self.options.l1_steps:
            losses = {"l1": F.l1_loss(self.upscaler(small[:PAIRS]), large)}
            self._descend("upscaler", losses["l1"])
        else:
            losses = self._adversarial_step(small, large)
        decay = min(EMA_DECAY, (1 + self.done) / (10 + self.done))
        for ours, theirs in zip(self.average.parameters(), self.upscaler.parameters(), strict=True):
            ours.lerp_(theirs.detach(), 1 - decay)
        self.done += 1
        return {name: loss.item() for name, loss in losses.items()}

    def _adversarial_step(self, small: Tensor, large: Tensor) -> dict[str, Tensor]:
        """A step of the discriminator, then one of the upscaler."""
        background = random_background(len(small), self.rng, self.device)
        upscaled = self.upscaler(small)
        with torch.no_grad():
            real_levels = self.lite0(as_rgb(large, background[:PAIRS]))
        levels = self.lite0(as_rgb(upscaled, background))

        self.discriminator.requires_grad_(True)
        self.discriminator.mixer.requires_grad_(False)
        detached = [level.detach() for level in levels]
        real_logits = self.discriminator(large, real_levels).patch_logits
        logits = self.discriminator(upscaled.detach(), detached).patch_logits
        d_loss = over_heads(hinge_d, real_logits, logits)
        self._descend("discriminator", d_loss)

        self.discriminator.requires_grad_(False)
        logits = self.discriminator(upscaled, levels).patch_logits
        adversarial = over_heads(hinge_g, logits, logits)
        matching = self._matching(real_levels, [level[:PAIRS] for level in levels])
        l1 = F.l1_loss(upscaled[:PAIRS], large)
        terms = {"matching": matching, "l1": l1, "adversarial": adversarial}
        if self.generated is not None:
            terms["colours"] = F.l1_loss(  # of pictures without a target
                F.avg_pool2d(upscaled[PAIRS:], 2 * self.options.scale),
                F.avg_pool2d(small[PAIRS:], 2),
            )
            l1 = l1 + terms["colours"]
        self._descend("upscaler", matching + L1_WEIGHT * l1 + ADVERSARIAL_WEIGHT * adversarial)
        return {"d": d_loss, **terms}

    def _matching(self, real_levels: list[Tensor], levels: list[Tensor]) -> Tensor:
        """Feature matching of lite0's levels and pooled features."""
        pooled = (self.lite0.pool(x[-1]) for x in (real_levels, levels))
        return feature_matching(real_levels, levels, *pooled)

    def _set_lr(self) -> None:
        """Half a cosine down for each part of the training."""
        l1_steps = self.options.l1_steps
        part, top, end = self.done / max(l1_steps, 1), LR, LR_ADVERSARIAL
        if self.done >= l1_steps:
            part = (self.done - l1_steps) / (self.options.steps - l1_steps)
            top, end = LR_ADVERSARIAL, LR_END
        lr = end + (top - end) * (1 + math.cos(math.pi * part)) / 2
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = lr

    def _descend(self, name: str, loss: Tensor) -> None:
        self.optimizers[name].zero_grad(set_to_none=True)
        loss.backward()
        self.optimizers[name].step()

    # -- the run ----------------------------------------------------------------------------------

    def run(
        self, out: Path, card: dict, on_progress: Callable[[UpscalerProgress], None] | None = None
    ) -> Path:
        """Train to the last step, saving to the folder `out` on the way; returns the model's path.

        Ctrl-C and an exception of `on_progress` end it after a save, with KeyboardInterrupt or that
        exception. ValueError while another training is at work in `out`.
        """
        out.mkdir(parents=True, exist_ok=True)
        with run_lock(out), stop_request() as stop:
            first, started = self._cost(0, self.done), time.monotonic()
            try:
                while self.done < self.options.steps:
                    stop.check()
                    losses = self.step()
                    if self.done % SAVE_EVERY == 0:
                        self.save(out, card)
                    if on_progress is not None:
                        rate = (self._cost(0, self.done) - first) / (time.monotonic() - started)
                        eta = self._cost(self.done, self.options.steps) / rate
                        on_progress(UpscalerProgress(self.done, self.options.steps, losses, eta))
            finally:
                self.save(out, card)
        return out / LATEST

    def _cost(self, begin: int, end: int) -> float:
        """Of steps `begin` to `end`, in L1 steps."""
        quick = min(end, self.options.l1_steps) - min(begin, self.options.l1_steps)
        return quick + ADVERSARIAL_COST * (end - begin - quick)

    def save(self, out: Path, card: dict) -> None:
        """The resumable state, and the averaged weights as a model."""
        progress = {
            "done": self.done,
            "options": asdict(self.options),
            "rng": self.rng.get_state().tolist(),
        }
        save_state(out, self.modules, self.optimizers, progress)
        facts = {
            "steps": self.done,
            "batch": f"{PAIRS} pairs"
            + (f", {GENERATED} generated pictures" if self.generated is not None else ""),
            "lite0": lite0_hash(),
            "date": datetime.date.today().isoformat(),
            "code_version": __version__,
        }
        save_upscaler(out / LATEST, self.average, {**card, **facts})

    def resume(self, out: Path) -> None:
        """Continue from what `save` wrote, if there is anything. ValueError for another scale."""
        if folder := saved_state(out):
            before = read_progress(folder)["options"]["scale"]
            if before != self.options.scale:
                raise ValueError(
                    f"{out} holds an upscaler of scale {before}; expected scale {before}, or "
                    "another folder"
                )
            saved = load_state(folder, self.modules, self.optimizers)
            self.done = saved["done"]
            self.rng.set_state(torch.tensor(saved["rng"], dtype=torch.uint8))
