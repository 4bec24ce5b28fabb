"""Types of progress callbacks. A callback may raise to cancel: the exception is passed on."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

OnProgress = Callable[[int, int], object]  # done, total
OnPictures = Callable[[int, int, Tensor | None], object]  # done, total, the newest pictures
OnStage = Callable[[str], object]  # the stage that begins now
ProgressFor = Callable[[str], OnProgress]  # a label -> the callback of one stage
