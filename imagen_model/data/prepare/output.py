"""What every prepared data set has: a new folder, metadata.jsonl, manifest.json, references."""

from __future__ import annotations

import json
from pathlib import Path

from ...storage.files import write_json, write_text
from ..folder import MANIFEST, METADATA
from ..item import REFERENCES, SOUND_SUFFIXES, SUFFIXES, File, Item


def write_metadata(root: Path, items: list[Item]) -> None:
    """Write `metadata.jsonl` for items under root."""
    lines = [json.dumps(s.metadata(root), ensure_ascii=False) for s in items]
    text = "".join(line + "\n" for line in lines)
    write_text(root / METADATA, text)


def prepare_empty(out: Path) -> None:
    """Make `out`; ValueError where it already holds something."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} already exists and is not empty; choose another --out")
    out.mkdir(parents=True, exist_ok=True)


def copied_references(item: Item, beside: Path, skipped: list[str]) -> dict:
    """An item's references, copied beside its new picture; what is missing is in `skipped`."""
    copies: dict[str, File | None] = dict.fromkeys(REFERENCES)
    for name, (extension, content) in packed_references(item, skipped).items():
        path = beside.with_suffix(f".{extension}")
        path.write_bytes(content)
        copies[name] = File(path)
    return copies


def packed_references(item: Item, skipped: list[str]) -> dict[str, tuple[str, bytes]]:
    """{"image_ref": ("ref.png", its bytes), "audio": ("wav", its bytes)} as far as they are there;
    what is missing is told in `skipped`."""
    packed = {}
    for name in REFERENCES:
        file = getattr(item, name)
        if file is None:
            continue
        suffix = file.path.suffix.lower()
        expected = sorted(SUFFIXES) if name == "image_ref" else SOUND_SUFFIXES
        if suffix not in expected:
            skipped.append(
                f"{file.path}: {name} ends in {suffix!r}; expected {', '.join(expected)}"
            )
            continue
        try:
            packed[name] = ("ref" * (name == "image_ref") + suffix).lstrip("."), file.content()
        except OSError as error:
            skipped.append(f"{file.path}: {error.strerror or error}")
    return packed


def write_manifest(out: Path, manifest: dict) -> None:
    write_json(out / MANIFEST, manifest)
