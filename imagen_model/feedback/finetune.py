"""Fine-tuning of a generator towards a reward, near its original weights.

Trained are a shift of w alone, or also low-rank updates of the blocks' linear layers (LoRA,
2106.09685). The target of a picture's reward is the best reward among the frozen generator's
pictures of the same prompt, which limits reward hacking (after DrPO 2606.02521 and best-of-N). Two
terms keep the picture near the frozen generator's: the discriminator's realism and match must not
fall, and lite0's features must stay similar. Training ends early when held-out ratings stop
improving or when diversity falls.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..condition import Condition, settle_styles, style_weights
from ..inference.sampling import batches, fitting_batch
from ..model import Model
from ..networks.generator import Generator
from ..networks.networks import Networks
from ..networks.precision import full_precision
from ..progress import OnPictures
from .adapter import linear_layers
from .prompts import PROMPTS
from .reward import Reward, content, feature_extractor

GROUP = 6  # pictures of one prompt and style; the best one's reward is the target
POOL_SEED = 1 << 40  # the pool's first seed; too large to be typed by a user
RANK = 4
STEPS = {"shift": 20, "lora": 120}
BATCH_TUNE = 16
SHIFT_LR, LORA_LR = 0.03, 1e-3
REALISM_WEIGHT = 0.5
DISTANCE_WEIGHT = 4.0
CHECK_EVERY = 10  # steps between evaluations on the held-out part
HELD_GROUPS = 10
MAX_DIVERSITY_LOSS = 0.05
PATIENCE = 3  # evaluations without improvement


@dataclass(frozen=True)
class Pool:
    """Inputs of the frozen generator, a group per prompt, and features of its pictures."""

    z: Tensor  # [N, z_dim]
    condition: Condition  # [N], styles settled
    features: Tensor  # [N, F] see reward.FeatureExtractor
    logits: Tensor  # [N] realism and match

    def goals(self, reward: Reward) -> Tensor:
        """[N] the reward of the best picture of each one's group."""
        return reward(self.features).view(-1, GROUP).amax(dim=1).repeat_interleave(GROUP)

    def __len__(self) -> int:
        return len(self.z)


