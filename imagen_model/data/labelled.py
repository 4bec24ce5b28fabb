"""Labelled folders, a batch at a time: what the nodes write, and a part of a folder read back.

Written is folder.py's convention: `train/LABEL/NUMBER.png`, a folder for each label, and one line
for each picture in `train/metadata.jsonl`, with the sha256 of its file. Batches are appended: all
of one is there afterwards, or nothing of it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ..files import sha256_of, write_atomically
from ..grid import to_image
from .folder import METADATA, SUFFIXES, Sample

TRAIN = "train"
UNLABELLED = "unlabelled"
MAX_NAME = 60  # characters of a label's folder


def label_folder(label: str) -> str:
    """A label as the name of a folder: its words in small letters, joined by underscores."""
    return "_".join(re.findall(r"\w+", label.lower()))[:MAX_NAME].strip("_") or UNLABELLED


def append_labelled(
    root: Path, pictures: Sequence[Tensor], captions: Sequence[str], *, style: str = ""
) -> list[Path]:
    """Add pictures [C, H, W] in [-1, 1] to the data set `root`; returns their files.

    One caption serves all pictures, or one each; it is the label, too. Four channels are
    premultiplied RGBA, and are written with straight alpha. ValueError for captions that do not
    fit, and for a folder whose pictures this function has not written.
    """
    if len(captions) not in (1, len(pictures)):
        raise ValueError(
            f"{len(captions)} captions do not fit {len(pictures)} pictures; "
            f"expected 1 or {len(pictures)}"
        )
    captions = [*captions] * (len(pictures) // len(captions))
    folder = Path(root) / TRAIN
    known = folder / METADATA
    if not known.is_file() and any(p.suffix.lower() in SUFFIXES for p in Path(root).rglob("*")):
        raise ValueError(f"{root} holds pictures that are in no {TRAIN}/{METADATA}; name another")
    written: list[Path] = []
    rows = []
    try:
        for picture, caption in zip(pictures, captions, strict=True):
            path = next_file(folder / label_folder(caption))
            write_atomically(path, partial(to_image(picture).save, format="PNG"))
            written.append(path)
            sample = Sample(path, text=caption.strip(), style=style)
            rows.append({**sample.metadata(folder), "sha256": sha256_of(path)})
        text = known.read_text(encoding="utf-8") if known.is_file() else ""
        text += "\n" * bool(text and not text.endswith("\n"))
        text += "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        write_atomically(known, lambda p: p.write_text(text, encoding="utf-8"))
    except BaseException:
        for path in written:
            path.unlink()
        raise
    return written


def next_file(folder: Path) -> Path:
    """The first number that no file of the folder has reached."""
    numbers = [int(p.stem) for p in folder.glob("*.png") if p.stem.isdecimal()]
    return folder / f"{max(numbers, default=-1) + 1:07d}.png"


def chosen(samples: list[Sample], limit: int, *, shuffle_seed: int | None = None) -> list[Sample]:
    """At most `limit` samples: the first, or with a seed any, which another seed would change."""
    if limit < 1:
        raise ValueError(f"limit is {limit}; expected 1 or more")
    order = list(range(len(samples)))
    if shuffle_seed is not None:
        generator = torch.Generator().manual_seed(shuffle_seed)
        order = torch.randperm(len(samples), generator=generator).tolist()
    return [samples[i] for i in order[:limit]]


def folder_state(root: Path) -> str:
    """Another text whenever a file below `root` has come, gone or changed."""
    states = [
        f"{path.relative_to(root).as_posix()} {stat.st_size} {stat.st_mtime_ns}"
        for path in sorted(Path(root).rglob("*"))
        if path.is_file() and (stat := path.stat())
    ]
    return hashlib.sha256("\n".join(states).encode()).hexdigest()
