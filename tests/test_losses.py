"""Objectives against their formulas in numpy, penalties against gradients done by hand."""

import numpy as np
import pytest
import torch

from imagen_model.training.losses import (
    OBJECTIVES,
    PROBE_STEP,
    finite_difference_penalty,
    gradient_penalty,
    info_nce,
    lipschitz_penalty,
)


@pytest.fixture
def logits(generator):
    return tuple(torch.randn(5, 7, generator=generator) * 2 for _ in range(2))


def softplus(x):
    return np.log1p(np.exp(x))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def cross_entropy(real, fake):
    return -np.log(sigmoid(real)).mean() - np.log(1 - sigmoid(fake)).mean()


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(0, x)


FORMULAS = {
    ("hinge", 0): lambda real, fake: relu(1 - real).mean() + relu(1 + fake).mean(),
    ("hinge", 1): lambda real, fake: -fake.mean(),
    ("rpgan", 0): lambda real, fake: softplus(fake - real).mean(),
    ("rpgan", 1): lambda real, fake: softplus(real - fake).mean(),
    ("minimax", 0): cross_entropy,
    ("minimax", 1): lambda real, fake: np.log(1 - sigmoid(fake)).mean(),
    ("non-saturating", 0): cross_entropy,
    ("non-saturating", 1): lambda real, fake: -np.log(sigmoid(fake)).mean(),
    ("wgan-gp", 0): lambda real, fake: fake.mean() - real.mean(),
    ("wgan-gp", 1): lambda real, fake: -fake.mean(),
}  # fmt: skip


@pytest.mark.parametrize(("objective", "network"), FORMULAS)
def test_each_objective_is_its_formula(logits, objective, network):
    real, fake = logits
    expected = FORMULAS[objective, network](real.double().numpy(), fake.double().numpy())
    assert OBJECTIVES[objective][network](real, fake).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_high_means_real(objective):
    """The discriminator wants real up and fake down; the generator wants fake up."""
    real, fake = (torch.zeros(3, 2, requires_grad=True) for _ in range(2))
    d_loss, g_loss = OBJECTIVES[objective]
    d_real, d_fake = torch.autograd.grad(d_loss(real, fake), (real, fake))
    assert (d_real < 0).all()
    assert (d_fake > 0).all()
    (g_fake,) = torch.autograd.grad(g_loss(real, fake), fake)
    assert (g_fake < 0).all()


def test_there_is_a_formula_for_every_objective():
    assert {objective for objective, _ in FORMULAS} == OBJECTIVES.keys()


def test_r1_matches_the_analytic_gradient(generator):
    """D(x) = sum(a x^2 + b x), so grad D = 2 a x + b."""
    a, b = torch.randn(2, 3, 4, 4, generator=generator).double()
    a.requires_grad_(True)
    x = torch.randn(6, 3, 4, 4, generator=generator).double().requires_grad_(True)
    logits = (a * x**2 + b * x).sum(dim=(1, 2, 3))
    penalty = gradient_penalty(logits, x)
    gradient = 2 * a * x + b
    torch.testing.assert_close(penalty, gradient.square().sum(dim=(1, 2, 3)).mean())
    # and it can be differentiated again: d/da |grad|^2 = 4 x (2 a x + b), mean over pictures
    (second,) = torch.autograd.grad(penalty, a)
    torch.testing.assert_close(second, (4 * x * gradient).mean(dim=0))


def test_a_flat_discriminator_has_no_penalty():
    x = torch.zeros(2, 1, 4, 4, requires_grad=True)
    assert gradient_penalty((0 * x).sum(dim=(1, 2, 3)) + 3, x).item() == 0


def test_the_finite_difference_penalty_agrees_with_the_exact_one(generator):
    """In expectation over its noise, for a function that bends; 4000 probes: 3 standard errors."""
    kernel = torch.randn(3, 4, 4, generator=generator).double()
    x = torch.randn(1, 3, 4, 4, generator=generator).double().requires_grad_(True)

    def judge(pictures):
        return torch.tanh((kernel * pictures).sum(dim=(1, 2, 3)) / 5)

    exact = gradient_penalty(judge(x), x).item()
    noise = torch.randn(4000, 3, 4, 4, generator=generator).double()
    probed = finite_difference_penalty(judge(x), judge(x + PROBE_STEP * noise)).item()
    assert probed == pytest.approx(exact, rel=3 * (2 / 4000) ** 0.5)  # of a chi-squared mean


def test_the_lipschitz_penalty_is_the_distance_of_the_slope_from_one(generator):
    slope = torch.randn(3, 4, 4, generator=generator)
    for length, expected in ((1.0, 0.0), (3.0, 4.0), (0.5, 0.25)):
        x = torch.randn(5, 3, 4, 4, generator=generator).requires_grad_(True)
        logits = (length * slope / slope.norm() * x).sum(dim=(1, 2, 3))
        assert lipschitz_penalty(logits, x).item() == pytest.approx(expected, abs=1e-5)


def test_info_nce_is_a_softmax_both_ways(generator):
    matches = torch.randn(5, 5, generator=generator)
    table = np.exp(matches.double().numpy())
    by_row = -np.log(np.diag(table) / table.sum(axis=1)).mean()
    by_column = -np.log(np.diag(table) / table.sum(axis=0)).mean()
    assert info_nce(matches).item() == pytest.approx((by_row + by_column) / 2, rel=1e-5)


def test_info_nce_of_a_guess_is_the_logarithm_of_the_batch():
    assert info_nce(torch.zeros(8, 8)).item() == pytest.approx(np.log(8))


def test_info_nce_falls_when_pairs_fit():
    assert info_nce(torch.eye(4) * 10) < 0.01
    assert info_nce(torch.eye(4).roll(1, dims=0) * 10) > 9
