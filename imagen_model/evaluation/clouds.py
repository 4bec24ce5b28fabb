"""Generated pictures against real ones of the same kind, as clouds of features, over several draws.

In each draw one random half of the real pictures lends its captions and styles, the other half is
what the drawn ones are compared with; the floor compares the two halves, which are both real.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.folder import PictureSet
from ..model import Model
from .distances import frechet_distance, kernel_distance
from .extractor import Lite1
from .neighbours import (
    density_and_coverage,
    mean_pairwise_distance,
    nearest_distance,
)
from .pairs import draw_pairs, subset
from .random_features import RandomConvolutions

DRAWS = 3
STUDENT_T = 4.303  # of a 95 % interval of a mean with DRAWS - 1 = 2 degrees of freedom
MAX_CLOUD = 4000  # pictures a side


class Clouds(NamedTuple):
    figures: dict  # means over the draws
    intervals: dict[str, tuple[float, float]]  # of those that sampling changes
    diversity: dict[str, float]
    to_training: float  # mean distance of the first draw's pictures to their nearest in training


def compare_clouds(
    model: Model, lite1: Lite1, train: PictureSet, real: Tensor, real_random: Tensor,
    *, stage: Callable[[str], object] = lambda text: None,
) -> Clouds:  # fmt: skip
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
    return Clouds(
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
