"""Figures from nearest neighbours: density, coverage, precision, recall, memorisation, diversity.

Features are [N, F] of unit length, so a distance is at most 2.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

NEIGHBOURS = 5
MANIFOLD_NEIGHBOURS = 3  # of precision and recall, as in their paper


class DensityCoverage(NamedTuple):
    density: float
    coverage: float


def density_and_coverage(
    real: Tensor, generated: Tensor, *, k: int = NEIGHBOURS
) -> DensityCoverage:
    """2002.09797: how many balls of real pictures a generated one lies in, over k (fidelity; about
    1 for real ones), and the share of real pictures in whose ball one lies (variety; at most 1).

    A real picture's ball reaches to its k-th nearest real neighbour; there must be more than k.
    """
    radius = torch.cdist(real, real).kthvalue(k + 1, dim=1).values  # itself is the nearest
    inside = torch.cdist(real, generated) < radius[:, None]  # [N, M]
    return DensityCoverage(
        float(inside.float().sum(dim=0).mean() / k), float(inside.any(dim=1).float().mean())
    )


class PrecisionRecall(NamedTuple):
    precision: float
    recall: float


def precision_and_recall(
    real: Tensor, generated: Tensor, *, k: int = MANIFOLD_NEIGHBOURS
) -> PrecisionRecall:
    """1904.06991: the share of generated pictures that lie in a real one's ball, and the share of
    real ones that lie in a generated one's.

    A ball reaches to the k-th nearest neighbour of its own kind; there must be more than k of each.
    """
    between = torch.cdist(real, generated)  # [N, M]
    radius, generated_radius = (
        torch.cdist(x, x).kthvalue(k + 1, dim=1).values for x in (real, generated)
    )
    return PrecisionRecall(
        float((between < radius[:, None]).any(dim=0).float().mean()),
        float((between < generated_radius).any(dim=1).float().mean()),
    )


def nearest(queries: Tensor, gallery: Tensor) -> tuple[Tensor, Tensor]:
    """[N] the distance of each query to its nearest in the gallery, and [N] which that is."""
    found = torch.cdist(queries, gallery).min(dim=1)
    return found.values, found.indices


def nearest_distance(queries: Tensor, gallery: Tensor) -> Tensor:
    """[N] the distance of each query to its nearest in the gallery."""
    return nearest(queries, gallery)[0]


def memorisation_ratio(generated: Tensor, held_out: Tensor, train: Tensor) -> float:
    """Mean distance generated -> train over held-out -> train. About 1 for a model that learned,
    towards 0 for one that copies; under .9 is worth a look."""
    return float(
        nearest_distance(generated, train).mean() / nearest_distance(held_out, train).mean()
    )


def mean_pairwise_distance(features: Tensor) -> float:
    """Mean distance of all pairs in [..., N, F], N over 1: how much a set varies."""
    n = features.shape[-2]
    return float(torch.cdist(features, features).sum(dim=(-2, -1)).mean() / (n * (n - 1)))
