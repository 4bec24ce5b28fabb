"""The training loop: batches, learning rate, saving, what is shown and logged.

What a batch does to the two networks is in game.py. At the end of a run the generator stands still
and the discriminator learns from the EMA's pictures: those are what users have it judge, and they
are better than any that the game showed it.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL.Image import Image
from torch import Tensor

from .. import __version__
from ..checkpoint import save_checkpoint
from ..config import ModelConfig
from ..data.captions import CaptionSampler, Draw
from ..data.stream import Pictures
from ..features import lite0_hash
from ..files import write_atomically
from ..generator import Generator
from ..grid import picture_grid, to_image
from ..networks import Networks
from .codes import PictureCodes
from .config import TrainingConfig
from .controls import Controls
from .ema import Ema
from .game import Game
from .guard import Guard
from .report import write_report, write_timelapse
from .state import load_state, save_state, saved_state
from .team import Team

logger = logging.getLogger(__name__)

STATS = "stats.jsonl"
GRID_COLUMNS = 8  # and as many rows
SAVE_EVERY_SEC = 300.0
JUDGE_LR_RATIO = 0.5  # of both learning rates, where the discriminator learns alone
MEASURING_SHARE = 0.05  # of the time, at most, goes into figures; the last ones come anyway
LOW_DIVERSITY = 0.3  # against the data's; under it a tick says so


@dataclass
class Progress:
    """Where a run is; what a caller's progress bar shows."""

    cur_nimg: int = 0
    seconds: float = 0.0
    fraction: float = 0.0  # of kimg or minutes, whichever is nearer
    img_per_sec: float = 0.0  # since the last line of the log
    loss: float = math.nan  # of the last step: how far from the real pictures, or D's loss

    @property
    def eta_sec(self) -> float:
        return self.seconds * max(0.0, 1 - self.fraction) / max(self.fraction, 1e-6)


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
        team: Team | None = None,
    ) -> None:
        """`networks` are what training begins with; without them, weights that the seed draws.

        `metrics` may be set: figures of the model for the log, at snapshots (evaluation/glance.py).
        `publish` may be set: where the newest model is written as well.
        """
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
        if isinstance(self.networks.generator, Generator):
            self.networks.generator.recompute_blocks = training.recompute_blocks
        self.ema = Ema(self.networks, training.ema_halflife_kimg)
        self.rng = torch.Generator().manual_seed(training.seed)
        self.team = team or Team()
        if training.batch % self.team.size:
            raise ValueError(
                f"batch is {training.batch}; expected a multiple of the {self.team.size} processes"
            )
        if training.batch // self.team.size % training.accumulate:
            raise ValueError(
                f"batch is {training.batch}; expected a multiple of the {self.team.size} processes "
                f"times the {training.accumulate} parts of --accumulate"
            )
        self.game = Game(
            self.networks, model, training, device=device, rng=self.rng, team=self.team
        )
        self.optimizers = self.game.optimizers
        self.base_lrs = {
            name: [group["lr"] for group in optimizer.param_groups]
            for name, optimizer in self.optimizers.items()
        }
        self.guard = Guard(self._modules(), self.optimizers)
        self.order = EpochOrder(torch.tensor([s.weight for s in pictures.samples]), training.seed)
        self.progress = Progress()
        self.metrics: Callable[[Networks], dict[str, float]] | None = None
        self.measured_at, self.measuring_sec = -math.inf, 0.0
        self.publish: Path | None = None
        self.log: dict[str, list[float]] = {}  # of the steps since the last tick
        self.tick_start = (0, 0.0)  # cur_nimg and seconds then
        self.judge: dict[str, float] = {
            "real": 0.0,
            "generated": 0.0,
        }  # mean realism logits of the last tick

    # -- the learning rate ------------------------------------------------------------------------

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
        index, own = self.order.next(t.batch), self.team.own(t.batch)
        real = self.pictures.batch(index[own], self.device)
        self.pictures.prefetch(self.order.peek(t.batch)[own])
        words = self.captions.draw(index, self.rng)
        z, condition = self._latents(index, words)[own], words.condition[own]
        drawing = self.ema.module if self.judging else self.networks
        log = self.game.play(
            lambda rows: drawing.generate(z[rows], condition[rows]),
            real,
            condition,
            has_words=bool(words.condition.mask.any()),
            generator_learns=not self.judging,
        )
        self.progress.cur_nimg += t.batch
        if not self.judging:
            self.ema.update(self.networks, cur_nimg=self.progress.cur_nimg, batch=t.batch)
        return log

    def probe(self, num_steps: int = 10) -> float:
        """Images a second, tried. The networks change: for a trainer that is then thrown away."""
        self._set_lr()
        self.step()  # the first one pays for what is made once
        start = time.monotonic()
        for _ in range(num_steps):
            self.step()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return num_steps * self.training.batch / (time.monotonic() - start)

    def _latents(self, index: Tensor, words: Draw) -> Tensor:
        """z [N, z_dim]: noise, with the picture's code where the words leave it open (codes.py)."""
        z = torch.randn(len(index), self.model.generator.z_dim, generator=self.rng)
        return (self.codes.write(z, index, words) if self.codes else z).to(self.device)

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
        self.game.controls = Controls(**saved["controls"])
        self.log, self.tick_start = saved["log"], tuple(saved["tick_start"])
        self.guard.remember()
        self._update_fraction()
        self._tidy()
        return True

    def _tidy(self) -> None:
        """A run that was killed had logged more than it had saved, and those steps come again; it
        may have left a file half written."""
        if not self.team.is_first:
            return
        for left in self.out.glob(".*.safetensors"):
            left.unlink()
        log = self.out / STATS
        if log.is_file():
            lines = log.read_text().splitlines(keepends=True)
            kept = [line for line in lines if _kimg(line) <= self.progress.cur_nimg / 1000]
            if len(kept) < len(lines):
                write_atomically(log, lambda path: path.write_text("".join(kept)))

    def run(self, on_step: Callable[[Progress], object] | None = None) -> None:
        """Train to the limit. `on_step` may raise to stop: what was trained is saved first."""
        t = self.training
        if self.team.is_first:
            self.out.mkdir(parents=True, exist_ok=True)
        if self.progress.cur_nimg == 0:
            self._draw_grid("real.png", real=True)
        last, saved_at = time.monotonic(), time.monotonic()
        self._update_fraction()
        try:
            while self.progress.fraction < 1:
                before = self.progress.cur_nimg
                self._set_lr()
                log = {name: float(value) for name, value in self.step().items()}
                self._accumulate(log)
                self.progress.loss = shown_loss(log)
                if complaint := self.guard.watch(log):
                    logger.warning("at %.1f kimg %s", self.progress.cur_nimg / 1000, complaint)
                now = time.monotonic()
                self.progress.seconds = self.team.agree(self.progress.seconds + now - last)
                last = now
                self._update_fraction()
                self._update_speed()
                ends = self.progress.fraction >= 1
                shows = _crossed(before, self.progress.cur_nimg, t.snapshot_kimg)
                if shows or ends:
                    self._measure(whatever_it_takes=ends)
                first = self.tick_start[0] == 0 and self.progress.fraction >= 0.5
                if ends or first or _crossed(before, self.progress.cur_nimg, t.tick_kimg):
                    self._tick()
                if shows:
                    self._show()
                    self._snapshot(f"snapshot-{self.progress.cur_nimg // 1000:06d}.safetensors")
                    self._drop_old_snapshots()
                last = time.monotonic()  # measuring, drawing and writing are not training time
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

    def _update_speed(self) -> None:
        p, (images, seconds) = self.progress, self.tick_start
        p.img_per_sec = (p.cur_nimg - images) / max(p.seconds - seconds, 1e-9)

    def _measure(self, *, whatever_it_takes: bool) -> None:
        """Figures for the next line of the log, unless they would take too much of the run's time.

        They are left out where the state has gone wrong.
        """
        now = time.monotonic()
        due = now - self.measured_at > self.measuring_sec / MEASURING_SHARE
        if (
            self.metrics
            and self.team.is_first
            and self.guard.is_calm
            and (due or whatever_it_takes)
        ):
            self._accumulate(self.metrics(self.ema.module))
            self.measured_at = time.monotonic()
            self.measuring_sec = self.measured_at - now

    def _show(self) -> None:
        """A new grid of samples, and what is made of all of them."""
        if not self.team.is_first:
            return
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
        if not self.team.is_first:
            return
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
                "log": self.log,
                "tick_start": self.tick_start,
                "controls": self.game.controls.to_dict(),
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

    def logged_losses(self) -> list[float]:
        """`shown_loss` of every tick so far, those of earlier sessions too."""
        log = self.out / STATS
        lines = log.read_text().splitlines() if log.is_file() else []
        return [shown_loss(json.loads(line)) for line in lines]

    def _accumulate(self, log: dict[str, float]) -> None:
        for name, value in log.items():
            if math.isfinite(value):
                self.log.setdefault(name, []).append(value)

    def _tick(self) -> None:
        """Append one line to stats.jsonl."""
        p, start = self.progress, self.tick_start
        line = {
            "kimg": p.cur_nimg / 1000,
            "seconds": round(p.seconds, 2),
            "img_per_sec": round(p.img_per_sec, 2),
            "lr": self.optimizers["g"].param_groups[0]["lr"],
            **self.game.controls.shown(self.training),
            **{name: _short(sum(values) / len(values)) for name, values in self.log.items()},
        }
        self.log = {}
        if self.guard.is_calm:  # else there may be steps without a finite number to speak of
            self.guard.remember()
            kimg = (p.cur_nimg - start[0]) / 1000
            self.game.controls.adapt(self.training, line, kimg=kimg)
            self.judge = {"real": line["real_logits"], "generated": line["fake_logits"]}
            warm = start[0] >= self.training.warmup_kimg * 1000
            if warm and line["diversity"] < LOW_DIVERSITY:
                logger.warning(
                    "generated pictures look alike: they differ %.2f times as much as real ones",
                    line["diversity"],
                )
        if self.team.is_first:
            with (self.out / STATS).open("a") as file:
                file.write(json.dumps(line) + "\n")
        self.tick_start = (p.cur_nimg, p.seconds)

    def _snapshot(self, name: str) -> None:
        """Inference weights: the EMA's drawing networks with the current discriminator."""
        if not self.team.is_first:
            return
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
        if self.publish is not None:
            write_atomically(self.publish, lambda path: shutil.copyfile(self.out / name, path))

    @torch.no_grad()
    def preview(self, *, columns: int = GRID_COLUMNS, real: bool = False) -> Image:
        """columns x columns pictures of the EMA: fixed seeds and captions, so that those of
        different moments can be compared; or the real pictures of these captions."""
        count = columns**2
        generator = torch.Generator().manual_seed(0)
        index = torch.randint(len(self.pictures), (count,), generator=generator)
        if real:
            drawn = self.pictures.batch(index)
        else:
            z = torch.randn(count, self.model.generator.z_dim, generator=generator)
            condition = self.captions.captions(index)
            drawn = self.ema.module.generate(z.to(self.device), condition).cpu()
        return to_image(picture_grid(drawn, columns=columns))

    def _draw_grid(self, name: str, *, real: bool = False) -> None:
        """samples/NAME."""
        if not self.team.is_first:
            return
        path = self.out / "samples" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        self.preview(real=real).save(path)


def shown_loss(log: Mapping[str, float]) -> float:
    """The one number of a step or tick that falls while a model gets better, if there is one."""
    return log["feature_matching"] if "feature_matching" in log else log["d_loss"]


def _kimg(line: str) -> float:
    """Of a line of stats.jsonl; one that was cut off in the middle belongs to no time."""
    try:
        return json.loads(line)["kimg"]
    except json.JSONDecodeError:
        return math.inf


def _crossed(before: int, after: int, every_kimg: float) -> bool:
    every = max(1, round(every_kimg * 1000))
    return before // every != after // every


def _short(value: float) -> float:
    """Six significant digits: enough to plot, short enough to read."""
    return float(f"{value:.6g}")
