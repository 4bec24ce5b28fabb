"""The generator moved towards a reward, near to where it was.

What moves is either a shift of w alone, or low-rank updates of the blocks' linear layers as well
(LoRA, 2106.09685). The pictures come from the generator itself and are ranked by the reward: a
picture shall be liked as much as the best that the frozen generator drew for its prompt, which
bounds what the reward can be fooled into (after DrPO 2606.02521 and best-of-N). Two anchors hold:
the discriminator must find the picture as real and as fitting as the frozen one, and lite0 must see
nearly the same. It ends early when held-out ratings stop agreeing, or when diversity falls.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..condition import Condition, settle_styles, style_weights
from ..inference.sampling import BATCH
from ..model import Model
from ..networks.generator import Generator
from ..networks.networks import Networks
from ..networks.precision import full_precision
from ..progress import OnPictures
from .adapter import linear_layers
from .prompts import PROMPTS
from .reward import Reward, content, feature_extractor

GROUP = 6  # pictures of one prompt and style, which are ranked among themselves
POOL_SEED = 1 << 40  # the pool's first seed: not what people type
RANK = 4
STEPS = {"shift": 20, "lora": 120}
BATCH_TUNE = 16
SHIFT_LR, LORA_LR = 0.03, 1e-3
REALISM_WEIGHT = 0.5
DISTANCE_WEIGHT = 4.0
CHECK_EVERY = 10  # steps between looks at the held-out part
HELD_GROUPS = 10
MAX_DIVERSITY_LOSS = 0.05
PATIENCE = 3  # looks without a better word from the held-out ratings


@dataclass(frozen=True)
class Pool:
    """Pictures that the frozen generator drew, a group a prompt, and what the judges said."""

    z: Tensor  # [N, z_dim]
    condition: Condition  # [N], styles settled
    seen: Tensor  # [N, F] see reward.Eye
    logits: Tensor  # [N] realism and match

    def goals(self, reward: Reward) -> Tensor:
        """[N] the reward of the best picture of each one's group."""
        ranked = reward(self.seen).view(-1, GROUP)
        return ranked.amax(dim=1).repeat_interleave(GROUP)

    def __len__(self) -> int:
        return len(self.z)


