"""Folders of pictures -> items.

The convention is Hugging Face's imagefolder: pictures beside a `metadata.jsonl` (or a
`metadata.csv`) whose rows have `file_name` and optionally `text`, `keywords`, `style`, `hexcode`,
`base`, `weight`, and the files `image_ref` and `audio` (references.py). Four others are read:
captions in .txt files beside the pictures, folders that name a class, bare pictures, and WebDataset
shards (webdataset.py).
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from ..storage.files import brief, json_of, storable
from .item import COLUMNS, REFERENCES, SOUND_SUFFIXES, SUFFIXES, File, Item, item_of
from .reading import LeftOut, decoded, kind_of, leads_out, refusal_of_link, refuse, walk
from .webdataset import TAR, items_of_shards, shards_in

METADATA = "metadata.jsonl"
MANIFEST = "manifest.json"
METADATA_CSV = "metadata.csv"
TABLES = (METADATA, METADATA_CSV)
TEXT = ".txt"
SPLITS = {"train", "test"}


class Listing(NamedTuple):
    """The items of a folder, and what else is in it."""

    items: list[Item]
    left_out: LeftOut


def read_items(root: Path, *, split: str = "train") -> list[Item]:
    """The items of `list_items`."""
    return list_items(root, split=split).items


def list_items(root: Path, *, split: str = "train") -> Listing:
    """The items of a folder, or of its `split` subfolder if it has one, and what is left out.

    ValueError with one line if there is nothing to read.
    """
    root, left_out = Path(root), LeftOut()
    if not root.is_dir():
        raise ValueError(f"no folder {root}; expected a folder of pictures")
    if (root / split).is_dir():
        for path in walk(root, LeftOut(), but={*SPLITS, split}):
            if path.suffix.lower() in {*SUFFIXES, TAR} or path.name in TABLES:
                left_out.add(f"outside {split}/", path.name)
        root = root / split
    elif split != "train":
        raise ValueError(f"{root} has no split {split!r}; expected train/ and {split}/ in it")
    table = next((root / name for name in TABLES if (root / name).is_file()), None)
    if table is not None:
        items = list(_from_rows(root, table, left_out))
    elif shards := shards_in(root):
        items = list(items_of_shards(shards, left_out))
        for path in walk(root, left_out):
            if path not in shards:
                _leave_out(path, "beside shards", left_out)
    else:
        items = list(_from_files(root, left_out))
    if not items:
        raise ValueError(f"no pictures in {root}; expected {', '.join(sorted(SUFFIXES))}{left_out}")
    return Listing(items, left_out)


def _leave_out(path: Path, where: str, left_out: LeftOut) -> None:
    """Count a file that is not used. `where` says why, if it has a suffix that is read."""
    suffix = path.suffix.lower()
    if suffix in SUFFIXES:
        left_out.add(where, path.name)
    elif suffix in (TEXT, *SOUND_SUFFIXES):
        left_out.add(f"{suffix} ({where})", path.name)
    elif suffix == TAR or path.name in TABLES:
        left_out.add(f"{path.name if path.name in TABLES else TAR} ({where})", path.name)
    elif path.name != MANIFEST:
        left_out.add(f"{kind_of(path.suffix)} (not a format that is read)")


def _json_rows(path: Path, problems: list[str]) -> Iterator[tuple[int, dict]]:
    # not splitlines(): captions may hold other characters at which it splits
    for number, line in enumerate(decoded(path.read_bytes(), path).split("\n"), start=1):
        if line.strip():
            try:
                row = json_of(line)
                row["file_name"]
            except (ValueError, KeyError, TypeError) as error:
                problems.append(_bad_row(path, number, error))
            else:
                yield number, row


def _bad_row(path: Path, number: int, error: Exception) -> str:
    return f"{path} line {number}: expected a JSON object with file_name ({brief(error)})"


def _csv_rows(path: Path) -> Iterator[tuple[int, dict]]:
    reader = csv.DictReader(io.StringIO(decoded(path.read_bytes(), path), newline=""))
    if "file_name" not in (reader.fieldnames or ()):
        raise ValueError(
            f"{path} has the columns {brief(', '.join(reader.fieldnames or ['none']))}; "
            "expected file_name and text"
        )
    for row in reader:
        # surplus values have no name; an empty weight counts as none
        yield reader.line_num, {k: v for k, v in row.items() if k and (v or k != "weight")}


def _from_rows(root: Path, table: Path, left_out: LeftOut) -> Iterator[Item]:
    """The items of a metadata file."""
    columns: set[str] = set()
    problems: list[str] = []
    used = {_normal(table)}
    inside = root.resolve()
    rows = _json_rows(table, problems) if table.name == METADATA else _csv_rows(table)
    for number, row in rows:
        columns |= row.keys()
        files = {name: row[name] for name in REFERENCES if row.get(name)}
        try:
            references: dict[str, Any] = {name: File(root / f) for name, f in files.items()}
            item = replace(item_of(root / row["file_name"], row), **references)
        except (TypeError, ValueError) as error:
            problems.append(_bad_row(table, number, error))
            continue
        for name in filter(None, (row["file_name"], *files.values())):
            used.add(_normal(root / name))
            if inside not in (root / name).resolve().parents:
                problems.append(f"{table} line {number}: {name} is outside the folder")
        yield item
    refuse(problems)
    others = sorted(columns - {"file_name"})
    if others and not columns & {*COLUMNS, *REFERENCES}:
        raise ValueError(
            f"{table} has the columns file_name, {', '.join(others)}; "
            "expected file_name and text (and where known keywords, style, weight)"
        )
    for path in walk(root, left_out):
        if _normal(path) not in used:
            _leave_out(path, f"not named in {table.name}", left_out)


def _normal(path: Path) -> str:
    """A path that equals those which are written in another way."""
    return os.path.normcase(os.path.normpath(path))


def _from_files(root: Path, left_out: LeftOut) -> Iterator[Item]:
    """The items of a folder without a metadata file."""
    inside = root.resolve()
    problems: list[str] = []
    files = list(walk(root, left_out, leading_out=problems))
    beside = {(path.parent, path.stem, path.suffix.lower()): path for path in files}
    used: set[Path] = set()
    for path in sorted(p for p in files if p.suffix.lower() in SUFFIXES):
        sidecar = beside.get((path.parent, path.stem, TEXT))
        recordings = (beside.get((path.parent, path.stem, suffix)) for suffix in SOUND_SUFFIXES)
        audio = next(filter(None, recordings), None)
        used |= {path, *filter(None, (sidecar, audio))}
        try:
            for part in filter(None, (path, sidecar, audio)):
                if part.is_symlink() and leads_out(part, inside):
                    raise ValueError(refusal_of_link(part, root))
            text = _caption(path, sidecar, root)
        except ValueError as error:
            problems.append(str(error))
        else:
            yield Item(path, text=text, audio=File(audio) if audio else None)
    refuse(list(dict.fromkeys(problems)))
    for path in files:
        if path not in used:
            known = path.suffix.lower() in (TEXT, *SOUND_SUFFIXES)
            where = "no picture of this name" if known else "read only at the top of the folder"
            _leave_out(path, where, left_out)


def _caption(picture: Path, sidecar: Path | None, root: Path) -> str:
    """The text of the file beside a picture, else the name of its class folder."""
    if sidecar is not None:
        return decoded(sidecar.read_bytes(), sidecar).strip()
    if picture.parent == root:
        return ""
    return storable(picture.parent.name).replace("_", " ").replace("-", " ").strip()


def read_notice(data: Path) -> str:
    """The notice in a data set's manifest that goes with every model and picture; else ""."""
    for folder in (data, data.parent):  # `data` is a data set or its split
        try:
            notice = json_of((folder / MANIFEST).read_text(encoding="utf-8")).get("notice", "")
        except (OSError, ValueError, AttributeError):  # missing, or another program's
            continue
        return notice if isinstance(notice, str) else ""
    return ""
