"""Adversarial objectives as pure functions of logits, gradient penalties, and contrastive terms.

Logits are [N, P]: P patches of each picture, high = real. Every function returns a scalar tensor;
objective.py weighs them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# s of the finite differences, in units of a picture's [-1, 1]. The papers' 0.01 is too large for
# frozen features, which are not linear over such a step: see docs/log/experiments.md.
PROBE_STEP = 0.0001


def hinge_d(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """max(0, 1 - D(x)) + max(0, 1 + D(G))   (1705.02894)."""
    return F.relu(1 - real_logits).mean() + F.relu(1 + fake_logits).mean()


def hinge_g(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """-D(G); the real logits are not used."""
    return -fake_logits.mean()


def rpgan_d(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """softplus(-(D(x) - D(G)))   (1807.00734, 2501.05441); real i is paired with generated i."""
    return F.softplus(-(real_logits - fake_logits)).mean()


def rpgan_g(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """softplus(-(D(G) - D(x)))."""
    return F.softplus(-(fake_logits - real_logits)).mean()


def minimax_d(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """-log s(D(x)) - log(1 - s(D(G))), s the sigmoid (1406.2661): the V(G, D) of the article."""
    return F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()


def minimax_g(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """log(1 - s(D(G))), the minimax value; it saturates where D is confident."""
    return -F.softplus(fake_logits).mean()


def non_saturating_g(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """-log s(D(G)), which the same paper uses for training."""
    return F.softplus(-fake_logits).mean()


def wasserstein_d(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """D(G) - D(x)   (1701.07875); needs `lipschitz_penalty` beside it."""
    return fake_logits.mean() - real_logits.mean()


OBJECTIVES = {
    "hinge": (hinge_d, hinge_g),
    "rpgan": (rpgan_d, rpgan_g),
    "minimax": (minimax_d, minimax_g),
    "non-saturating": (minimax_d, non_saturating_g),
    "wgan-gp": (wasserstein_d, hinge_g),
}


def gradient_penalty(logits: Tensor, pictures: Tensor) -> Tensor:
    """E |grad_x D(x)|^2, exact: R1 on real pictures, R2 on generated ones (1801.04406).

    `pictures` must require grad; the result can be differentiated again. Weigh by gamma / 2.
    """
    return _gradient(logits, pictures).square().sum(dim=(1, 2, 3)).mean()


def finite_difference_penalty(logits: Tensor, moved_logits: Tensor) -> Tensor:
    """E ((D(x + s n) - D(x)) / s)^2 with n ~ N(0, I), s = PROBE_STEP: the same expectation as
    `gradient_penalty`, up to O(s^2), without differentiating twice (GAT 2509.24935).

    `logits` [N] are D(x), `moved_logits` [N] D(x + s n).
    """
    return ((moved_logits - logits) / PROBE_STEP).square().mean()


def lipschitz_penalty(logits: Tensor, pictures: Tensor) -> Tensor:
    """E (|grad_x D(x)| - 1)^2 at pictures between real and generated ones (WGAN-GP, 1704.00028)."""
    norm = _gradient(logits, pictures).flatten(1).norm(dim=1)
    return (norm - 1).square().mean()


def _gradient(logits: Tensor, pictures: Tensor) -> Tensor:
    (gradient,) = torch.autograd.grad(logits.sum(), pictures, create_graph=True)
    return gradient


def info_nce(matches: Tensor) -> Tensor:
    """Cross-entropy of each picture against all conditions of the batch (1807.03748), both ways.

    matches [N, N]; the pairs on the diagonal match.
    """
    target = torch.arange(len(matches), device=matches.device)
    return (F.cross_entropy(matches, target) + F.cross_entropy(matches.t(), target)) / 2


CONTRAST_WEIGHT = 0.1  # at 0.5, with centred features, its gradient dominated the others
CONTRAST_TEMPERATURE = 0.1
COMMON_WEIGHT = 500.0  # at 2000 feature matching suffers (docs/log/experiments.md)


def feature_contrast(real_pooled: Tensor, generated_pooled: Tensor) -> Tensor:
    """InfoNCE (XMC-GAN's image-image term, 2101.04702): generated picture i is nearer to its own
    real picture than to the others of the batch, by the cosine of features [N, F]."""
    real, generated = F.normalize(real_pooled, dim=1), F.normalize(generated_pooled, dim=1)
    return info_nce(generated @ real.t() / CONTRAST_TEMPERATURE)


def common_detail(excess: Tensor) -> Tensor:
    """The mean square of the mean excess: the fine detail [N, C, H, W] of generated pictures minus
    that of their real ones.

    It is taken over pairs of different pictures, as in the unbiased estimate of MMD (0805.2368), so
    that detail of single pictures costs nothing: its expectation is 0 if no two share any, and it
    may be negative. For a single picture it is 0.
    """
    n = len(excess)
    of_mean, of_each = excess.mean(dim=0).square().mean(), excess.square().mean()
    return (n * of_mean - of_each) / max(1, n - 1)
