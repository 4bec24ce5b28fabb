"""The losses of the two networks on one micro-batch.

Each loss is a value to differentiate and the terms for the log. The adversarial losses and the
penalties are in losses.py, feature matching in networks/perceptual.py.

Terms that compare the pictures of a batch use all of it, however it is split into micro-batches and
over processes, as in GradCache (2101.06983): a micro-batch's own rows, with gradients, are
concatenated with the cached rows of the others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..condition import Condition
from ..networks.dcgan import DcganDiscriminator
from ..networks.discriminator import Discriminator, DiscriminatorOutput
from ..networks.perceptual import L1_WEIGHT, feature_matching, fine_detail, low_resolution_l1
from .batch import Batch, BatchBuilder
from .config import TrainingConfig
from .distributed import DistributedContext
from .losses import (
    COMMON_WEIGHT,
    CONTRAST_WEIGHT,
    OBJECTIVES,
    PROBE_STEP,
    common_detail,
    feature_contrast,
    finite_difference_penalty,
    gradient_penalty,
    info_nce,
    lipschitz_penalty,
)
from .unrolled import UnrolledDiscriminator

Terms = dict[str, Tensor]  # detached scalars by their names in the log
Cache = dict[str, Tensor]  # rows of the whole batch, by what they are; empty for one micro-batch


class Loss(NamedTuple):
    """A scalar to differentiate, its terms, and the discriminator's outputs (detached)."""

    value: Tensor
    terms: Terms
    real: DiscriminatorOutput
    generated: DiscriminatorOutput

    def detach(self) -> Loss:
        """Without the graph."""
        return self._replace(value=self.value.detach())


