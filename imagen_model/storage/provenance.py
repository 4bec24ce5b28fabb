"""Provenance of a saved picture: facts as JSON in the PNG text field "imagen".

ComfyUI keeps its graph in the field "prompt". Saving the picture again with any other program
removes both.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from ..version import __version__
from .credentials import CHUNK, read_credentials
from .files import brief, json_of, storable

KEY, GRAPH_KEY = "imagen", "prompt"
NOT_FOR_DIAGNOSIS = "synthetic, not for diagnosis"
SUFFIXES = {".png"}


def model_facts(name: str, card: dict) -> dict[str, Any]:
    """The facts about its model in every picture: name, sha256 of the tensors, the code's version,
    and the adapter and the model's notice if there are any."""
    facts = {"model": name, "sha256": card.get("sha256"), "code_version": __version__}
    if "adapter" in card:
        facts["adapter"] = {key: card["adapter"].get(key) for key in ("sha256", "strength")}
    if card.get("notice"):
        facts["notice"] = card["notice"]
    return facts


def png_info(facts: dict | None, graph: dict | None = None) -> PngInfo:
    """The text fields of a PNG."""
    info = PngInfo()
    for key, value in ((KEY, facts), (GRAPH_KEY, graph)):
        if value is not None:
            info.add_itxt(key, storable(json.dumps(value, ensure_ascii=False)))
    return info


def read_facts(path: Path) -> dict[str, Any]:
    """The record in a PNG, with its Content Credentials if any; ValueError if it has neither."""
    try:
        with Image.open(path, formats=("PNG",)) as image:
            image.load()  # text may follow the pixels
            texts = getattr(image, "text", {})
            is_signed = any(name == CHUNK for name, *_ in getattr(image, "private_chunks", ()))
    except (OSError, UnidentifiedImageError, SyntaxError) as error:
        raise ValueError(f"{path} is not a readable picture ({brief(error)})") from error
    try:
        found = {key: json_of(texts[key]) for key in (KEY, GRAPH_KEY) if key in texts}
    except ValueError as error:
        raise ValueError(
            f"{path} has a damaged record of how it was made ({brief(error)})"
        ) from error
    if is_signed:
        try:
            found["credentials"] = read_credentials(path)
        except ValueError as error:  # the facts beside them can be read anyway
            found["credentials"] = {"state": "unread", "problems": [str(error)]}
    if not found:
        raise ValueError(f"{path} does not say how it was made")
    return found
