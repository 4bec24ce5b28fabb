"""Detects a run that diverges, and returns it to its last good state.

A step whose losses or gradients are not finite changes nothing (step.py skips it). After several
bad steps in a row, by that or by the gap between real and generated logits, the networks return to
the last good tick with half the learning rate. If they diverge again before the next good tick,
they return to an older state.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .augment import downsampled

MAX_GAP = 100.0  # between the mean logits of real and generated; healthy runs stay under 10
PATIENCE = 5  # bad steps in a row before going back
MAX_RETURNS = 5
LR_FACTOR = 0.5
OLDER_EVERY = 10  # one of so many remembered states is kept as the older one


class DivergenceError(RuntimeError):
    """Training diverged more than MAX_RETURNS times."""


class DivergenceGuard:
    """Watches the log of each step; holds the last good state of networks and optimisers."""

    def __init__(
        self, modules: Mapping[str, nn.Module], optimizers: Mapping[str, torch.optim.Optimizer]
    ) -> None:
        self.parts: dict[str, nn.Module | torch.optim.Optimizer] = {**modules, **optimizers}
        self.num_bad, self.num_returns = 0, 0
        self.lr_scale = 1.0
        self.has_returned = False  # without a good step since
        self.in_vain = False  # whether no state has been remembered since the last return
        self.good = self.older = self._states()
        self.num_remembered = 1

    def watch(self, log: Mapping[str, float]) -> str | None:
        """Check one step; after too many bad ones, restore and return a message."""
        problem = trouble(log)
        self.num_bad = self.num_bad + 1 if problem else 0
        self.has_returned &= problem is not None
        if self.num_bad < PATIENCE:
            return None
        if self.num_returns == MAX_RETURNS:
            raise DivergenceError(
                f"training diverged {MAX_RETURNS + 1} times ({problem}); the last good state is "
                "saved. Try a smaller learning rate (a wider preset has one), a larger batch, "
                "or another objective"
            )
        self.num_returns += 1
        self.num_bad = 0
        self.lr_scale *= LR_FACTOR
        if self.in_vain:
            self.good = self.older
        which = "an older" if self.in_vain else "the last"
        self.restore()
        self.in_vain = self.has_returned = True
        return (
            f"{problem}: back to {which} good state, learning rate x {self.lr_scale:g} "
            f"({self.num_returns} of {MAX_RETURNS})"
        )

    @property
    def is_calm(self) -> bool:
        """Whether the last step was good, so that this state may be kept."""
        return self.num_bad == 0 and not self.has_returned

    def remember(self) -> None:
        """Keep a copy of the present state as the last good one."""
        if self.num_remembered % OLDER_EVERY == 0:
            self.older = self.good
        self.good = self._states()
        self.num_remembered += 1
        self.in_vain = False

    def _states(self) -> dict[str, dict]:
        return {name: copy.deepcopy(part.state_dict()) for name, part in self.parts.items()}

    def restore(self) -> None:
        for name, part in self.parts.items():
            part.load_state_dict(copy.deepcopy(self.good[name]))


def trouble(log: Mapping[str, float]) -> str | None:
    """What is wrong with a step, or None."""
    if bad := [name for name, value in log.items() if not math.isfinite(value)]:
        return f"{', '.join(bad)} not finite"
    gap = abs(log["real_logits"] - log["fake_logits"])
    return f"real and generated logits are {gap:.0f} apart" if gap > MAX_GAP else None


def relative_diversity(real: Tensor, generated: Tensor) -> Tensor:
    """The diversity of generated pictures [N, C, H, W] relative to real ones: the ratio of the root
    mean square distances among their 8x8 miniatures. 0 is mode collapse."""
    real, generated = (downsampled(x, 8).flatten(1) for x in (real, generated))
    return (generated.var(dim=0).sum() / real.var(dim=0).sum().clamp(min=1e-12)).sqrt()
