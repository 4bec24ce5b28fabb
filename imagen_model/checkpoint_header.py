"""The metadata of a checkpoint, which is read without torch: `imagen.format` (an integer),
`imagen.config` (JSON) and `imagen.card` (JSON, with the sha256 of the tensors)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from .storage.files import brief, json_of
from .storage.tensor_file import TensorFile

FORMAT = 1
# The parts of a card that the program reads, with their types; a list has those of its items.
CARD: dict[str, Any] = {
    "name": str,
    "stage": str,
    "notice": str,
    "sha256": str,
    "lite0": str,
    "data": {"name": str},
    "judge": {"real": (int, float), "generated": (int, float)},
    "lineage": [{"name": str}],
    "figures": {"retrieval": {"text": dict.fromkeys(("r1", "chance", "ceiling"), (int, float))}},
    "text_encoder": {"name": str},
    "adapter": {"sha256": str, "strength": (int, float)},
}


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a checkpoint; ValueError with one line for anything else."""
    with opened(Path(path)) as file:
        return file.metadata


@contextmanager
def opened(path: Path) -> Iterator[TensorFile]:
    """A checkpoint, its metadata checked. ValueError with one line where it is none, and where the
    block cannot read its tensors."""
    if not path.is_file():
        raise ValueError(f"no checkpoint {path}")
    try:
        with TensorFile(path) as file:
            _check_metadata(path, file.metadata)
            yield file
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path} is not a readable safetensors file (truncated, or another kind): "
            f"{brief(error)}"
        ) from None


def _check_metadata(path: Path, metadata: dict[str, str]) -> None:
    """ValueError for the metadata of another format, or damaged."""
    if "imagen.format" not in metadata:
        raise ValueError(
            f"{path} is a safetensors file, but not an Imagen GAN checkpoint (no imagen.format)"
        )
    try:
        version = int(metadata["imagen.format"])
        parts = [json_of(metadata[f"imagen.{part}"]) for part in ("config", "card")]
        if not all(isinstance(part, dict) for part in parts):
            raise ValueError
        check_card(parts[1], CARD)
    except (KeyError, ValueError):
        raise ValueError(f"{path} has damaged metadata; download or export it again") from None
    if not 1 <= version <= FORMAT:
        raise ValueError(
            f"{path} has checkpoint format {version}; this version reads up to {FORMAT}"
        )


def check_card(card: object, parts: Any) -> None:
    """ValueError where a part of a card is of another type than its program reads it as; `parts` is
    as CARD. A part may be missing."""
    if isinstance(parts, dict):
        if not isinstance(card, dict):
            raise ValueError(f"{card!r} in the card; expected an object")
        for name in parts.keys() & card.keys():
            check_card(card[name], parts[name])
    elif isinstance(parts, list):
        if not isinstance(card, list):
            raise ValueError(f"{card!r} in the card; expected a list")
        for part in card:
            check_card(part, parts[0])
    elif not isinstance(card, parts):
        raise ValueError(f"{card!r} in the card is of the wrong type")
