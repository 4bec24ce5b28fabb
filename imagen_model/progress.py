"""What long work tells its caller. A callback may raise to cancel; the work passes it on."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

OnProgress = Callable[[int, int], object]  # done, total
OnPictures = Callable[[int, int, Tensor | None], object]  # done, total, the newest pictures
OnStage = Callable[[str], object]  # what begins now
ProgressFor = Callable[[str], OnProgress]  # a label -> a callback for one stage of the work
