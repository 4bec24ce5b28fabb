"""How far generated pictures are from real ones as two sets of features: FD, KID and others.

FD is the Frechet distance (1706.08500) and KID the kernel distance (1801.01401), computed by
torchmetrics, here on lite1's pooled features instead of Inception's, and FD on spatial features as
well, as sFID (2103.03841): their values compare models with each other and with the floor between
two sets of real pictures, never with a published FID.

Each of several splits takes captions and styles from a random half of the real pictures, and
compares what is generated for them with the other half. The floor compares the two halves, which
are both real.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import asdict
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..progress import OnStage
from .dataset import EvaluationSet, all_pixels, generate_pairs, subset
from .density_coverage import (
    density_and_coverage,
    mean_pairwise_distance,
    nearest_distance,
    precision_and_recall,
)
from .features import RandomConvolutions
from .results import DistributionResult

KID_SUBSETS, KID_SUBSET_SIZE = 50, 500
SPLITS = 3
STUDENT_T = 4.303  # of a 95 % interval of a mean with SPLITS - 1 = 2 degrees of freedom
MAX_PICTURES = 4000  # per set


class _AsGiven(nn.Module):
    """torchmetrics expects a network that computes features; ours are computed already."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


def frechet_distance(real: Tensor, generated: Tensor) -> float:
    """|mean difference|^2 + Tr(A + B - 2 sqrt(A B)) of features [N, F] and [M, F], N and M over 1.

    It falls with the number of pictures: compare equal counts only.
    """
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance(_AsGiven(real.shape[1]), sync_on_compute=False)
    metric.update(real.double(), real=True)
    metric.update(generated.double(), real=False)
    return float(metric.compute())


def kernel_distance(real: Tensor, generated: Tensor) -> float:
    """Unbiased squared MMD with a cubic kernel, the mean over random subsets that are always the
    same. Around zero, a little negative too, for one distribution; fit for small sets."""
    from torchmetrics.image.kid import KernelInceptionDistance

    size = min(KID_SUBSET_SIZE, len(real), len(generated))
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")  # about memory
        metric = KernelInceptionDistance(
            _AsGiven(real.shape[1]), subsets=KID_SUBSETS, subset_size=size, sync_on_compute=False
        )
        metric.update(real.double(), real=True)
        metric.update(generated.double(), real=False)
        torch.manual_seed(0)  # torchmetrics samples its subsets with the global generator
        mean, _ = metric.compute()
    return float(mean)


class Comparison(NamedTuple):
    """Several splits of the real pictures, compared."""

    means: DistributionResult
    intervals: dict[str, tuple[float, float]]  # 95 %, of each field of `means`
    pictures_per_set: int
    diversity: dict[str, float]
    distance_to_training: float  # mean, of the first split's pictures to their nearest in training


def compare_distributions(data: EvaluationSet, stage: OnStage) -> Comparison:
    """Split s generates with the seeds 1000 * i + s."""
    real, real_spatial, random = data.train_pooled, data.train_spatial, RandomConvolutions()
    real_random = random.pooled(all_pixels(data.train))
    count = min(len(data.train) // 2, MAX_PICTURES)
    rows, diversity, to_training = [], [], []
    for split in range(SPLITS):
        stage(f"distance from the real pictures: {split + 1} of {SPLITS}")
        order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(split))
        given, held = order[:count], order[count : 2 * count]
        pictures = generate_pairs(data.model, subset(data.train, given).items, split)
        pooled, spatial = data.lite1.pooled_and_spatial(pictures)
        random_pooled = random.pooled(pictures)
        unit, unit_given, unit_held = (
            F.normalize(x, dim=1) for x in (pooled, real[given], real[held])
        )
        near = density_and_coverage(unit_held, unit)
        near_real = density_and_coverage(unit_held, unit_given)
        overlap = precision_and_recall(unit_held, unit)
        overlap_real = precision_and_recall(unit_held, unit_given)
        rows.append(
            DistributionResult(
                fd_lite1=frechet_distance(real[held], pooled),
                fd_lite1_floor=frechet_distance(real[held], real[given]),
                kid_lite1=kernel_distance(real[held], pooled),
                kid_lite1_floor=kernel_distance(real[held], real[given]),
                fd_random=frechet_distance(real_random[held], random_pooled),
                fd_random_floor=frechet_distance(real_random[held], real_random[given]),
                density=near.density,
                density_real=near_real.density,
                coverage=near.coverage,
                coverage_real=near_real.coverage,
                fd_spatial=frechet_distance(real_spatial[held], spatial),
                fd_spatial_floor=frechet_distance(real_spatial[held], real_spatial[given]),
                precision=overlap.precision,
                precision_real=overlap_real.precision,
                recall=overlap.recall,
                recall_real=overlap_real.recall,
            )
        )
        diversity.append([mean_pairwise_distance(unit), mean_pairwise_distance(unit_given)])
        if split == 0:
            to_training.append(float(nearest_distance(unit, F.normalize(real, dim=1)).mean()))
    columns = {name: [getattr(row, name) for row in rows] for name in asdict(rows[0])}
    generated_spread, real_spread = torch.tensor(diversity).mean(dim=0).tolist()
    return Comparison(
        DistributionResult(**{name: sum(values) / SPLITS for name, values in columns.items()}),
        {name: interval(values) for name, values in columns.items()},
        count,
        {"among_pictures": generated_spread, "among_real_pictures": real_spread},
        to_training[0],
    )


def interval(values: list[float]) -> tuple[float, float]:
    """Student's 95 % interval of the mean of SPLITS values."""
    assert len(values) == SPLITS
    mean = sum(values) / SPLITS
    deviation = math.sqrt(sum((v - mean) ** 2 for v in values) / (SPLITS - 1))
    half = STUDENT_T * deviation / math.sqrt(SPLITS)
    return mean - half, mean + half
