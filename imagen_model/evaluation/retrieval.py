"""Prompt fidelity as retrieval: is the right real picture the nearest to what was generated?

Query: a picture of a held-out (concept, style) pair, generated from caption and style. Gallery: the
real held-out pictures of that style. A query counts when the right concept is nearest by cosine
(R@1) or among the five nearest (R@5). The ceiling queries with real pictures of the same concept in
the other styles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..data.item import Item
from .dataset import EvaluationSet, concept_of, concepts_and_styles
from .results import RetrievalResult

BOOTSTRAP = 10_000


@dataclass(frozen=True)
class Retrieval:
    """Ranks of the right concept, 0 = nearest: [pairs, seeds]."""

    ranks: np.ndarray
    gallery_sizes: np.ndarray  # [pairs] pictures for one that shows the concept

    def recall(self, k: int) -> float:
        return float((self.ranks < k).mean())

    def chance(self, k: int) -> float:
        return float(np.minimum(1.0, k / self.gallery_sizes).mean())

    def interval(self, k: int) -> tuple[float, float]:
        """95 % bootstrap interval over pairs (a pair's seeds stay together)."""
        hits = (self.ranks < k).mean(axis=1)
        rng = np.random.default_rng(0)
        resampled = rng.integers(len(hits), size=(BOOTSTRAP, len(hits)))
        low, high = np.percentile(hits[resampled].mean(axis=1), [2.5, 97.5])
        return float(low), float(high)

    def result(self, ceiling: float | None) -> RetrievalResult:
        return RetrievalResult(
            r1=self.recall(1),
            r1_interval=list(self.interval(1)),
            r5=self.recall(5),
            r10=self.recall(10),
            chance=self.chance(1),
            pairs=int(self.ranks.shape[0]),
            seeds=int(self.ranks.shape[1]),
            ceiling=ceiling,
        )


def retrieve(
    queries: Tensor, query_concepts: list[str], query_styles: list[str],
    gallery: Tensor, gallery_concepts: list[str], gallery_styles: list[str],
) -> Retrieval:  # fmt: skip
    """queries [pairs, seeds, F] and gallery [G, F], both of unit length.

    A query whose concept its style's gallery lacks is left out. Where several pictures of the
    gallery show it, the nearest of them counts.
    """
    ranks, sizes = [], []
    for style in sorted(set(gallery_styles)):
        columns = [j for j, s in enumerate(gallery_styles) if s == style]
        there = {gallery_concepts[j] for j in columns}
        rows = [
            i
            for i, (s, c) in enumerate(zip(query_styles, query_concepts, strict=True))
            if s == style and c in there
        ]
        if not rows:
            continue
        similarity = queries[rows] @ gallery[columns].t()  # [rows, seeds, columns]
        right = torch.tensor(
            [[gallery_concepts[j] == query_concepts[i] for j in columns] for i in rows]
        )
        own = similarity.masked_fill(~right[:, None], -torch.inf).amax(dim=2, keepdim=True)
        ranks.append((similarity > own).sum(dim=2))
        sizes += (len(columns) / right.sum(dim=1)).tolist()
    if not ranks:
        raise ValueError("no query has its concept in the gallery; is this the data of the model?")
    return Retrieval(torch.cat(ranks).numpy(), np.array(sizes))


def retrieve_items(
    queries: Tensor, items: Sequence[Item], gallery: Tensor, gallery_items: Sequence[Item]
) -> Retrieval:
    """`retrieve` by the concepts and styles of items."""
    return retrieve(
        queries, *concepts_and_styles(items), gallery, *concepts_and_styles(gallery_items)
    )


def ceiling(
    data: EvaluationSet, items: Sequence[Item], gallery: Tensor, gallery_items: Sequence[Item]
) -> float | None:
    """R@1 of real training pictures of the items' concepts in other styles; None where there are
    none."""
    places: dict[str, list[int]] = {}
    for i, item in enumerate(data.train.items):
        places.setdefault(concept_of(item), []).append(i)
    shown, rows = [], []
    for item in items:
        for i in places.get(concept_of(item), []):
            other = data.train.items[i]
            if other is not item and (other.style != item.style or not item.style):
                shown.append(item)
                rows.append(i)
    if not rows:
        return None
    queries = data.train_features[rows][:, None]
    return retrieve_items(queries, shown, gallery, gallery_items).recall(1)


def text_retrieval(data: EvaluationSet, queries: Tensor) -> RetrievalResult:
    """Of pictures generated for held-out captions, by their features [pairs, seeds, F]."""
    items, gallery = data.test.items, data.test_features
    found = retrieve_items(queries, items, gallery, items)
    return found.result(ceiling(data, items, gallery, items))
