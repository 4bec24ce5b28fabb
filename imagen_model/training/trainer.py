"""The training loop: batches, learning rate, saving, logging.

The update of the two networks is in step.py and objective.py. In the last part of a run
(TrainingConfig.judge_fraction) the generator is frozen and the discriminator is trained on the
EMA's pictures: users score those, and they are better than the pictures it was trained on before.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress

import torch
from PIL.Image import Image
from torch import Tensor

from ..checkpoint import save_checkpoint
from ..data.captions import CaptionSampler, SampledCaptions
from ..data.dataset import PictureDataset
from ..device import is_out_of_memory, sent
from ..networks.efficientnet import lite0_hash
from ..networks.generator import Generator
from ..networks.networks import Networks
from ..storage.contact_sheet import picture_grid
from ..storage.images import to_image
from ..version import __version__
from .adaptive import AdaptiveControls
from .config import RunConfig
from .distributed import DistributedContext
from .divergence import DivergenceError, DivergenceGuard
from .ema import Ema
from .interrupt import StopRequest, stop_request
from .latent_codes import LatentCodes
from .layout_codes import LayoutCodes
from .progress import Progress
from .published_model import PublishedModel
from .report import write_report, write_timelapse
from .run_lock import run_lock
from .schedule import EpochOrder, crossed, discriminator_only, lr_factor
from .state import load_state, save_state, saved_state, set_damaged_aside
from .stats import append_stats, drop_stats_after, read_stats, shown_loss
from .step import TrainStep
from .step_log import StepLog

logger = logging.getLogger(__name__)

LATEST = "latest.safetensors"
GRID_COLUMNS = 8  # and as many rows; at most
GRID_PX = 1024  # a side; a grid of large pictures has fewer of them
SAVE_EVERY_SEC = 300.0
MEASURING_SHARE = 0.05  # of the time, at most, for metrics; the last ones are always computed
LOW_DIVERSITY = 0.3  # relative to the data's; below it a tick warns


class Trainer:
    """Owns networks, optimisers and data of one run; `run()` trains until the limit."""

    def __init__(
        self,
        config: RunConfig,
        dataset: PictureDataset,
        captions: CaptionSampler,
        *,
        device: torch.device,
        networks: Networks | None = None,
        context: DistributedContext | None = None,
    ) -> None:
        """Training starts with `networks`, or else with random weights of the seed.

        Two attributes may be set: `metrics` computes figures of the model for the log at snapshots
        (evaluation/training_metrics.py); `published` gets the newest model as well.
        """
        self.model, self.training = config.model, config.training
        self.out, self.card, self.device = config.out, config.card, device
        self.context = context or DistributedContext()
        self.context.check_batch(self.training.batch, self.training.accumulate)
        self.dataset, self.captions = dataset, captions.to(device)
        dataset.keep_on(device)
        self.layout_codes = LayoutCodes.of(dataset, self.model, self.training)
        has_codes = self.training.pairs_weight and not self.layout_codes
        z_dim = self.model.generator.z_dim
        self.codes = LatentCodes(dataset, self.captions, z_dim) if has_codes else None
        self.networks = networks or Networks.seeded(self.model, self.training.seed)
        if self.layout_codes:
            self.layout_codes.install(self.networks)
            self.layout_codes.to(device)
        self.networks = self.networks.to(device).train().requires_grad_(True)
        if isinstance(self.networks.generator, Generator):
            self.networks.generator.recompute_blocks = self.training.recompute_blocks
        self.ema = Ema(self.networks, self.training.ema_halflife_kimg)
        self.rng = torch.Generator().manual_seed(self.training.seed)
        self.train_step = TrainStep(
            self.networks, self.training, device=device, rng=self.rng, context=self.context
        )
        self.optimizers = self.train_step.optimizers
        self.base_lrs = {
            name: [group["lr"] for group in optimizer.param_groups]
            for name, optimizer in self.optimizers.items()
        }
        self.guard = DivergenceGuard(self._modules(), self.optimizers)
        weights = torch.tensor([item.weight for item in dataset.items])
        self.order = EpochOrder(weights, self.training.seed)
        self.progress = Progress()
        self.check: Callable[[], object] = lambda: None  # called inside steps; may raise to stop
        self.metrics: Callable[[Networks], dict[str, float]] | None = None
        self.measured_at, self.measuring_sec = -math.inf, 0.0
        self.published: PublishedModel | None = None
        self.log = StepLog(device)
        self.tick_start = (0, 0.0)  # cur_nimg and seconds then
        self.judge = {"real": 0.0, "generated": 0.0}  # mean realism logits of the last tick

    # -- one step ---------------------------------------------------------------------------------

    def _set_lr(self) -> None:
        p = self.progress
        factor = self.guard.lr_scale * lr_factor(
            self.training, fraction=p.fraction, cur_nimg=p.cur_nimg
        )
        for name, optimizer in self.optimizers.items():
            for group, base in zip(optimizer.param_groups, self.base_lrs[name], strict=True):
                group["lr"] = base * factor

    @property
    def discriminator_only(self) -> bool:
        """Whether the run is in its last part, which trains only the discriminator."""
        return discriminator_only(self.training, self.progress.fraction)

    def step(self) -> dict[str, Tensor]:
        """Train on one batch; returns scalars for the log.

        After a failure the run's place in the data is before the batch again; after one that
        `check` raised, all else is as well. ValueError if the memory does not suffice.
        """
        epoch, cursor, rng = self.order.epoch, self.order.cursor, self.rng.get_state()
        buffers = [buffer.clone() for buffer in self.networks.buffers()]
        try:
            return self._train_on_next_batch()
        except BaseException as error:
            self.order.seek(epoch, cursor)
            self.rng.set_state(rng)
            for buffer, before in zip(self.networks.buffers(), buffers, strict=True):
                buffer.copy_(before)
            if is_out_of_memory(error):
                batch, parts = self.training.batch, self.training.accumulate
                raise ValueError(
                    f"out of memory with a batch of {batch} in {parts} parts; expected a smaller "
                    f"batch, or accumulate {2 * parts}: the same result with less memory"
                ) from error
            raise

    def _train_on_next_batch(self) -> dict[str, Tensor]:
        t = self.training
        index, own = self.order.next(t.batch), self.context.local_slice(t.batch)
        real = self.dataset.batch(index[own], self.device)
        self.dataset.prefetch(self.order.peek(t.batch)[own])
        words = self.captions.sample(index, self.rng)
        z, condition = self._latents(index, words)[own], words.condition[own]
        if self.layout_codes:
            z = self.layout_codes.write(z, real)
        generating = self.ema.module if self.discriminator_only else self.networks
        log = self.train_step(
            lambda rows: generating.generate(z[rows], condition[rows]),
            real,
            condition,
            has_words=bool((words.text >= 0).any()),
            update_generator=not self.discriminator_only,
            check=self.check,
        )
        self.progress.cur_nimg += t.batch
        if not self.discriminator_only:
            self.ema.update(self.networks, cur_nimg=self.progress.cur_nimg, batch=t.batch)
        return log

    def probe(self, num_steps: int = 10) -> float:
        """Images per second, measured. This trains the networks, so discard the trainer."""
        self._set_lr()
        self.step()  # the first one includes one-time costs
        start = time.monotonic()
        for _ in range(num_steps):
            self.step()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return num_steps * self.training.batch / (time.monotonic() - start)

    def _latents(self, index: Tensor, words: SampledCaptions) -> Tensor:
        """z [N, z_dim]: noise, with the picture's code where its caption is shared."""
        z = torch.randn(len(index), self.model.generator.z_dim, generator=self.rng)
        return sent(self.codes.write(z, index, words) if self.codes else z, self.device)

    # -- a run ------------------------------------------------------------------------------------

    def run(
        self,
        on_step: Callable[[Progress], object] | None = None,
        check: Callable[[], object] = lambda: None,
    ) -> None:
        """Train to the limit. `on_step`, called after each step, and `check`, called inside steps
        too, may raise to stop; the run is saved first.

        A signal to stop (interrupt.py) raises KeyboardInterrupt after the save. The first step is
        never broken off, nor is any with several processes, which would wait for each other.
        ValueError while another training writes to the run's folder.
        """
        if self.context.is_first:
            self.out.mkdir(parents=True, exist_ok=True)
        with run_lock(self.out) if self.context.is_first else nullcontext():
            self._start_files()
            self._update_fraction()
            if self.progress.fraction >= 1:
                return self._finish_again()
            with stop_request() as stop:
                self.check = self._check_inside_steps(stop, check)
                try:
                    self._loop(on_step, stop)
                finally:
                    with suppress(DivergenceError):
                        self._read_log()
                    if not self.guard.is_calm:
                        self.guard.restore()
                    if self.progress.cur_nimg:
                        self.save()
            self._show()

    def _finish_again(self) -> None:
        """Nothing is left to train: the files stay as they are, and missing ones are written."""
        logger.warning(
            "nothing left to train: the run has %.1f kimg in %.1f minutes; give it more",
            self.progress.cur_nimg / 1000,
            self.progress.seconds / 60,
        )
        if (self.out / LATEST).is_file():
            self._publish(LATEST)
        else:
            self.save()

    def _start_files(self) -> None:
        """Of a run that begins: the grid of real pictures and an empty log."""
        if self.progress.cur_nimg == 0:
            drop_stats_after(self.out, 0.0)  # of a run that ended before its first save
            self._save_grid("real.png", real=True)

    def _check_inside_steps(
        self, stop: StopRequest, check: Callable[[], object]
    ) -> Callable[[], None]:
        def check_both() -> None:
            if self.progress.cur_nimg and self.context.size == 1:
                stop.check()
                check()

        return check_both

    def _loop(self, on_step: Callable[[Progress], object] | None, stop: StopRequest) -> None:
        last = saved_at = time.monotonic()
        while self.progress.fraction < 1:
            before = self.progress.cur_nimg
            now = self._timed_step(last)
            self._after_step(before)
            last = time.monotonic()  # metrics, grids and writing are not training time
            if now - saved_at > SAVE_EVERY_SEC:
                self._read_log()
                if self.guard.is_calm:
                    self.save()
                    last = saved_at = time.monotonic()
            if on_step is not None:
                on_step(self.progress)
            if self.progress.fraction < 1:
                stop.check()

    def _timed_step(self, last: float) -> float:
        """Train on one batch and account for the time since `last`; returns the time now."""
        self._set_lr()
        self.log.add(self.step())
        if self.log.is_due:
            self._read_log()
        now = time.monotonic()
        self.progress.seconds = self.context.broadcast(self.progress.seconds + now - last)
        self._update_fraction()
        images, seconds = self.tick_start
        trained = self.progress.cur_nimg - images
        self.progress.img_per_sec = trained / max(self.progress.seconds - seconds, 1e-9)
        return now

    def _read_log(self) -> None:
        """Fetch what steps have logged, and return to a good state if they diverged."""
        for scalars in self.log.fetch():
            self.log.accumulate(scalars)
            self.progress.loss = shown_loss(scalars)
            if message := self.guard.watch(scalars):
                logger.warning("at %.1f kimg %s", self.progress.cur_nimg / 1000, message)
                break  # later steps were of the state that has been left

    def _after_step(self, before: int) -> None:
        """Metrics, a line of the log, and a snapshot, if due since `before` images."""
        t, cur_nimg = self.training, self.progress.cur_nimg
        ends = self.progress.fraction >= 1
        shows = crossed(before, cur_nimg, t.snapshot_kimg)
        first = self.tick_start[0] == 0 and self.progress.fraction >= 0.5
        ticks = ends or first or crossed(before, cur_nimg, t.tick_kimg)
        if shows or ticks:
            self._read_log()
        if shows or ends:
            self._measure(force=ends)
        if ticks:
            self._tick()
        if shows:
            self._show()
            self._snapshot(f"snapshot-{cur_nimg // 1000:06d}.safetensors")
            self._drop_old_snapshots()

    def _update_fraction(self) -> None:
        t, p = self.training, self.progress
        by_images = p.cur_nimg / (t.kimg * 1000) if t.kimg else 0.0
        by_time = p.seconds / (t.minutes * 60) if t.minutes else 0.0
        p.fraction = max(by_images, by_time)

    # -- the log ----------------------------------------------------------------------------------

    def _measure(self, *, force: bool) -> None:
        """Metrics for the next line of the log, unless they would take too much of the run's time
        or the state is bad."""
        now = time.monotonic()
        due = force or now - self.measured_at > self.measuring_sec / MEASURING_SHARE
        if self.metrics and self.context.is_first and self.guard.is_calm and due:
            self.log.accumulate(self.metrics(self.ema.module))
            self.measured_at = time.monotonic()
            self.measuring_sec = self.measured_at - now

    def _tick(self) -> None:
        """Append one line to stats.jsonl, and adapt the controls."""
        p, start = self.progress, self.tick_start
        line = {
            "kimg": p.cur_nimg / 1000,
            "seconds": round(p.seconds, 2),
            "img_per_sec": round(p.img_per_sec, 2),
            "lr": self.optimizers["g"].param_groups[0]["lr"],
            **self.train_step.controls.shown(self.training),
            **self.log.take_means(),
        }
        if self.guard.is_calm:  # else terms may be missing, because no step's were finite
            self.guard.remember()
            kimg = (p.cur_nimg - start[0]) / 1000
            self.train_step.controls.adapt(self.training, line, kimg=kimg)
            self.judge = {"real": line["real_logits"], "generated": line["fake_logits"]}
            warm = start[0] >= self.training.warmup_kimg * 1000
            if warm and line["diversity"] < LOW_DIVERSITY:
                logger.warning(
                    "generated pictures look alike: they differ %.2f times as much as real ones",
                    line["diversity"],
                )
        if self.context.is_first:
            append_stats(self.out, line)
        self.tick_start = (p.cur_nimg, p.seconds)

    def logged_losses(self) -> list[float]:
        """`shown_loss` of every tick so far, those of earlier sessions too."""
        return [shown_loss(line) for line in read_stats(self.out)]

    # -- saving and resuming ----------------------------------------------------------------------

    def save(self) -> None:
        """Write the resumable state and the newest model."""
        if not self.context.is_first:
            return
        p = self.progress
        saved = {
            "cur_nimg": p.cur_nimg,
            "seconds": p.seconds,
            "epoch": self.order.epoch,
            "cursor": self.order.cursor,
            "rng": self.rng.get_state().tolist(),
            "lr_scale": self.guard.lr_scale,
            "log": self.log.values,
            "tick_start": self.tick_start,
            "controls": self.train_step.controls.to_dict(),
            "model": self.model.to_dict(),
            "training": self.training.to_dict(),
            "card": self.card,
        }
        save_state(self.out, self._modules(), self.optimizers, saved)
        self._snapshot(LATEST)

    def resume(self) -> bool:
        """Continue from `out`/state; False if nothing is saved."""
        folder = saved_state(self.out)
        if folder is None:
            return False
        if self.context.is_first:
            set_damaged_aside(self.out, folder)
        saved = load_state(folder, self._modules(), self.optimizers)
        self.progress.cur_nimg, self.progress.seconds = saved["cur_nimg"], saved["seconds"]
        self.order.seek(saved["epoch"], saved["cursor"])
        self.rng.set_state(torch.tensor(saved["rng"], dtype=torch.uint8))
        self.guard.lr_scale = saved["lr_scale"]
        self.train_step.controls = AdaptiveControls(**saved["controls"])
        self.log.values, self.tick_start = saved["log"], tuple(saved["tick_start"])
        self.guard.remember()
        self._update_fraction()
        before, now = (card.get("data", {}) for card in (saved["card"], self.card))
        if before.get("training_list") != now.get("training_list"):
            logger.warning(
                "the run goes on with other pictures: %s had %s, %s has %s",
                *(data.get(key) for data in (before, now) for key in ("name", "pictures")),
            )
        if self.context.is_first:
            for left in self.out.glob(".*.safetensors"):  # half written when the run was killed
                left.unlink()
            drop_stats_after(self.out, self.progress.cur_nimg / 1000)
        return True

    def _modules(self) -> dict[str, torch.nn.Module]:
        return {"networks": self.networks, "ema": self.ema.module}

    def _snapshot(self, name: str) -> None:
        """Inference weights: the EMA's generating networks with the current discriminator."""
        if not self.context.is_first:
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
        self._publish(name)

    def _publish(self, name: str) -> None:
        if self.published is not None and self.context.is_first:
            self.published.replace(self.out / name)

    def _drop_old_snapshots(self) -> None:
        keep = self.training.keep_snapshots
        for path in sorted(self.out.glob("snapshot-*.safetensors"))[: -keep if keep else 0]:
            path.unlink()

    # -- pictures ---------------------------------------------------------------------------------

    def _show(self) -> None:
        """Write a new grid of samples, the animation of all of them, and the report."""
        if not self.context.is_first:
            return
        self._save_grid(f"{self.progress.cur_nimg // 1000:06d}.png")
        write_timelapse(self.out)
        p, data = self.progress, self.card.get("data", {})
        facts = {
            "trained": f"{p.cur_nimg / 1000:.1f} kimg in {p.seconds / 60:.1f} minutes",
            "data": f"{data.get('name', '')}, {len(self.dataset)} pictures",
            "stage": self.training.stage,
            "preset": f"{self.model.preset}, {self.model.generator.resolution} px",
            "objective": self.training.objective,
        }
        write_report(self.out, facts)

    @torch.no_grad()
    def preview(self, *, columns: int = GRID_COLUMNS, real: bool = False) -> Image:
        """Up to columns x columns pictures of the EMA with fixed seeds and captions, so that grids
        can be compared over time; or the real pictures of these captions."""
        columns = min(columns, GRID_PX // self.model.generator.resolution)
        count = columns**2
        generator = torch.Generator().manual_seed(0)
        index = torch.randint(len(self.dataset), (count,), generator=generator)
        if real:
            pictures = self.dataset.batch(index)
        else:
            z = torch.randn(count, self.model.generator.z_dim, generator=generator)
            condition = self.captions.captions(index)
            pictures = self.ema.module.generate(z.to(self.device), condition).cpu()
        return to_image(picture_grid(pictures, columns=columns))

    def _save_grid(self, name: str, *, real: bool = False) -> None:
        """samples/NAME."""
        if not self.context.is_first:
            return
        path = self.out / "samples" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        self.preview(real=real).save(path)
