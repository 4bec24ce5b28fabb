"""From a folder and a few choices to a Trainer that is ready to run."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..bundled import find_model
from ..checkpoint import load_checkpoint
from ..conditioning.clip import ClipEncoder, ClipFolder, clip_card, is_clip, refuse_another
from ..conditioning.text import text_encoder
from ..config import DCGAN, ModelConfig, preset
from ..data.captions import CaptionSampler
from ..data.folder import Sample, read_notice, read_samples
from ..data.stream import open_pictures
from ..data.survey import report
from ..networks import Networks
from .config import (
    DCGAN_EPOCHS,
    DCGAN_LOG_BATCHES,
    DCGAN_SETTINGS,
    TrainingConfig,
    width_aware_lr,
)
from .inherit import grown, inherited, silence_words
from .loop import Trainer
from .state import read_progress, saved_state
from .team import Team

RPGAN_GAMMA = 1.0  # at the start
ADA_TARGET = 0.6  # 2006.06676
MANY_PICTURES = 30_000
FINDINGS = "found"  # the folder beside a run's state
DEFAULT_PRESET = "nano"
DEFAULT_BATCH = 32
INIT_LR_RATIO = 0.5  # a trained model goes on with smaller steps
GPU_PACE = {"tick_kimg": 10.0, "snapshot_kimg": 200.0}  # which a GPU sees in a minute or so


@dataclass(frozen=True)
class Choices:
    """What a user chooses of a run. None (0 for the limits): the preset's, or, where a run goes on,
    its own."""

    preset: str | None = None
    resolution: int | None = None
    stage: str | None = None
    objective: str | None = None
    gamma: float | None = None
    kimg: float = 0.0
    minutes: float = 0.0
    batch: int | None = None
    lr: float | None = None  # at the start, of both networks
    snapshot: float | None = None  # kimg from one snapshot to the next
    seed: int | None = None
    init: str | None = None  # a checkpoint to begin with, whose architecture stays but for pixels
    keep: int | None = None
    unroll: int | None = None  # steps of the discriminator that the generator looks ahead
    save_memory: bool | None = None
    accumulate: int | None = None  # parts that a batch is played in
    compile: bool | None = None
    penalty: str | None = None  # how R1 and R2 are found
    text_encoder: str | None = None  # a folder of a CLIP; None: MiniLM


@dataclass(frozen=True)
class Origin:
    """What a run begins with, where that is not chance."""

    name: str  # as a message calls it
    model: ModelConfig
    lineage: list[dict]
    stage: str
    networks: Networks | None = None  # none: they are in the state of the run that goes on
    training: dict | None = None  # the settings of the run that goes on
    notice: str = ""  # that goes with every picture, from the data of any stage

    @property
    def on_clip(self) -> bool:
        return is_clip(self.model.conditioning.text_encoder)


def prepare(
    data: Path,
    out: Path,
    choices: Choices,
    *,
    device: torch.device,
    progress: Callable[[str], Callable[[int, int], object]],
    resume: bool = False,
    team: Team | None = None,
) -> Trainer:
    """Read the pictures and build the run's networks; nothing is written yet.

    `progress(label)` gives a callback (done, total). With `resume`, a run that `out` holds goes on
    with its own settings where `choices` has no others; where it holds none, a new one begins.
    ValueError with one line for bad choices.
    """
    origin = (resume and _saved_run(out)) or _trained_model(choices.init)
    if origin:
        _refuse_other_shape(origin, choices)
        model = grown(origin.model, choices.resolution or origin.model.generator.resolution)
    else:
        model = preset(choices.preset or DEFAULT_PRESET, resolution=choices.resolution)
    settings = _settings(model, choices, origin, device)
    has_limit = bool(settings["kimg"] or settings["minutes"])
    is_dcgan = model.architecture == DCGAN
    # bad choices fail before any picture is read
    TrainingConfig(**settings | ({"kimg": 1.0} if is_dcgan and not has_limit else {}))
    clip = _clip(choices, origin, device)
    found = out / FINDINGS if resume else None
    pictures = open_pictures(
        read_samples(data),
        resolution=model.generator.resolution,
        channels=model.generator.channels,
        found=found,
        progress=progress("reading"),
    )
    if not origin:
        pictures = pictures.with_fewest_channels()
    captioned = any(map(_says_something, pictures.samples)) and not is_dcgan
    stage = settings.setdefault("stage", "text" if captioned else "pretrain")
    if stage == "text" and not captioned:
        raise ValueError(
            "preset dcgan knows no captions; leave --stage text out"
            if is_dcgan
            else f"--stage text needs captions, and {data} has none"
        )
    if stage == "pretrain" and choices.text_encoder and not (origin and origin.on_clip):
        raise ValueError("--text-encoder is for captions, which this run does not use")
    if stage == "pretrain":
        # null condition: no words and no styles; z's own code says which picture is to be matched
        pictures.samples = [_unlabelled(s) for s in pictures.samples]
        settings["info_nce_weight"] = 0.0
        if is_dcgan:
            settings |= {"pairs_weight": 0.0, "adversarial_weight": 1.0}
        else:
            settings |= _adaptive_augmentation(len(pictures))
    if is_dcgan:
        settings = _in_epochs(len(pictures), settings["batch"]) | settings
        if not has_limit:
            settings["kimg"] = DCGAN_EPOCHS * len(pictures) / 1000
    encoder, identity = clip or text_encoder(), ""
    if stage == "text":
        identity = encoder.identity
        if origin and origin.on_clip:  # of which the one that is given is another edition
            identity = origin.model.conditioning.text_encoder
    networks = None
    if origin and origin.networks:
        seed = settings["seed"]
        asked = replace(
            model.conditioning, styles=pictures.styles, text_encoder=identity, dim=encoder.width
        )
        networks, model = inherited(origin.networks, model, asked, seed)
        if stage == "text" and origin.stage == "pretrain":
            silence_words(networks, origin.networks)
    elif not origin:
        model = preset(
            choices.preset or DEFAULT_PRESET,
            resolution=choices.resolution,
            channels=pictures.channels,
            styles=pictures.styles,
            text_encoder=identity,
            cond_dim=encoder.width,
        )
    styles = model.conditioning.styles
    captions = CaptionSampler(
        pictures.samples, styles, progress("encoding captions"), found=found, encoder=encoder
    )
    card = {
        "name": out.name,
        "data": {
            "name": data.name,
            "pictures": len(pictures),
            "training_list": pictures.fingerprint(),
        },
        "lineage": origin.lineage if origin else [],
    }
    if choices.text_encoder:
        card["text_encoder"] = clip_card(Path(choices.text_encoder))
    references = captions.references.card()
    if references:
        card["references"] = references
    notice = read_notice(data) or (origin.notice if origin else "")
    if notice:
        card["notice"] = notice
    trainer = Trainer(
        model,
        TrainingConfig(**settings),
        pictures,
        captions,
        out,
        device=device,
        card=card,
        networks=networks,
        team=team,
    )
    if origin and origin.training:
        trainer.resume()
    return trainer


def _saved_run(out: Path) -> Origin | None:
    """The run that `out` holds, to go on with; None where it holds none."""
    folder = saved_state(out)
    if folder is None:
        return None
    saved = read_progress(folder)
    training = saved["training"]
    return Origin(
        f"the run in {out}",
        ModelConfig.from_dict(saved["model"]),
        saved["card"].get("lineage", []),
        training["stage"],
        training=training,
        notice=saved["card"].get("notice", ""),
    )


def _trained_model(init: str | None) -> Origin | None:
    """The checkpoint that --init names."""
    if not init:
        return None
    model, networks, card = load_checkpoint(find_model(init))
    lineage, notice = _lineage(card), card.get("notice", "")
    return Origin(f"--init {init}", model, lineage, card.get("stage", ""), networks, notice=notice)


def _clip(choices: Choices, origin: Origin | None, device: torch.device) -> ClipEncoder | None:
    """The CLIP that reads the captions; ValueError where what the run begins with has another."""
    if not choices.text_encoder:
        if origin and origin.on_clip:
            raise ValueError(
                f"{origin.name} was trained on a CLIP text encoder; name it by --text-encoder"
            )
        return None
    if origin and origin.model.conditioning.text_encoder and not origin.on_clip:
        raise ValueError(
            f"{origin.name} was trained on the bundled text encoder; leave --text-encoder out"
        )
    clip = ClipEncoder(ClipFolder(Path(choices.text_encoder), device))
    if origin and origin.on_clip:
        refuse_another(clip, origin.model.conditioning.text_encoder, origin.name)
    return clip


def _settings(
    model: ModelConfig, choices: Choices, origin: Origin | None, device: torch.device
) -> dict[str, Any]:
    """A TrainingConfig's fields: what the preset chooses, or the run that goes on has, and what was
    asked for instead."""
    saved = origin.training if origin else None
    continues = saved is not None
    if saved is not None:
        settings: dict[str, Any] = dict(saved)
    elif model.architecture == DCGAN:
        settings = dict(DCGAN_SETTINGS)
    else:
        settings = {"objective": "hinge", "batch": DEFAULT_BATCH}
        settings["lr"] = width_aware_lr(model.generator.dim)
        if device.type == "cuda":
            settings |= GPU_PACE
    if origin and not continues:
        settings["lr"] *= INIT_LR_RATIO
    if choices.lr:
        settings["lr"] = choices.lr
    settings["lr_end"] = min(settings.get("lr_end", TrainingConfig.lr_end), settings["lr"])
    asked = {
        "stage": choices.stage,
        "objective": choices.objective,
        "batch": choices.batch,
        "seed": choices.seed,
        "snapshot_kimg": choices.snapshot,
        "keep_snapshots": choices.keep,
        "unrolled_steps": choices.unroll,
        "recompute_blocks": choices.save_memory,
        "accumulate": choices.accumulate,
        "compile": choices.compile,
        "penalty": choices.penalty,
    }
    settings |= {name: value for name, value in asked.items() if value is not None}
    if choices.kimg or choices.minutes or not continues:
        settings |= {"kimg": choices.kimg, "minutes": choices.minutes}
    gamma = choices.gamma
    if gamma is None and (saved is None or saved["objective"] != settings["objective"]):
        gamma = RPGAN_GAMMA if settings["objective"] == "rpgan" else 0.0
    if gamma is not None:
        auto = choices.gamma is None and gamma > 0
        settings |= {"r1_gamma": gamma, "r2_gamma": gamma, "auto_gamma": auto}
    settings.setdefault("seed", 0)
    return settings


def _adaptive_augmentation(num_pictures: int) -> dict[str, float]:
    """Always some for sets that a discriminator can learn by heart; for large ones only as much
    as it turns out to need. The pairs of the text stage have a fixed one."""
    if num_pictures < MANY_PICTURES:
        return {"augment_target": ADA_TARGET, "augment_min": 0.2, "augment_max": 0.8}
    return {"augment_p": 0.0, "augment_target": ADA_TARGET, "augment_max": 0.3}


def _in_epochs(num_pictures: int, batch: int) -> dict[str, float]:
    """The article counts in epochs, with a checkpoint each."""
    return {
        "tick_kimg": DCGAN_LOG_BATCHES * batch / 1000,
        "snapshot_kimg": num_pictures / 1000,
    }


def _refuse_other_shape(origin: Origin, choices: Choices) -> None:
    """What a run begins with decides what it is: what was asked for must agree."""
    model = origin.model
    resolution, side = choices.resolution, model.generator.resolution
    if resolution and origin.networks:  # which may grow, as a run that goes on may not
        resolution = min(resolution, side)
    for option, asked, has in (
        ("--preset", choices.preset, model.preset),
        ("--resolution", resolution, side),
        ("--stage", origin.training and choices.stage, origin.stage),
    ):
        if asked is not None and asked != has:
            raise ValueError(f"{option} {asked} does not fit {origin.name}, which is {has}")


def _lineage(card: dict) -> list[dict]:
    """The checkpoints that a run comes from, oldest first."""
    parent = {key: card.get(key) for key in ("name", "sha256", "stage", "kimg")}
    return [*card.get("lineage", []), parent]


def _says_something(sample: Sample) -> bool:
    return bool(sample.text or sample.image_ref or sample.audio)


def _unlabelled(sample: Sample) -> Sample:
    return replace(sample, text="", keywords=(), style="", image_ref=None, audio=None)


def keep_findings(trainer: Trainer) -> None:
    """Put beside the run what a resumed one need not find again."""
    trainer.captions.save(trainer.out / FINDINGS)
    trainer.pictures.save(trainer.out / FINDINGS)


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
        **report(trainer.pictures),
        **trainer.captions.references.report(),
        "styles": ", ".join(trainer.model.conditioning.styles) or "none",
        "picture": f"{g.resolution} px, {({1: 'grey', 3: 'RGB', 4: 'RGBA'})[g.channels]}",
        "generator": f"{trainer.model.preset}, {millions(trainer.networks.generator)} parameters",
        "judge": f"{millions(trainer.networks.discriminator)} parameters, {t.objective}",
        "training": f"{t.stage}, batch {t.batch}, lr {t.lr:.1e}, until {' or '.join(limits)}",
        "begins with": " > ".join(str(p["name"]) for p in trainer.card.get("lineage", []))
        or "random weights",
        "device": str(trainer.device),
    }


def estimate(trainer: Trainer) -> dict[str, str]:
    """What a run will take, from ten steps that are tried: for --dry-run, the trainer is spent."""
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
    """Bytes: the GPU's where there is one, else the process's; 0 where the system does not say."""
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
