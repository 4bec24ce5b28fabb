"""The start of a run: random weights, a trained model (init), or its own saved state."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..bundled import find_model
from ..checkpoint import load_checkpoint
from ..conditioning.clip import is_clip
from ..config import GeneratorConfig, ModelConfig
from ..networks.networks import Networks
from .options import TrainOptions
from .state import read_progress, saved_state


@dataclass(frozen=True)
class InitialState:
    """A model that a run starts from; a run with random weights has no InitialState."""

    name: str  # for messages
    model: ModelConfig
    lineage: list[dict]  # the checkpoints that it comes from, oldest first
    stage: str
    networks: Networks | None = None  # None: they are in the state of the resumed run
    training: dict | None = None  # the settings of the resumed run
    notice: str = ""  # from the data of any stage; written into every generated picture

    @property
    def on_clip(self) -> bool:
        return is_clip(self.model.conditioning.text_encoder)


def initial_state(out: Path, options: TrainOptions, *, resume: bool) -> InitialState | None:
    """The saved run in `out` (with `resume`), else the model of `options.init`, else None.

    ValueError where the options need another kind of model.
    """
    state = (_saved_run(out) if resume else None) or _trained_model(options.init)
    if state is not None:
        _refuse_other_shape(state, options)
    elif options.fine_blocks is not None:
        raise ValueError("fine-blocks are for a trained model; name one by init")
    return state


def _saved_run(out: Path) -> InitialState | None:
    """The run saved in `out`; None if there is none."""
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
    """The checkpoint that the option init names."""
    if not init:
        return None
    model, networks, card = load_checkpoint(find_model(init))
    parent = {key: card.get(key) for key in ("name", "sha256", "stage", "kimg")}
    lineage, stage = [*card.get("lineage", []), parent], card.get("stage", "")
    notice = card.get("notice", "")
    return InitialState(f"init {init}", model, lineage, stage, networks, notice=notice)


def _refuse_other_shape(state: InitialState, options: TrainOptions) -> None:
    """ValueError where the options contradict the initial state."""
    generator = state.model.generator
    resolution, side = options.resolution, generator.resolution
    fine, blocks = options.fine_blocks, generator.num_fine_blocks
    if resolution and state.networks:  # a trained model may grow, a resumed run may not
        resolution = min(resolution, side)
    if fine and state.networks and isinstance(generator, GeneratorConfig):
        fine = min(fine, blocks)
    for option, chosen, actual in (
        ("preset", options.preset, state.model.preset),
        ("resolution", resolution, side),
        ("fine-blocks", fine, blocks),
        ("stage", state.training and options.stage, state.stage),
    ):
        if chosen is not None and chosen != actual:
            raise ValueError(f"{option} {chosen} does not fit {state.name}, which is {actual}")
