"""How far generated pictures are from real ones as two clouds of features, by torchmetrics.

FD is the Frechet distance (1706.08500) and KID the kernel distance (1801.01401), here on lite1's
pooled features instead of Inception's: their values compare models with each other and with the
floor between two sets of real pictures, never with a published FID.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

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
