"""What seeds change where a prompt leaves it open: the style, and of a keyword the concept."""

from __future__ import annotations

import numpy as np
import torch

from ..data.item import Item
from .dataset import EvaluationSet, concept_of
from .results import VarietyResult

STYLE_PROMPTS = ("red apple", "cat face", "rocket")
KEYWORDS = ("flag", "animal")


def measure_variety(data: EvaluationSet) -> VarietyResult:
    """How many styles 64 seeds of a prompt show with no style given, and how many concepts 16 seeds
    of a keyword. A picture's style and concept are those of the nearest real picture."""
    reals = torch.cat([data.test_features, data.train_features])
    items = data.test.items + data.train.items

    def nearest(prompt: str, num_seeds: int) -> list[Item]:
        generated = data.model.sample(prompt, seeds=range(num_seeds))
        return [items[i] for i in (data.lite1(generated) @ reals.t()).argmax(dim=1)]

    styles = {}
    for prompt in STYLE_PROMPTS if data.model.styles else ():
        shown, counts = np.unique([item.style for item in nearest(prompt, 64)], return_counts=True)
        styles[prompt] = dict(zip(shown.tolist(), counts.tolist(), strict=True))
    concepts = {word: len({concept_of(item) for item in nearest(word, 16)}) for word in KEYWORDS}
    return VarietyResult(styles, concepts)
