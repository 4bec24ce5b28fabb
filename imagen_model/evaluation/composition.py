"""Does the model compose concept and style, or remember pairs? R@1 of pairs that training saw,
beside that of held-out ones: a model that composes does as well on both."""

from __future__ import annotations

import torch

from .dataset import EvaluationSet, concept_of, generate_seeds, seed_features, subset
from .results import CompositionResult
from .retrieval import ceiling, retrieve_items


def measure_composition(data: EvaluationSet, held_out_r1: float) -> CompositionResult:
    """Trained pairs are retrieved in galleries as large as those of the held-out pairs."""
    train = data.train
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0)).tolist()
    wanted = dict.fromkeys({item.style for item in data.test.items}, 0)
    for item in data.test.items:
        wanted[item.style] += 1
    chosen, seen = [], set()
    for i in order:
        item = train.items[i]
        key = (concept_of(item), item.style)
        if wanted.get(item.style, 0) and key not in seen:
            wanted[item.style] -= 1
            seen.add(key)
            chosen.append(i)
    index = torch.tensor(chosen)
    items, gallery = subset(train, index).items, data.train_features[index]
    queries = seed_features(data.lite1, generate_seeds(data.model, items))
    found = retrieve_items(queries, items, gallery, items)
    return CompositionResult(held_out_r1, found.result(ceiling(data, items, gallery, items)))
