"""One training step: the discriminator's update on a batch, then the generator's.

One forward pass of the generator serves both updates, and the frozen features of real and generated
pictures are computed once, for the discriminator's heads and the matching terms. The algorithm is
Projected GAN's (2111.01007) or R3GAN's (2501.05441), by `objective`.

With gradient accumulation the batch is split into micro-batches whose gradients add up to the whole
batch's; the generator's update generates each again, with gradients.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor
from torch.nn.utils.parametrize import cached

from ..condition import Condition
from ..networks.discriminator import Discriminator, DiscriminatorOutput
from ..networks.efficientnet import lite0
from ..networks.networks import Networks
from .adaptive import AdaptiveControls, overfit
from .batch import Batch, BatchBuilder, Generate, StepNoise
from .compile import compile_networks
from .config import TrainingConfig
from .distributed import DistributedContext
from .divergence import relative_diversity
from .losses import OBJECTIVES
from .objective import Loss, Objective, over_heads
from .unrolled import UnrolledDiscriminator


class TrainStep:
    """Both networks with their optimisers; calling it trains them on one batch."""

    def __init__(
        self,
        networks: Networks,
        training: TrainingConfig,
        *,
        device: torch.device,
        rng: torch.Generator,
        context: DistributedContext,
    ) -> None:
        """Augmentation and penalties sample from `rng`, for the rows of all processes."""
        self.networks, self.training, self.context = networks, training, context
        self.device, self.rng = device, rng
        shared = device.type == "cpu" and not training.compile
        self.lite0 = lite0() if shared else copy.deepcopy(lite0()).to(device)
        if training.compile:
            compile_networks(networks, self.lite0, training)
        self.optimizers = {"g": self._generator_optimizer(), "d": self._discriminator_optimizer()}
        self.controls = AdaptiveControls(training.augment_p)
        uses_features = networks.discriminator.config.features or bool(training.pairs_weight)
        self.builder = BatchBuilder(self.lite0, device=device, uses_features=uses_features)
        self.objective = Objective(
            training, networks.discriminator, self.builder, context, self._unrolled()
        )

    def __call__(
        self,
        generate: Generate,
        real: Tensor,
        condition: Condition,
        *,
        has_words: bool,
        update_generator: bool = True,
        check: Callable[[], object] = lambda: None,
    ) -> dict[str, Tensor]:
        """Train on real pictures [N, C, H, W] and their conditions; `generate(rows)` makes pictures
        for rows of `condition`. Returns scalars for the log.

        `check` may raise to stop the step. It is called only while no weight has been changed;
        buffers (running statistics, power iterations) have been.
        """
        noise, size = self._sample_noise(real.shape), len(real) // self.training.accumulate
        micro_batches = [slice(begin, begin + size) for begin in range(0, len(real), size)]
        again = generate if len(micro_batches) > 1 else None
        with torch.no_grad() if again else contextlib.nullcontext():
            batches = []
            for rows in micro_batches:
                check()
                batches.append(
                    self.builder.build(
                        generate, real, condition, noise, has_words=has_words, rows=rows
                    )
                )
        with cached():  # one power iteration of spectral norm per step, for all calls
            log, real_outputs = self._update_discriminator(batches, condition, check)
        if update_generator:
            # an unrolled discriminator has other weights, which a cache would hide
            with contextlib.nullcontext() if self.training.unrolled_steps else cached():
                log |= self._update_generator(batches, real_outputs, condition, again)
        log["diversity"] = relative_diversity(real, torch.cat([batch.plain for batch in batches]))
        return self.context.average(log)

    def _sample_noise(self, shape: torch.Size) -> StepNoise:
        """This process's rows of the step's random numbers."""
        p, rng = self.controls.augment_p, self.rng
        noise = StepNoise.sample(shape, self.training, p, generator=rng, device=self.device)
        return noise[self.context.local_slice(self.training.batch)]

    def _update_discriminator(
        self, batches: list[Batch], condition: Condition, check: Callable[[], object]
    ) -> tuple[dict[str, Tensor], list[DiscriminatorOutput]]:
        """The log, and the outputs for each micro-batch's real pictures."""
        discriminator, objective = self.networks.discriminator, self.objective
        discriminator.requires_grad_(True)
        if isinstance(discriminator, Discriminator) and discriminator.config.features:
            discriminator.mixer.requires_grad_(False)
        objective.gamma_scale = self.controls.gamma_scale
        cache = objective.cache_for_discriminator(batches)
        losses = (objective.discriminator_loss(batch, condition, cache) for batch in batches)
        norm, done = self._descend("d", losses, check=check)
        real = torch.cat([loss.real.realism() for loss in done])
        generated = torch.cat([loss.generated.realism() for loss in done])
        log = _mean_terms(done) | {"d_grad_norm": norm}
        log |= {"real_logits": real.mean(), "fake_logits": generated.mean()}
        return log | {"overfit": overfit(real, generated)}, [loss.real for loss in done]

    def _update_generator(
        self,
        batches: list[Batch],
        real_outputs: Sequence[DiscriminatorOutput],
        condition: Condition,
        again: Generate | None,
    ) -> dict[str, Tensor]:
        """The log; `again`, if given, generates each micro-batch again."""
        self.networks.discriminator.requires_grad_(False)
        cache = self.objective.cache_for_generator(batches)
        losses = (
            self.objective.generator_loss(
                self.builder.generate_again(batch, again) if again else batch,
                real_output,
                condition,
                cache,
            )
            for batch, real_output in zip(batches, real_outputs, strict=True)
        )
        norm, done = self._descend("g", losses, clip=self.training.clip)
        return _mean_terms(done) | {"g_grad_norm": norm}

    def _descend(
        self,
        name: str,
        losses: Iterable[Loss],
        *,
        clip: float | None = None,
        check: Callable[[], object] = lambda: None,
    ) -> tuple[Tensor, list[Loss]]:
        """One optimiser step on the mean of the micro-batches' losses, unless the gradient's norm
        is not finite; returns the norm, and the losses without their graphs."""
        optimizer, count, done = self.optimizers[name], self.training.accumulate, []
        optimizer.zero_grad(set_to_none=True)
        for loss in losses:
            check()
            # the next loss shares spectral norm's part of the graph, which is cached
            (loss.value / count).backward(retain_graph=count > 1)
            done.append(loss.detach())
            del loss  # and with it the rest of this micro-batch's graph
            check()
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.context.average_gradients(parameters)
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if clip is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, clip, norm)
        # the fused step changes nothing where this is 1, as under torch's GradScaler
        optimizer.found_inf = (~norm.isfinite()).float()  # type: ignore[attr-defined]
        optimizer.step()
        return norm, done

    # -- optimisers -------------------------------------------------------------------------------

    def _generator_optimizer(self) -> torch.optim.Adam:
        t, mapping = self.training, list(self.networks.generator.mapping.parameters())
        every = [p for module in self.networks.generating() for p in module.parameters()]
        rest = [p for p in every if all(p is not other for other in mapping)]
        groups = [
            {"params": rest, "lr": t.lr},
            {"params": mapping, "lr": t.lr * t.mapping_lr_ratio},
        ]
        return torch.optim.Adam(groups, betas=(t.g_beta1, t.beta2), eps=1e-8, fused=True)

    def _discriminator_optimizer(self) -> torch.optim.Adam:
        t = self.training
        trained = [p for p in self.networks.discriminator.parameters() if p.requires_grad]
        return torch.optim.Adam(
            trained, lr=t.lr * t.d_lr_ratio, betas=(t.d_beta1, t.beta2), eps=1e-8, fused=True
        )

    def _unrolled(self) -> UnrolledDiscriminator | None:
        """The discriminator after more steps, if the generator's loss uses it."""
        if not self.training.unrolled_steps:
            return None
        d_loss, _ = OBJECTIVES[self.training.objective]
        return UnrolledDiscriminator(
            self.networks.discriminator,
            self.optimizers["d"],
            lambda real, generated: over_heads(d_loss, real, generated),
            steps=self.training.unrolled_steps,
        )


def _mean_terms(losses: Sequence[Loss]) -> dict[str, Tensor]:
    """The mean of every term over the micro-batches."""
    names = losses[0].terms
    return {name: torch.stack([loss.terms[name] for loss in losses]).mean() for name in names}
