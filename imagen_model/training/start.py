"""From a folder and a few choices to a Trainer that is ready to run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..conditioning.text import text_encoder_hash
from ..config import preset
from ..data.captions import CaptionSampler
from ..data.folder import Sample, load_pictures, read_samples
from .config import TrainingConfig, width_aware_lr
from .loop import Trainer

RPGAN_GAMMA = 1.0


def prepare(
    data: Path,
    out: Path,
    *,
    preset_name: str,
    resolution: int | None,
    device: torch.device,
    stage: str | None,
    objective: str,
    gamma: float | None,
    kimg: float,
    minutes: float,
    batch: int,
    seed: int,
    progress: Callable[[str], Callable[[int, int], object]],
) -> Trainer:
    """Read the pictures and build the run's networks; nothing is written yet.

    `progress(label)` gives a callback (done, total). ValueError with one line for bad choices.
    """
    model = preset(preset_name, resolution=resolution)
    gamma = gamma if gamma is not None else (RPGAN_GAMMA if objective == "rpgan" else 0.0)
    settings: dict[str, Any] = {
        "objective": objective, "kimg": kimg, "minutes": minutes, "batch": batch, "seed": seed,
        "r1_gamma": gamma, "r2_gamma": gamma, "lr": width_aware_lr(model.generator.dim),
    }  # fmt: skip
    TrainingConfig(**settings)  # bad choices fail before any picture is read
    samples = read_samples(data)
    pictures = load_pictures(
        samples, resolution=model.generator.resolution, channels=4, progress=progress("reading")
    ).without_empty_alpha()
    captioned = any(s.text for s in pictures.samples)
    stage = stage or ("text" if captioned else "pretrain")
    if stage == "text" and not captioned:
        raise ValueError(f"--stage text needs captions, and {data} has none")
    if stage == "pretrain":
        # null condition: no words, no styles, and nothing to pair a picture with
        pictures.samples = [_unlabelled(s) for s in pictures.samples]
        settings |= {"pairs_weight": 0.0, "info_nce_weight": 0.0, "adversarial_weight": 1.0}
    captions = CaptionSampler(pictures.samples, pictures.styles, progress("encoding captions"))
    model = preset(
        preset_name,
        resolution=resolution,
        channels=pictures.pixels.shape[1],
        styles=pictures.styles,
        text_encoder=text_encoder_hash() if stage == "text" else "",
    )
    card = {
        "name": out.name,
        "data": {
            "name": data.name,
            "pictures": len(pictures),
            "training_list": pictures.fingerprint(),
        },
    }
    training = TrainingConfig(stage=stage, **settings)
    return Trainer(model, training, pictures, captions, out, device=device, card=card)


def _unlabelled(sample: Sample) -> Sample:
    return replace(sample, text="", keywords=(), style="")


def describe(trainer: Trainer) -> dict:
    """What will be done, for people and for --dry-run."""

    def millions(module: torch.nn.Module) -> str:
        return f"{sum(p.numel() for p in module.parameters()) / 1e6:.1f}M"

    t, g = trainer.training, trainer.model.generator
    captioned = sum(bool(s.text) for s in trainer.pictures.samples)
    limits = [f"{t.kimg:g} kimg"] * bool(t.kimg) + [f"{t.minutes:g} minutes"] * bool(t.minutes)
    return {
        "pictures": f"{len(trainer.pictures)}, {captioned} with captions, "
        f"{len(trainer.pictures.skipped)} unreadable",
        "styles": ", ".join(trainer.model.conditioning.styles) or "none",
        "picture": f"{g.resolution} px, {({1: 'grey', 3: 'RGB', 4: 'RGBA'})[g.channels]}",
        "generator": f"{trainer.model.preset}, {millions(trainer.networks.generator)} parameters",
        "judge": f"{millions(trainer.networks.discriminator)} parameters, {t.objective}",
        "training": f"{t.stage}, batch {t.batch}, lr {t.lr:.1e}, until {' or '.join(limits)}",
        "device": str(trainer.device),
    }