def pool_condition(model: Model) -> Condition:
    """One row a prompt: half of them leave the style open, the others take turns. A model without
    text is asked for anything."""
    texts = list(PROMPTS) if model.takes_words else [""] * len(PROMPTS)
    condition = model.encode_text(texts)
    style = condition.style.clone()
    for row in range(1, len(texts), 2):
        if model.styles:
            name = model.styles[row // 2 % len(model.styles)]
            style[row] = style_weights(model.styles, name, 1)[0]
    return condition.with_style(style)


@torch.no_grad()
def draw_pool(model: Model, progress: OnPictures) -> Pool:
    """The same pool for the same model, every time."""
    prompts = pool_condition(model)
    condition = prompts[torch.arange(len(prompts)).repeat_interleave(GROUP)]
    z = model.latent(range(POOL_SEED, POOL_SEED + len(condition))).values
    condition = condition.with_style(settle_styles(condition.style, z))
    extractor, seen, logits = feature_extractor(model), [], []
    with full_precision():
        for begin in range(0, len(z), BATCH):
            rows = slice(begin, begin + BATCH)
            cond = condition[rows].to(device=model.device)
            generated = model.networks.generate(z[rows].to(model.device), cond)
            part, levels = extractor(generated)
            seen.append(part.cpu())
            logits.append(total_logits(model.networks, generated, levels, cond).cpu())
            progress(min(begin + BATCH, len(z)), len(z), generated.cpu())
    return Pool(z, condition, torch.cat(seen), torch.cat(logits))


def total_logits(
    networks: Networks, generated: Tensor, levels: list[Tensor], condition: Condition
) -> Tensor:
    """[N] what the discriminator says: realism plus match with the condition."""
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
    """A copy of the networks whose only parameters are a shift and, for "lora", low-rank updates.

    `judge` is a reward of held-out ratings, None where there are too few of them.
    """

    def __init__(
        self, model: Model, pool: Pool, reward: Reward, judge: Reward | None, kind: str
    ) -> None:
        assert kind in STEPS and isinstance(model.networks.generator, Generator)
        self.pool, self.reward, self.judge, self.kind = pool, reward, judge, kind
        self.extractor = copy.deepcopy(
            feature_extractor(model)
        )  # a host may load in inference mode
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
        held = HELD_GROUPS * GROUP
        self.held, self.used = torch.arange(len(pool))[:held], torch.arange(len(pool))[held:]

    def result(self) -> tuple[Tensor, dict[str, tuple[Tensor, Tensor]]]:
        """(shift, lora) as an adapter holds them."""
        lora = {
            name: (update.up.detach().cpu().half(), update.down.detach().cpu().half())
            for name, update in self.updates.items()
        }
        return self.shift.detach().cpu().clone(), lora

    def run(self, progress: OnPictures) -> dict:
        """Train, keep the best, and say how it went; `progress` may raise to cancel."""
        steps, best, since = STEPS[self.kind], None, 0
        start = self.look()
        ended = "all steps done"
        for step in range(1, steps + 1):
            generated = self.step()
            progress(step, steps, generated)
            if step % CHECK_EVERY and step != steps:
                continue
            now = self.look()
            if now["diversity"] < (1 - MAX_DIVERSITY_LOSS) * start["diversity"]:
                ended = f"diversity fell by more than {MAX_DIVERSITY_LOSS:.0%} after {step} steps"
                break
            word = now["judge"] if self.judge is not None else now["reward"]
            if best is None or word > best[0]:
                best, since = (word, step, now, copy.deepcopy(self.state())), 0
            else:
                since += 1
            if since >= PATIENCE:
                ended = f"held-out ratings stopped agreeing after {best[1]} steps"
                break
        if best is None:
            self.restore({name: torch.zeros_like(p) for name, p in self.state().items()})
            return {"steps": 0, "ended": ended, "before": start, "after": start}
        self.restore(best[3])
        return {"steps": best[1], "ended": ended, "before": start, "after": best[2]}

    def state(self) -> dict[str, Tensor]:
        named = {n: p for n, p in self.networks.named_parameters() if p.requires_grad}
        return {"shift": self.shift, **named}

    @torch.no_grad()
    def restore(self, state: dict[str, Tensor]) -> None:
        for name, parameter in self.state().items():
            parameter.copy_(state[name])

    def draw(self, rows: Tensor) -> tuple[Tensor, Condition]:
        """What the moved generator draws for rows of the pool."""
        device = self.shift.device
        condition = self.pool.condition[rows].to(device=device)
        tokens, mask, pooled = self.networks.conditioning(condition)
        generator = self.networks.generator
        w = generator.mapping(self.pool.z[rows].to(device), pooled)  # [N, D]
        return generator.synthesis(w[:, None] + self.shift, tokens, mask), condition

    def step(self) -> Tensor:
        """One step; returns what was drawn."""
        chosen = torch.randperm(len(self.used), generator=self.random)[:BATCH_TUNE]
        rows = self.used[chosen]
        with full_precision(), parametrize.cached():
            generated, condition = self.draw(rows)
            seen, levels = self.extractor(generated)
            logits = total_logits(self.networks, generated, levels, condition)
            loss = self.loss(seen, logits, rows)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
        self.optimizer.step()
        return generated.detach().cpu()

    def loss(self, seen: Tensor, logits: Tensor, rows: Tensor) -> Tensor:
        """softplus(goal - r) + a softplus(D(frozen) - D(moved)) + b (1 - cos(frozen, moved))."""
        liking = F.softplus(self.goals[rows].to(seen) - self.reward(seen)).mean()
        realism = F.softplus(self.pool.logits[rows].to(seen) - logits).mean()
        frozen = self.pool.seen[rows].to(seen)
        near = F.cosine_similarity(content(seen), content(frozen), dim=1).mean()
        return liking + REALISM_WEIGHT * realism + DISTANCE_WEIGHT * (1 - near)

    @torch.no_grad()
    def look(self) -> dict[str, float]:
        """Figures of the held-out part of the pool."""
        with full_precision(), parametrize.cached():
            generated, _ = self.draw(self.held)
            seen, _ = self.extractor(generated)
        judge = self.judge or self.reward
        return {
            "reward": float(self.reward(seen).mean()),
            "judge": float(judge(seen).mean()),
            "diversity": diversity(seen),
        }


def diversity(seen: Tensor) -> float:
    """Mean distance of all pairs of views [N, F], lite0's features at unit length."""
    features = F.normalize(content(seen), dim=1)
    n = len(features)
    return float(torch.cdist(features, features).sum() / (n * (n - 1)))
