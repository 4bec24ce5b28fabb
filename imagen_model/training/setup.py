"""From a folder and a few options to a Trainer that is ready to run.

options -> settings -> data -> networks -> Trainer
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ..conditioning.clip import ClipEncoder, ClipFolder, clip_card, refuse_another
from ..conditioning.encoder import Encoder
from ..conditioning.minilm import text_encoder
from ..config import ModelConfig, preset
from ..data.captions import CaptionSampler
from ..data.dataset import PictureDataset
from ..data.folder import list_items, read_notice
from ..data.streaming import open_pictures
from ..networks.networks import Networks
from ..progress import ProgressFor
from ..storage.files import check_outside
from .config import RunConfig, TrainingConfig
from .distributed import DistributedContext
from .initial_state import InitialState, initial_state
from .options import TrainOptions
from .run_lock import check_not_locked
from .settings import DEFAULT_PRESET, settings_for_data, settings_of
from .trainer import Trainer
from .transfer import grow, silence_condition, transfer_weights, with_layout

CACHE = "found"  # the folder beside a run's state


@dataclass(frozen=True)
class _Job:
    """The arguments of `prepare`, for its steps."""

    data: Path
    out: Path
    options: TrainOptions
    state: InitialState | None
    device: torch.device
    progress: ProgressFor
    cache: Path | None  # of a resumed run


def prepare(
    data: Path,
    out: Path,
    options: TrainOptions,
    *,
    device: torch.device,
    progress: ProgressFor,
    resume: bool = False,
    context: DistributedContext | None = None,
) -> Trainer:
    """Read the pictures and build the run's networks; nothing is written yet.

    `progress(label)` gives a callback (done, total). With `resume`, a run saved in `out` continues
    with its own settings, overridden by `options`; if there is none, a new run begins. ValueError
    with one line for invalid options, mostly before any picture is read.
    """
    check_outside(out, data)
    if context is None or context.is_first:
        check_not_locked(out)
    state = initial_state(out, options, resume=resume)
    job = _Job(data, out, options, state, device, progress, out / CACHE if resume else None)
    model = _model_config(job)
    settings = settings_of(model, options, state, device)
    clip = _clip_encoder(job)
    dataset = _read_dataset(job, model)
    settings = settings_for_data(settings, model, dataset, data)
    if settings["stage"] == "pretrain":
        _drop_conditions(job, dataset)
    encoder = clip or text_encoder()
    model, networks = _build_networks(job, model, settings, dataset, encoder)
    captions = CaptionSampler(
        dataset.items,
        model.conditioning.styles,
        progress("encoding captions"),
        cache=job.cache,
        encoder=encoder,
    )
    card = _card(job, dataset, captions)
    trainer = Trainer(
        RunConfig(model, TrainingConfig(**settings), out, card),
        dataset,
        captions,
        device=device,
        networks=networks,
        context=context,
    )
    if state and state.training:
        trainer.resume()
    return trainer


def save_cache(trainer: Trainer) -> None:
    """Save encoded captions and decoded pictures beside the run, for when it is resumed."""
    trainer.captions.save(trainer.out / CACHE)
    trainer.dataset.save(trainer.out / CACHE)


# -- options --------------------------------------------------------------------------------------


def _model_config(job: _Job) -> ModelConfig:
    """The initial state's configuration, grown if need be, or that of the preset."""
    if job.state:
        model = job.state.model
        known, chosen = model.generator, job.options
        more = known.num_fine_blocks if chosen.fine_blocks is None else chosen.fine_blocks
        return grow(model, chosen.resolution or known.resolution, more)
    return preset(job.options.preset or DEFAULT_PRESET, resolution=job.options.resolution)


def _clip_encoder(job: _Job) -> ClipEncoder | None:
    """The CLIP of the option text-encoder; ValueError if the initial state has another encoder."""
    folder, state = job.options.text_encoder, job.state
    if not folder:
        if state and state.on_clip:
            raise ValueError(
                f"{state.name} was trained on a CLIP text encoder; name it by text-encoder"
            )
        return None
    if state and state.model.conditioning.text_encoder and not state.on_clip:
        raise ValueError(
            f"{state.name} was trained on the bundled text encoder; leave text-encoder out"
        )
    clip = ClipEncoder(ClipFolder(Path(folder), job.device))
    if state and state.on_clip:
        refuse_another(clip, state.model.conditioning.text_encoder, state.name)
    return clip


# -- data -----------------------------------------------------------------------------------------


def _read_dataset(job: _Job, model: ModelConfig) -> PictureDataset:
    """The pictures, with the initial state's channels or else as few as they need."""
    items, left_out = list_items(job.data)
    dataset = open_pictures(
        items,
        resolution=model.generator.resolution,
        channels=model.generator.channels,
        cache=job.cache,
        progress=job.progress("reading"),
    )
    dataset.left_out = str(left_out)
    return dataset if job.state else dataset.with_fewest_channels()


def _drop_conditions(job: _Job, dataset: PictureDataset) -> None:
    """Pretraining: every item gets the null condition, and z's latent code tells items apart.
    ValueError with text-encoder."""
    if job.options.text_encoder and not (job.state and job.state.on_clip):
        raise ValueError("text-encoder is for captions, which this run does not use")
    dataset.items = [item.without_condition() for item in dataset.items]


# -- networks -------------------------------------------------------------------------------------


def _build_networks(
    job: _Job, model: ModelConfig, settings: dict, dataset: PictureDataset, encoder: Encoder
) -> tuple[ModelConfig, Networks | None]:
    """The final configuration, and networks with a checkpoint's weights; None if the seed or the
    saved state gives the weights."""
    state, identity = job.state, ""
    if settings["stage"] == "text":
        identity = encoder.identity
        if state and state.on_clip:  # the given one may be another file of the same CLIP
            identity = state.model.conditioning.text_encoder
    if state is None:
        model = preset(
            job.options.preset or DEFAULT_PRESET,
            resolution=job.options.resolution,
            channels=dataset.channels,
            styles=dataset.styles,
            text_encoder=identity,
            cond_dim=encoder.width,
        )
        pretrains = settings["stage"] == "pretrain"
        return (with_layout(model, len(dataset)) if pretrains else model), None
    if state.networks is None:
        return model, None
    if settings["stage"] == "pretrain":
        model = with_layout(model, len(dataset))
    wanted = replace(
        model.conditioning, styles=dataset.styles, text_encoder=identity, dim=encoder.width
    )
    networks, model = transfer_weights(state.networks, model, wanted, settings["seed"])
    if settings["stage"] == "text" and state.stage == "pretrain":
        silence_condition(networks, state.networks)
    return model, networks


def _card(job: _Job, dataset: PictureDataset, captions: CaptionSampler) -> dict:
    """The origin of every checkpoint of the run."""
    state, options = job.state, job.options
    card: dict = {
        "name": job.out.name,
        "data": {
            "name": job.data.name,
            "pictures": len(dataset),
            "training_list": dataset.content_hash(),
        },
        "lineage": state.lineage if state else [],
    }
    if options.text_encoder:
        card["text_encoder"] = clip_card(Path(options.text_encoder))
    if references := captions.references.card():
        card["references"] = references
    if notice := read_notice(job.data) or (state.notice if state else ""):
        card["notice"] = notice
    return card
