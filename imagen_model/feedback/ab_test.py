"""A/B test of an adapter on fixed prompts and seeds: reward against realism and diversity."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..condition import Condition, style_weights
from ..inference.sampling import fitting_batch
from ..model import Model
from ..networks.efficientnet import as_rgb
from ..networks.precision import full_precision
from ..progress import OnPictures
from ..storage.images import as_model_pictures
from .finetune import diversity
from .prompts import PROMPTS
from .reward import Reward, extract_features, feature_extractor

TRIAL_SEED = 1 << 41  # the first seed: neither the pool's nor one that users type
SEEDS = 2  # pictures per prompt
MIN_WIN_RATE = 0.55
MAX_LOSS = 0.05  # of diversity and of agreement with the prompts
MAX_REALISM_LOSS = 0.25  # standard deviations of the base's realism


@dataclass(frozen=True)
class Figures:
    """Figures of one model's pictures, by the base model's networks."""

    rewards: Tensor  # [N]
    realism: Tensor  # [N]
    ranks: Tensor  # [N] of the right prompt among all, 0 = best; empty without text
    diversity: float

    @property
    def agreement(self) -> float:
        """Mean reciprocal rank of the right prompt; 1 for a model without text."""
        return float((1 / (1 + self.ranks)).mean()) if len(self.ranks) else 1.0


def figures(base: Model, model: Model, reward: Reward, progress: OnPictures) -> Figures:
    """Generate with `model`, evaluate with `base`. `progress` may raise to cancel at every
    batch."""

    def check_cancelled(*_: object) -> None:
        progress(len(rows), len(rows), None)

    text = base.takes_words
    prompts = base.encode_text(list(PROMPTS) if text else [""] * len(PROMPTS))
    rows = torch.arange(len(PROMPTS)).repeat_interleave(SEEDS)
    latent = base.latent(range(TRIAL_SEED, TRIAL_SEED + len(rows)))
    generated = model.draw(prompts[rows], latent, progress=progress)
    features = extract_features(generated, feature_extractor(base), progress=check_cancelled)
    ranks = _ranks(base, generated, prompts, rows, check_cancelled) if text else torch.empty(0)
    realism = base.score(generated, progress=check_cancelled).realism
    return Figures(reward(features), realism, ranks, diversity(features))


@torch.no_grad()
def _ranks(
    base: Model, generated: Tensor, prompts: Condition, rows: Tensor, progress: OnPictures
) -> Tensor:
    """[N] how many prompts match each picture better than its own, each prompt in its best
    style."""
    discriminator, device = base.networks.discriminator, base.device
    pooled = prompts.to(device=device).pooled
    config, parts = discriminator.config, []
    x = as_model_pictures(generated, resolution=config.resolution, channels=config.channels)
    with full_precision():
        embedded = []
        for name in base.styles or [None]:
            style = style_weights(base.styles, name, len(prompts)).to(device)
            embedded.append(discriminator.embed_condition(pooled, style))
        for part in x.to(device).split(fitting_batch(config.resolution)):
            levels = base.lite0(as_rgb(part)) if base.lite0 is not None else None
            output = discriminator(part, levels)
            match = torch.stack([output.match_matrix(cond) for cond in embedded])
            parts.append(match.amax(dim=0).cpu())  # [N, prompts]
            progress(len(parts), len(parts), None)
    match = torch.cat(parts)
    own = match.gather(1, rows[:, None])
    return (match > own).sum(dim=1).float()


def ab_test(before: Figures, after: Figures) -> dict:
    """The comparison for the adapter's card; lists are [before, after]."""
    old, new = before.rewards, after.rewards
    wins = (new > old).float() + 0.5 * (new == old).float()
    spread = float(before.realism.std().clamp(min=1e-6))
    return {
        "pictures": len(old),
        "win_rate": float(wins.mean()),
        "reward": [float(old.mean()), float(new.mean())],
        "realism": [float(before.realism.mean()), float(after.realism.mean())],
        "realism_change": float((after.realism.mean() - before.realism.mean()) / spread),
        "diversity": [before.diversity, after.diversity],
        "diversity_change": after.diversity / before.diversity - 1,
        "agreement": [before.agreement, after.agreement],
        "agreement_change": after.agreement / before.agreement - 1,
    }


def objections(ab: dict) -> list[str]:
    """Reasons against the adapter; empty where there is none."""
    reasons = []
    if ab["win_rate"] < MIN_WIN_RATE:
        reasons.append(f"it is hardly liked more than the base (win rate {ab['win_rate']:.0%})")
    for key, what in (("diversity", "diversity"), ("agreement", "agreement with the prompts")):
        if ab[f"{key}_change"] < -MAX_LOSS:
            reasons.append(f"{what} falls by {-ab[f'{key}_change']:.1%}")
    if ab["realism_change"] < -MAX_REALISM_LOSS:
        reasons.append(f"realism falls by {-ab['realism_change']:.2f} standard deviations")
    return reasons
