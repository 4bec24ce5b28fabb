"""What a run begins with: random weights, a trained model (--init), or its own saved state."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..bundled import find_model
from ..checkpoint import load_checkpoint
from ..conditioning.clip import is_clip
from ..config import ModelConfig
from ..networks.networks import Networks
from .options import TrainOptions
from .state import read_progress, saved_state


@dataclass(frozen=True)
class InitialState:
    """A model to begin with. There is none where a run begins with random weights."""

    name: str  # as a message calls it
    model: ModelConfig
    lineage: list[dict]  # the checkpoints that it comes from, oldest first
    stage: str
    networks: Networks | None = None  # None: they are in the state of the run that is resumed
    training: dict | None = None  # the settings of the run that is resumed
    notice: str = ""  # from the data of any stage; every generated picture carries it

    @property
    def on_clip(self) -> bool:
        return is_clip(self.model.conditioning.text_encoder)


def initial_state(out: Path, options: TrainOptions, *, resume: bool) -> InitialState | None:
    """The saved run in `out` where one is resumed, else the model of `options.init`, else None.

    ValueError where the options ask for another kind of model than it is.
    """
    state = (_saved_run(out) if resume else None) or _trained_model(options.init)
    if state is not None:
        _refuse_other_shape(state, options)
    return state


def _saved_run(out: Path) -> InitialState | None:
    """The run that `out` holds; None where it holds none."""
    folder = saved_state(out)
    if folder is None:
        return None
    saved = read_progress(folder)
    training = saved["training"]
    return InitialState(
        f"the run in {out}",
        ModelConfig.from_dict(saved["model"]),
        saved["card"].get("lineage", []),
        training["stage"],
        training=training,
        notice=saved["card"].get("notice", ""),
    )


def _trained_model(init: str | None) -> InitialState | None:
    """The checkpoint that --init names."""
    if not init:
        return None
    model, networks, card = load_checkpoint(find_model(init))
    lineage, notice = _lineage(card), card.get("notice", "")
    return InitialState(
        f"--init {init}", model, lineage, card.get("stage", ""), networks, notice=notice
    )


def _lineage(card: dict) -> list[dict]:
    """The checkpoints that a run comes from, oldest first."""
    parent = {key: card.get(key) for key in ("name", "sha256", "stage", "kimg")}
    return [*card.get("lineage", []), parent]


def _refuse_other_shape(state: InitialState, options: TrainOptions) -> None:
    """The initial state decides what the model is; the options must agree with it."""
    model = state.model
    resolution, side = options.resolution, model.generator.resolution
    if resolution and state.networks:  # a trained model may grow, a run that is resumed may not
        resolution = min(resolution, side)
    for option, asked, has in (
        ("--preset", options.preset, model.preset),
        ("--resolution", resolution, side),
        ("--stage", state.training and options.stage, state.stage),
    ):
        if asked is not None and asked != has:
            raise ValueError(f"{option} {asked} does not fit {state.name}, which is {has}")
