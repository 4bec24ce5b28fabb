"""Icon sets as Iconify packs them (npm `@iconify-json/*`): SVG bodies by name, rendered by resvg.

`icons.json` has the bodies, with a default width and height and with aliases; `chars.json`, which
may be empty, the code points of some names.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ...storage.images import open_image

SVG = (
    '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
    'viewBox="{left} {top} {width} {height}" width="{width}" height="{height}">{body}</svg>'
)
INHERITED = {"left": 0, "top": 0, "width": 16, "height": 16}  # Iconify's defaults


@dataclass(frozen=True)
class Icon:
    """One icon of a set."""

    name: str
    other_names: tuple[str, ...]
    svg: str


def read_icons(package: Path) -> tuple[list[Icon], dict[str, str]]:
    """The icons of an unpacked package in the order of their names, and the name of every code
    point sequence (lower case, joined by `-`) that the set lists.

    ValueError if the package is not there or no icon set.
    """
    facts: list[Any] = []
    for file in ("icons.json", "chars.json"):
        path = package / file
        if not path.is_file():
            raise ValueError(f"{path} is missing; expected an unpacked icon set")
        facts.append(json.loads(path.read_text(encoding="utf-8")))
    table, names_of_chars = facts
    aliases: dict[str, list[str]] = {}
    for alias, entry in table.get("aliases", {}).items():
        aliases.setdefault(entry["parent"], []).append(alias)
    default = {key: table.get(key, value) for key, value in INHERITED.items()}
    icons = []
    for name, icon in sorted(table["icons"].items()):
        box = {key: icon.get(key, value) for key, value in default.items()}
        svg = SVG.format(body=icon["body"], **box)
        icons.append(Icon(name, tuple(sorted(aliases.get(name, ()))), svg))
    parents = {alias: parent for parent, names in aliases.items() for alias in names}
    return icons, {char: parents.get(name, name) for char, name in names_of_chars.items()}


def rendered(svg: str, side: int) -> Image.Image:
    """RGBA; the longer side has `side` pixels. ValueError where resvg is not installed."""
    try:
        import resvg_py
    except ImportError:
        raise ValueError(
            "these pictures are SVG, which resvg draws; pip install 'imagen-gan[train]'"
        ) from None
    # with both sides given, resvg fits the drawing in and keeps its proportions
    png = resvg_py.svg_to_bytes(svg_string=svg, width=side, height=side)
    return open_image(io.BytesIO(bytes(png))).convert("RGBA")
