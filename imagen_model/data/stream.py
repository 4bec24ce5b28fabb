"""Pictures that are decoded as batches ask for them, for sets that memory does not hold.

A folder's files and a shard's members are alike here: each sample knows where its bytes are, so any
picture can be read at any time. That is why shards are indexed (webdataset.py) and not read end to
end through a shuffle buffer: the order of training, resuming in the middle of it and captions are
exactly those of a set in memory, and shuffling is perfect. The price is random access, which disks
of this decade don't mind.

Before training all pictures are read once: that finds the unreadable ones, the channels that are
needed, and the glances (survey.py). The result is kept beside the run, for `--resume`.
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

from ..files import write_atomically
from .folder import (
    PictureSet,
    Progress,
    Sample,
    fewest_channels,
    load_pictures,
    premultiplied,
    read_all,
    read_sample,
    refuse_or_tell,
    styles_of,
)
from .survey import Looks, LooksCollector

SURVEY = "survey.safetensors"
CHANNEL_COUNTS = (4, 3, 1)


def memory_for_pictures() -> int:
    """Bytes that pictures may take: half of the machine's memory."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    except (AttributeError, ValueError, OSError):  # Windows does not say
        return 4 << 30


def open_pictures(
    samples: list[Sample],
    *,
    resolution: int,
    channels: int,
    found: Path | None = None,
    progress: Progress | None = None,
) -> PictureSet | StreamedSet:
    """The pictures in memory where they fit, else streamed; unreadable ones are skipped, listed.

    `found` is a folder in which an earlier run may have kept its survey.
    """
    size = len(samples) * channels * resolution**2
    options = {"resolution": resolution, "channels": channels, "progress": progress}
    if size <= memory_for_pictures():
        return load_pictures(samples, **options)  # type: ignore[arg-type]
    survey = Survey.kept(found / SURVEY, samples, resolution, channels) if found else None
    survey = survey or Survey.made(samples, **options)  # type: ignore[arg-type]
    refuse_or_tell(survey.skipped, int(survey.readable.sum()))
    return StreamedSet(samples, survey, resolution=resolution, channels=channels)


class Survey:
    """What one reading of all samples has found, in columns."""

    def __init__(self, key: str, columns: dict[str, np.ndarray], skipped: list[str]) -> None:
        self.key, self.columns, self.skipped = key, columns, skipped
        self.readable = columns["readable"]  # bool [samples]; other columns have a row for those
        self.channels, self.needed = columns["channels"].tolist()  # as read; that carry something

    @staticmethod
    def key_of(samples: list[Sample], resolution: int) -> str:
        """Names the files as they are now, and the size at which they are read."""
        digest = hashlib.sha256(f"{resolution}".encode())
        stamps: dict[Path, str] = {}
        for sample in samples:
            file = sample.span.shard if sample.span else sample.path
            if file not in stamps:
                exists = file.is_file()
                stamps[file] = f"{file.stat().st_size} {file.stat().st_mtime_ns}" if exists else ""
            digest.update(f"{sample.path} {sample.span} {stamps[file]}\n".encode())
        return digest.hexdigest()

    @classmethod
    def made(
        cls,
        samples: list[Sample],
        *,
        resolution: int,
        channels: int,
        progress: Progress | None = None,
    ) -> Survey:
        key = cls.key_of(samples, resolution)
        readable = np.zeros(len(samples), bool)
        sides, digests, skipped = [], [], []
        collector, needed = LooksCollector(), 1
        results = read_all(samples, resolution=resolution, channels=channels, progress=progress)
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
            seen = collector.looks()
            columns |= {"hashes": seen.hashes, "miniatures": seen.miniatures}
            columns["digests"] = np.array(digests, np.uint8)
        columns["channels"] = np.array([channels, needed], np.int32)
        return cls(key, columns, skipped)

    def save(self, path: Path) -> None:
        facts = {"key": self.key, "skipped": json.dumps(self.skipped, ensure_ascii=False)}
        write_atomically(path, lambda new: save_file(self.columns, new, metadata=facts))

    @classmethod
    def kept(
        cls, path: Path, samples: list[Sample], resolution: int, channels: int
    ) -> Survey | None:
        """The survey that `path` holds of these very samples, if it tells of so many channels."""
        if not path.is_file():
            return None
        key = cls.key_of(samples, resolution)
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


class StreamedSet:
    """The interface of a PictureSet over pictures that stay where they are."""

    def __init__(
        self, samples: list[Sample], survey: Survey, *, resolution: int, channels: int
    ) -> None:
        self.samples = [s for s, ok in zip(samples, survey.readable, strict=True) if ok]
        self._files = self.samples  # stay, where `samples` are replaced by unlabelled ones
        self.survey, self.skipped = survey, survey.skipped
        self.sides = torch.from_numpy(survey.columns["sides"])
        self.channels = channels
        self._read = partial(read_sample, resolution=resolution, channels=channels)
        self._pool = ThreadPoolExecutor()
        self._coming: tuple[list[int], list[Future]] = [], []

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def styles(self) -> tuple[str, ...]:
        return styles_of(self.samples)

    def batch(self, index: Tensor, device: torch.device | str = "cpu") -> Tensor:
        """float [n, C, H, W] in [-1, 1] on `device`."""
        self.prefetch(index)
        pictures = [future.result() for future in self._coming[1]]
        return torch.from_numpy(np.stack(pictures)).to(device).float() / 127.5 - 1

    def prefetch(self, index: Tensor) -> None:
        """Begin to decode samples `index`, which the next batch will ask for."""
        wanted = index.tolist()
        if wanted != self._coming[0]:
            for future in self._coming[1]:
                future.cancel()
            self._coming = wanted, [self._pool.submit(self._decoded, i) for i in wanted]

    def _decoded(self, i: int) -> np.ndarray:
        array, _ = self._read(self._files[i])
        return premultiplied(array).transpose(2, 0, 1)[: self.channels]

    def with_fewest_channels(self) -> StreamedSet:
        self.channels = min(self.channels, self.survey.needed)
        return self

    def _miniatures(self) -> np.ndarray:
        return self.survey.columns["miniatures"][:, : self.channels * 64]

    def miniatures(self) -> Tensor:
        """float [N, C * 64] every picture at 8 x 8, in [0, 1]."""
        return torch.from_numpy(self._miniatures()).float() / 255

    def save(self, folder: Path) -> None:
        """Keep the survey, for `found`."""
        self.survey.save(folder / SURVEY)

    def looks(self) -> Looks:
        return Looks(self.survey.columns["hashes"], self._miniatures())

    def fingerprint(self) -> str:
        """That of a PictureSet of the same pictures."""
        column = self.survey.columns["digests"][:, CHANNEL_COUNTS.index(self.channels)]
        hashes = sorted(row.tobytes().hex() for row in column)
        return hashlib.sha256("\n".join(hashes).encode()).hexdigest()


Pictures = PictureSet | StreamedSet
