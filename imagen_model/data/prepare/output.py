"""Writing a prepared data set: a new folder, metadata.jsonl, manifest.json, references."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...storage.files import write_json, write_text
from ..folder import MANIFEST, METADATA
from ..item import REFERENCES, SOUND_SUFFIXES, SUFFIXES, File, Item


def write_metadata(root: Path, items: list[Item]) -> None:
    """Write `metadata.jsonl` for items under root."""
    rows = [json.dumps(item.metadata(root), ensure_ascii=False) + "\n" for item in items]
    write_text(root / METADATA, "".join(rows))


def prepare_empty(out: Path) -> None:
    """Make `out`; ValueError if it already holds something."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} already exists and is not empty; choose another folder")
    out.mkdir(parents=True, exist_ok=True)


@contextmanager
def new_folder(out: Path) -> Iterator[None]:
    """`prepare_empty`, and remove `out` again if the block fails."""
    prepare_empty(out)
    try:
        yield
    except BaseException:
        shutil.rmtree(out)
        raise


def copied_references(item: Item, beside: Path, skipped: list[str]) -> dict:
    """Copy an item's references beside its new picture; unusable ones are added to `skipped`."""
    copies: dict[str, File | None] = dict.fromkeys(REFERENCES)
    for name, (extension, content) in packed_references(item, skipped).items():
        path = beside.with_suffix(f".{extension}")
        path.write_bytes(content)
        copies[name] = File(path)
    return copies


def packed_references(item: Item, skipped: list[str]) -> dict[str, tuple[str, bytes]]:
    """{"image_ref": ("ref.png", its bytes), "audio": ("wav", its bytes)} as far as the item has
    them; unusable ones are added to `skipped`."""
    packed = {}
    for name in REFERENCES:
        file = getattr(item, name)
        if file is None:
            continue
        suffix = file.path.suffix.lower()
        known = sorted(SUFFIXES) if name == "image_ref" else SOUND_SUFFIXES
        if suffix not in known:
            skipped.append(f"{file.path}: {name} ends in {suffix!r}; expected {', '.join(known)}")
            continue
        try:
            packed[name] = ("ref" * (name == "image_ref") + suffix).lstrip("."), file.content()
        except OSError as error:
            skipped.append(f"{file.path}: {error.strerror or error}")
    return packed


def write_manifest(out: Path, manifest: dict) -> None:
    write_json(out / MANIFEST, manifest)
