"""The game of one batch: a discriminator's step, then a generator's.

One forward pass of the generator serves both networks, and the frozen features of real and fake are
computed once: they feed the discriminator's heads and the pairs' term alike. The shape of the game
is Projected GAN's (2111.01007) or R3GAN's (2501.05441), by `objective`.

A batch may be played in parts whose gradients add up to the whole batch's (`accumulate`). Terms
that compare the pictures of a batch still see all of it, as in GradCache (2101.06983): every part
is drawn once without gradients, and in each part's turn its own pictures, with gradients, stand
among the others.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils.parametrize import cached

from ..conditioning import Condition
from ..config import ModelConfig
from ..discriminator import Judgement
from ..features import as_rgb, lite0
from ..likeness import L1_WEIGHT, feature_matching, fine_detail, low_resolution_l1
from ..networks import Networks
from .augment import AugmentDraw, random_background
from .batch import Batch, Chance
from .compiled import compile_networks
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
from .pairs import COMMON_WEIGHT, CONTRAST_WEIGHT, common_detail, feature_contrast
from .team import Team
from .unrolled import UnrolledDiscriminator

ATTENTION = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


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
        shared = device.type == "cpu" and not training.compile
        self.lite0 = lite0() if shared else copy.deepcopy(lite0()).to(device)
        if training.compile:
            compile_networks(networks, self.lite0, training)
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
        draw: Callable[[slice], Tensor],
        real: Tensor,
        condition: Condition,
        *,
        has_words: bool,
        generator_learns: bool = True,
    ) -> dict[str, Tensor]:
        """Both steps; returns scalars for the log. `draw(rows)` makes pictures for `condition`."""
        chance = self._chance(real.shape)
        size = len(real) // self.training.accumulate
        parts = [slice(begin, begin + size) for begin in range(0, len(real), size)]
        again = draw if len(parts) > 1 else None  # the generator's part draws with gradients
        with torch.no_grad() if again else contextlib.nullcontext():
            batches = [
                self._batch(draw, real, condition, chance, has_words, rows) for rows in parts
            ]
        with cached():  # one power iteration of spectral norm a step: all calls see one network
            log, judged = self._discriminator_step(batches, condition)
        if generator_learns:
            # a look ahead puts other weights in, which a cache would hide
            with contextlib.nullcontext() if self.training.unrolled_steps else cached():
                log |= self._generator_step(batches, judged, condition, again)
        log["diversity"] = relative_diversity(real, torch.cat([batch.plain for batch in batches]))
        return self.team.average(log)

    def _chance(self, shape: torch.Size) -> Chance:
        """This process's rows of the step's random numbers, drawn for the whole team's batch."""
        t, own = self.training, self.team.own(self.training.batch)
        augment = AugmentDraw.sample(
            t.batch, self.controls.augment_p, generator=self.rng, device=self.device
        )
        background = random_background(t.batch, self.rng, self.device)
        noise = {}
        if t.penalty != "exact":
            for name, gamma in (("r1_penalty", t.r1_gamma), ("r2_penalty", t.r2_gamma)):
                if gamma:
                    noise[name] = torch.randn((t.batch, *shape[1:]), generator=self.rng)
        if t.objective == "wgan-gp":
            noise["between"] = torch.rand(t.batch, 1, 1, 1, generator=self.rng)
        return Chance(augment, background, {k: v.to(self.device) for k, v in noise.items()})[own]

    def _batch(
        self,
        draw: Callable[[slice], Tensor],
        real: Tensor,
        condition: Condition,
        chance: Chance,
        has_words: bool,
        rows: slice,
    ) -> Batch:
        chance = chance[rows]
        with self._autocast():
            real = chance.augment(real[rows])
            with torch.no_grad():
                levels = [level.float() for level in self._features(real, chance.background)]
        drawn, drawn_levels, plain = self._drawn(draw, rows, chance)
        return Batch(
            real.float(),
            drawn,
            levels,
            drawn_levels,
            condition[rows],
            has_words,
            chance,
            plain,
            rows,
        )

    def _drawn(
        self, draw: Callable[[slice], Tensor], rows: slice, chance: Chance
    ) -> tuple[Tensor, list[Tensor], Tensor]:
        """Pictures as the discriminator sees them, with lite0's levels; and before augmentation,
        which makes even equal pictures differ."""
        with self._autocast():
            plain = draw(rows)
            fake = chance.augment(plain)
            levels = self._features(fake, chance.background)
        return fake.float(), [level.float() for level in levels], plain.detach().float()

    def _features(self, pictures: Tensor, background: Tensor) -> list[Tensor]:
        """lite0's levels where something looks at them."""
        if self.model.discriminator.features or self.training.pairs_weight:
            return self.lite0(as_rgb(pictures, background))
        return []

    @contextlib.contextmanager
    def _autocast(self) -> Iterator[None]:
        """bf16 on a GPU, and attention without cuDNN, which plans it anew for every length of the
        captions."""
        if self.device.type == "cuda":
            with torch.autocast("cuda", dtype=torch.bfloat16), sdpa_kernel(ATTENTION):
                yield
        else:
            yield

    def _own_rows(self, every: Tensor, rows: slice) -> Tensor:
        """A part's rows of the whole; without a slice where they are one, whose gradients would
        add up in another order."""
        return every if self.training.accumulate == 1 else every[rows]

    def _among(self, kept: Tensor | None, own: Tensor, rows: slice) -> Tensor:
        """All rows of the team's batch: this part's `own`, and of the other parts what was kept."""
        if kept is not None:
            own = torch.cat([kept[: rows.start], own, kept[rows.stop :]])
        return self.team.gather(own)

    # -- the discriminator ------------------------------------------------------------------------

    def _discriminator_step(
        self, batches: Sequence[Batch], condition: Condition
    ) -> tuple[dict[str, Tensor], list[Judgement]]:
        """A step on all parts; returns what it said of the real pictures, by part."""
        discriminator = self.networks.discriminator
        discriminator.requires_grad_(True)
        if discriminator.config.features:
            discriminator.mixer.requires_grad_(False)
        kept = None
        if len(batches) > 1 and self.training.info_nce_weight:
            # with gradients, which are dropped: the cached weights must keep theirs
            judged = [discriminator(b.real, b.real_levels).embedding.detach() for b in batches]
            kept = torch.cat(judged)
        seen: list[tuple[dict[str, Tensor], Judgement, Judgement]] = []
        norm = self._descend(
            "d", (self._discriminator_loss(b, condition, kept, seen) for b in batches)
        )
        logs, real_judged, fake_judged = zip(*seen, strict=True)
        log = _mean(logs) | {"d_grad_norm": norm}
        real, fake = (torch.cat([j.realism() for j in side]) for side in (real_judged, fake_judged))
        log |= {"real_logits": real.mean(), "fake_logits": fake.mean()}
        log["overfit"] = overfit(real, fake)
        return log, list(real_judged)

    def _discriminator_loss(
        self, batch: Batch, condition: Condition, kept: Tensor | None, seen: list
    ) -> Tensor:
        """Of one part; `condition` is of all parts. The log and both judgements go into `seen`."""
        t, discriminator, chance = self.training, self.networks.discriminator, batch.chance
        d_loss, _ = OBJECTIVES[t.objective]
        real, real_levels = batch.real, batch.real_levels
        fake, fake_levels = batch.fake.detach(), [level.detach() for level in batch.fake_levels]
        if t.penalty == "exact":
            if t.r1_gamma:
                real, real_levels = self._requiring_grad(real, chance.background)
            if t.r2_gamma:
                fake, fake_levels = self._requiring_grad(fake, chance.background)
        real_judged = discriminator(real, real_levels)
        fake_judged = discriminator(fake, fake_levels)
        every_cond = discriminator.embed_condition(condition.pooled, condition.style)
        cond = self._own_rows(every_cond, batch.rows)
        real_logits, fake_logits = real_judged.logits(cond), fake_judged.logits(cond)
        loss = over_heads(d_loss, real_logits, fake_logits)
        log = {"d_loss": loss.detach()}
        if t.wrong_caption_weight and batch.has_words:
            # a real picture under its neighbour's caption counts as fake; only the heads pay
            rolled = self._own_rows(self._rolled(every_cond), batch.rows)
            wrong = real_judged.logits(rolled)
            loss = loss + t.wrong_caption_weight * over_heads(d_loss, real_logits, wrong)
        if t.info_nce_weight:
            nce = self._caption_nce(real_judged, cond, every_cond, kept, batch.rows)
            loss = loss + t.accumulate * t.info_nce_weight * nce
            log["d_info_nce"] = nce.detach()
        for name, gamma, pictures, logits in (
            ("r1_penalty", t.r1_gamma, real, real_logits),
            ("r2_penalty", t.r2_gamma, fake, fake_logits),
        ):
            if gamma:
                if t.penalty == "exact":
                    penalty = gradient_penalty(_sum_over_heads(logits), pictures)
                else:
                    penalty = self._slope(pictures, logits, cond, chance, name)
                loss = loss + gamma * self.controls.gamma_scale / 2 * penalty
                log[name] = penalty.detach()
        if t.objective == "wgan-gp":
            penalty = self._lipschitz(real, fake, cond, chance)
            loss = loss + t.lipschitz_weight * penalty
            log["lipschitz_penalty"] = penalty.detach()
        seen.append((log, real_judged.detach(), fake_judged.detach()))
        return loss

    def _rolled(self, cond: Tensor) -> Tensor:
        """[N, heads, embed_dim] every picture's neighbour's condition, across processes."""
        return self.team.gather(cond).roll(1, dims=0)[self.team.own(self.training.batch)]

    def _caption_nce(
        self,
        judged: Judgement,
        cond: Tensor,
        every_cond: Tensor,
        kept: Tensor | None,
        rows: slice,
    ) -> Tensor:
        """InfoNCE over the whole batch; gradients go through `rows` of it."""
        others = None if kept is None else every_cond.detach()
        everything = Judgement(judged.patch_logits, self._among(kept, judged.embedding, rows))
        return info_nce(everything.match_matrix(self._among(others, cond, rows)))

    def _requiring_grad(self, pictures: Tensor, background: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Pictures that require grad, with features that come from them where there are any."""
        pictures = pictures.detach().requires_grad_(True)
        return pictures, self._features(pictures, background)

    def _slope(
        self, pictures: Tensor, logits: tuple[Tensor, ...], cond: Tensor, chance: Chance, name: str
    ) -> Tensor:
        """E |grad D|^2 at `pictures`, which have `logits`, probed with the noise called `name`."""
        moved = pictures.detach() + PROBE_STEP * chance.noise[name]
        with torch.no_grad():  # only the discriminator's weights need the gradient
            levels = self._features(moved, chance.background)
        moved_logits = self.networks.discriminator(moved, levels).logits(cond)
        return finite_difference_penalty(_sum_over_heads(logits), _sum_over_heads(moved_logits))

    def _lipschitz(self, real: Tensor, fake: Tensor, cond: Tensor, chance: Chance) -> Tensor:
        mixed = torch.lerp(real, fake, chance.noise["between"])
        mixed, levels = self._requiring_grad(mixed, chance.background)
        logits = self.networks.discriminator(mixed, levels).logits(cond)
        return lipschitz_penalty(_sum_over_heads(logits), mixed)

    # -- the generator ----------------------------------------------------------------------------

    def _generator_step(
        self,
        batches: Sequence[Batch],
        real_judged: Sequence[Judgement],
        condition: Condition,
        draw: Callable[[slice], Tensor] | None,
    ) -> dict[str, Tensor]:
        """A step on all parts; with `draw` each part is drawn again, with gradients."""
        self.networks.discriminator.requires_grad_(False)
        kept = self._kept(batches) if draw else {}
        logs: list[dict[str, Tensor]] = []
        norm = self._descend(
            "g",
            (
                self._generator_loss(self._redrawn(batch, draw), judged, condition, kept, logs)
                for batch, judged in zip(batches, real_judged, strict=True)
            ),
            clip=self.training.clip,
        )
        return _mean(logs) | {"g_grad_norm": norm}

    def _kept(self, batches: Sequence[Batch]) -> dict[str, Tensor]:
        """What terms over the whole batch need of each part while another has its turn."""
        kept, discriminator = {}, self.networks.discriminator
        if self.training.info_nce_weight:
            judged = [discriminator(b.fake, b.fake_levels).embedding for b in batches]
            kept["embedding"] = torch.cat(judged)
        if self.training.pairs_weight:
            kept["real"] = torch.cat([self.lite0.pool(b.real_levels[-1]) for b in batches])
            kept["fake"] = torch.cat([self.lite0.pool(b.fake_levels[-1]) for b in batches])
            kept["excess"] = torch.cat([fine_detail(b.fake - b.real) for b in batches])
        return kept

    def _redrawn(self, batch: Batch, draw: Callable[[slice], Tensor] | None) -> Batch:
        if draw is None:
            return batch
        fake, levels, _ = self._drawn(draw, batch.rows, batch.chance)
        return replace(batch, fake=fake, fake_levels=levels)

    def _generator_loss(
        self,
        batch: Batch,
        real_judged: Judgement,
        condition: Condition,
        kept: dict[str, Tensor],
        logs: list,
    ) -> Tensor:
        """Of one part, whose log is appended to `logs`; `condition` is of all parts."""
        t, discriminator, rows = self.training, self.networks.discriminator, batch.rows
        _, g_loss = OBJECTIVES[t.objective]
        judged = discriminator(batch.fake, batch.fake_levels)
        every_cond = discriminator.embed_condition(condition.pooled, condition.style)
        cond = self._own_rows(every_cond, rows)
        if t.unrolled_steps:
            real_logits, fake_logits = self._unrolled().logits(batch)
        else:
            real_logits, fake_logits = real_judged.logits(cond), judged.logits(cond)
        adversarial = over_heads(g_loss, real_logits, fake_logits)
        loss = t.adversarial_weight * adversarial
        log = {"g_loss": adversarial.detach()}
        if t.info_nce_weight:
            nce = self._caption_nce(judged, cond, every_cond, kept.get("embedding"), rows)
            loss = loss + t.accumulate * t.info_nce_weight * t.adversarial_weight * nce
            log["g_info_nce"] = nce.detach()
        if t.pairs_weight:
            levels = batch.real_levels, batch.fake_levels
            real, fake = self.lite0.pool(levels[0][-1]), self.lite0.pool(levels[1][-1])
            matching = feature_matching(*levels, real, fake)
            contrast = feature_contrast(
                self._among(kept.get("real"), real, rows), self._among(kept.get("fake"), fake, rows)
            )
            l1 = low_resolution_l1(batch.real, batch.fake)
            excess = fine_detail(batch.fake - batch.real)
            common = common_detail(self._among(kept.get("excess"), excess, rows))
            of_batch = CONTRAST_WEIGHT * contrast + COMMON_WEIGHT * common
            pairs = matching + L1_WEIGHT * l1 + t.accumulate * of_batch
            loss = loss + t.pairs_weight * pairs
            log |= {"feature_matching": matching.detach(), "feature_contrast": contrast.detach()}
            log |= {"l1": l1.detach(), "common_detail": common.detach()}
        logs.append(log)
        return loss

    def _unrolled(self) -> UnrolledDiscriminator:
        d_loss, _ = OBJECTIVES[self.training.objective]
        return UnrolledDiscriminator(
            self.networks.discriminator,
            self.optimizers["d"],
            lambda real, fake: over_heads(d_loss, real, fake),
            steps=self.training.unrolled_steps,
        )

    def _descend(self, name: str, losses: Iterable[Tensor], *, clip: float | None = None) -> Tensor:
        """One step of an optimiser down the mean of the parts' losses; returns its gradient's
        norm. Not finite: nothing changes."""
        optimizer, parts = self.optimizers[name], self.training.accumulate
        optimizer.zero_grad(set_to_none=True)
        for loss in losses:
            # spectral norm's share of the graph, which is cached, serves the next part as well
            (loss / parts).backward(retain_graph=parts > 1)
            del loss  # and with it the rest of this part's graph
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


def _mean(logs: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Of every name over the parts of a batch."""
    return {name: torch.stack([log[name] for log in logs]).mean() for name in logs[0]}


def _sum_over_heads(logits: tuple[Tensor, ...]) -> Tensor:
    """[N] the mean over patches of each head, summed over heads."""
    return torch.stack([head.mean(dim=1) for head in logits]).sum(dim=0)
