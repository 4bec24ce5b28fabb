"""Prompts that are not text, asked as text is (retrieval.py): does the picture drawn for them find
the right concept among the held-out pictures of the style that was asked for?

An image prompt is a picture of the training split that shows a held-out pair's concept in another
style; a spoken one is that concept's name. The pair itself was never trained on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..condition import Condition, style_weights
from ..data.dataset import InMemoryDataset
from ..data.item import Item
from ..model import Model
from .retrieval import Retrieval, retrieve

Eyes = Callable[[Tensor], Tensor]  # pictures -> features of unit length
Clip = tuple[Tensor, int]  # waveform [C, L] and its sample rate in Hz


def retrieval_of(
    model: Model, condition: Condition, asked: Sequence[Item],
    eyes: Eyes, test: InMemoryDataset, test_features: Tensor, *, seeds: int,
) -> Retrieval:  # fmt: skip
    """Draw row i of `condition` in the style of asked[i], `seeds` times, and look for its concept.

    Row i takes seeds 1000 * i + 0, 1, ..., as held-out captions do in the report.
    """
    rows = [
        style_weights(model.styles, s.style if s.style in model.styles else None, 1) for s in asked
    ]
    styled = condition.with_style(torch.cat(rows))
    numbers = [1000 * i + seed for i in range(len(asked)) for seed in range(seeds)]
    repeated = styled[torch.arange(len(asked)).repeat_interleave(seeds)]
    drawn = model.draw(repeated, model.latent(numbers))
    queries = eyes(drawn).unflatten(0, (len(asked), seeds))
    return retrieve(
        queries,
        [s.base for s in asked],
        [s.style for s in asked],
        test_features,
        [s.base for s in test.items],
        [s.style for s in test.items],
    )


def image_retrieval(
    model: Model, test: InMemoryDataset, train: InMemoryDataset,
    eyes: Eyes, test_features: Tensor, train_features: Tensor, *, seeds: int,
) -> dict | None:  # fmt: skip
    """`retrieval.image` of a report, with the figure that the same real pictures reach (ceiling).

    Pairs whose concept the training split shows in no other style are left out; None where that
    leaves nothing to ask, or where the model takes no pictures.
    """
    prompts = image_prompts(test.items, train.items)
    if not prompts or not model.config.conditioning.text_encoder:
        return None
    asked = [test.items[i] for i in prompts]
    shown = torch.tensor(list(prompts.values()))
    condition = model.encode_image(train.batch(shown))
    found = retrieval_of(model, condition, asked, eyes, test, test_features, seeds=seeds).summary()
    real = retrieve(
        train_features[shown][:, None],
        [s.base for s in asked],
        [s.style for s in asked],
        test_features,
        [s.base for s in test.items],
        [s.style for s in test.items],
    )
    return found | {"ceiling": real.recall(1)}


def image_prompts(test: Sequence[Item], train: Sequence[Item]) -> dict[int, int]:
    """For each held-out pair of which there is one, a training picture of its concept in another
    style: index in `test` -> index in `train`. Which of several styles turns with the pair."""
    places: dict[str, list[int]] = {}
    for i, item in enumerate(train):
        places.setdefault(item.base, []).append(i)
    prompts = {}
    for i, item in enumerate(test):
        others = [j for j in places.get(item.base, []) if train[j].style != item.style]
        if others:
            prompts[i] = others[i % len(others)]
    return prompts


def audio_retrieval(
    model: Model, clips: Sequence[Clip], asked: Sequence[Item],
    eyes: Eyes, test: InMemoryDataset, test_features: Tensor, *, seeds: int,
) -> dict:  # fmt: skip
    """`retrieval.audio` of a report: clip i says the name of the held-out pair asked[i]."""
    condition = model.encode_audio(clips)
    return retrieval_of(model, condition, asked, eyes, test, test_features, seeds=seeds).summary()
