"""Options and an initial state -> the fields of a TrainingConfig."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..config import DCGAN, ModelConfig
from ..data.dataset import PictureDataset
from .config import TrainingConfig
from .initial_state import InitialState
from .options import TrainOptions

DEFAULT_PRESET = "nano"
DEFAULT_BATCH = 32
LARGE_BATCHES = {256: 8, 512: 4}  # by resolution: about 3 GB for preset nano (docs/scaling.md)
RPGAN_GAMMA = 1.0  # at the start
ADA_TARGET = 0.6  # 2006.06676
MANY_PICTURES = 30_000
INIT_LR_RATIO = 0.5  # of fine-tuning, relative to training from scratch
GPU_PACE = {"tick_kimg": 10.0, "snapshot_kimg": 200.0}  # a tick takes about a minute on a GPU
# The reference article's settings: BCE, Adam 2e-4, batches of 128, and none of the later
# techniques. It logs every 100 batches and saves a checkpoint every epoch.
DCGAN_SETTINGS = {
    "objective": "non-saturating",
    "batch": 128,
    "lr": 2e-4,
    "lr_end": 2e-4,
    "d_lr_ratio": 1.0,
    "judge_fraction": 0.0,
    "warmup_kimg": 0.0,
    "g_beta1": 0.9,
    "d_beta1": 0.9,
    "beta2": 0.999,
    "clip": float("inf"),
    "augment_p": 0.0,
    "ema_halflife_kimg": 0.0,
    "wrong_caption_weight": 0.0,
}
DCGAN_EPOCHS = 100
DCGAN_LOG_BATCHES = 100


def width_aware_lr(dim: int) -> float:
    """2e-4 * 768 / width: narrow transformers take larger steps (recipe of GAT, 2509.24935)."""
    return 2e-4 * 768 / dim


def settings_of(
    model: ModelConfig, options: TrainOptions, state: InitialState | None, device: torch.device
) -> dict[str, Any]:
    """The settings of the preset or of the resumed run, overridden by the options.

    ValueError for invalid options, before any picture is read.
    """
    resumed = state.training if state else None
    settings = dict(resumed) if resumed is not None else _preset_settings(model, device)
    if state and resumed is None:
        settings["lr"] *= INIT_LR_RATIO
    if options.lr:
        settings["lr"] = options.lr
    settings["lr_end"] = min(settings.get("lr_end", TrainingConfig.lr_end), settings["lr"])
    settings |= options.overrides()
    if options.kimg or options.minutes or resumed is None:
        settings |= {"kimg": options.kimg, "minutes": options.minutes}
    settings |= _penalty_settings(options, settings["objective"], resumed)
    settings.setdefault("seed", 0)
    # preset dcgan has its own limit, which depends on the number of pictures
    without_limit = model.architecture == DCGAN and not (settings["kimg"] or settings["minutes"])
    TrainingConfig(**settings | ({"kimg": 1.0} if without_limit else {}))
    return settings


def _preset_settings(model: ModelConfig, device: torch.device) -> dict[str, Any]:
    if model.architecture == DCGAN:
        return dict(DCGAN_SETTINGS)
    settings: dict[str, Any] = {"objective": "hinge"}
    settings["batch"] = LARGE_BATCHES.get(model.generator.resolution, DEFAULT_BATCH)
    settings["lr"] = width_aware_lr(model.generator.dim)
    return settings | (GPU_PACE if device.type == "cuda" else {})


def _penalty_settings(options: TrainOptions, objective: str, resumed: dict | None) -> dict:
    """gamma as chosen, else the objective's default; empty if a resumed run keeps its
    objective."""
    gamma = options.gamma
    if gamma is None:
        if resumed is not None and resumed["objective"] == objective:
            return {}
        gamma = RPGAN_GAMMA if objective == "rpgan" else 0.0
    auto = options.gamma is None and gamma > 0
    return {"r1_gamma": gamma, "r2_gamma": gamma, "auto_gamma": auto}


def settings_for_data(
    settings: dict[str, Any], model: ModelConfig, dataset: PictureDataset, data: Path
) -> dict[str, Any]:
    """The same with the stage, and with settings that depend on the number of pictures.

    ValueError for stage text without captions.
    """
    is_dcgan = model.architecture == DCGAN
    captioned = any(item.has_condition for item in dataset.items) and not is_dcgan
    settings = {"stage": "text" if captioned else "pretrain"} | settings
    if settings["stage"] == "text" and not captioned:
        raise ValueError(
            "preset dcgan takes no captions; leave stage text out"
            if is_dcgan
            else f"stage text needs captions, and {data} has none"
        )
    if settings["stage"] == "pretrain":
        settings["info_nce_weight"] = 0.0
        if is_dcgan:
            settings |= {"pairs_weight": 0.0, "adversarial_weight": 1.0}
        else:
            settings |= _adaptive_augmentation(len(dataset))
    if is_dcgan:
        settings = _in_epochs(len(dataset), settings["batch"]) | settings
        if not (settings["kimg"] or settings["minutes"]):
            settings["kimg"] = DCGAN_EPOCHS * len(dataset) / 1000
    return settings


def _adaptive_augmentation(num_pictures: int) -> dict[str, float]:
    """A discriminator can memorize small sets, so they always have some augmentation; large sets
    start without. In the text stage the probability is fixed."""
    if num_pictures < MANY_PICTURES:
        return {"augment_target": ADA_TARGET, "augment_min": 0.2, "augment_max": 0.8}
    return {"augment_p": 0.0, "augment_target": ADA_TARGET, "augment_max": 0.3}


def _in_epochs(num_pictures: int, batch: int) -> dict[str, float]:
    """The article counts in epochs and saves a checkpoint after each."""
    return {
        "tick_kimg": DCGAN_LOG_BATCHES * batch / 1000,
        "snapshot_kimg": num_pictures / 1000,
    }
