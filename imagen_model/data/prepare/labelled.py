"""Data sets that grow by batches of labelled pictures, as the nodes write and read them.

The format is folder.py's: `train/LABEL/NUMBER.png`, and a line for each picture in
`train/metadata.jsonl`, with the sha256 of its file. A batch is appended completely or not at all.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ...progress import OnProgress, reported
from ...storage.files import sha256_of, storable, write_text
from ...storage.images import save_png
from ..folder import METADATA
from ..item import SUFFIXES, Item, stamp_of

TRAIN = "train"
UNLABELLED = "unlabelled"
MAX_NAME = 60  # characters of a label's folder


def label_folder(label: str) -> str:
    """A label as the name of a folder: its words in lower case, joined by underscores."""
    return "_".join(re.findall(r"\w+", label.lower()))[:MAX_NAME].strip("_") or UNLABELLED


def append_labelled(
    root: Path,
    pictures: Sequence[Tensor],
    captions: Sequence[str],
    *,
    style: str = "",
    facts: Sequence[dict] = (),
    graph: dict | None = None,
    progress: OnProgress | None = None,
) -> list[Path]:
    """Add pictures [C, H, W] in [-1, 1] to the data set `root`; returns their files.

    Give one caption, which is also the label, for all pictures or one each. Four channels are
    premultiplied RGBA, and are written with straight alpha. `facts`, for all pictures or one each,
    and ComfyUI's `graph` go into each file (provenance.py). `progress` may raise to cancel: then
    nothing of the batch stays. ValueError for captions that do not fit, and for a folder whose
    pictures this function has not written.
    """
    n = len(pictures)
    if len(captions) not in (1, n):
        raise ValueError(f"{len(captions)} captions do not fit {n} pictures; expected 1 or {n}")
    if len(facts) not in (0, 1, n):
        raise ValueError(f"facts of {len(facts)} pictures do not fit {n}; expected 1 or {n}")
    captions = [storable(text) for text in captions] * (n // len(captions))
    folder = Path(root) / TRAIN
    known = folder / METADATA
    if not known.is_file() and any(p.suffix.lower() in SUFFIXES for p in Path(root).rglob("*")):
        raise ValueError(f"{root} holds pictures that are in no {TRAIN}/{METADATA}; name another")
    written: list[Path] = []
    rows = []
    try:
        numbers: dict[Path, int] = {}
        pairs = zip(pictures, captions, strict=True)
        for picture, caption in reported(pairs, n, progress):
            label = folder / label_folder(caption)
            if label not in numbers:
                numbers[label] = next_number(label)
            path = label / f"{numbers[label]:07d}.png"
            record = {**facts[len(written) % len(facts)], "prompt": caption} if facts else None
            save_png(picture, path, record, graph=graph)
            written.append(path)
            numbers[label] += 1
            item = Item(path, text=caption.strip(), style=storable(style))
            rows.append({**item.metadata(folder), "sha256": sha256_of(path)})
        text = known.read_text(encoding="utf-8") if known.is_file() else ""
        text += "\n" * bool(text and not text.endswith("\n"))
        text += "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        write_text(known, text)
    except BaseException:
        for path in written:
            path.unlink()
        raise
    return written


def next_number(folder: Path) -> int:
    """One more than the largest number of the folder's files."""
    numbers = [int(p.stem) for p in folder.glob("*.png") if p.stem.isdecimal()]
    return max(numbers, default=-1) + 1


def chosen(items: list[Item], limit: int, *, shuffle_seed: int | None = None) -> list[Item]:
    """At most `limit` items: the first ones, or with `shuffle_seed` random ones."""
    if limit < 1:
        raise ValueError(f"limit is {limit}; expected 1 or more")
    if shuffle_seed is None:
        return items[:limit]
    generator = torch.Generator().manual_seed(shuffle_seed)
    return [items[i] for i in torch.randperm(len(items), generator=generator)[:limit].tolist()]


def folder_state(root: Path, check: Callable[[], object] = lambda: None) -> str:
    """A hash that changes whenever a file below `root` is added, removed or changed.

    `check` is called for each file, and may raise to stop.
    """
    states = []
    for path in Path(root).rglob("*"):
        check()
        if stamp := stamp_of(path):
            states.append(f"{path.relative_to(root).as_posix()} {stamp}")
    text = "\n".join(sorted(states))
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()
