"""Data sets larger than memory: pictures are decoded when a batch needs them.

Each item knows where its bytes are, in a file or in a shard, so pictures can be read in any order.
Shards are therefore indexed (webdataset.py) and not read through a shuffle buffer: shuffling is
perfect, and order, resuming and captions are exactly those of a data set in memory. The cost is
random access, which is cheap on SSDs.

All pictures are read once before training to find the unreadable ones, the channels that are
needed, and the fingerprints (statistics.py). The run caches this survey for `--resume`.
"""

from __future__ import annotations

import hashlib
import json
import os
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from torch import Tensor

from ..device import sent
from ..progress import OnProgress
from ..storage.files import write_atomically
from ..storage.tensor_file import read_cache
from .dataset import ALL, PictureDataset, fewest_channels, hash_of_hashes, load_pictures
from .image_reader import check_skipped, premultiplied, read_all, read_item, warn_of_cropped
from .item import Item, stamp_of, styles_of
from .statistics import FingerprintCollector, Fingerprints

SURVEY = "survey.safetensors"
CHANNEL_COUNTS = (4, 3, 1)


def memory_for_pictures() -> int:
    """Bytes that pictures may take: half of the machine's memory, 4 GiB if that is unknown."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    except (AttributeError, ValueError, OSError):  # Windows
        return 4 << 30


def open_pictures(
    items: list[Item],
    *,
    resolution: int,
    channels: int,
    cache: Path | None = None,
    progress: OnProgress | None = None,
) -> PictureDataset:
    """The pictures in memory if they fit, else streamed; unreadable ones are skipped and listed.

    `cache` is a folder that may hold the survey of an earlier run.
    """
    size = len(items) * channels * resolution**2
    options = {"resolution": resolution, "channels": channels, "progress": progress}
    if size <= memory_for_pictures():
        return load_pictures(items, **options)  # type: ignore[arg-type]
    survey = Survey.cached(cache / SURVEY, items, resolution, channels) if cache else None
    survey = survey or Survey.of(items, **options)  # type: ignore[arg-type]
    check_skipped(survey.skipped, int(survey.readable.sum()))
    warn_of_cropped(survey.cropped, int(survey.readable.sum()))
    return StreamedDataset(items, survey, resolution=resolution, channels=channels)


class Survey:
    """What reading all items once has found, in columns."""

    def __init__(
        self, key: str, columns: dict[str, np.ndarray], skipped: list[str], cropped: int
    ) -> None:
        self.key, self.columns, self.skipped, self.cropped = key, columns, skipped, cropped
        self.readable = columns["readable"]  # bool [items]; other columns have rows for these alone
        self.channels, self.needed = columns["channels"].tolist()  # as read; fewest_channels

    @staticmethod
    def key_of(items: list[Item], resolution: int) -> str:
        """Hash of the resolution and of the files with their size and modification time."""
        digest, stamp = hashlib.sha256(f"{resolution}".encode()), cache(stamp_of)
        for item in items:
            where = stamp(item.file().on_disk())
            digest.update(f"{item.path} {item.span} {where}\n".encode(errors="surrogateescape"))
        return digest.hexdigest()

    @classmethod
    def of(
        cls,
        items: list[Item],
        *,
        resolution: int,
        channels: int,
        progress: OnProgress | None = None,
    ) -> Survey:
        key = cls.key_of(items, resolution)
        readable = np.zeros(len(items), bool)
        digests = np.zeros((len(items), len(CHANNEL_COUNTS), 32), np.uint8)
        sides: list[int] = []
        skipped, cropped = [], 0
        collector, needed = FingerprintCollector(), 1
        results = read_all(items, resolution=resolution, channels=channels, progress=progress)
        for i, result in enumerate(results):
            if isinstance(result, str):
                skipped.append(result)
                continue
            picture, source = result
            readable[i] = True
            for row, count in zip(digests[len(sides)], CHANNEL_COUNTS, strict=True):
                row[:] = np.frombuffer(hashlib.sha256(picture[:count].tobytes()).digest(), np.uint8)
            sides.append(source.side)
            cropped += source.is_cropped
            collector.add(picture)
            needed = max(needed, fewest_channels(torch.from_numpy(picture)[None]))
        columns = {"readable": readable, "sides": np.array(sides, np.int32)}
        if sides:
            columns |= vars(collector.fingerprints())
            columns["digests"] = digests[: len(sides)]
        columns["channels"] = np.array([channels, needed], np.int32)
        return cls(key, columns, skipped, cropped)

    def save(self, path: Path) -> None:
        skipped, cropped = json.dumps(self.skipped), str(self.cropped)
        facts = {"key": self.key, "skipped": skipped, "cropped": cropped}
        write_atomically(path, lambda new: save_file(self.columns, new, metadata=facts))

    @classmethod
    def cached(cls, path: Path, items: list[Item], resolution: int, channels: int) -> Survey | None:
        """The survey in `path` if it is of these items and covers `channels`, else None."""
        key = cls.key_of(items, resolution)
        found = read_cache(path, key)
        if found is None:
            return None
        columns = {name: column.numpy() for name, column in found[0].items()}
        facts = found[1]
        cropped = int(facts.get("cropped", 0))  # older runs did not count them
        survey = cls(key, columns, json.loads(facts["skipped"]), cropped)
        covers = survey.needed <= channels <= survey.channels or channels == survey.channels
        return survey if covers else None


class StreamedDataset:
    """A PictureDataset whose files are decoded when a batch needs them."""

    def __init__(
        self, items: list[Item], survey: Survey, *, resolution: int, channels: int
    ) -> None:
        self.items = [item for item, ok in zip(items, survey.readable, strict=True) if ok]
        self._files = self.items  # `items` may be replaced by unlabelled ones
        self.survey, self.skipped, self.left_out = survey, survey.skipped, ""
        self.sides = torch.from_numpy(survey.columns["sides"])
        self.channels = channels
        self._read = partial(read_item, resolution=resolution, channels=channels)
        self._pool = ThreadPoolExecutor()
        self._next: tuple[list[int], list[Future]] = [], []

    def __len__(self) -> int:
        return len(self.items)

    @property
    def styles(self) -> tuple[str, ...]:
        return styles_of(self.items)

    def batch(self, index: Tensor, device: torch.device | str = "cpu") -> Tensor:
        self.prefetch(index)
        pictures = [future.result() for future in self._next[1]]
        return sent(torch.from_numpy(np.stack(pictures)), device).float() / 127.5 - 1

    def keep_on(self, device: torch.device) -> None:
        """Nothing to do: the pictures are read from their files again and again."""

    def prefetch(self, index: Tensor) -> None:
        wanted = index.tolist()
        if wanted != self._next[0]:
            for future in self._next[1]:
                future.cancel()
            self._next = wanted, [self._pool.submit(self._decoded, i) for i in wanted]

    def _decoded(self, i: int) -> np.ndarray:
        array, _ = self._read(self._files[i])
        return premultiplied(array).transpose(2, 0, 1)[: self.channels]

    def with_fewest_channels(self) -> StreamedDataset:
        self.channels = min(self.channels, self.survey.needed)
        return self

    def miniatures(self, rows: slice = ALL) -> Tensor:
        return torch.from_numpy(self.fingerprints().miniatures[rows]).float() / 255

    def save(self, folder: Path) -> None:
        self.survey.save(folder / SURVEY)

    def fingerprints(self) -> Fingerprints:
        columns = self.survey.columns
        return Fingerprints(columns["hashes"], columns["miniatures"][:, : self.channels * 64])

    def content_hash(self) -> str:
        column = self.survey.columns["digests"][:, CHANNEL_COUNTS.index(self.channels)]
        return hash_of_hashes(row.tobytes().hex() for row in column)
