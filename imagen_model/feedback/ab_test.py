"""Before and after, on fixed prompts and seeds: is the adapted model liked more, and no worse?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..condition import style_weights
from ..inference.sampling import BATCH
from ..model import Model
from ..networks.efficientnet import as_rgb
from ..networks.precision import full_precision
from ..progress import OnPictures
from ..storage.images import as_model_pictures
from .finetune import diversity
from .prompts import PROMPTS
from .reward import Reward, feature_extractor, views

TRIAL_SEED = 1 << 41  # the first seed: neither the pool's nor what people type
SEEDS = 2  # pictures a prompt
MIN_WIN_RATE = 0.55
MAX_LOSS = 0.05  # of diversity and of agreement with the prompts
MAX_REALISM_LOSS = 0.25  # standard deviations of the base's realism


@dataclass(frozen=True)
class Figures:
    """One model's pictures, judged by the base model's networks."""

    tastes: Tensor  # [N]
    realism: Tensor  # [N]
    ranks: Tensor  # [N] of the right prompt among all, 0 = best; empty without text
    diversity: float

    @property
    def agreement(self) -> float:
        """Mean reciprocal rank of the right prompt; 1 for a model without text."""
        return float((1 / (1 + self.ranks)).mean()) if len(self.ranks) else 1.0


def figures(base: Model, model: Model, reward: Reward, progress: OnPictures) -> Figures:
    """Draw with `model`, judge with `base`. `progress` may raise to cancel at every batch."""

    def still_wanted(*_: object) -> None:
        progress(len(rows), len(rows), None)

    text = base.takes_words
    prompts = base.encode_text(list(PROMPTS) if text else [""] * len(PROMPTS))
    rows = torch.arange(len(PROMPTS)).repeat_interleave(SEEDS)
    latent = base.latent(range(TRIAL_SEED, TRIAL_SEED + len(rows)))
    generated = model.draw(prompts[rows], latent, progress=progress)
    seen = views(generated, feature_extractor(base), progress=still_wanted)
    ranks = _ranks(base, generated, prompts, rows, still_wanted) if text else torch.empty(0)
    realism = base.score(generated, progress=still_wanted).realism
    return Figures(reward(seen), realism, ranks, diversity(seen))


@torch.no_grad()
def _ranks(base: Model, generated: Tensor, prompts, rows: Tensor, progress: OnPictures) -> Tensor:
    """[N] how many prompts fit each picture better than its own, whatever the style."""
    discriminator, device = base.networks.discriminator, base.device
    condition = prompts.to(device=device)
    styles = [None] if not base.styles else list(base.styles)
    config, parts = discriminator.config, []
    x = as_model_pictures(generated, resolution=config.resolution, channels=config.channels)
    with full_precision():
        asked = [
            discriminator.embed_condition(
                condition.pooled, style_weights(base.styles, style, len(prompts)).to(device)
            )
            for style in styles
        ]
        for part in x.to(device).split(BATCH):
            levels = base.lite0(as_rgb(part)) if base.lite0 is not None else None
            output = discriminator(part, levels)
            match = torch.stack([output.match_matrix(embedded) for embedded in asked])
            parts.append(match.amax(dim=0).cpu())  # [N, prompts], the best style's
            progress(len(parts), len(parts), None)
    match = torch.cat(parts)
    own = match.gather(1, rows[:, None])
    return (match > own).sum(dim=1).float()


def ab_test(before: Figures, after: Figures) -> dict:
    """The A/B as a card keeps it; lists are [before, after]."""
    wins = (after.tastes > before.tastes).float() + 0.5 * (after.tastes == before.tastes).float()
    spread = float(before.realism.std().clamp(min=1e-6))
    return {
        "pictures": len(before.tastes),
        "win_rate": float(wins.mean()),
        "reward": [float(before.tastes.mean()), float(after.tastes.mean())],
        "realism": [float(before.realism.mean()), float(after.realism.mean())],
        "realism_change": float((after.realism.mean() - before.realism.mean()) / spread),
        "diversity": [before.diversity, after.diversity],
        "diversity_change": after.diversity / before.diversity - 1,
        "agreement": [before.agreement, after.agreement],
        "agreement_change": after.agreement / before.agreement - 1,
    }


def objections(ab: dict) -> list[str]:
    """What speaks against the adapter; empty where nothing does."""
    said = []
    if ab["win_rate"] < MIN_WIN_RATE:
        said.append(f"it is hardly liked more than the base (win rate {ab['win_rate']:.0%})")
    for key, what in (("diversity", "diversity"), ("agreement", "agreement with the prompts")):
        if ab[f"{key}_change"] < -MAX_LOSS:
            said.append(f"{what} falls by {-ab[f'{key}_change']:.1%}")
    if ab["realism_change"] < -MAX_REALISM_LOSS:
        said.append(f"realism falls by {-ab['realism_change']:.2f} standard deviations")
    return said
