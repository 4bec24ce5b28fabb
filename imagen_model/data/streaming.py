"""Pictures that are decoded as batches ask for them, for sets that memory does not hold.

A folder's files and a shard's members are alike here: each item knows where its bytes are, so any
picture can be read at any time. That is why shards are indexed (webdataset.py) and not read end to
end through a shuffle buffer: the order of training, resuming in the middle of it and captions are
exactly those of a set in memory, and shuffling is perfect. The price is random access, which disks
of this decade don't mind.

Before training all pictures are read once: that finds the unreadable ones, the channels that are
needed, and the fingerprints (statistics.py). The result is kept beside the run, for `--resume`.
"""

from __future__ import annotations

import hashlib
import json
import os
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.numpy import save_file
from torch import Tensor

from ..progress import OnProgress
from ..storage.files import write_atomically
from .dataset import PictureDataset, fewest_channels, load_pictures
from .image_reader import premultiplied, read_all, read_item, refuse_or_tell
from .item import Item, styles_of
from .statistics import FingerprintCollector, Fingerprints

SURVEY = "survey.safetensors"


CHANNEL_COUNTS = (4, 3, 1)


def memory_for_pictures() -> int:
    """Bytes that pictures may take: half of the machine's memory."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    except (AttributeError, ValueError, OSError):  # Windows does not say
        return 4 << 30


def open_pictures(
    items: list[Item],
    *,
    resolution: int,
    channels: int,
    cache: Path | None = None,
    progress: OnProgress | None = None,
) -> PictureDataset:
    """The pictures in memory where they fit, else streamed; unreadable ones are skipped, listed.

    `cache` is a folder in which an earlier run may have kept its survey.
    """
    size = len(items) * channels * resolution**2
    options = {"resolution": resolution, "channels": channels, "progress": progress}
    if size <= memory_for_pictures():
        return load_pictures(items, **options)  # type: ignore[arg-type]
    survey = Survey.kept(cache / SURVEY, items, resolution, channels) if cache else None
    survey = survey or Survey.made(items, **options)  # type: ignore[arg-type]
    refuse_or_tell(survey.skipped, int(survey.readable.sum()))
    return StreamedDataset(items, survey, resolution=resolution, channels=channels)


class Survey:
    """What one reading of all items has found, in columns."""

    def __init__(self, key: str, columns: dict[str, np.ndarray], skipped: list[str]) -> None:
        self.key, self.columns, self.skipped = key, columns, skipped
        self.readable = columns["readable"]  # bool [items]; other columns have a row for those
        self.channels, self.needed = columns["channels"].tolist()  # as read; that carry something

    @staticmethod
    def key_of(items: list[Item], resolution: int) -> str:
        """Names the files as they are now, and the size at which they are read."""
        digest = hashlib.sha256(f"{resolution}".encode())
        stamps: dict[Path, str] = {}
        for item in items:
            file = item.span.shard if item.span else item.path
            if file not in stamps:
                exists = file.is_file()
                stamps[file] = f"{file.stat().st_size} {file.stat().st_mtime_ns}" if exists else ""
            stamp = f"{item.path} {item.span} {stamps[file]}\n"
            digest.update(stamp.encode(errors="surrogateescape"))
        return digest.hexdigest()

    @classmethod
    def made(
        cls,
        items: list[Item],
        *,
        resolution: int,
        channels: int,
        progress: OnProgress | None = None,
    ) -> Survey:
        key = cls.key_of(items, resolution)
        readable = np.zeros(len(items), bool)
        sides, digests, skipped = [], [], []
        collector, needed = FingerprintCollector(), 1
        results = read_all(items, resolution=resolution, channels=channels, progress=progress)
        for i, result in enumerate(results):
            if isinstance(result, str):
                skipped.append(result)
                continue
            picture, side = result
            readable[i] = True
            sides.append(side)
            digests.append([_digest(picture[:c]) for c in CHANNEL_COUNTS])
            collector.add(picture)
            needed = max(needed, fewest_channels(torch.from_numpy(picture)[None]))
        columns = {"readable": readable, "sides": np.array(sides, np.int32)}
        if sides:
            seen = collector.fingerprints()
            columns |= {"hashes": seen.hashes, "miniatures": seen.miniatures}
            columns["digests"] = np.array(digests, np.uint8)
        columns["channels"] = np.array([channels, needed], np.int32)
        return cls(key, columns, skipped)

    def save(self, path: Path) -> None:
        facts = {"key": self.key, "skipped": json.dumps(self.skipped)}
        write_atomically(path, lambda new: save_file(self.columns, new, metadata=facts))

    @classmethod
    def kept(cls, path: Path, items: list[Item], resolution: int, channels: int) -> Survey | None:
        """The survey that `path` holds of these very items, if it tells of so many channels."""
        if not path.is_file():
            return None
        key = cls.key_of(items, resolution)
        with safe_open(path, "numpy") as file:
            facts = file.metadata()
            if facts["key"] != key:
                return None
            columns = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        survey = cls(key, columns, json.loads(facts["skipped"]))
        tells = survey.needed <= channels <= survey.channels or channels == survey.channels
        return survey if tells else None


def _digest(picture: np.ndarray) -> list[int]:
    return list(hashlib.sha256(picture.tobytes()).digest())


class StreamedDataset:
    """A PictureDataset over files that are decoded when a batch asks for them."""

    def __init__(
        self, items: list[Item], survey: Survey, *, resolution: int, channels: int
    ) -> None:
        self.items = [s for s, ok in zip(items, survey.readable, strict=True) if ok]
        self._files = self.items  # stay, where `items` are replaced by unlabelled ones
        self.survey, self.skipped = survey, survey.skipped
        self.sides = torch.from_numpy(survey.columns["sides"])
        self.channels = channels
        self._read = partial(read_item, resolution=resolution, channels=channels)
        self._pool = ThreadPoolExecutor()
        self._coming: tuple[list[int], list[Future]] = [], []

    def __len__(self) -> int:
        return len(self.items)

    @property
    def styles(self) -> tuple[str, ...]:
        return styles_of(self.items)

    def batch(self, index: Tensor, device: torch.device | str = "cpu") -> Tensor:
        """float [n, C, H, W] in [-1, 1] on `device`."""
        self.prefetch(index)
        pictures = [future.result() for future in self._coming[1]]
        return torch.from_numpy(np.stack(pictures)).to(device).float() / 127.5 - 1

    def prefetch(self, index: Tensor) -> None:
        """Begin to decode items `index`, which the next batch will ask for."""
        wanted = index.tolist()
        if wanted != self._coming[0]:
            for future in self._coming[1]:
                future.cancel()
            self._coming = wanted, [self._pool.submit(self._decoded, i) for i in wanted]

    def _decoded(self, i: int) -> np.ndarray:
        array, _ = self._read(self._files[i])
        return premultiplied(array).transpose(2, 0, 1)[: self.channels]

    def with_fewest_channels(self) -> StreamedDataset:
        self.channels = min(self.channels, self.survey.needed)
        return self

    def _miniatures(self) -> np.ndarray:
        return self.survey.columns["miniatures"][:, : self.channels * 64]

    def miniatures(self) -> Tensor:
        """float [N, C * 64] every picture at 8 x 8, in [0, 1]."""
        return torch.from_numpy(self._miniatures()).float() / 255

    def save(self, folder: Path) -> None:
        """Keep the survey, for `cache`."""
        self.survey.save(folder / SURVEY)

    def fingerprints(self) -> Fingerprints:
        return Fingerprints(self.survey.columns["hashes"], self._miniatures())

    def content_hash(self) -> str:
        """That of an InMemoryDataset of the same pictures."""
        column = self.survey.columns["digests"][:, CHANNEL_COUNTS.index(self.channels)]
        hashes = sorted(row.tobytes().hex() for row in column)
        return hashlib.sha256("\n".join(hashes).encode()).hexdigest()
