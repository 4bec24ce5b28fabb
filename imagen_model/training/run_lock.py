"""One training at a time in a run's folder, whichever processes they belong to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

LOCK = ".lock"  # the file stays; the system releases it when its process ends, even by a kill


@contextmanager
def run_lock(run: Path) -> Iterator[None]:
    """Hold the folder `run`; ValueError while another training holds it."""
    lock = FileLock(run / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(
            f"another training is at work in {run}; wait until it ends, or choose another folder"
        ) from None
    try:
        yield
    finally:
        lock.release()


def check_not_locked(run: Path) -> None:
    """ValueError while a training holds `run`; writes nothing."""
    if (run / LOCK).is_file():
        with run_lock(run):
            pass
