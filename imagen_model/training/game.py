"""The game of one batch: a discriminator's step, then a generator's.

One forward pass of the generator serves both networks, and the frozen features of real and fake are
computed once: they feed the discriminator's heads and the pairs' term alike. The shape of the game
is Projected GAN's (2111.01007) or R3GAN's (2501.05441), by `objective`.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.utils.parametrize import cached

from ..conditioning import Condition
from ..config import ModelConfig
from ..discriminator import Judgement
from ..features import as_rgb, lite0
from ..likeness import L1_WEIGHT, feature_matching, low_resolution_l1
from ..networks import Networks
from .augment import AugmentDraw, random_background
from .batch import Batch
from .config import TrainingConfig
from .controls import Controls, overfit
from .guard import relative_diversity
from .losses import (
    OBJECTIVES,
    PROBE_STEP,
    finite_difference_penalty,
    gradient_penalty,
    info_nce,
    lipschitz_penalty,
)
from .pairs import CONTRAST_WEIGHT, feature_contrast
from .team import Team
from .unrolled import UnrolledDiscriminator


class Game:
    """Both networks' optimisers, and what one batch does to them."""

    def __init__(
        self,
        networks: Networks,
        model: ModelConfig,
        training: TrainingConfig,
        *,
        device: torch.device,
        rng: torch.Generator,
        team: Team,
    ) -> None:
        """Augmentation and penalties draw from `rng`, for the rows of the whole team."""
        self.team = team
        self.networks, self.model, self.training = networks, model, training
        self.device, self.rng = device, rng
        self.lite0 = lite0() if device.type == "cpu" else copy.deepcopy(lite0()).to(device)
        self.optimizers = {"g": self._generator_optimizer(), "d": self._discriminator_optimizer()}
        self.controls = Controls(training.augment_p)

    def _generator_optimizer(self) -> torch.optim.Adam:
        t, mapping = self.training, list(self.networks.generator.mapping.parameters())
        special = {id(p) for p in mapping}
        rest = [
            p for m in self.networks.generating() for p in m.parameters() if id(p) not in special
        ]
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

    # -- a batch ----------------------------------------------------------------------------------

    def play(
        self,
        draw: Callable[[], Tensor],
        real: Tensor,
        condition: Condition,
        *,
        has_words: bool,
        generator_learns: bool = True,
    ) -> dict[str, Tensor]:
        """Both steps; returns scalars for the log. `draw` makes the pictures for `condition`."""
        batch = self._batch(draw, real, condition, has_words)
        with cached():  # one power iteration of spectral norm a step: all calls see one network
            log, real_judged = self._discriminator_step(batch)
        if generator_learns:
            log |= self._generator_step(batch, real_judged)
        log["diversity"] = relative_diversity(batch.real, batch.fake.detach())
        return self.team.average(log)

    def _batch(
        self, draw: Callable[[], Tensor], real: Tensor, condition: Condition, has_words: bool
    ) -> Batch:
        count, own = self.training.batch, self.team.own(self.training.batch)
        augment = AugmentDraw.sample(
            count, self.controls.augment_p, generator=self.rng, device=self.device
        )[own]
        background = random_background(count, self.rng, self.device)[own]
        with self._autocast():
            fake = draw()
            real, fake = augment(real), augment(fake)
            with torch.no_grad():
                real_levels = self._features(real, background)
            fake_levels = self._features(fake, background)
        real_levels = [level.float() for level in real_levels]
        fake_levels = [level.float() for level in fake_levels]
        return Batch(
            real.float(),
            fake.float(),
            real_levels,
            fake_levels,
            condition,
            has_words,
            background,
        )

    def _features(self, pictures: Tensor, background: Tensor) -> list[Tensor]:
        """lite0's levels where something looks at them."""
        if self.model.discriminator.features or self.training.pairs_weight:
            return self.lite0(as_rgb(pictures, background))
        return []

    def _autocast(self) -> contextlib.AbstractContextManager:
        if self.device.type == "cuda":
            return torch.autocast("cuda", dtype=torch.bfloat16)
        return contextlib.nullcontext()

    # -- the discriminator ------------------------------------------------------------------------

    def _discriminator_step(self, batch: Batch) -> tuple[dict[str, Tensor], Judgement]:
        t, discriminator = self.training, self.networks.discriminator
        d_loss, _ = OBJECTIVES[t.objective]
        discriminator.requires_grad_(True)
        if discriminator.config.features:
            discriminator.mixer.requires_grad_(False)
        real, real_levels = batch.real, batch.real_levels
        fake, fake_levels = batch.fake.detach(), [level.detach() for level in batch.fake_levels]
        if t.penalty == "exact":
            if t.r1_gamma:
                real, real_levels = self._requiring_grad(real, batch.background)
            if t.r2_gamma:
                fake, fake_levels = self._requiring_grad(fake, batch.background)
        real_judged = discriminator(real, real_levels)
        fake_judged = discriminator(fake, fake_levels)
        cond = discriminator.embed_condition(batch.condition.pooled, batch.condition.style)
        real_logits, fake_logits = real_judged.logits(cond), fake_judged.logits(cond)
        loss = over_heads(d_loss, real_logits, fake_logits)
        log = {"d_loss": loss.detach()}
        if t.wrong_caption_weight and batch.has_words:
            # a real picture under its neighbour's caption counts as fake; only the heads pay
            wrong = real_judged.logits(self._rolled(cond))
            loss = loss + t.wrong_caption_weight * over_heads(d_loss, real_logits, wrong)
        if t.info_nce_weight:
            nce = self._caption_nce(real_judged, cond)
            loss = loss + t.info_nce_weight * nce
            log["d_info_nce"] = nce.detach()
        for name, gamma, pictures, logits in (
            ("r1_penalty", t.r1_gamma, real, real_logits),
            ("r2_penalty", t.r2_gamma, fake, fake_logits),
        ):
            if gamma:
                penalty = self._slope(pictures, logits, cond, batch.background)
                loss = loss + gamma * self.controls.gamma_scale / 2 * penalty
                log[name] = penalty.detach()
        if t.objective == "wgan-gp":
            penalty = self._lipschitz(real, fake, cond, batch.background)
            loss = loss + t.lipschitz_weight * penalty
            log["lipschitz_penalty"] = penalty.detach()
        log["d_grad_norm"] = self._descend("d", loss)
        real_realism, fake_realism = real_judged.realism().detach(), fake_judged.realism().detach()
        log["real_logits"], log["fake_logits"] = real_realism.mean(), fake_realism.mean()
        log["overfit"] = overfit(real_realism, fake_realism)
        return log, real_judged.detach()

    def _rolled(self, cond: Tensor) -> Tensor:
        """[N, heads, embed_dim] every picture's neighbour's condition, across processes."""
        return self.team.gather(cond).roll(1, dims=0)[self.team.own(self.training.batch)]

    def _caption_nce(self, judged: Judgement, cond: Tensor) -> Tensor:
        gather = self.team.gather
        everything = Judgement(judged.patch_logits, gather(judged.embedding))
        return info_nce(everything.match_matrix(gather(cond)))

    def _requiring_grad(self, pictures: Tensor, background: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Pictures that require grad, with features that come from them where there are any."""
        pictures = pictures.detach().requires_grad_(True)
        return pictures, self._features(pictures, background)

    def _slope(
        self, pictures: Tensor, logits: tuple[Tensor, ...], cond: Tensor, background: Tensor
    ) -> Tensor:
        """E |grad D|^2 at `pictures`, which have `logits`: exact or probed, as `penalty` says."""
        if self.training.penalty == "exact":
            return gradient_penalty(_sum_over_heads(logits), pictures)
        whole = (self.training.batch, *pictures.shape[1:])
        noise = torch.randn(whole, generator=self.rng)[self.team.own(self.training.batch)]
        moved = pictures.detach() + PROBE_STEP * noise.to(pictures)
        with torch.no_grad():  # only the discriminator's weights need the gradient
            levels = self._features(moved, background)
        moved_logits = self.networks.discriminator(moved, levels).logits(cond)
        return finite_difference_penalty(_sum_over_heads(logits), _sum_over_heads(moved_logits))

    def _lipschitz(self, real: Tensor, fake: Tensor, cond: Tensor, background: Tensor) -> Tensor:
        count = self.training.batch
        between = torch.rand(count, 1, 1, 1, generator=self.rng)[self.team.own(count)]
        mixed, levels = self._requiring_grad(torch.lerp(real, fake, between.to(real)), background)
        logits = self.networks.discriminator(mixed, levels).logits(cond)
        return lipschitz_penalty(_sum_over_heads(logits), mixed)

    # -- the generator ----------------------------------------------------------------------------

    def _generator_step(self, batch: Batch, real_judged: Judgement) -> dict[str, Tensor]:
        t, discriminator = self.training, self.networks.discriminator
        _, g_loss = OBJECTIVES[t.objective]
        discriminator.requires_grad_(False)
        judged = discriminator(batch.fake, batch.fake_levels)
        cond = discriminator.embed_condition(batch.condition.pooled, batch.condition.style)
        if t.unrolled_steps:
            real_logits, fake_logits = self._unrolled().logits(batch)
        else:
            real_logits, fake_logits = real_judged.logits(cond), judged.logits(cond)
        adversarial = over_heads(g_loss, real_logits, fake_logits)
        loss = t.adversarial_weight * adversarial
        log = {"g_loss": adversarial.detach()}
        if t.info_nce_weight:
            nce = self._caption_nce(judged, cond)
            loss = loss + t.info_nce_weight * t.adversarial_weight * nce
            log["g_info_nce"] = nce.detach()
        if t.pairs_weight:
            levels = batch.real_levels, batch.fake_levels
            pooled = self.lite0.pool(levels[0][-1]), self.lite0.pool(levels[1][-1])
            matching = feature_matching(*levels, *pooled)
            contrast = feature_contrast(*map(self.team.gather, pooled))
            l1 = low_resolution_l1(batch.real, batch.fake)
            pairs = matching + CONTRAST_WEIGHT * contrast + L1_WEIGHT * l1
            loss = loss + t.pairs_weight * pairs
            log |= {"feature_matching": matching.detach(), "feature_contrast": contrast.detach()}
            log["l1"] = l1.detach()
        log["g_grad_norm"] = self._descend("g", loss, clip=t.clip)
        return log

    def _unrolled(self) -> UnrolledDiscriminator:
        d_loss, _ = OBJECTIVES[self.training.objective]
        return UnrolledDiscriminator(
            self.networks.discriminator,
            self.optimizers["d"],
            lambda real, fake: over_heads(d_loss, real, fake),
            steps=self.training.unrolled_steps,
        )

    def _descend(self, name: str, loss: Tensor, *, clip: float | None = None) -> Tensor:
        """One step of an optimiser; returns its gradient's norm. Not finite: nothing changes."""
        optimizer = self.optimizers[name]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.team.average_gradients(parameters)
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if norm.isfinite():
            if clip is not None:
                torch.nn.utils.clip_grads_with_norm_(parameters, clip, norm)
            optimizer.step()
        return norm


def over_heads(loss: Callable, real: tuple[Tensor, ...], fake: tuple[Tensor, ...]) -> Tensor:
    """The mean over heads of a loss of patch logits."""
    return torch.stack([loss(r, f) for r, f in zip(real, fake, strict=True)]).mean()


def _sum_over_heads(logits: tuple[Tensor, ...]) -> Tensor:
    """[N] the mean over patches of each head, summed over heads."""
    return torch.stack([head.mean(dim=1) for head in logits]).sum(dim=0)
