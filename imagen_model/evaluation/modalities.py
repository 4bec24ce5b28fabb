"""Image and spoken prompts, measured as text is (retrieval.py).

An image prompt is a picture of the training split that shows a held-out pair's concept in another
style; a spoken one is that concept's name. The pair itself was never trained on.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..condition import Condition
from ..data.item import Item
from ..progress import OnStage
from .dataset import SEEDS, EvaluationSet, concept_of, seed_features, style_rows
from .results import RetrievalResult
from .retrieval import Retrieval, ceiling, retrieve_items
from .speech import held_out_speech

SPOKEN = 120  # held-out pairs that are asked for by voice as well


def retrieval_of(data: EvaluationSet, condition: Condition, items: Sequence[Item]) -> Retrieval:
    """Generate row i of `condition` in the style of item i, SEEDS times, and retrieve its concept.

    Row i has seeds 1000 * i + 0, 1, ..., as held-out captions have.
    """
    model = data.model
    styled = condition.with_style(style_rows(model, items))
    numbers = [1000 * i + seed for i in range(len(items)) for seed in range(SEEDS)]
    repeated = styled[torch.arange(len(items)).repeat_interleave(SEEDS)]
    generated = model.draw(repeated, model.latent(numbers)).unflatten(0, (len(items), SEEDS))
    queries = seed_features(data.lite1, generated)
    return retrieve_items(queries, items, data.test_features, data.test.items)


def image_retrieval(data: EvaluationSet) -> RetrievalResult | None:
    """With the R@1 of the same real pictures as ceiling.

    Pairs whose concept the training split shows in no other style are left out; None where that
    leaves nothing.
    """
    prompts = image_prompts(data.test.items, data.train.items)
    if not prompts:
        return None
    items = [data.test.items[i] for i in prompts]
    shown = torch.tensor(list(prompts.values()))
    condition = data.model.encode_image(data.train.batch(shown))
    found = retrieval_of(data, condition, items)
    queries = data.train_features[shown][:, None]
    real = retrieve_items(queries, items, data.test_features, data.test.items)
    return found.result(real.recall(1))


def image_prompts(test: Sequence[Item], train: Sequence[Item]) -> dict[int, int]:
    """For each held-out pair of which there is one, a training picture of its concept in another
    style: index in `test` -> index in `train`. Which of several styles turns with the pair."""
    places: dict[str, list[int]] = {}
    for i, item in enumerate(train):
        places.setdefault(concept_of(item), []).append(i)
    prompts = {}
    for i, item in enumerate(test):
        others = [j for j in places.get(concept_of(item), []) if train[j].style != item.style]
        if others:
            prompts[i] = others[i % len(others)]
    return prompts


def audio_retrieval(data: EvaluationSet, stage: OnStage) -> RetrievalResult | None:
    """Names said by voices that the recogniser was not trained on; None, and a line to `stage`,
    where there is nothing to say them with."""
    items = data.test.items[:: -(-len(data.test) // SPOKEN)]
    try:
        clips = held_out_speech([item.text for item in items])
    except ValueError as error:
        stage(f"no spoken prompts: {error}")
        return None
    stage("spoken prompts")
    found = retrieval_of(data, data.model.encode_audio(clips), items)
    return found.result(ceiling(data, items, data.test_features, data.test.items))
