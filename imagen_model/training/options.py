"""A user's options for a run, defined once for the command line and the node."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any


def _option(
    help: str,
    *,
    type: type = str,
    choices: tuple[str, ...] = (),
    metavar: str | None = None,
    above: float | None = None,
    default: Any = None,
    sets: str | None = None,
) -> Any:
    """A field with its help text. `above`: the value must be more; `sets`: the field of
    TrainingConfig that it overrides."""
    facts = {
        "help": help,
        "type": type,
        "choices": choices,
        "metavar": metavar,
        "above": above,
        "sets": sets,
    }
    return field(default=default, metadata=facts)


@dataclass(frozen=True)
class TrainOptions:
    """None (for the limits 0) keeps the preset's value, or that of the resumed run."""

    preset: str | None = _option("nano, small, base, large or dcgan (default nano, or --init's)")
    init: str | None = _option(
        "begin with a trained model (a bundled name or a file) instead of random weights",
        metavar="MODEL",
    )
    resolution: int | None = _option(
        "pixels a side: 32, 64, 128, 256 or 512; with more than --init's the model grows", type=int
    )
    fine_blocks: int | None = _option(
        "with --init: N transformer blocks at twice the tokens a side, for a model whose tokens "
        "cover many pixels; they change nothing at first (default: --init's)",
        type=int,
        metavar="N",
    )
    stage: str | None = _option(
        "default: text if there are captions", choices=("pretrain", "text"), sets="stage"
    )
    kimg: float = _option("stop after so many thousand images", type=float, default=0.0)
    minutes: float = _option("stop after so many minutes", type=float, default=0.0)
    text_encoder: str | None = _option(
        "encode captions with a CLIP text encoder, a folder in Hugging Face's format (extra clip), "
        "instead of the bundled MiniLM",
        metavar="FOLDER",
    )
    batch: int | None = _option(
        "images a step (default 32; 8 at 256 px, 4 at 512 px; dcgan 128)",
        type=int,
        above=0,
        sets="batch",
    )
    lr: float | None = _option(
        "learning rate at the start (default: by the preset's width, half of it with --init)",
        type=float,
        above=0.0,
    )
    seed: int | None = _option("default 0", type=int, sets="seed")
    snapshot: float | None = _option(
        "save a snapshot and a grid of samples every so many thousand images (default 20, on a GPU "
        "200)",
        type=float,
        above=0.0,
        metavar="KIMG",
        sets="snapshot_kimg",
    )
    keep: int | None = _option(
        "keep the newest N snapshots (default all)", type=int, metavar="N", sets="keep_snapshots"
    )
    objective: str | None = _option(
        "adversarial loss (default hinge, dcgan non-saturating)",
        choices=("hinge", "rpgan", "non-saturating", "minimax", "wgan-gp"),
        sets="objective",
    )
    gamma: float | None = _option(
        "fixed weight of the R1 and R2 penalties (default: adapted in training for rpgan, 0 for "
        "the other objectives)",
        type=float,
    )
    unroll: int | None = _option(
        "unrolled discriminator steps in the generator's loss (default 0)",
        type=int,
        metavar="N",
        sets="unrolled_steps",
    )
    save_memory: bool | None = _option(
        "recompute the generator's blocks in the backward pass instead of keeping them",
        type=bool,
        sets="recompute_blocks",
    )
    accumulate: int | None = _option(
        "gradient accumulation over K micro-batches: the same training with less memory, a third "
        "slower (default 1)",
        type=int,
        above=0,
        metavar="K",
        sets="accumulate",
    )
    compile: bool | None = _option(
        "compile the networks first with torch.compile (takes minutes; for long runs)",
        type=bool,
        sets="compile",
    )
    penalty: str | None = _option(
        "compute R1 and R2 by finite differences (default) or exactly, which takes twice as long",
        choices=("finite-difference", "exact"),
        sets="penalty",
    )

    def overrides(self) -> dict[str, Any]:
        """The chosen fields of TrainingConfig, by their names there."""
        return {
            f.metadata["sets"]: value
            for f in fields(self)
            if f.metadata["sets"] and (value := getattr(self, f.name)) is not None
        }
