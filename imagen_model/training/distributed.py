"""Data parallel training: several processes train one model, each on its rows of every batch.

Hugging Face Accelerate starts the processes and gives each its rank (`accelerate launch -m
imagen_model train ...`); torch.distributed communicates. All processes sample the same random
numbers for the whole batch and take their own rows. Gradients are averaged, and terms that compare
the pictures of a batch use the whole batch. Training is therefore that of one process with the same
batch, to rounding (except preset dcgan, whose BatchNorm uses its own rows only). Only the first
process writes and logs. With a single process nothing changes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class DistributedContext:
    """The processes; this one is `rank` of `size`."""

    def __init__(self, rank: int = 0, size: int = 1, device: torch.device | None = None) -> None:
        self.rank, self.size, self.device = rank, size, device

    @classmethod
    def current(cls) -> DistributedContext:
        """The context in which the launcher started this process."""
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls()
        try:
            from accelerate import PartialState
        except ImportError:
            raise ValueError(
                "several processes need accelerate: pip install 'imagen-gan[train]'"
            ) from None
        state = PartialState(cpu=not torch.cuda.is_available())
        return cls(state.process_index, state.num_processes, state.device)

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def local_slice(self, count: int) -> slice:
        """This process's rows of `count`, which all processes share evenly."""
        part = count // self.size
        return slice(self.rank * part, (self.rank + 1) * part)

    def check_batch(self, batch: int, parts: int) -> None:
        """ValueError for a batch that processes, or their `parts` micro-batches, can't share
        evenly."""
        if batch % self.size:
            raise ValueError(f"batch is {batch}; expected a multiple of the {self.size} processes")
        if batch // self.size % parts:
            raise ValueError(
                f"batch is {batch}; expected a multiple of the {self.size} processes times the "
                f"{parts} micro-batches (accumulate)"
            )

    def gather(self, x: Tensor) -> Tensor:
        """The rows of all processes, in order; differentiable."""
        return x if self.size == 1 else _Gather.apply(x, self)

    def average_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Every parameter's gradient becomes the mean over processes."""
        if self.size == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([g.flatten() for g in gradients])
        dist.all_reduce(flat)
        flat /= self.size
        parts = flat.split([g.numel() for g in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))

    def average(self, log: dict[str, Tensor]) -> dict[str, Tensor]:
        """Scalars that every process has under the same names, averaged."""
        if self.size == 1:
            return log
        values = torch.stack([value.detach().float() for value in log.values()])
        dist.all_reduce(values)
        return dict(zip(log, values / self.size, strict=True))

    def broadcast(self, value: float) -> float:
        """The first process's value."""
        if self.size == 1:
            return value
        shared = torch.tensor([value], dtype=torch.float64, device=self.device)
        dist.broadcast(shared, src=0)
        return float(shared)

    def close(self) -> None:
        """End the communication."""
        if self.size > 1:
            dist.destroy_process_group()


class _Gather(torch.autograd.Function):
    """All rows forward, the sum of all gradients for the own rows backward.

    torch.distributed.nn has one; with gloo it mixes up gradients that are not contiguous.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, context: DistributedContext) -> Tensor:
        ctx.context = context
        x = x.contiguous()
        rows = [torch.empty_like(x) for _ in range(context.size)]
        dist.all_gather(rows, x)
        return torch.cat(rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total[ctx.context.local_slice(len(total))], None
