"""Progress callbacks. A callback may raise to cancel: the exception is passed on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from torch import Tensor

OnProgress = Callable[[int, int], object]  # done, total
OnPictures = Callable[[int, int, Tensor | None], object]  # done, total, the newest pictures
OnStage = Callable[[str], object]  # the stage that begins now
ProgressFor = Callable[[str], OnProgress]  # a label -> the callback of one stage
T = TypeVar("T")


def reported(
    items: Iterable[T], total: int, progress: OnProgress | None, *, done: int = 0
) -> Iterator[T]:
    """Iterate over `items` and call `progress` after each; `done` of the total came before."""
    for count, item in enumerate(items, start=done + 1):
        yield item
        if progress is not None:
            progress(count, total)


def batches(total: int, size: int, progress: OnProgress | None) -> Iterator[slice]:
    """Slices of `size` that cover `total`; `progress` is called after each."""
    for begin in range(0, total, size):
        end = min(begin + size, total)
        yield slice(begin, end)
        if progress is not None:
            progress(end, total)
