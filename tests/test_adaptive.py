"""What a run adapts: the augmentation's probability, and the penalties' weight."""

import pytest
import torch

from imagen_model.training.adaptive import AdaptiveControls, overfit
from imagen_model.training.config import TrainingConfig

ADAPTIVE = TrainingConfig(kimg=1.0, augment_target=0.6, augment_min=0.1, augment_max=0.7)
AUTO = TrainingConfig(kimg=1.0, r1_gamma=2.0, r2_gamma=2.0, auto_gamma=True)


def test_overfit_is_one_for_a_discriminator_that_knows_and_zero_for_one_that_guesses(generator):
    logits = torch.randn(4000, generator=generator)
    assert overfit(logits + 10, logits - 10) == 1
    assert abs(overfit(logits, logits.flip(0))) < 0.05


def test_overfit_does_not_feel_where_the_logits_zero_is(generator):
    real, fake = torch.randn(2, 500, generator=generator)
    assert overfit(real + 1, fake) == overfit(real + 101, fake + 100)


@pytest.mark.parametrize(("seen", "expected"), [(0.9, 0.42), (0.1, 0.38)])
def test_augmentation_follows_what_the_discriminator_knows(seen, expected):
    controls = AdaptiveControls(0.4)
    controls.adapt(ADAPTIVE, {"overfit": seen, "d_loss": 1.0}, kimg=10.0)
    assert controls.augment_p == pytest.approx(expected)  # from 0 to 1 takes 500 kimg


def test_augmentation_stays_within_its_limits():
    controls = AdaptiveControls(0.4)
    for seen, limit in ((1.0, 0.7), (0.0, 0.1)):
        for _ in range(50):
            controls.adapt(ADAPTIVE, {"overfit": seen, "d_loss": 1.0}, kimg=20.0)
        assert controls.augment_p == limit


def test_without_a_target_augmentation_is_fixed():
    controls = AdaptiveControls(0.4)
    controls.adapt(TrainingConfig(kimg=1.0), {"overfit": 1.0, "d_loss": 1.0}, kimg=100.0)
    assert controls.augment_p == 0.4


@pytest.mark.parametrize("slope", [1e-4, 0.3, 50.0])
def test_gamma_brings_the_penalties_into_their_band(slope):
    controls = AdaptiveControls(0.4)
    line = {"d_loss": 0.5, "r1_penalty": slope, "r2_penalty": slope}
    for _ in range(60):
        controls.adapt(AUTO, line, kimg=2.0)
    weighted = controls.shown(AUTO)["gamma"] / 2 * 2 * slope
    assert 0.04 < weighted / (weighted + 0.5) < 0.3


def test_a_gamma_that_was_asked_for_stays():
    fixed = TrainingConfig(kimg=1.0, r1_gamma=2.0, r2_gamma=2.0)
    controls = AdaptiveControls(0.4)
    controls.adapt(fixed, {"d_loss": 0.5, "r1_penalty": 1e3, "overfit": 0.0}, kimg=2.0)
    assert controls.shown(fixed)["gamma"] == 2.0
