"""From a folder and a few choices to a Trainer that is ready to run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..bundled import find_model
from ..checkpoint import load_checkpoint
from ..conditioning.text import text_encoder_hash
from ..config import DCGAN, ModelConfig, preset
from ..data.captions import CaptionSampler
from ..data.folder import Sample, load_pictures, read_samples
from ..networks import Networks
from .config import (
    DCGAN_EPOCHS,
    DCGAN_LOG_BATCHES,
    DCGAN_SETTINGS,
    TrainingConfig,
    width_aware_lr,
)
from .loop import Trainer

RPGAN_GAMMA = 1.0
DEFAULT_PRESET = "nano"
DEFAULT_BATCH = 32
INIT_LR_RATIO = 0.5  # a trained model goes on with smaller steps


def prepare(
    data: Path,
    out: Path,
    *,
    preset_name: str | None,
    resolution: int | None,
    device: torch.device,
    stage: str | None,
    objective: str | None,
    gamma: float | None,
    kimg: float,
    minutes: float,
    batch: int | None,
    seed: int,
    progress: Callable[[str], Callable[[int, int], object]],
    init: str | None = None,
    keep: int = 0,
) -> Trainer:
    """Read the pictures and build the run's networks; nothing is written yet.

    `progress(label)` gives a callback (done, total). `init` names a checkpoint to begin with, whose
    architecture stays. ValueError with one line for bad choices.
    """
    origin = load_checkpoint(find_model(init)) if init else None
    if origin:
        model = origin[0]
        _refuse_other_shape(model, preset_name, resolution, str(init))
    else:
        model = preset(preset_name or DEFAULT_PRESET, resolution=resolution)
    settings = _settings(model, objective, gamma, batch, begins_trained=bool(origin))
    settings |= {"kimg": kimg, "minutes": minutes, "seed": seed, "keep_snapshots": keep}
    is_dcgan = model.architecture == DCGAN
    if is_dcgan and not kimg and not minutes:
        settings["kimg"] = float(DCGAN_EPOCHS)  # epochs until the pictures are counted
    TrainingConfig(**settings)  # bad choices fail before any picture is read
    pictures = load_pictures(
        read_samples(data),
        resolution=model.generator.resolution,
        channels=model.generator.channels,
        progress=progress("reading"),
    )
    if not origin:
        pictures = pictures.without_empty_alpha()
    captioned = any(s.text for s in pictures.samples) and not is_dcgan
    stage = stage or ("text" if captioned else "pretrain")
    if stage == "text" and not captioned:
        raise ValueError(
            "preset dcgan knows no captions; leave --stage text out"
            if is_dcgan
            else f"--stage text needs captions, and {data} has none"
        )
    if stage == "pretrain":
        # null condition: no words, no styles, and nothing to pair a picture with
        pictures.samples = [_unlabelled(s) for s in pictures.samples]
        settings |= {"pairs_weight": 0.0, "info_nce_weight": 0.0, "adversarial_weight": 1.0}
    if is_dcgan:
        epoch_kimg = len(pictures) / 1000
        settings["tick_kimg"] = DCGAN_LOG_BATCHES * settings["batch"] / 1000
        settings["snapshot_kimg"] = epoch_kimg
        settings["kimg"] = kimg if kimg or minutes else DCGAN_EPOCHS * epoch_kimg
    networks = None
    text_encoder = text_encoder_hash() if stage == "text" else ""
    if origin:
        networks, model = _adopted(origin[1], model, pictures.styles, text_encoder, seed)
    else:
        model = preset(
            preset_name or DEFAULT_PRESET,
            resolution=resolution,
            channels=pictures.pixels.shape[1],
            styles=pictures.styles,
            text_encoder=text_encoder,
        )
    styles = model.conditioning.styles
    captions = CaptionSampler(pictures.samples, styles, progress("encoding captions"))
    card = {
        "name": out.name,
        "data": {
            "name": data.name,
            "pictures": len(pictures),
            "training_list": pictures.fingerprint(),
        },
        "lineage": _lineage(origin[2]) if origin else [],
    }
    training = TrainingConfig(stage=stage, **settings)
    return Trainer(
        model, training, pictures, captions, out, device=device, card=card, networks=networks
    )


def _settings(
    model: ModelConfig,
    objective: str | None,
    gamma: float | None,
    batch: int | None,
    *,
    begins_trained: bool,
) -> dict[str, Any]:
    """What the preset chooses, and what was asked for instead."""
    if model.architecture == DCGAN:
        settings: dict[str, Any] = dict(DCGAN_SETTINGS)
    else:
        settings = {"objective": "hinge", "batch": DEFAULT_BATCH}
        settings["lr"] = width_aware_lr(model.generator.dim)
    if begins_trained:
        settings["lr"] *= INIT_LR_RATIO
        settings["lr_end"] = min(settings.get("lr_end", TrainingConfig.lr_end), settings["lr"])
    asked = {"objective": objective, "batch": batch}
    settings |= {name: value for name, value in asked.items() if value is not None}
    if gamma is None:
        gamma = RPGAN_GAMMA if settings["objective"] == "rpgan" else 0.0
    return settings | {"r1_gamma": gamma, "r2_gamma": gamma}


def _refuse_other_shape(
    model: ModelConfig, preset_name: str | None, resolution: int | None, init: str
) -> None:
    """The architecture is the checkpoint's: what was asked for must agree with it."""
    for option, asked, has in (
        ("--preset", preset_name, model.preset),
        ("--resolution", resolution, model.generator.resolution),
    ):
        if asked is not None and asked != has:
            raise ValueError(f"{option} {asked} does not fit --init {init}, which is {has}")


def _adopted(
    source: Networks, config: ModelConfig, styles: tuple[str, ...], text_encoder: str, seed: int
) -> tuple[Networks, ModelConfig]:
    """The checkpoint's weights in networks that may know more styles; a new style begins as the
    mean of the known ones."""
    known = config.conditioning.styles
    conditioning = replace(
        config.conditioning,
        styles=(*known, *(s for s in styles if s not in known)),
        text_encoder=text_encoder or config.conditioning.text_encoder,
    )
    config = replace(config, conditioning=conditioning)
    networks = Networks.seeded(config, seed)
    state = networks.state_dict()
    for name, axis in (("conditioning.style_embed", 0), ("discriminator.style_in.weight", 1)):
        if name in state:
            wanted, old = state[name], source.state_dict().get(name)
            wanted.zero_()
            if old is not None and old.shape[axis]:
                wanted += old.mean(dim=axis, keepdim=True)
                wanted.narrow(axis, 0, old.shape[axis]).copy_(old)
    taken = {n: t for n, t in source.state_dict().items() if t.shape == state[n].shape}
    networks.load_state_dict(state | taken)
    return networks, config


def _lineage(card: dict) -> list[dict]:
    """The checkpoints that a run comes from, oldest first."""
    parent = {key: card.get(key) for key in ("name", "sha256", "stage", "kimg")}
    return [*card.get("lineage", []), parent]


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
        "begins with": " > ".join(str(p["name"]) for p in trainer.card.get("lineage", []))
        or "random weights",
        "device": str(trainer.device),
    }
