"""A set of pictures to train on: what every such set offers, and the one that fits in memory."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ..progress import OnProgress
from .image_reader import CHUNK, read_all, refuse_or_tell
from .item import Item, styles_of
from .statistics import Fingerprints


class PictureDataset(Protocol):
    """What training needs of a set of pictures, wherever they are: InMemoryDataset, or
    streaming.StreamedDataset."""

    items: list[Item]
    skipped: list[str]  # "file: why"

    def __len__(self) -> int: ...

    @property
    def sides(self) -> Tensor | None:
        """[N] the smaller side of each file in pixels, where it is known."""

    @property
    def channels(self) -> int:
        """1 grey, 3 RGB, 4 premultiplied RGBA."""

    @property
    def styles(self) -> tuple[str, ...]:
        """The names of all styles, sorted."""

    def batch(self, index: Tensor, device: torch.device | str = "cpu") -> Tensor:
        """float [n, C, H, W] in [-1, 1] of items `index` on `device`."""

    def prefetch(self, index: Tensor) -> None:
        """Items `index` are the next batch: begin to read them."""

    def with_fewest_channels(self) -> PictureDataset:
        """RGB where all of an RGBA set are opaque, grey where all are grey."""

    def miniatures(self) -> Tensor:
        """float [N, C * 64] every picture at 8 x 8, in [0, 1]."""

    def fingerprints(self) -> Fingerprints:
        """What near-duplicates are found by."""

    def content_hash(self) -> str:
        """sha256 over the sorted hashes of the pictures: names the training list."""

    def save(self, folder: Path) -> None:
        """Keep in `folder` what a resumed run need not compute again."""


@dataclass
class InMemoryDataset:
    """Pictures in memory: uint8 [N, C, H, W], RGBA premultiplied, with their items."""

    items: list[Item]
    pixels: Tensor
    skipped: list[str] = field(default_factory=list)  # "file: why"
    sides: Tensor | None = None  # [N] the smaller side of each file in pixels

    def __len__(self) -> int:
        return len(self.items)

    @property
    def channels(self) -> int:
        return self.pixels.shape[1]

    def batch(self, index: Tensor, device: torch.device | str = "cpu") -> Tensor:
        """float [n, C, H, W] in [-1, 1] on `device`, which gets them as bytes."""
        return self.pixels[index].to(device).float() / 127.5 - 1

    @property
    def styles(self) -> tuple[str, ...]:
        return styles_of(self.items)

    def with_fewest_channels(self) -> InMemoryDataset:
        """RGB where all of an RGBA set are opaque, grey where all are grey, else itself."""
        channels = fewest_channels(self.pixels)
        if channels == self.channels:
            return self
        return replace(self, pixels=self.pixels[:, :channels].contiguous())

    def miniatures(self) -> Tensor:
        """float [N, C * 64] every picture at 8 x 8, in [0, 1]."""
        parts = [F.adaptive_avg_pool2d(p.float() / 255, 8) for p in self.pixels.split(CHUNK)]
        return torch.cat(parts).flatten(1)

    def save(self, folder: Path) -> None:
        """A set in memory keeps nothing for later."""

    def fingerprints(self) -> Fingerprints:
        return Fingerprints.of(self.pixels)

    def prefetch(self, index: Tensor) -> None:
        """Items `index` come next: nothing to do, they are in memory."""

    def content_hash(self) -> str:
        """sha256 over the sorted hashes of the pictures: names the training list."""
        hashes = sorted(hashlib.sha256(p.numpy().tobytes()).hexdigest() for p in self.pixels)
        return hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def fewest_channels(pixels: Tensor) -> int:
    """How many of the channels of uint8 [N, C, H, W] carry something."""
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
    skipped, sides = [], []
    pixels = torch.empty(len(items), channels, resolution, resolution, dtype=torch.uint8)
    results = read_all(items, resolution=resolution, channels=channels, progress=progress)
    for item, result in zip(items, results, strict=True):
        if isinstance(result, str):
            skipped.append(result)
        else:
            pixels[len(kept)] = torch.from_numpy(result[0])
            kept.append(item)
            sides.append(result[1])
    refuse_or_tell(skipped, len(kept))
    return InMemoryDataset(kept, pixels[: len(kept)], skipped, torch.tensor(sides))
