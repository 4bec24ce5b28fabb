"""The training loop: one discriminator and one generator step a batch, on one device.

One forward pass of the generator serves both networks, and the frozen features of real and fake are
computed once: they feed the discriminator's heads and the pairs' term alike. The shape of the game
is Projected GAN's (2111.01007) or R3GAN's (2501.05441), by `objective`. At the end of a run the
generator stands still and the discriminator learns from the EMA's pictures: those are what users
have it judge, and they are better than any that the game showed it.
"""

from __future__ import annotations

import contextlib
import copy
import json
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.utils.parametrize import cached

from .. import __version__
from ..checkpoint import save_checkpoint
from ..conditioning import Condition
from ..config import ModelConfig
from ..data.captions import CaptionSampler, Draw
from ..data.stream import Pictures
from ..discriminator import Judgement
from ..features import as_rgb, lite0, lite0_hash
from ..grid import picture_grid, to_image
from ..networks import Networks
from .augment import AugmentDraw, random_background
from .codes import PictureCodes
from .config import TrainingConfig
from .ema import Ema
from .guard import Guard, relative_diversity
from .losses import (
    OBJECTIVES,
    PROBE_STEP,
    finite_difference_penalty,
    gradient_penalty,
    info_nce,
    lipschitz_penalty,
)
from .pairs import (
    CONTRAST_WEIGHT,
    L1_WEIGHT,
    feature_contrast,
    feature_matching,
    low_resolution_l1,
)
from .report import write_report, write_timelapse
from .state import load_state, save_state, saved_state

logger = logging.getLogger(__name__)

GRID_ROWS, GRID_COLUMNS = 8, 8
SAVE_EVERY_SEC = 300.0
JUDGE_LR_RATIO = 0.5  # of both learning rates, where the discriminator learns alone
LOW_DIVERSITY = 0.3  # against the data's; under it a tick says so


@dataclass
class Progress:
    """Where a run is; what a caller's progress bar shows."""

    cur_nimg: int = 0
    seconds: float = 0.0
    fraction: float = 0.0  # of kimg or minutes, whichever is nearer
    img_per_sec: float = 0.0

    @property
    def eta_sec(self) -> float:
        return self.seconds * (1 - self.fraction) / max(self.fraction, 1e-6)


class EpochOrder:
    """Which sample comes next: each `weight` times an epoch, in an order that the seed fixes."""

    def __init__(self, weights: Tensor, seed: int) -> None:
        self.weights = weights / weights.max()
        self.seed = seed
        self.epoch, self.cursor = 0, 0
        self._order = self._draw()

    def _draw(self) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        keep = torch.rand(len(self.weights), generator=generator) < self.weights
        chosen = keep.nonzero().squeeze(1)
        return chosen[torch.randperm(len(chosen), generator=generator)]

    def seek(self, epoch: int, cursor: int) -> None:
        self.epoch, self.cursor = epoch, cursor
        self._order = self._draw()

    def next(self, n: int) -> Tensor:
        parts = []
        while n > 0:
            part = self._order[self.cursor : self.cursor + n]
            parts.append(part)
            n -= len(part)
            self.cursor += len(part)
            if self.cursor >= len(self._order):
                self.seek(self.epoch + 1, 0)
        return torch.cat(parts)

    def peek(self, n: int) -> Tensor:
        """What next(n) will give."""
        here = self.epoch, self.cursor, self._order
        index = self.next(n)
        self.epoch, self.cursor, self._order = here
        return index


