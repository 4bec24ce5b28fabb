"""The plan of a run for people and for --dry-run: its settings, and its estimated time."""

from __future__ import annotations

import math
import sys

import torch

from ..data.statistics import report
from .trainer import Trainer


def describe(trainer: Trainer) -> dict:
    """The settings of a run, by label."""

    def millions(module: torch.nn.Module) -> str:
        return f"{sum(p.numel() for p in module.parameters()) / 1e6:.1f}M"

    t, g = trainer.training, trainer.model.generator
    captioned = sum(bool(s.text) for s in trainer.dataset.items)
    limits = [f"{t.kimg:g} kimg"] * bool(t.kimg) + [f"{t.minutes:g} minutes"] * bool(t.minutes)
    return {
        "pictures": f"{len(trainer.dataset)}, {captioned} with captions, "
        f"{len(trainer.dataset.skipped)} unreadable{trainer.dataset.left_out}",
        **report(trainer.dataset),
        **trainer.captions.references.report(),
        "styles": ", ".join(trainer.model.conditioning.styles) or "none",
        "picture": f"{g.resolution} px, {({1: 'grey', 3: 'RGB', 4: 'RGBA'})[g.channels]}",
        "generator": f"{trainer.model.preset}, {millions(trainer.networks.generator)} parameters",
        "judge": f"{millions(trainer.networks.discriminator)} parameters, {t.objective}",
        "training": f"{t.stage}, batch {t.batch}, lr {t.lr:.1e}, until {' or '.join(limits)}",
        "begins with": " > ".join(str(p.get("name")) for p in trainer.card.get("lineage", []))
        or "random weights",
        "device": str(trainer.device),
    }


def estimate(trainer: Trainer) -> dict[str, str]:
    """The cost of a run, measured by a few steps. They change the trainer, which must then be
    discarded."""
    t = trainer.training
    rate = trainer.probe()
    limits = [t.kimg * 1000] * bool(t.kimg) + [t.minutes * 60 * rate] * bool(t.minutes)
    images = min(limits)
    plan = {
        "speed": f"{rate:.1f} images a second",
        "time": f"{format_duration(images / rate)} for {images / 1000:.1f} kimg, "
        f"{math.ceil(images / t.batch):,} steps",
        "epochs": f"{images / float(trainer.order.weights.sum()):.1f}",
    }
    memory = _peak_memory(trainer.device)
    return plan | ({"memory": f"{memory / 2**30:.1f} GiB"} if memory else {})


def _peak_memory(device: torch.device) -> int:
    """Bytes: the GPU's if there is one, else the process's; 0 if the system does not report it."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def format_duration(seconds: float) -> str:
    """h:mm:ss, to the nearest second."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
