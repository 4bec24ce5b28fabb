"""Statistics of a data set before training: sizes, near-duplicates, captions.

Near-duplicates are found by a 64-bit perceptual hash: the signs of the low frequencies of a 32 x 32
grey miniature (pHash). Sorting the hashes in four rotations puts those next to each other that
differ in few bits, so only neighbours are compared and a million pictures take seconds. An 8 x 8
colour miniature confirms each pair: skin tones of one emoji share a hash but are no duplicates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

HASH_PX, HASH_FREQUENCIES = 32, 8
MINIATURE_PX = 8
MAX_BITS = 8  # that may differ between the hashes of duplicates
MAX_DIFFERENCE = 3.0  # mean over the miniature, of 255
NEIGHBOURS = 8  # that are compared in each sorted order
CHUNK = 1024
_ONES = np.array([bin(byte).count("1") for byte in range(256)], np.uint8)


@dataclass(frozen=True)
class Fingerprints:
    """Perceptual hashes and miniatures; row i is picture i."""

    hashes: np.ndarray  # uint64 [N]
    miniatures: np.ndarray  # uint8 [N, C * 64]

    @classmethod
    def of(cls, pixels: Tensor) -> Fingerprints:
        """uint8 [N, C, H, W], RGBA premultiplied."""
        return cls.joined([_fingerprints(part) for part in pixels.split(CHUNK)])

    @classmethod
    def joined(cls, parts: list[Fingerprints]) -> Fingerprints:
        return cls(
            np.concatenate([part.hashes for part in parts]),
            np.concatenate([part.miniatures for part in parts]),
        )


class FingerprintCollector:
    """Fingerprints of pictures that are added one by one."""

    def __init__(self) -> None:
        self._waiting: list[np.ndarray] = []
        self._parts: list[Fingerprints] = []

    def add(self, picture: np.ndarray) -> None:
        """uint8 [C, H, W], RGBA premultiplied."""
        self._waiting.append(picture)
        if len(self._waiting) == CHUNK:
            self._compute()

    def _compute(self) -> None:
        self._parts.append(_fingerprints(torch.from_numpy(np.stack(self._waiting))))
        self._waiting = []

    def fingerprints(self) -> Fingerprints:
        """Those of all pictures that were added, at least one."""
        if self._waiting:
            self._compute()
        return Fingerprints.joined(self._parts)


def _fingerprints(pixels: Tensor) -> Fingerprints:
    """Of uint8 [n, C, H, W], a few pictures."""
    small = F.adaptive_avg_pool2d(pixels.float(), HASH_PX)  # [n, C, 32, 32]
    grey = small[:, :3].mean(dim=1)
    if pixels.shape[1] == 4:  # over white
        grey = grey + 255 - small[:, 3]
    k = torch.arange(HASH_FREQUENCIES)[:, None]
    x = torch.arange(HASH_PX) + 0.5
    basis = torch.cos(math.pi / HASH_PX * k * x)  # [8, 32], DCT-II
    # rounded, so that the hash of a blank picture is no rounding noise
    low = (basis @ grey @ basis.t()).flatten(1).round()  # [n, 64]
    signs = (low > low[:, 1:].median(dim=1, keepdim=True).values).numpy()
    hashes = np.packbits(signs, axis=1).view(np.uint64)[:, 0]
    miniature = F.adaptive_avg_pool2d(small, MINIATURE_PX).flatten(1)
    return Fingerprints(hashes, miniature.round().to(torch.uint8).numpy())


def near_duplicates(fingerprints: Fingerprints) -> dict[int, int]:
    """{index of a picture: index of an earlier near-duplicate}."""
    found: dict[int, int] = {}
    hashes, miniatures = fingerprints.hashes, fingerprints.miniatures
    for turn in range(0, 64, 16):
        turned = (hashes << np.uint64(turn)) | (hashes >> np.uint64((64 - turn) % 64))
        order = np.argsort(turned, kind="stable")
        for lag in range(1, min(NEIGHBOURS, len(order) - 1) + 1):
            a, b = order[:-lag], order[lag:]
            differing = (hashes[a] ^ hashes[b]).view(np.uint8).reshape(-1, 8)
            near = _ONES[differing].sum(axis=1) <= MAX_BITS
            a, b = a[near], b[near]
            for start in range(0, len(a), CHUNK):
                one, other = a[start : start + CHUNK], b[start : start + CHUNK]
                gap = miniatures[one].astype(np.int16) - miniatures[other]
                same = np.abs(gap).mean(axis=1) <= MAX_DIFFERENCE
                first, later = np.minimum(one, other)[same], np.maximum(one, other)[same]
                for i, j in zip(first.tolist(), later.tolist(), strict=True):
                    found[j] = min(i, found.get(j, i))
    for later in sorted(found):  # copies of a copy refer to the first
        found[later] = found.get(found[later], found[later])
    return found


def describe_sizes(sides: Tensor) -> str:
    """The range and median of pictures' smaller sides."""
    low, middle, high = int(sides.min()), int(sides.median()), int(sides.max())
    return f"{low} px" if low == high else f"{low} to {high} px, median {middle}"


def describe_duplicates(found: dict[int, int], files: list[Path]) -> str:
    """The number of near-duplicates, and one of them."""
    if not found:
        return "none"
    later = min(found)
    one, other = files[later], files[found[later]]
    parts = 1 if one.name != other.name else 2  # the styles of an emoji share a file name
    shown = ("/".join(path.parts[-parts:]) for path in (one, other))
    return f"{len(found)}, such as {' like '.join(shown)}"


def describe_captions(texts: list[str]) -> str:
    """How many captions are missing, and how many are in scripts that MiniLM encodes badly."""
    missing, foreign = texts.count(""), sum(map(_is_mostly_foreign, texts))
    line = f"{missing} missing" if missing else "all there"
    if foreign:
        line += f", {foreign} in scripts of which the English text encoder knows little"
    return line


def _is_mostly_foreign(text: str) -> bool:
    """Whether most letters are beyond Latin."""
    letters = [c for c in text if c.isalpha()]
    return 2 * sum(c > "\u024f" for c in letters) > len(letters)


def report(pictures) -> dict[str, str]:
    """What is shown of a PictureDataset before training."""
    lines = {"captions": describe_captions([item.text for item in pictures.items])}
    if pictures.sides is not None:
        lines["source sizes"] = describe_sizes(pictures.sides)
    files = [item.path for item in pictures.items]
    lines["duplicates"] = describe_duplicates(near_duplicates(pictures.fingerprints()), files)
    return lines