class Trainer:
    """Owns networks, optimisers and data of one run; `run()` trains until the limit."""

    def __init__(
        self,
        model: ModelConfig,
        training: TrainingConfig,
        pictures: Pictures,
        captions: CaptionSampler,
        out: Path,
        *,
        device: torch.device,
        card: dict,
        networks: Networks | None = None,
    ) -> None:
        """`networks` are what training begins with; without them, weights that the seed draws."""
        self.model, self.training, self.out, self.device = model, training, Path(out), device
        self.pictures, self.captions = pictures, captions.to(device)
        self.codes = (
            PictureCodes(pictures, self.captions, model.generator.z_dim)
            if training.pairs_weight
            else None
        )
        self.card = card
        networks = networks or Networks.seeded(model, training.seed)
        self.networks = networks.to(device).train().requires_grad_(True)
        self.ema = Ema(self.networks, training.ema_halflife_kimg)
        self.lite0 = lite0() if device.type == "cpu" else copy.deepcopy(lite0()).to(device)
        self.optimizers = {"g": self._generator_optimizer(), "d": self._discriminator_optimizer()}
        self.base_lrs = {
            name: [group["lr"] for group in optimizer.param_groups]
            for name, optimizer in self.optimizers.items()
        }
        self.guard = Guard(self._modules(), self.optimizers)
        self.rng = torch.Generator().manual_seed(training.seed)
        self.order = EpochOrder(torch.tensor([s.weight for s in pictures.samples]), training.seed)
        self.progress = Progress()
        self.log: dict[str, list[float]] = {}  # of the steps since the last tick
        self.judge: dict[str, float] = {
            "real": 0.0,
            "generated": 0.0,
        }  # mean realism logits of the last tick

    # -- optimisers -------------------------------------------------------------------------------

    def _generator_optimizer(self) -> torch.optim.Adam:
        t, mapping = self.training, list(self.networks.generator.mapping.parameters())
        special = {id(p) for p in mapping}
        rest = [
            p for m in self.networks.generating() for p in m.parameters() if id(p) not in special
        ]
        groups = [
            {"params": rest, "lr": t.lr},
            {"params": mapping, "lr": t.lr * t.mapping_lr_ratio},
        ]
        return torch.optim.Adam(groups, betas=(t.g_beta1, t.beta2), eps=1e-8, fused=True)

    def _discriminator_optimizer(self) -> torch.optim.Adam:
        t = self.training
        trained = [p for p in self.networks.discriminator.parameters() if p.requires_grad]
        return torch.optim.Adam(
            trained, lr=t.lr * t.d_lr_ratio, betas=(t.d_beta1, t.beta2), eps=1e-8, fused=True
        )

    def _set_lr(self) -> None:
        """Linear warm-up, then a cosine down to lr_end; a second one where D learns alone."""
        t, game = self.training, 1 - self.training.judge_fraction
        warmup = t.warmup_kimg * 1000
        warm = min(1.0, self.progress.cur_nimg / warmup) if warmup else 1.0
        if self.judging:
            top, done = t.lr * JUDGE_LR_RATIO, (self.progress.fraction - game) / t.judge_fraction
        else:
            top, done = t.lr, self.progress.fraction / game
        cosine = 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
        factor = self.guard.lr_scale * warm * (t.lr_end + (top - t.lr_end) * cosine) / t.lr
        for name, optimizer in self.optimizers.items():
            for group, base in zip(optimizer.param_groups, self.base_lrs[name], strict=True):
                group["lr"] = base * factor

    @property
    def judging(self) -> bool:
        """Whether the run is in its last part, where only the discriminator learns."""
        return self.progress.fraction > 1 - self.training.judge_fraction

    # -- one step ---------------------------------------------------------------------------------

    def step(self) -> dict[str, Tensor]:
        """One batch: updates what is learning; returns scalars for the log."""
        t = self.training
        index = self.order.next(t.batch)
        real = self.pictures.batch(index).to(self.device)
        self.pictures.prefetch(self.order.peek(t.batch))
        words = self.captions.draw(index, self.rng)
        condition, z = words.condition, self._latents(index, words)
        draw = AugmentDraw.sample(t.batch, t.augment_p, generator=self.rng, device=self.device)
        background = random_background(t.batch, self.rng, self.device)

        with self._autocast():
            fake = (self.ema.module if self.judging else self.networks).generate(z, condition)
            real_seen, fake_seen = draw(real), draw(fake)
            with torch.no_grad():
                real_levels = self._features(real_seen, background)
            fake_levels = self._features(fake_seen, background)
        real_levels = [level.float() for level in real_levels]
        fake_levels = [level.float() for level in fake_levels]
        real_seen, fake_seen = real_seen.float(), fake_seen.float()

        with cached():  # one power iteration of spectral norm a step: all calls see one network
            log, real_judgement = self._discriminator_step(
                real_seen, fake_seen, real_levels, fake_levels, condition, background
            )
        log["diversity"] = relative_diversity(real_seen, fake_seen.detach())
        self.progress.cur_nimg += t.batch
        if not self.judging:
            log |= self._generator_step(
                real_seen, fake_seen, real_levels, fake_levels, condition, real_judgement
            )
            self.ema.update(self.networks, cur_nimg=self.progress.cur_nimg, batch=t.batch)
        return log

    def _features(self, pictures: Tensor, background: Tensor) -> list[Tensor]:
        """lite0's levels where something looks at them."""
        if self.model.discriminator.features or self.training.pairs_weight:
            return self.lite0(as_rgb(pictures, background))
        return []

    def _latents(self, index: Tensor, words: Draw) -> Tensor:
        """z [N, z_dim]: noise, with the picture's code where the words leave it open (codes.py)."""
        z = torch.randn(len(index), self.model.generator.z_dim, generator=self.rng)
        return (self.codes.write(z, index, words) if self.codes else z).to(self.device)

    def _discriminator_step(
        self,
        real: Tensor,
        fake: Tensor,
        real_levels: list[Tensor],
        fake_levels: list[Tensor],
        condition: Condition,
        background: Tensor,
    ) -> tuple[dict[str, Tensor], Judgement]:
        t, discriminator = self.training, self.networks.discriminator
        d_loss, _ = OBJECTIVES[t.objective]
        discriminator.requires_grad_(True)
        if discriminator.config.features:
            discriminator.mixer.requires_grad_(False)
        fake, fake_levels = fake.detach(), [level.detach() for level in fake_levels]
        if t.penalty == "exact":
            if t.r1_gamma:
                real, real_levels = self._requiring_grad(real, background)
            if t.r2_gamma:
                fake, fake_levels = self._requiring_grad(fake, background)
        real_judged = discriminator(real, real_levels)
        fake_judged = discriminator(fake, fake_levels)
        cond = discriminator.embed_condition(condition.pooled, condition.style)
        real_logits, fake_logits = real_judged.logits(cond), fake_judged.logits(cond)
        loss = _over_heads(d_loss, real_logits, fake_logits)
        log = {"d_loss": loss.detach()}
        if t.wrong_caption_weight and condition.mask.any():
            # a real picture under its neighbour's caption counts as fake; only the heads pay
            wrong = real_judged.logits(cond.roll(1, dims=0))
            loss = loss + t.wrong_caption_weight * _over_heads(d_loss, real_logits, wrong)
        if t.info_nce_weight:
            nce = info_nce(real_judged.match_matrix(cond))
            loss = loss + t.info_nce_weight * nce
            log["d_info_nce"] = nce.detach()
        for name, gamma, pictures, logits in (
            ("r1_penalty", t.r1_gamma, real, real_logits),
            ("r2_penalty", t.r2_gamma, fake, fake_logits),
        ):
            if gamma:
                penalty = self._slope(pictures, logits, cond, background)
                loss = loss + gamma / 2 * penalty
                log[name] = penalty.detach()
        if t.objective == "wgan-gp":
            penalty = self._lipschitz(real, fake, cond, background)
            loss = loss + t.lipschitz_weight * penalty
            log["lipschitz_penalty"] = penalty.detach()
        log["d_grad_norm"] = self._descend("d", loss)
        log["real_logits"] = real_judged.realism().mean().detach()
        log["fake_logits"] = fake_judged.realism().mean().detach()
        return log, real_judged.detach()

    def _requiring_grad(self, pictures: Tensor, background: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Pictures that require grad, with features that come from them where there are any."""
        pictures = pictures.detach().requires_grad_(True)
        return pictures, self._features(pictures, background)

    def _slope(
        self, pictures: Tensor, logits: tuple[Tensor, ...], cond: Tensor, background: Tensor
    ) -> Tensor:
        """E |grad D|^2 at `pictures`, which have `logits`: exact or probed, as `penalty` says."""
        if self.training.penalty == "exact":
            return gradient_penalty(_sum_over_heads(logits), pictures)
        noise = torch.randn(pictures.shape, generator=self.rng).to(pictures)
        moved = pictures.detach() + PROBE_STEP * noise
        with torch.no_grad():  # only the discriminator's weights need the gradient
            levels = self._features(moved, background)
        moved_logits = self.networks.discriminator(moved, levels).logits(cond)
        return finite_difference_penalty(_sum_over_heads(logits), _sum_over_heads(moved_logits))

    def _lipschitz(self, real: Tensor, fake: Tensor, cond: Tensor, background: Tensor) -> Tensor:
        between = torch.rand(len(real), 1, 1, 1, generator=self.rng).to(real)
        mixed, levels = self._requiring_grad(torch.lerp(real, fake, between), background)
        logits = self.networks.discriminator(mixed, levels).logits(cond)
        return lipschitz_penalty(_sum_over_heads(logits), mixed)

    def _generator_step(
        self,
        real: Tensor,
        fake: Tensor,
        real_levels: list[Tensor],
        fake_levels: list[Tensor],
        condition: Condition,
        real_judged: Judgement,
    ) -> dict[str, Tensor]:
        t, discriminator = self.training, self.networks.discriminator
        _, g_loss = OBJECTIVES[t.objective]
        discriminator.requires_grad_(False)
        judged = discriminator(fake, fake_levels)
        cond = discriminator.embed_condition(condition.pooled, condition.style)
        adversarial = _over_heads(g_loss, real_judged.logits(cond), judged.logits(cond))
        loss = t.adversarial_weight * adversarial
        log = {"g_loss": adversarial.detach()}
        if t.info_nce_weight:
            nce = info_nce(judged.match_matrix(cond))
            loss = loss + t.info_nce_weight * t.adversarial_weight * nce
            log["g_info_nce"] = nce.detach()
        if t.pairs_weight:
            pooled = self.lite0.pool(real_levels[-1]), self.lite0.pool(fake_levels[-1])
            matching = feature_matching(real_levels, fake_levels, *pooled)
            contrast = feature_contrast(*pooled)
            l1 = low_resolution_l1(real, fake)
            pairs = matching + CONTRAST_WEIGHT * contrast + L1_WEIGHT * l1
            loss = loss + t.pairs_weight * pairs
            log |= {"feature_matching": matching.detach(), "feature_contrast": contrast.detach()}
            log["l1"] = l1.detach()
        log["g_grad_norm"] = self._descend("g", loss, clip=t.clip)
        return log

    def _descend(self, name: str, loss: Tensor, *, clip: float | None = None) -> Tensor:
        """One step of an optimiser; returns its gradient's norm. Not finite: nothing changes."""
        optimizer = self.optimizers[name]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if norm.isfinite():
            if clip is not None:
                torch.nn.utils.clip_grads_with_norm_(parameters, clip, norm)
            optimizer.step()
        return norm

    def _autocast(self) -> contextlib.AbstractContextManager:
        if self.device.type == "cuda":
            return torch.autocast("cuda", dtype=torch.bfloat16)
        return contextlib.nullcontext()

    # -- a run ------------------------------------------------------------------------------------

    def resume(self) -> bool:
        """Go on from `out`/state; False where there is nothing saved."""
        folder = saved_state(self.out)
        if folder is None:
            return False
        saved = load_state(folder, self._modules(), self.optimizers)
        self.progress.cur_nimg, self.progress.seconds = saved["cur_nimg"], saved["seconds"]
        self.order.seek(saved["epoch"], saved["cursor"])
        self.rng.set_state(torch.tensor(saved["rng"], dtype=torch.uint8))
        self.guard.lr_scale = saved["lr_scale"]
        self.guard.remember()
        self._update_fraction()
        return True

    def run(self, on_step: Callable[[Progress], object] | None = None) -> None:
        """Train to the limit. `on_step` may raise to stop: what was trained is saved first."""
        t = self.training
        self.out.mkdir(parents=True, exist_ok=True)
        if self.progress.cur_nimg == 0:
            self._draw_grid("real.png", real=True)
        last, saved_at = time.monotonic(), time.monotonic()
        tick_start = (self.progress.cur_nimg, self.progress.seconds)
        self._update_fraction()
        try:
            while self.progress.fraction < 1:
                before = self.progress.cur_nimg
                self._set_lr()
                log = {name: float(value) for name, value in self.step().items()}
                self._accumulate(log)
                if complaint := self.guard.watch(log):
                    logger.warning("at %.1f kimg %s", self.progress.cur_nimg / 1000, complaint)
                now = time.monotonic()
                self.progress.seconds += now - last
                last = now
                self._update_fraction()
                if _crossed(before, self.progress.cur_nimg, t.tick_kimg):
                    tick_start = self._tick(tick_start)
                if _crossed(before, self.progress.cur_nimg, t.snapshot_kimg):
                    self._show()
                    self._snapshot(f"snapshot-{self.progress.cur_nimg // 1000:06d}.safetensors")
                    self._drop_old_snapshots()
                    last = time.monotonic()  # drawing and writing are not training time
                if now - saved_at > SAVE_EVERY_SEC and self.guard.is_calm:
                    self.save()
                    last = saved_at = time.monotonic()
                if on_step is not None:
                    on_step(self.progress)
        finally:
            if not self.guard.is_calm:
                self.guard.restore()
            if self.progress.cur_nimg:
                self.save()
        self._show()

    def _show(self) -> None:
        """A new grid of samples, and what is made of all of them."""
        self._draw_grid(f"{self.progress.cur_nimg // 1000:06d}.png")
        write_timelapse(self.out)
        p, data = self.progress, self.card.get("data", {})
        facts = {
            "trained": f"{p.cur_nimg / 1000:.1f} kimg in {p.seconds / 60:.1f} minutes",
            "data": f"{data.get('name', '')}, {len(self.pictures)} pictures",
            "stage": self.training.stage,
            "preset": f"{self.model.preset}, {self.model.generator.resolution} px",
            "objective": self.training.objective,
        }
        write_report(self.out, facts)

    def _drop_old_snapshots(self) -> None:
        keep = self.training.keep_snapshots
        for path in sorted(self.out.glob("snapshot-*.safetensors"))[: -keep if keep else 0]:
            path.unlink()

    def save(self) -> None:
        """Write the resumable state and latest.safetensors."""
        p = self.progress
        save_state(
            self.out,
            self._modules(),
            self.optimizers,
            {
                "cur_nimg": p.cur_nimg,
                "seconds": p.seconds,
                "epoch": self.order.epoch,
                "cursor": self.order.cursor,
                "rng": self.rng.get_state().tolist(),
                "lr_scale": self.guard.lr_scale,
                "model": self.model.to_dict(),
                "training": self.training.to_dict(),
                "card": self.card,
            },
        )
        self._snapshot("latest.safetensors")

    def _modules(self) -> dict[str, torch.nn.Module]:
        return {"networks": self.networks, "ema": self.ema.module}

    def _update_fraction(self) -> None:
        t, p = self.training, self.progress
        by_images = p.cur_nimg / (t.kimg * 1000) if t.kimg else 0.0
        by_time = p.seconds / (t.minutes * 60) if t.minutes else 0.0
        p.fraction = max(by_images, by_time)

    def _accumulate(self, log: dict[str, float]) -> None:
        for name, value in log.items():
            if math.isfinite(value):
                self.log.setdefault(name, []).append(value)

    def _tick(self, start: tuple[int, float]) -> tuple[int, float]:
        """Append one line to stats.jsonl."""
        p = self.progress
        p.img_per_sec = (p.cur_nimg - start[0]) / max(p.seconds - start[1], 1e-9)
        line = {
            "kimg": p.cur_nimg / 1000,
            "seconds": round(p.seconds, 2),
            "img_per_sec": round(p.img_per_sec, 2),
            "lr": self.optimizers["g"].param_groups[0]["lr"],
            **{name: _short(sum(values) / len(values)) for name, values in self.log.items()},
        }
        self.log = {}
        if self.guard.is_calm:  # else there may be steps without a finite number to speak of
            self.guard.remember()
            self.judge = {"real": line["real_logits"], "generated": line["fake_logits"]}
            warm = p.cur_nimg > self.training.warmup_kimg * 1000
            if warm and line["diversity"] < LOW_DIVERSITY:
                logger.warning(
                    "generated pictures look alike: they differ %.2f times as much as real ones",
                    line["diversity"],
                )
        with (self.out / "stats.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        return p.cur_nimg, p.seconds

    def _snapshot(self, name: str) -> None:
        """Inference weights: the EMA's drawing networks with the current discriminator."""
        self.ema.module.discriminator.load_state_dict(self.networks.discriminator.state_dict())
        card = {
            **self.card,
            "stage": self.training.stage,
            "kimg": round(self.progress.cur_nimg / 1000, 3),
            "seconds": round(self.progress.seconds, 1),
            "training": self.training.to_dict(),
            "lite0": lite0_hash() if self.model.discriminator.features else "",
            "judge": self.judge,
            "code_version": __version__,
        }
        save_checkpoint(self.out / name, self.model, self.ema.module, card)

    @torch.no_grad()
    def _draw_grid(self, name: str, *, real: bool = False) -> None:
        """samples/NAME: fixed seeds and captions, so that files can be flipped through."""
        count = GRID_ROWS * GRID_COLUMNS
        generator = torch.Generator().manual_seed(0)
        index = torch.randint(len(self.pictures), (count,), generator=generator)
        if real:
            drawn = self.pictures.batch(index)
        else:
            z = torch.randn(count, self.model.generator.z_dim, generator=generator)
            condition = self.captions.captions(index)
            drawn = self.ema.module.generate(z.to(self.device), condition).cpu()
        path = self.out / "samples" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        to_image(picture_grid(drawn, columns=GRID_COLUMNS)).save(path)


def _over_heads(loss: Callable, real: tuple[Tensor, ...], fake: tuple[Tensor, ...]) -> Tensor:
    return torch.stack([loss(r, f) for r, f in zip(real, fake, strict=True)]).mean()


def _sum_over_heads(logits: tuple[Tensor, ...]) -> Tensor:
    """[N] the mean over patches of each head, summed over heads."""
    return torch.stack([head.mean(dim=1) for head in logits]).sum(dim=0)


def _crossed(before: int, after: int, every_kimg: float) -> bool:
    every = max(1, round(every_kimg * 1000))
    return before // every != after // every


def _short(value: float) -> float:
    """Six significant digits: enough to plot, short enough to read."""
    return float(f"{value:.6g}")
