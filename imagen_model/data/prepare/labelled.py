"""Labelled folders, a batch at a time: what the nodes write, and a part of a folder read back.

Written is folder.py's convention: `train/LABEL/NUMBER.png`, a folder for each label, and one line
for each picture in `train/metadata.jsonl`, with the sha256 of its file. Batches are appended: all
of one is there afterwards, or nothing of it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ...progress import OnProgress
from ...storage.files import sha256_of, storable, write_text
from ...storage.images import save_png
from ..folder import METADATA
from ..item import SUFFIXES, Item

TRAIN = "train"
UNLABELLED = "unlabelled"
MAX_NAME = 60  # characters of a label's folder


def label_folder(label: str) -> str:
    """A label as the name of a folder: its words in small letters, joined by underscores."""
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

    One caption serves all pictures, or one each; it is the label, too. Four channels are
    premultiplied RGBA, and are written with straight alpha. `facts`, one for all pictures or one
    each, and ComfyUI's `graph` say in each file where it comes from (provenance.py). `progress` may
    raise to cancel: then nothing of the batch stays. ValueError for captions that do not fit, and
    for a folder whose pictures this function has not written.
    """
    if len(captions) not in (1, len(pictures)):
        raise ValueError(
            f"{len(captions)} captions do not fit {len(pictures)} pictures; "
            f"expected 1 or {len(pictures)}"
        )
    if len(facts) not in (0, 1, len(pictures)):
        raise ValueError(
            f"facts of {len(facts)} pictures do not fit {len(pictures)}; "
            f"expected 1 or {len(pictures)}"
        )
    captions = [storable(text) for text in captions] * (len(pictures) // len(captions))
    folder = Path(root) / TRAIN
    known = folder / METADATA
    if not known.is_file() and any(p.suffix.lower() in SUFFIXES for p in Path(root).rglob("*")):
        raise ValueError(f"{root} holds pictures that are in no {TRAIN}/{METADATA}; name another")
    written: list[Path] = []
    rows = []
    try:
        numbers: dict[Path, int] = {}
        for picture, caption in zip(pictures, captions, strict=True):
            label = folder / label_folder(caption)
            if label not in numbers:
                numbers[label] = next_number(label)
            path = label / f"{numbers[label]:07d}.png"
            made = {**facts[len(written) % len(facts)], "prompt": caption} if facts else None
            save_png(picture, path, made, graph=graph)
            written.append(path)
            numbers[label] += 1
            item = Item(path, text=caption.strip(), style=storable(style))
            rows.append({**item.metadata(folder), "sha256": sha256_of(path)})
            if progress is not None:
                progress(len(written), len(pictures))
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
    """The first number that no file of the folder has reached."""
    numbers = [int(p.stem) for p in folder.glob("*.png") if p.stem.isdecimal()]
    return max(numbers, default=-1) + 1


def chosen(items: list[Item], limit: int, *, shuffle_seed: int | None = None) -> list[Item]:
    """At most `limit` items: the first, or with a seed any, which another seed would change."""
    if limit < 1:
        raise ValueError(f"limit is {limit}; expected 1 or more")
    order = list(range(len(items)))
    if shuffle_seed is not None:
        generator = torch.Generator().manual_seed(shuffle_seed)
        order = torch.randperm(len(items), generator=generator).tolist()
    return [items[i] for i in order[:limit]]


def folder_state(root: Path, check: Callable[[], object] = lambda: None) -> str:
    """Another text whenever a file below `root` has come, gone or changed.

    `check` is called for each file, and may raise to stop.
    """
    states = []
    for path in Path(root).rglob("*"):
        check()
        if path.is_file():
            stat = path.stat()
            name = path.relative_to(root).as_posix()
            states.append(f"{name} {stat.st_size} {stat.st_mtime_ns}")
    text = "\n".join(sorted(states))
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()
