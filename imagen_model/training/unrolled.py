"""Unrolled discriminator steps (Unrolled GAN, 1611.02163): the generator's loss uses the
discriminator after a few more steps on the same pictures, and gradients flow through those steps.

The steps are the optimiser's next steps of Adam (1412.6980), without momentum; gradients do not
flow through the second moments. The paper leaves the optimiser open. Each step costs about as much
as a discriminator step and is differentiated twice.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..condition import Condition
from ..networks.dcgan import DcganDiscriminator
from ..networks.discriminator import Discriminator
from .batch import Batch

AnyDiscriminator = Discriminator | DcganDiscriminator
Loss = Callable[[tuple[Tensor, ...], tuple[Tensor, ...]], Tensor]


class _Logits(nn.Module):
    """Logits as a function of all weights, including those that embed the condition."""

    def __init__(self, discriminator: AnyDiscriminator) -> None:
        super().__init__()
        self.discriminator = discriminator

    def forward(
        self, pictures: Tensor, levels: list[Tensor], condition: Condition
    ) -> tuple[Tensor, ...]:
        cond = self.discriminator.embed_condition(condition.pooled, condition.style)
        return self.discriminator(pictures, levels).logits(cond)


class UnrolledDiscriminator:
    """The discriminator after `steps` more steps on one batch; `discriminator` does not change."""

    def __init__(
        self,
        discriminator: AnyDiscriminator,
        optimizer: torch.optim.Adam,
        loss: Loss,
        *,
        steps: int,
    ) -> None:
        self.discriminator, self.optimizer = _Logits(discriminator), optimizer
        self.loss, self.steps = loss, steps

    def logits(self, batch: Batch) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Of real and generated pictures; differentiable in the generated ones, through the steps
        too."""
        named = dict(self.discriminator.named_parameters())
        groups = {p: group for group in self.optimizer.param_groups for p in group["params"]}
        trained = {name: p for name, p in named.items() if p in groups}
        weights = {name: p.detach().requires_grad_(True) for name, p in trained.items()}
        moments = {name: self._moment(p) for name, p in trained.items()}
        for ahead in range(1, self.steps + 1):
            loss = self.loss(*self._logits(weights, batch))
            slopes = torch.autograd.grad(
                loss, list(weights.values()), create_graph=True, allow_unused=True
            )
            for (name, p), slope in zip(trained.items(), slopes, strict=True):
                if slope is None:
                    continue
                group, (moment, taken) = groups[p], moments[name]
                beta = group["betas"][1]
                moment = beta * moment + (1 - beta) * slope.detach().square()
                moments[name] = (moment, taken)
                scale = (moment / (1 - beta ** (taken + ahead))).sqrt() + group["eps"]
                weights[name] = weights[name] - group["lr"] * slope / scale
        return self._logits(weights, batch)

    def _moment(self, p: Tensor) -> tuple[Tensor, int]:
        """The running mean square of a weight's gradient, and the optimiser's number of steps."""
        state = self.optimizer.state.get(p)
        if not state:
            return torch.zeros_like(p), 0
        return state["exp_avg_sq"], int(state["step"])

    def _logits(
        self, weights: dict[str, Tensor], batch: Batch
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        real = (batch.real, batch.real_levels, batch.condition)
        generated = (batch.generated, batch.generated_levels, batch.condition)
        return (
            functional_call(self.discriminator, weights, real),
            functional_call(self.discriminator, weights, generated),
        )
