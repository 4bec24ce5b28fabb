"""How far generated pictures are from real ones as two sets of features: FD, KID and others.

FD is the Frechet distance (1706.08500) and KID the kernel distance (1801.01401), computed by
torchmetrics, here on lite1's pooled features instead of Inception's: their values compare models
with each other and with the floor between two sets of real pictures, never with a published FID.

Each of several splits takes captions and styles from a random half of the real pictures, and
compares what is generated for them with the other half. The floor compares the two halves, which
are both real.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.dataset import InMemoryDataset
from ..model import Model
from .dataset import draw_pairs, subset
from .density_coverage import density_and_coverage, mean_pairwise_distance, nearest_distance
from .features import Lite1, RandomConvolutions

KID_SUBSETS, KID_SUBSET_SIZE = 50, 500


class _AsGiven(nn.Module):
    """torchmetrics asks for a network that makes features; ours are made already."""

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
        warnings.simplefilter("ignore")  # that it keeps the features
        metric = KernelInceptionDistance(
            _AsGiven(real.shape[1]), subsets=KID_SUBSETS, subset_size=size, sync_on_compute=False
        )
        metric.update(real.double(), real=True)
        metric.update(generated.double(), real=False)
        torch.manual_seed(0)  # torchmetrics draws its subsets from the global state
        mean, _ = metric.compute()
    return float(mean)


DRAWS = 3
STUDENT_T = 4.303  # of a 95 % interval of a mean with DRAWS - 1 = 2 degrees of freedom
MAX_CLOUD = 4000  # pictures a side


class DistributionFigures(NamedTuple):
    figures: dict  # means over the draws
    intervals: dict[str, tuple[float, float]]  # of those that sampling changes
    diversity: dict[str, float]
    to_training: float  # mean distance of the first draw's pictures to their nearest in training


def compare_distributions(
    model: Model, lite1: Lite1, train: InMemoryDataset, real: Tensor, real_random: Tensor,
    *, stage: Callable[[str], object] = lambda text: None,
) -> DistributionFigures:  # fmt: skip
    """`real` [N, F] and `real_random` are the pooled features of `train` in lite1 and in random
    convolutions. Draw d takes the seeds 1000 * i + d."""
    random = RandomConvolutions()
    count = min(len(train) // 2, MAX_CLOUD)
    rows, diversity, to_training = [], [], []
    for draw in range(DRAWS):
        stage(f"distance from the real pictures: {draw + 1} of {DRAWS}")
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(draw))
        asked, held = order[:count], order[count : 2 * count]
        pictures = draw_pairs(model, subset(train, asked), draw)
        drawn, drawn_random = lite1.pooled(pictures), random.pooled(pictures)
        unit, unit_asked, unit_held = (
            F.normalize(x, dim=1) for x in (drawn, real[asked], real[held])
        )
        near = density_and_coverage(unit_held, unit)
        near_real = density_and_coverage(unit_held, unit_asked)
        rows.append(
            {
                "fd_lite1": frechet_distance(real[held], drawn),
                "fd_lite1_floor": frechet_distance(real[held], real[asked]),
                "kid_lite1": kernel_distance(real[held], drawn),
                "kid_lite1_floor": kernel_distance(real[held], real[asked]),
                "fd_random": frechet_distance(real_random[held], drawn_random),
                "fd_random_floor": frechet_distance(real_random[held], real_random[asked]),
                "density": near.density,
                "density_real": near_real.density,
                "coverage": near.coverage,
                "coverage_real": near_real.coverage,
            }
        )
        diversity.append([mean_pairwise_distance(unit), mean_pairwise_distance(unit_asked)])
        if draw == 0:
            to_training.append(float(nearest_distance(unit, F.normalize(real, dim=1)).mean()))
    columns = {key: [row[key] for row in rows] for key in rows[0]}
    drawn_spread, real_spread = torch.tensor(diversity).mean(dim=0).tolist()
    return DistributionFigures(
        {key: sum(values) / DRAWS for key, values in columns.items()} | {"cloud": count},
        {key: interval(values) for key, values in columns.items()},
        {"among_pictures": drawn_spread, "among_real_pictures": real_spread},
        to_training[0],
    )


def interval(values: list[float]) -> tuple[float, float]:
    """Student's 95 % interval of the mean of DRAWS values."""
    assert len(values) == DRAWS
    mean = sum(values) / DRAWS
    deviation = math.sqrt(sum((v - mean) ** 2 for v in values) / (DRAWS - 1))
    half = STUDENT_T * deviation / math.sqrt(DRAWS)
    return mean - half, mean + half
