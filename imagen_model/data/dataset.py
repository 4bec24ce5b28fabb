"""The pictures to train on: the interface of every data set, and the one in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ..device import sent
from ..progress import OnProgress
from .image_reader import CHUNK, check_skipped, read_all, warn_of_cropped
from .item import Item, styles_of
from .statistics import Fingerprints

ALL = slice(None)


class PictureDataset(Protocol):
    """What training needs: InMemoryDataset or streaming.StreamedDataset."""

    items: list[Item]
    skipped: list[str]  # "file: why"
    left_out: str  # what else the folder holds, as text to append; "" if nothing or unknown

    def __len__(self) -> int: ...

    @property
    def sides(self) -> Tensor | None:
        """[N] the smaller side of each file in pixels, if known."""

    @property
    def channels(self) -> int:
        """1 grey, 3 RGB, 4 premultiplied RGBA."""

    @property
    def styles(self) -> tuple[str, ...]:
        """The names of all styles, sorted."""

    def batch(self, index: Tensor, device: torch.device | str = "cpu") -> Tensor:
        """float [n, C, H, W] in [-1, 1] of items `index` on `device`."""

    def keep_on(self, device: torch.device) -> None:
        """Keep a copy of the pictures on a GPU that has room for it."""

    def prefetch(self, index: Tensor) -> None:
        """Begin to read items `index`, the next batch."""

    def with_fewest_channels(self) -> PictureDataset:
        """RGB if all RGBA pictures are opaque, grey if all are grey, else the set itself."""

    def miniatures(self, rows: slice = ALL) -> Tensor:
        """float [n, C * 64] the pictures `rows` at 8 x 8, in [0, 1]."""

    def fingerprints(self) -> Fingerprints:
        """For finding near-duplicates."""

    def content_hash(self) -> str:
        """sha256 over the sorted hashes of the pictures, whatever their order."""

    def save(self, folder: Path) -> None:
        """Cache in `folder` what a resumed run need not compute again."""


@dataclass
class InMemoryDataset:
    """A PictureDataset in memory: uint8 [N, C, H, W], RGBA premultiplied, and its items."""

    items: list[Item]
    pixels: Tensor
    skipped: list[str] = field(default_factory=list)  # "file: why"
    sides: Tensor | None = None  # [N] the smaller side of each file in pixels
    left_out: str = ""
    copy: Tensor | None = field(default=None, init=False)  # of the pixels, on a GPU

    def __len__(self) -> int:
        return len(self.items)

    @property
    def channels(self) -> int:
        return self.pixels.shape[1]

    def batch(self, index: Tensor, device: torch.device | str = "cpu") -> Tensor:
        if self.copy is not None and self.copy.device == torch.device(device):
            pictures = self.copy[sent(index, device)]
        else:
            pictures = sent(self.pixels[index], device)
        return pictures.float() / 127.5 - 1

    def keep_on(self, device: torch.device) -> None:
        if device.type == "cuda" and self.pixels.nbytes < torch.cuda.mem_get_info(device)[0] / 4:
            self.copy = self.pixels.to(device)

    @property
    def styles(self) -> tuple[str, ...]:
        return styles_of(self.items)

    def with_fewest_channels(self) -> InMemoryDataset:
        channels = fewest_channels(self.pixels)
        if channels == self.channels:
            return self
        return replace(self, pixels=self.pixels[:, :channels].contiguous())

    def miniatures(self, rows: slice = ALL) -> Tensor:
        pixels = self.pixels[rows]
        parts = [F.adaptive_avg_pool2d(p.float() / 255, 8) for p in pixels.split(CHUNK)]
        return torch.cat(parts).flatten(1)

    def save(self, folder: Path) -> None:
        """A data set in memory caches nothing."""

    def fingerprints(self) -> Fingerprints:
        return Fingerprints.of(self.pixels)

    def prefetch(self, index: Tensor) -> None:
        """Nothing to do: the pictures are in memory."""

    def content_hash(self) -> str:
        return hash_of_hashes(hashlib.sha256(p.numpy().tobytes()).hexdigest() for p in self.pixels)


def hash_of_hashes(hashes: Iterable[str]) -> str:
    """sha256 of the sorted hex hashes, one a line."""
    digest, end = hashlib.sha256(), b""
    for text in sorted(hashes):
        digest.update(end + text.encode())
        end = b"\n"
    return digest.hexdigest()


def fewest_channels(pixels: Tensor) -> int:
    """How many channels uint8 [N, C, H, W] needs: 3 if opaque, 1 if grey too."""
    channels = pixels.shape[1]
    if channels == 4 and bool((pixels[:, 3] == 255).all()):
        channels = 3
    if channels == 3 and all(torch.equal(pixels[:, 0], pixels[:, c]) for c in (1, 2)):
        channels = 1
    return channels


def load_pictures(
    items: list[Item], *, resolution: int, channels: int, progress: OnProgress | None = None
) -> InMemoryDataset:
    """Read all pictures into memory; unreadable ones are skipped and listed."""
    kept: list[Item] = []
    skipped, sides, cropped = [], [], 0
    pixels = torch.empty(len(items), channels, resolution, resolution, dtype=torch.uint8)
    results = read_all(items, resolution=resolution, channels=channels, progress=progress)
    for item, result in zip(items, results, strict=True):
        if isinstance(result, str):
            skipped.append(result)
        else:
            pixels[len(kept)] = torch.from_numpy(result[0])
            kept.append(item)
            sides.append(result[1].side)
            cropped += result[1].is_cropped
    check_skipped(skipped, len(kept))
    warn_of_cropped(cropped, len(kept))
    return InMemoryDataset(kept, pixels[: len(kept)], skipped, torch.tensor(sides))
