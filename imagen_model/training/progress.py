"""The progress of a run, for a caller's progress bar."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass
class Progress:
    cur_nimg: int = 0
    seconds: float = 0.0
    fraction: float = 0.0  # of kimg or minutes, whichever is nearer
    img_per_sec: float = 0.0  # since the last line of the log
    loss: float = math.nan  # of the last step: distance from the real pictures, or D's loss

    @property
    def eta_sec(self) -> float:
        return self.seconds * max(0.0, 1 - self.fraction) / max(self.fraction, 1e-6)
