"""The bundled models: versioned names, and the alias of the best one."""

from __future__ import annotations

import difflib
import logging
import re
from pathlib import Path

from .storage.files import WEIGHTS_DIR

logger = logging.getLogger(__name__)

MODELS_DIR = WEIGHTS_DIR / "models"
ALIASES = {"emoji": "emoji-128-v1"}  # the best bundled model of each family
SUFFIX = ".safetensors"


def bundled_models() -> dict[str, Path]:
    """Name -> file of every bundled model, sorted by name."""
    return {path.stem: path for path in sorted(MODELS_DIR.glob(f"*{SUFFIX}"))}


def bundled_model(name: str) -> Path | None:
    """The file of a bundled name or alias; None if there is no such model.

    A version that is no longer bundled gives its newest successor, with one warning.
    """
    models, known = bundled_models(), ALIASES.get(name, name)
    if known in models:
        return models[known]
    successor = _successor(known, models)
    if successor is None:
        return None
    logger.warning("model %s is no longer bundled; using %s", name, successor)
    return models[successor]


def find_model(name: str) -> Path:
    """The file of a bundled name or alias as `bundled_model` finds it, or of a path.

    ValueError lists the bundled names and suggests the nearest.
    """
    if not name.strip():
        raise ValueError(f"no model named; bundled are {', '.join(bundled_models())}")
    path, models = Path(name), bundled_models()
    if ALIASES.get(name, name) not in models and path.is_file():
        return path
    found = bundled_model(name)
    if found:
        return found
    if path.suffix == SUFFIX or len(path.parts) > 1:
        raise ValueError(f"no checkpoint {path}")
    names = [*ALIASES, *models]
    near = difflib.get_close_matches(name, names, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    raise ValueError(f"no model {name!r}{hint}; bundled in {MODELS_DIR}: {', '.join(names)}")


def _successor(name: str, models: dict[str, Path]) -> str | None:
    """The newest version of the same family and resolution, else the family's alias."""
    match = re.fullmatch(r"(?P<family>\w+)-(?P<resolution>\d+)-v(?P<version>\d+)", name)
    if match is None:
        return None
    stem = f"{match['family']}-{match['resolution']}-v"
    versions = [int(m.removeprefix(stem)) for m in models if m.startswith(stem)]
    if versions:
        return f"{stem}{max(versions)}"
    best = ALIASES.get(match["family"])
    return best if best in models else None
