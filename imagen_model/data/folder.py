"""Folders of pictures -> items.

The convention is Hugging Face's imagefolder: pictures beside a `metadata.jsonl` (or a
`metadata.csv`) whose rows have `file_name` and optionally `text`, `keywords`, `style`, `hexcode`,
`base`, `weight`, and the files `image_ref` and `audio` (references.py). Four others are read:
captions in .txt files beside the pictures, folders that name a class, bare pictures, and WebDataset
shards (webdataset.py).
"""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..storage.files import json_of, storable
from .item import COLUMNS, REFERENCES, SOUND_SUFFIXES, SUFFIXES, File, Item, is_hidden, item_of
from .webdataset import items_of_shards, shards_in

METADATA = "metadata.jsonl"
MANIFEST = "manifest.json"
METADATA_CSV = "metadata.csv"


def read_items(root: Path, *, split: str = "train") -> list[Item]:
    """The items of a folder, or of its `split` subfolder if it has one.

    ValueError with one line if there is nothing to read.
    """
    root = Path(root)
    if not root.is_dir():
        raise ValueError(f"no folder {root}; expected a folder of pictures")
    if (root / split).is_dir():
        root = root / split
    elif split != "train":
        raise ValueError(f"{root} has no split {split!r}")
    if (root / METADATA).is_file():
        items = list(_from_rows(root, root / METADATA, _json_rows(root / METADATA)))
    elif (root / METADATA_CSV).is_file():
        items = list(_from_rows(root, root / METADATA_CSV, _csv_rows(root / METADATA_CSV)))
    else:
        shards = shards_in(root)
        items = list(items_of_shards(shards) if shards else _from_files(root))
    if not items:
        raise ValueError(f"no pictures in {root}; expected {', '.join(sorted(SUFFIXES))}")
    return items


def _json_rows(path: Path) -> Iterator[tuple[int, dict]]:
    # not splitlines(): captions may hold other characters at which it splits
    for number, line in enumerate(_text_of(path).split("\n"), start=1):
        if line.strip():
            try:
                row = json_of(line)
                row["file_name"]
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{path} line {number}: expected a JSON object with file_name ({error})"
                ) from None
            yield number, row


def _csv_rows(path: Path) -> Iterator[tuple[int, dict]]:
    reader = csv.DictReader(io.StringIO(_text_of(path), newline=""))
    if "file_name" not in (reader.fieldnames or ()):
        raise ValueError(
            f"{path} has the columns {', '.join(reader.fieldnames or ['none'])}; "
            "expected file_name and text"
        )
    for row in reader:
        # surplus values have no name; an empty weight counts as none
        yield reader.line_num, {k: v for k, v in row.items() if k and (v or k != "weight")}


def _text_of(path: Path) -> str:
    """A text file in UTF-8, or in UTF-16 with its byte order mark."""
    data = path.read_bytes()
    utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = data.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:  # as in UTF-16 without its mark
        raise ValueError(f"{path} is not UTF-8 text; save it as UTF-8")
    return text


def _from_rows(root: Path, path: Path, rows: Iterable[tuple[int, dict]]) -> Iterator[Item]:
    """The items of a metadata file's rows (line number, values)."""
    columns: set[str] = set()
    inside = root.resolve()
    for number, row in rows:
        columns |= row.keys()
        files = {name: row[name] for name in REFERENCES if row.get(name)}
        try:
            references: dict[str, Any] = {name: File(root / f) for name, f in files.items()}
            item = replace(item_of(root / row["file_name"], row), **references)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{path} line {number}: expected a JSON object with file_name ({error})"
            ) from None
        for name in filter(None, (row["file_name"], *files.values())):
            if inside not in (root / name).resolve().parents:
                raise ValueError(f"{path} line {number}: {name} is outside the folder")
        yield item
    others = sorted(columns - {"file_name"})
    if others and not columns & {*COLUMNS, *REFERENCES}:
        raise ValueError(
            f"{path} has the columns file_name, {', '.join(others)}; "
            "expected file_name and text (and where known keywords, style, weight)"
        )


def _from_files(root: Path) -> Iterable[Item]:
    inside = root.resolve()

    def used(path: Path) -> bool:
        """Whether it is a file; ValueError for a link that leads out of the folder."""
        if path.is_symlink() and inside not in path.resolve().parents:
            raise ValueError(f"{path} is a link that leads out of {root}; copy the file instead")
        return path.is_file()

    pictures = (p for p in root.rglob("*") if p.suffix.lower() in SUFFIXES)
    for path in sorted(p for p in pictures if not is_hidden(p, root) and used(p)):
        sidecar = path.with_suffix(".txt")
        if used(sidecar):
            text = _text_of(sidecar).strip()
        elif path.parent != root:  # a class folder: its name is the caption
            text = storable(path.parent.name).replace("_", " ").replace("-", " ").strip()
        else:
            text = ""
        recordings = [File(path.with_suffix(suffix)) for suffix in SOUND_SUFFIXES]
        audio = next((file for file in recordings if used(file.path)), None)
        yield Item(path, text=text, audio=audio)


def read_notice(data: Path) -> str:
    """The notice in a data set's manifest that goes with every model and picture; else ""."""
    for folder in (data, data.parent):  # `data` is a data set or its split
        try:
            notice = json_of((folder / MANIFEST).read_text(encoding="utf-8")).get("notice", "")
        except (OSError, ValueError, AttributeError):  # missing, or another program's
            continue
        return notice if isinstance(notice, str) else ""
    return ""
