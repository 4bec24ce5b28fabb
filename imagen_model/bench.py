"""The speed of sampling and training on this machine: `imagen bench`.

Every round times each kind of work once, so that ratios hold on a busy machine. Speed is compared
with that of a matrix product, the machine's peak; FLOPs are counted, not estimated. If other
processes take this one's cores (the matrix product shows it), times are processor time divided by
threads, about those of an idle machine. `machine.clock` says which.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from .conditioning.minilm import text_encoder_hash
from .config import PRESET_DIMS, preset
from .data.captions import CaptionSampler
from .data.dataset import InMemoryDataset
from .data.item import Item
from .inference.latent import random_latent
from .inference.sampling import draw
from .training.config import RunConfig, TrainingConfig
from .training.settings import width_aware_lr
from .training.trainer import Trainer

SAMPLING_BATCHES = (1, 32)
PRODUCT_TURNS = 7
TRAINING_BATCH = 32
ROUNDS = 3
NUM_PICTURES = 64
BUSY = 0.9  # share of its threads' time; with less, the machine is busy
RPGAN = {"objective": "rpgan", "r1_gamma": 1.0, "r2_gamma": 1.0}
STEPS: dict[str, dict] = {  # the others are compared with the last
    "default": {},
    "rpgan, finite differences": RPGAN,
    "rpgan, exact": RPGAN | {"penalty": "exact"},
}
EXACT, COMPILED = "rpgan, exact", "default, compiled"


class Work(NamedTuple):
    """A function to be timed, and its number of pictures."""

    run: Callable[[], object]
    batch: int
    like: str | None = None  # the work with the same FLOPs, if its own cannot be counted


class Flops(TorchDispatchMode):
    """Counts the floating-point operations of matrix products and convolutions. torch's own counter
    also tracks modules, which fails when differentiating twice."""

    total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            self.total += count(*args, **(kwargs or {}), out_val=out)
        return out


def bench(
    device: torch.device,
    presets: Sequence[str] = ("nano",),
    *,
    resolution: int | None = None,
    batch: int = TRAINING_BATCH,
    rounds: int = ROUNDS,
    compiled: bool = False,
    stage: Callable[[str], object] = lambda text: None,
) -> dict:
    """Rows `sampling` and `training`, and the `machine`. `stage` is called with what comes next.

    ValueError for a preset that is not a transformer's, or a batch or rounds under 1.
    """
    for name, value in (("batch", batch), ("rounds", rounds)):
        if value < 1:
            raise ValueError(f"{name} is {value}; expected 1 or more")
    for name in presets:
        if name not in PRESET_DIMS:
            raise ValueError(f"preset is {name!r}; expected one of {', '.join(PRESET_DIMS)}")
    stopwatch = Stopwatch(device, rounds)
    result: dict = {"machine": stopwatch.machine(), "sampling": [], "training": []}
    for name in presets:
        stage(f"{name}: sampling")
        trainer = synthetic_trainer(name, resolution, batch, device)
        size = {"preset": name, "resolution": trainer.model.generator.resolution}
        works = {f"batch {n}": Work(_sampling(trainer, n), n) for n in SAMPLING_BATCHES}
        rows = stopwatch.rows(works, reference="batch 1")
        result["sampling"] += [{**size, **row} for row in rows.values()]
        kinds = STEPS | ({COMPILED: {"compile": True}} if compiled else {})
        stage(f"{name}: training, {len(kinds)} kinds of steps")
        works = {}
        for kind, settings in kinds.items():
            step = synthetic_trainer(name, resolution, batch, device, **settings).step
            works[kind] = Work(step, batch, like="default" if kind == COMPILED else None)
        rows = stopwatch.rows(works, reference=EXACT)
        result["training"] += [{**size, "step": kind, **row} for kind, row in rows.items()]
    return result


def synthetic_trainer(
    name: str, resolution: int | None, batch: int, device: torch.device, **settings
) -> Trainer:
    """A trainer of preset `name` on pictures of noise with captions; it writes nothing."""
    model = preset(name, resolution=resolution, text_encoder=text_encoder_hash())
    generator, side = torch.Generator().manual_seed(0), model.generator.resolution
    shape = (NUM_PICTURES, 4, side, side)
    pixels = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
    items = [Item(Path(f"{i}.png"), text=f"picture {i}") for i in range(NUM_PICTURES)]
    lr = width_aware_lr(model.generator.dim)
    training = TrainingConfig(kimg=1000.0, batch=batch, lr=lr, **settings)
    config = RunConfig(model, training, Path(tempfile.gettempdir()) / "imagen-bench", card={})
    dataset, captions = InMemoryDataset(items, pixels), CaptionSampler(items, ())
    return Trainer(config, dataset, captions, device=device)


def _sampling(trainer: Trainer, count: int) -> Callable[[], Tensor]:
    networks = trainer.ema.module
    condition = trainer.captions.captions(torch.arange(count) % NUM_PICTURES)
    latent = random_latent(range(count), trainer.model.generator.z_dim)
    return lambda: draw(networks, condition, latent)


class Stopwatch:
    """Times works in turns, and a matrix product with them."""

    def __init__(self, device: torch.device, rounds: int) -> None:
        self.device, self.rounds = device, rounds
        self.threads = torch.get_num_threads() if device.type == "cpu" else 1
        # in the type that training computes in
        side, dtype = (8192, torch.bfloat16) if device.type == "cuda" else (1024, torch.float32)
        a = torch.ones(side, side, device=device, dtype=dtype)
        self.product, self.product_flops = Work(lambda: a @ a, 0), 2.0 * side**3
        self.product.run()
        turns = [self._turn(self.product) for _ in range(PRODUCT_TURNS)]
        wall, processor = (sum(times) for times in zip(*turns, strict=True))
        busy = device.type == "cpu" and processor < BUSY * wall * self.threads
        self.clock = "processor" if busy else "wall"
        self.peak = self.product_flops / median(self._seconds(*turn) for turn in turns)

    def machine(self) -> dict:
        cuda = self.device.type == "cuda"
        return {
            "device": torch.cuda.get_device_name(self.device) if cuda else str(self.device),
            "threads": self.threads,
            "torch": torch.__version__,
            "clock": self.clock,
            "peak_gflops": self.peak / 1e9,
        }

    def rows(self, works: Mapping[str, Work], *, reference: str) -> dict[str, dict]:
        """Each work's time per image, relative to the product and to the work `reference`."""
        flops: dict[str, float] = {}
        for name, work in works.items():
            work.run()  # includes one-time costs
            with nullcontext() if work.like else Flops() as counter:
                work.run()
            flops[name] = counter.total / work.batch if counter else flops[work.like or ""]
        seconds: dict[str, list[float]] = {name: [] for name in works}
        peaks, product_flops = [], self.product_flops
        for _ in range(self.rounds):
            peaks.append(product_flops / self._seconds(*self._turn(self.product)))
            for name, work in works.items():
                seconds[name].append(self._seconds(*self._turn(work)) / work.batch)
        rows = {}
        for name, own in seconds.items():
            ratio = median(b / a for a, b in zip(own, seconds[reference], strict=True))
            rows[name] = {
                "batch": works[name].batch,
                "ms_per_image": 1000 * median(own),
                "images_per_sec": 1 / median(own),
                "ratio_to": {reference: ratio},
                "gflop_per_image": flops[name] / 1e9,
                "peak_fraction": median(
                    flops[name] / a / peak for a, peak in zip(own, peaks, strict=True)
                ),
            }
        return rows

    def _turn(self, work: Work) -> tuple[float, float]:
        """Wall-clock seconds and processor seconds."""
        wall, processor = time.perf_counter(), time.process_time()
        work.run()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        elif self.device.type == "mps":
            torch.mps.synchronize()
        return time.perf_counter() - wall, time.process_time() - processor

    def _seconds(self, wall: float, processor: float) -> float:
        return wall if self.clock == "wall" else processor / self.threads
