"""The scalars of training steps on their way to the log.

Reading a number from a GPU waits until the GPU has reached it, and then the GPU has nothing to do
until the next step is prepared. Scalars therefore stay tensors for several steps and come together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

GPU_STEPS = 16  # at a time


class StepLog:
    """Scalars of the steps since the last line of the log."""

    def __init__(self, device: torch.device) -> None:
        self.fetch_every = 1 if device.type == "cpu" else GPU_STEPS
        self.values: dict[str, list[float]] = {}  # only finite ones
        self._waiting: list[dict[str, Tensor]] = []

    def add(self, scalars: dict[str, Tensor]) -> None:
        """The scalars of one step, which are fetched later."""
        self._waiting.append(scalars)

    @property
    def is_due(self) -> bool:
        return len(self._waiting) >= self.fetch_every

    def fetch(self) -> list[dict[str, float]]:
        """The scalars of each step since the last call, in one transfer."""
        steps, self._waiting = self._waiting, []
        if not steps:
            return []
        every = [value.detach().float() for step in steps for value in step.values()]
        numbers = iter(torch.stack(every).tolist())
        return [dict(zip(step, numbers)) for step in steps]  # noqa: B905 - numbers go on

    def accumulate(self, scalars: Mapping[str, float]) -> None:
        """For the means of the next line."""
        for name, value in scalars.items():
            if math.isfinite(value):
                self.values.setdefault(name, []).append(value)

    def take_means(self) -> dict[str, float]:
        """The means of what was accumulated, to six significant digits; the next ones start."""
        values, self.values = self.values, {}
        return {name: _short(sum(v) / len(v)) for name, v in values.items()}


def _short(value: float) -> float:
    """Six significant digits: enough to plot, short enough to read."""
    return float(f"{value:.6g}")
