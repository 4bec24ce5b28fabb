"""A training in a process of its own, which is killed, or whose disk is full at the n-th write.

Afterwards the run goes on to the same weights, to the last bit, as one that nothing happened to.
docs/reliability.md has the figures of the long versions (`-m slow`).
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import imagen_model as im
from imagen_model.training.state import saved_state

# The server imports once; the processes that it forks start in a moment.
PROCESSES = multiprocessing.get_context("forkserver") if sys.platform != "win32" else None
PRELOADED = ["conftest", "imagen_model.training.setup"]
MODEL = "models/run.safetensors"  # what other programs read while the run trains
SECONDS = 0.1  # between two saves

pytestmark = [
    pytest.mark.skipif(PROCESSES is None, reason="Windows has no fork and no SIGKILL"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded"),
]


def train(data: Path, base: Path, kimg: float, full_at: int | None, report: Connection) -> None:
    """The child: train in `base`/run to `kimg`, going on where it was left. The `full_at`-th write
    fails. It sends the number of writes, and what stopped it, if it was an error for users."""
    torch.set_num_threads(1)
    from conftest import tiny_model_config

    from imagen_model.training import setup
    from imagen_model.training import trainer as module
    from imagen_model.training.options import TrainOptions
    from imagen_model.training.published_model import PublishedModel

    module.SAVE_EVERY_SEC = SECONDS
    setup.preset = lambda *_, channels=4, **__: tiny_model_config(channels=channels)
    disk = Disk(base, full_at)
    options = TrainOptions(kimg=kimg, batch=8, seed=3)
    try:
        t = setup.prepare(
            data, base / "run", options, device=torch.device("cpu"), resume=True,
            progress=lambda label: lambda done, total: None,
        )  # fmt: skip
        t.published = PublishedModel(base / "run", base / MODEL)
        setup.save_cache(t)
        t.run()
        report.send((disk.count, ""))
    except (OSError, ValueError) as error:
        report.send((disk.count, str(error)))
    except KeyboardInterrupt:
        report.send((disk.count, "stopped"))


class Disk:
    """Counts what is written below a folder, and is full at one of them."""

    def __init__(self, folder: Path, full_at: int | None) -> None:
        import safetensors.torch as library

        self.folder, self.full_at, self.count = str(folder), full_at, 0
        self.save_file = library.save_file
        library.save_file = self.save
        sys.addaudithook(self.watch)

    def write(self) -> None:
        self.count += 1
        if self.count == self.full_at:
            raise OSError(28, "No space left on device")

    def watch(self, event: str, args: tuple) -> None:
        """Python's own writes."""
        if event == "open":
            path, _, flags = args
            writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        elif event in ("os.mkdir", "os.rename"):
            path, writes = args[0], True
        else:
            return
        if writes and str(path).startswith(self.folder):
            self.write()

    def save(self, tensors: dict, path: Path, **options: object) -> None:
        """safetensors' writes, of which half arrives."""
        self.save_file(tensors, path, **options)
        try:
            self.write()
        except OSError:
            os.truncate(path, path.stat().st_size // 2)
            raise


@pytest.fixture(scope="module")
def start(emoji_folder):
    """Starts a training; returns its process, and where it reports."""
    PROCESSES.set_forkserver_preload(PRELOADED)

    def begin(base: Path, *, kimg: float, full_at: int | None = None):
        reader, writer = PROCESSES.Pipe(duplex=False)
        process = PROCESSES.Process(target=train, args=(emoji_folder, base, kimg, full_at, writer))
        process.start()
        writer.close()
        return process, reader

    return begin


def ended(process: BaseProcess, reader: Connection) -> tuple[int, str]:
    """What the training sent when it ended; EOFError if it could not."""
    process.join(900)
    assert not process.is_alive(), "the training hangs"
    with reader:
        return reader.recv()


def finished(start, base: Path, kimg: float) -> dict[str, torch.Tensor]:
    """The weights of the run in `base` once it has trained to the end."""
    assert ended(*start(base, kimg=kimg))[1] == ""
    assert im.load(base / MODEL).card["kimg"] == pytest.approx(kimg)
    assert not list((base / "run").glob(".*.safetensors")), "a half-written file was left"
    return load_file(saved_state(base / "run") / "networks.safetensors")


def same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def sigkill(process: BaseProcess) -> None:
    os.kill(process.pid, signal.SIGKILL)


def two_signals(process: BaseProcess, rng: random.Random) -> None:
    """Ctrl-C, and again within .2 s, in the middle of what the first has begun."""
    for _ in range(2):
        if process.is_alive():
            os.kill(process.pid, signal.SIGINT)
        time.sleep(rng.uniform(0, 0.2))


@pytest.mark.parametrize("kills", [3, pytest.param(50, marks=pytest.mark.slow)])
def test_kills_at_random_moments_lose_nothing(start, tmp_path, kills):
    rng, kimg = random.Random(0), 0.016 * kills
    whole = finished(start, tmp_path / "whole", kimg)
    base = tmp_path / "killed"
    for number in range(kills):
        process, reader = start(base, kimg=kimg)
        time.sleep(rng.uniform(0.5, 3.0))
        if process.is_alive():
            (sigkill if number % 2 else partial(two_signals, rng=rng))(process)
        with contextlib.suppress(EOFError):  # of a process that was killed
            assert ended(process, reader)[1] in ("", "stopped")
        if (base / MODEL).exists():
            assert im.load(base / MODEL).resolution == 32  # never a part of a file
    assert same(finished(start, base, kimg), whole)


@pytest.mark.parametrize("every", [41, pytest.param(1, marks=pytest.mark.slow)])
def test_a_disk_that_is_full_at_any_write_loses_nothing(start, tmp_path, every):
    kimg, full_at = 0.016, 1
    whole = finished(start, tmp_path / "whole", kimg)
    while True:
        base = tmp_path / str(full_at)
        count, error = ended(*start(base, kimg=kimg, full_at=full_at))
        if count < full_at:
            assert not error
            break
        assert not error or "No space left on device" in error
        if (base / MODEL).exists():
            assert im.load(base / MODEL).resolution == 32  # never a part of a file
        assert same(finished(start, base, kimg), whole), f"write {full_at}: {error}"
        shutil.rmtree(base)
        full_at += every
    assert full_at > every, "hardly anything is written"
