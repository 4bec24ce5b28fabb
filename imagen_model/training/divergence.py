"""Detects a run that diverges, and returns it to its last good state.

A step whose losses or gradients are not finite changes nothing (step.py skips it). Several bad
steps in a row, by that or by the gap between real and generated logits, mean that the networks
themselves have gone: they return to the last good tick, with half the learning rate. Where that was
in vain, the seed of the trouble was there already, and they return further back.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .augment import downsampled

MAX_GAP = 100.0  # between the mean logits of real and generated; a healthy run stays under 10
PATIENCE = 5  # bad steps in a row before going back
MAX_RETURNS = 5
LR_FACTOR = 0.5
OLDER_EVERY = 10  # of so many states that are remembered, one is kept for longer


class DivergenceError(RuntimeError):
    """Training went wrong again and again."""


class DivergenceGuard:
    """Watches the log of each step; holds the last good state of networks and optimisers."""

    def __init__(
        self, modules: Mapping[str, nn.Module], optimizers: Mapping[str, torch.optim.Optimizer]
    ) -> None:
        self.parts: dict[str, nn.Module | torch.optim.Optimizer] = {**modules, **optimizers}
        self.num_bad, self.num_returns = 0, 0
        self.lr_scale = 1.0
        self.has_returned = False  # and no good step has come since
        self.in_vain = False  # whether no state was worth remembering since the last return
        self.good = self.older = self._states()
        self.num_remembered = 1

    def watch(self, log: Mapping[str, float]) -> str | None:
        """Look at one step; after too many bad ones restores, and returns a line that says so."""
        problem = trouble(log)
        self.num_bad = self.num_bad + 1 if problem else 0
        self.has_returned &= problem is not None
        if self.num_bad < PATIENCE:
            return None
        if self.num_returns == MAX_RETURNS:
            raise DivergenceError(
                f"training diverged {MAX_RETURNS + 1} times ({problem}); the last good state is "
                "saved. Try a smaller learning rate (a wider --preset has one), a larger --batch, "
                "or another --objective"
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
        """Keep a copy of the present state as the one to go back to."""
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
    bad = [name for name, value in log.items() if not math.isfinite(value)]
    if bad:
        return f"{', '.join(bad)} not finite"
    gap = abs(log["real_logits"] - log["fake_logits"])
    return f"real and generated logits are {gap:.0f} apart" if gap > MAX_GAP else None


def relative_diversity(real: Tensor, generated: Tensor) -> Tensor:
    """How much generated pictures [N, C, H, W] differ among each other, against real ones: the
    ratio of the root mean square distances of their 8x8 miniatures. Towards 0 a mode collapses."""
    real, generated = (downsampled(x, 8).flatten(1) for x in (real, generated))
    return (generated.var(dim=0).sum() / real.var(dim=0).sum().clamp(min=1e-12)).sqrt()