def pool_condition(model: Model) -> Condition:
    """One row per prompt; half of them leave the style open, the others cycle through the styles.
    A model without text gets null conditions."""
    texts = list(PROMPTS) if model.takes_words else [""] * len(PROMPTS)
    condition = model.encode_text(texts)
    style = condition.style.clone()
    for row in range(1, len(texts), 2):
        if model.styles:
            name = model.styles[row // 2 % len(model.styles)]
            style[row] = style_weights(model.styles, name, 1)[0]
    return condition.with_style(style)


@torch.no_grad()
def generate_pool(model: Model, progress: OnPictures) -> Pool:
    """The pool of a model; deterministic."""
    prompts = pool_condition(model)
    condition = prompts[torch.arange(len(prompts)).repeat_interleave(GROUP)]
    z = model.latent(range(POOL_SEED, POOL_SEED + len(condition))).values
    condition = condition.with_style(settle_styles(condition.style, z))
    extractor, features, logits = feature_extractor(model), [], []
    with full_precision():
        for rows in batches(len(z), fitting_batch(model.resolution)):
            cond = condition[rows].to(device=model.device)
            generated = model.networks.generate(z[rows].to(model.device), cond)
            part, levels = extractor(generated)
            features.append(part.cpu())
            logits.append(total_logits(model.networks, generated, levels, cond).cpu())
            progress(rows.stop, len(z), generated.cpu())
    return Pool(z, condition, torch.cat(features), torch.cat(logits))


def total_logits(
    networks: Networks, generated: Tensor, levels: list[Tensor], condition: Condition
) -> Tensor:
    """[N] the discriminator's realism plus its match with the condition."""
    output = networks.discriminator(generated, levels)
    embedded = networks.discriminator.embed_condition(condition.pooled, condition.style)
    return output.realism() + output.match(embedded).mean(dim=1)


class LowRank(nn.Module):
    """W -> W + up down; up starts at zero."""

    def __init__(self, weight: Tensor, generator: torch.Generator) -> None:
        super().__init__()
        out_features, in_features = weight.shape
        down = torch.randn(RANK, in_features, generator=generator) * in_features**-0.5
        self.down = nn.Parameter(down.to(weight))
        self.up = nn.Parameter(weight.new_zeros(out_features, RANK))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.up @ self.down


class Tuner:
    """A copy of the networks whose only trainable parameters are a shift and, for "lora", low-rank
    updates. `judge` is a reward of held-out ratings, None where there are too few of them."""

    def __init__(
        self, model: Model, pool: Pool, reward: Reward, judge: Reward | None, kind: str
    ) -> None:
        assert kind in STEPS and isinstance(model.networks.generator, Generator)
        self.pool, self.reward, self.judge, self.kind = pool, reward, judge, kind
        # copies, because a host may load models in inference mode
        self.extractor = copy.deepcopy(feature_extractor(model))
        self.networks = copy.deepcopy(model.networks).requires_grad_(False).eval()
        config = model.networks.generator.config
        self.shift = nn.Parameter(torch.zeros(config.num_blocks, config.dim, device=model.device))
        self.random = torch.Generator().manual_seed(0)
        layers = linear_layers(self.networks.generator) if kind == "lora" else {}
        self.updates = {name: LowRank(layer.weight, self.random) for name, layer in layers.items()}
        for name, layer in layers.items():
            parametrize.register_parametrization(layer, "weight", self.updates[name], unsafe=True)
        groups = [{"params": [self.shift], "lr": SHIFT_LR}]
        if self.updates:
            low_rank = [p for update in self.updates.values() for p in update.parameters()]
            groups.append({"params": low_rank, "lr": LORA_LR})
        self.optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99))
        self.goals = pool.goals(reward)
        rows, held = torch.arange(len(pool)), HELD_GROUPS * GROUP
        self.held, self.used = rows[:held], rows[held:]

    def result(self) -> tuple[Tensor, dict[str, tuple[Tensor, Tensor]]]:
        """(shift, lora) as an adapter holds them."""
        lora = {
            name: (update.up.detach().cpu().half(), update.down.detach().cpu().half())
            for name, update in self.updates.items()
        }
        return self.shift.detach().cpu().clone(), lora

    def run(self, progress: OnPictures) -> dict:
        """Train and keep the best state; returns a record of it. `progress` may raise to cancel."""
        steps, best, since = STEPS[self.kind], None, 0
        start = self.evaluate()
        ended = "all steps done"
        for step in range(1, steps + 1):
            generated = self.step()
            progress(step, steps, generated)
            if step % CHECK_EVERY and step != steps:
                continue
            now = self.evaluate()
            if now["diversity"] < (1 - MAX_DIVERSITY_LOSS) * start["diversity"]:
                ended = f"diversity fell by more than {MAX_DIVERSITY_LOSS:.0%} after {step} steps"
                break
            if best is None or now["judge"] > best[0]["judge"]:
                best, since = (now, step, copy.deepcopy(self.state())), 0
            else:
                since += 1
            if since >= PATIENCE:
                ended = f"held-out ratings stopped agreeing after {best[1]} steps"
                break
        if best is None:
            best = (start, 0, {name: torch.zeros_like(p) for name, p in self.state().items()})
        after, num_steps, state = best
        self.restore(state)
        return {"steps": num_steps, "ended": ended, "before": start, "after": after}

    def state(self) -> dict[str, Tensor]:
        named = {n: p for n, p in self.networks.named_parameters() if p.requires_grad}
        return {"shift": self.shift, **named}

    @torch.no_grad()
    def restore(self, state: dict[str, Tensor]) -> None:
        for name, parameter in self.state().items():
            parameter.copy_(state[name])

    def generate(self, rows: Tensor) -> tuple[Tensor, Condition]:
        """Pictures of the tuned generator for rows of the pool, with their conditions."""
        device = self.shift.device
        condition = self.pool.condition[rows].to(device=device)
        tokens, mask, pooled = self.networks.conditioning(condition)
        generator = self.networks.generator
        w = generator.mapping(self.pool.z[rows].to(device), pooled)  # [N, D]
        return generator.synthesis(w[:, None] + self.shift, tokens, mask), condition

    def step(self) -> Tensor:
        """One optimiser step; returns its pictures."""
        chosen = torch.randperm(len(self.used), generator=self.random)[:BATCH_TUNE]
        rows = self.used[chosen]
        with full_precision(), parametrize.cached():
            generated, condition = self.generate(rows)
            features, levels = self.extractor(generated)
            logits = total_logits(self.networks, generated, levels, condition)
            loss = self.loss(features, logits, rows)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
        self.optimizer.step()
        return generated.detach().cpu()

    def loss(self, features: Tensor, logits: Tensor, rows: Tensor) -> Tensor:
        """softplus(goal - r) + a softplus(D(frozen) - D(tuned)) + b (1 - cos(frozen, tuned))."""
        preference = F.softplus(self.goals[rows].to(features) - self.reward(features)).mean()
        realism = F.softplus(self.pool.logits[rows].to(features) - logits).mean()
        frozen = self.pool.features[rows].to(features)
        cosine = F.cosine_similarity(content(features), content(frozen), dim=1).mean()
        return preference + REALISM_WEIGHT * realism + DISTANCE_WEIGHT * (1 - cosine)

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Figures of the held-out part of the pool; "judge" is the reward's without a judge."""
        with full_precision(), parametrize.cached():
            generated, _ = self.generate(self.held)
            features, _ = self.extractor(generated)
        judge = self.judge or self.reward
        return {
            "reward": float(self.reward(features).mean()),
            "judge": float(judge(features).mean()),
            "diversity": diversity(features),
        }


def diversity(features: Tensor) -> float:
    """Mean distance of all pairs of features [N, F]: lite0's pooled ones, at unit length."""
    pooled = F.normalize(content(features), dim=1)
    n = len(pooled)
    return float(torch.cdist(pooled, pooled).sum() / (n * (n - 1)))