@dataclass
class Objective:
    """Both losses, of one configuration."""

    training: TrainingConfig
    discriminator: Discriminator | DcganDiscriminator
    builder: BatchBuilder
    context: DistributedContext
    unrolled: UnrolledDiscriminator | None = None
    gamma_scale: float = 1.0  # set before each step (adaptive.py)

    def discriminator_loss(self, batch: Batch, condition: Condition, cache: Cache) -> Loss:
        """Adversarial loss, wrong captions, InfoNCE and penalties; `condition` is of all rows."""
        t, d_loss = self.training, OBJECTIVES[self.training.objective][0]
        real, generated = self._inputs(batch)
        real_output = self.discriminator(*real)
        generated_output = self.discriminator(*generated)
        every_cond = self.discriminator.embed_condition(condition.pooled, condition.style)
        cond = self._own_rows(every_cond, batch.rows)
        real_logits, generated_logits = real_output.logits(cond), generated_output.logits(cond)
        value = over_heads(d_loss, real_logits, generated_logits)
        terms = {"d_loss": value.detach()}
        if t.wrong_caption_weight and batch.has_words:
            # a real picture with its neighbour's caption counts as generated; only a dot product
            wrong_cond = self._own_rows(self._neighbours(every_cond), batch.rows)
            wrong = over_heads(d_loss, real_logits, real_output.logits(wrong_cond))
            value = value + t.wrong_caption_weight * wrong
        if t.info_nce_weight:
            nce = self._caption_nce(real_output, cond, every_cond, cache, batch.rows)
            value = value + t.accumulate * t.info_nce_weight * nce
            terms["d_info_nce"] = nce.detach()
        for name, gamma, pictures, logits in (
            ("r1_penalty", t.r1_gamma, real[0], real_logits),
            ("r2_penalty", t.r2_gamma, generated[0], generated_logits),
        ):
            if gamma:
                penalty = self._penalty(name, pictures, logits, cond, batch)
                value = value + gamma * self.gamma_scale / 2 * penalty
                terms[name] = penalty.detach()
        if t.objective == "wgan-gp":
            penalty = self._lipschitz(real[0], generated[0], cond, batch)
            value = value + t.lipschitz_weight * penalty
            terms["lipschitz_penalty"] = penalty.detach()
        return Loss(value, terms, real_output.detach(), generated_output.detach())

    def generator_loss(
        self, batch: Batch, real_output: DiscriminatorOutput, condition: Condition, cache: Cache
    ) -> Loss:
        """Adversarial loss, InfoNCE and matching with real pictures; `condition` is of all rows."""
        t, g_loss = self.training, OBJECTIVES[self.training.objective][1]
        output = self.discriminator(batch.generated, batch.generated_levels)
        every_cond = self.discriminator.embed_condition(condition.pooled, condition.style)
        cond = self._own_rows(every_cond, batch.rows)
        if self.unrolled:
            real_logits, generated_logits = self.unrolled.logits(batch)
        else:
            real_logits, generated_logits = real_output.logits(cond), output.logits(cond)
        adversarial = over_heads(g_loss, real_logits, generated_logits)
        value = t.adversarial_weight * adversarial
        terms = {"g_loss": adversarial.detach()}
        if t.info_nce_weight:
            nce = self._caption_nce(output, cond, every_cond, cache, batch.rows)
            value = value + t.accumulate * t.info_nce_weight * t.adversarial_weight * nce
            terms["g_info_nce"] = nce.detach()
        if t.pairs_weight:
            matching, matching_terms = self._matching(batch, cache)
            value = value + t.pairs_weight * matching
            terms |= matching_terms
        return Loss(value, terms, real_output, output.detach())

    def cache_for_discriminator(self, batches: list[Batch]) -> Cache:
        """The whole batch's rows that terms over it need besides each micro-batch's own."""
        if len(batches) == 1 or not self.training.info_nce_weight:
            return {}
        # with gradients, which are dropped: spectral norm's cached weights must keep theirs
        outputs = [self.discriminator(b.real, b.real_levels).embedding.detach() for b in batches]
        return {"embedding": torch.cat(outputs)}

    def cache_for_generator(self, batches: list[Batch]) -> Cache:
        """The same for the generator's terms."""
        if len(batches) == 1:
            return {}
        cache, pool = {}, self.builder.lite0.pool
        if self.training.info_nce_weight:
            outputs = [self.discriminator(b.generated, b.generated_levels) for b in batches]
            cache["embedding"] = torch.cat([output.embedding for output in outputs])
        if self.training.pairs_weight:
            cache["real"] = torch.cat([pool(b.real_levels[-1]) for b in batches])
            cache["generated"] = torch.cat([pool(b.generated_levels[-1]) for b in batches])
            cache["excess"] = torch.cat([fine_detail(b.generated - b.real) for b in batches])
        return cache

    # -- terms ------------------------------------------------------------------------------------

    def _matching(self, batch: Batch, cache: Cache) -> tuple[Tensor, Terms]:
        """Each generated picture against the real one of its caption: frozen features, colours and
        layout; and over the batch, contrast between pictures and detail that all have in common."""
        rows, pool = batch.rows, self.builder.lite0.pool
        levels = batch.real_levels, batch.generated_levels
        real, generated = pool(levels[0][-1]), pool(levels[1][-1])
        matching = feature_matching(*levels, real, generated)
        contrast = feature_contrast(
            self._among(cache.get("real"), real, rows),
            self._among(cache.get("generated"), generated, rows),
        )
        l1 = low_resolution_l1(batch.real, batch.generated)
        excess = fine_detail(batch.generated - batch.real)
        common = common_detail(self._among(cache.get("excess"), excess, rows))
        of_batch = CONTRAST_WEIGHT * contrast + COMMON_WEIGHT * common
        value = matching + L1_WEIGHT * l1 + self.training.accumulate * of_batch
        terms = {"feature_matching": matching, "feature_contrast": contrast}
        terms |= {"l1": l1, "common_detail": common}
        return value, {name: term.detach() for name, term in terms.items()}

    def _caption_nce(
        self,
        output: DiscriminatorOutput,
        cond: Tensor,
        every_cond: Tensor,
        cache: Cache,
        rows: slice,
    ) -> Tensor:
        """InfoNCE of pictures and captions over the whole batch; gradients go through `rows`."""
        cached = cache.get("embedding")
        others = None if cached is None else every_cond.detach()
        embedding = self._among(cached, output.embedding, rows)
        every_output = DiscriminatorOutput(output.patch_logits, embedding)
        return info_nce(every_output.match_matrix(self._among(others, cond, rows)))

    def _penalty(
        self, name: str, pictures: Tensor, logits: tuple[Tensor, ...], cond: Tensor, batch: Batch
    ) -> Tensor:
        """R1 or R2: E |grad D|^2 at `pictures`, which have `logits`."""
        if self.training.penalty == "exact":
            return gradient_penalty(_sum_over_heads(logits), pictures)
        moved = pictures.detach() + PROBE_STEP * batch.noise.penalty[name]
        with torch.no_grad():  # only the discriminator's weights need the gradient
            levels = self.builder.features(moved, batch.noise.background)
        moved_logits = self.discriminator(moved, levels).logits(cond)
        return finite_difference_penalty(_sum_over_heads(logits), _sum_over_heads(moved_logits))

    def _lipschitz(self, real: Tensor, generated: Tensor, cond: Tensor, batch: Batch) -> Tensor:
        """WGAN-GP's penalty, between real and generated pictures."""
        mixed = torch.lerp(real, generated, batch.noise.penalty["between"])
        mixed, levels = self._requiring_grad(mixed, batch.noise.background)
        logits = self.discriminator(mixed, levels).logits(cond)
        return lipschitz_penalty(_sum_over_heads(logits), mixed)

    # -- rows and inputs --------------------------------------------------------------------------

    def _inputs(
        self, batch: Batch
    ) -> tuple[tuple[Tensor, list[Tensor]], tuple[Tensor, list[Tensor]]]:
        """Real and generated pictures with their levels; they require grad for exact penalties."""
        t, background = self.training, batch.noise.background
        real = batch.real, batch.real_levels
        generated = batch.generated.detach(), [level.detach() for level in batch.generated_levels]
        if t.penalty == "exact":
            if t.r1_gamma:
                real = self._requiring_grad(real[0], background)
            if t.r2_gamma:
                generated = self._requiring_grad(generated[0], background)
        return real, generated

    def _requiring_grad(self, pictures: Tensor, background: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Pictures that require grad, with features that are computed from them."""
        pictures = pictures.detach().requires_grad_(True)
        return pictures, self.builder.features(pictures, background)

    def _neighbours(self, cond: Tensor) -> Tensor:
        """[N, heads, embed_dim] the condition of every picture's neighbour, across processes."""
        own = self.context.local_slice(self.training.batch)
        return self.context.gather(cond).roll(1, dims=0)[own]

    def _own_rows(self, every: Tensor, rows: slice) -> Tensor:
        """A micro-batch's rows of the whole. A single micro-batch is not sliced, which would change
        the order in which gradients are added up."""
        return every if self.training.accumulate == 1 else every[rows]

    def _among(self, cached: Tensor | None, own: Tensor, rows: slice) -> Tensor:
        """All rows of the whole batch, over all processes: `own` among the cached ones."""
        if cached is not None:
            own = torch.cat([cached[: rows.start], own, cached[rows.stop :]])
        return self.context.gather(own)


def over_heads(loss: Callable, real: tuple[Tensor, ...], generated: tuple[Tensor, ...]) -> Tensor:
    """The mean over heads of a loss of patch logits."""
    return torch.stack([loss(r, g) for r, g in zip(real, generated, strict=True)]).mean()


def _sum_over_heads(logits: tuple[Tensor, ...]) -> Tensor:
    """[N] the mean over patches of each head, summed over heads."""
    return torch.stack([head.mean(dim=1) for head in logits]).sum(dim=0)
