"""How well the discriminator tells real from generated pictures, and right from wrong captions."""

from __future__ import annotations

import torch
from torch import Tensor

from .dataset import EvaluationSet, all_pixels, condition_of, has_text
from .results import DiscriminatorResult


def auc(positive: Tensor, negative: Tensor) -> float:
    """Probability that a positive scores above a negative, ties half."""
    difference = positive[:, None] - negative[None, :]
    return float((difference > 0).float().mean() + 0.5 * (difference == 0).float().mean())


def measure_discriminator(data: EvaluationSet, generated: Tensor) -> DiscriminatorResult:
    """On the held-out pictures, and `generated` [N, C, H, W] for the same captions."""
    model, pixels = data.model, all_pixels(data.test)
    condition = condition_of(model, data.test.items)
    real = model.score(pixels, condition)
    real_over_generated = auc(real.realism, model.score(generated, condition).realism)
    if not has_text(model):
        return DiscriminatorResult(real_over_generated, None)
    order = torch.arange(len(data.test)).roll(len(data.test) // 3)  # another concept, mostly style
    shuffled = condition[order].with_style(condition.style)
    wrong = model.score(pixels, shuffled)
    assert real.match is not None and wrong.match is not None
    return DiscriminatorResult(real_over_generated, auc(real.match, wrong.match))
