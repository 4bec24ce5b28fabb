"""Adversarial objectives as pure functions of logits, and their gradient penalties.

Logits are [N, P]: P patches of each picture, high = real. Every function returns a scalar tensor;
the trainer weighs and calls backward.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def hinge_d(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """max(0, 1 - D(x)) + max(0, 1 + D(G))   (1705.02894)."""
    return F.relu(1 - real_logits).mean() + F.relu(1 + fake_logits).mean()


def hinge_g(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """-D(G); the real logits are not used."""
    return -fake_logits.mean()


def rpgan_d(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """softplus(-(D(x) - D(G)))   (1807.00734, 2501.05441); real i is paired with fake i."""
    return F.softplus(-(real_logits - fake_logits)).mean()


def rpgan_g(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """softplus(-(D(G) - D(x)))."""
    return F.softplus(-(fake_logits - real_logits)).mean()


OBJECTIVES = {"hinge": (hinge_d, hinge_g), "rpgan": (rpgan_d, rpgan_g)}


def gradient_penalty(logits: Tensor, pictures: Tensor) -> Tensor:
    """E |grad_x D(x)|^2, exact: R1 on real pictures, R2 on generated ones (1801.04406).

    `pictures` must require grad; the result can be differentiated again. Weigh by gamma / 2.
    """
    (gradient,) = torch.autograd.grad(logits.sum(), pictures, create_graph=True)
    return gradient.square().sum(dim=(1, 2, 3)).mean()


def info_nce(matches: Tensor) -> Tensor:
    """Cross-entropy of each picture against all conditions of the batch (1807.03748), both ways.

    matches [N, N]; the diagonal belongs together.
    """
    target = torch.arange(len(matches), device=matches.device)
    return (F.cross_entropy(matches, target) + F.cross_entropy(matches.t(), target)) / 2
