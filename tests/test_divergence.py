"""The guard: what counts as trouble, and the way back."""

import json
import logging
import math

import pytest
import torch

import imagen_model as im
from imagen_model.training.divergence import (
    MAX_GAP,
    MAX_RETURNS,
    PATIENCE,
    DivergenceError,
    DivergenceGuard,
    relative_diversity,
    trouble,
)

GOOD = {"d_loss": 1.0, "real_logits": 0.5, "fake_logits": -0.5}
NOT_FINITE = GOOD | {"d_loss": math.nan}
EXPLODED = GOOD | {"real_logits": MAX_GAP + 1}


@pytest.fixture
def network():
    linear = torch.nn.Linear(2, 2)
    with torch.no_grad():
        linear.weight.fill_(1.0)
    return linear


@pytest.fixture
def guard(network):
    return DivergenceGuard({"net": network}, {"adam": torch.optim.Adam(network.parameters())})


def test_trouble_is_named():
    assert trouble(GOOD) is None
    assert trouble(NOT_FINITE) == "d_loss not finite"
    assert "102 apart" in trouble(EXPLODED)


@pytest.mark.parametrize("bad", [NOT_FINITE, EXPLODED])
def test_several_bad_steps_in_a_row_bring_back_the_good_state(guard, network, bad):
    with torch.no_grad():
        network.weight.fill_(7.0)
    assert [guard.watch(bad) for _ in range(PATIENCE - 1)] == [None] * (PATIENCE - 1)
    assert not guard.is_calm
    assert (network.weight == 7).all()
    line = guard.watch(bad)
    assert "back to the last good state, learning rate x 0.5" in line
    assert (network.weight == 1).all() and guard.lr_scale == 0.5


def test_a_good_step_between_bad_ones_starts_the_count_again(guard):
    for _ in range(4):
        for _ in range(PATIENCE - 1):
            assert guard.watch(NOT_FINITE) is None
        assert guard.watch(GOOD) is None
    assert guard.lr_scale == 1.0


def test_what_is_remembered_does_not_change_with_the_network(guard, network):
    with torch.no_grad():
        network.weight.fill_(3.0)
    guard.remember()
    for value in (5.0, 9.0):  # twice: what was restored must not become the memory itself
        with torch.no_grad():
            network.weight.fill_(value)
        guard.restore()
        assert (network.weight == 3).all()


def test_a_return_in_vain_is_followed_by_one_further_back(guard, network):
    def went_wrong() -> str:
        return [guard.watch(NOT_FINITE) for _ in range(PATIENCE)][-1]

    with torch.no_grad():
        network.weight.fill_(3.0)  # looked good, and was not
    guard.remember()
    assert "the last good state" in went_wrong() and (network.weight == 3).all()
    assert not guard.is_calm  # nothing good has come of it yet
    assert "an older good state" in went_wrong() and (network.weight == 1).all()
    assert guard.watch(GOOD) is None and guard.is_calm
    guard.remember()
    assert "the last good state" in went_wrong()


def test_divergence_again_and_again_ends_with_advice(guard):
    for _ in range(MAX_RETURNS * PATIENCE + PATIENCE - 1):
        guard.watch(NOT_FINITE)
    with pytest.raises(DivergenceError, match="smaller learning rate"):
        guard.watch(NOT_FINITE)


def test_diversity_is_one_for_equals_and_zero_for_one_picture(generator):
    x = torch.rand(8, 3, 16, 16, generator=generator)
    mean = x.mean(dim=0)
    assert relative_diversity(x, x.flip(0)).item() == pytest.approx(1)
    assert relative_diversity(x, mean + 0.5 * (x - mean)).item() == pytest.approx(0.5)
    assert relative_diversity(x, x[:1].expand(8, -1, -1, -1)).item() == 0


def test_a_run_whose_weights_turn_to_nan_recovers(trainer, caplog):
    t = trainer(kimg=0.16, tick_kimg=0.016)
    broken = []

    def on_step(progress):
        if progress.cur_nimg == 48:
            with torch.no_grad():
                t.networks.generator.tail.out.weight.fill_(math.nan)
            broken.append(progress.cur_nimg)

    with caplog.at_level(logging.WARNING):
        t.run(on_step)
    assert broken and t.guard.lr_scale == 0.5
    assert sum("back to the last good state" in message for message in caplog.messages) == 1
    assert all(p.isfinite().all() for p in t.networks.parameters())
    assert all(p.isfinite().all() for p in t.ema.module.parameters())
    assert t.progress.cur_nimg == 160


def test_a_run_that_is_stopped_in_trouble_saves_its_last_good_state(trainer):
    t = trainer(kimg=0.16, tick_kimg=0.016)

    def on_step(progress):
        if progress.cur_nimg == 48:
            with torch.no_grad():
                t.networks.generator.tail.out.weight.fill_(math.nan)
        if progress.cur_nimg == 64:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        t.run(on_step)
    again = trainer()
    assert again.resume()
    assert all(p.isfinite().all() for p in again.networks.parameters())


COLLAPSED = {"pairs_weight": 0.0, "info_nce_weight": 0.0, "adversarial_weight": 1.0}


def test_a_run_that_collapses_raises_the_alarm(trainer, caplog):
    """Every z, caption and style gives one picture; augmentation makes even those differ."""
    t = trainer(kimg=0.048, tick_kimg=0.016, lr=1e-4, augment_p=0.8, **COLLAPSED)
    with torch.no_grad():
        t.networks.generator.mapping.out.weight.zero_()
        for block in t.networks.generator.blocks:
            block.cross.out.weight.zero_()
    with caplog.at_level(logging.WARNING):
        t.run()
    assert any("look alike" in message for message in caplog.messages)
    last = json.loads((t.out / "stats.jsonl").read_text().splitlines()[-1])
    assert last["diversity"] < 0.1


def test_a_learning_rate_that_explodes_ends_in_a_usable_model(trainer, caplog):
    rpgan = {"objective": "rpgan", "r1_gamma": 1.0, "r2_gamma": 1.0, "auto_gamma": True}
    t = trainer(kimg=0.2, tick_kimg=0.016, warmup_kimg=0.0, lr=0.5, **rpgan)
    with caplog.at_level(logging.WARNING):
        t.run()
    assert any("back to the last good state" in message for message in caplog.messages)
    assert t.guard.lr_scale < 1 and t.progress.cur_nimg == 200
    pictures = im.load(t.out / "latest.safetensors").sample("rocket", seeds=range(8))
    assert pictures.isfinite().all()
    again = trainer(kimg=0.208, lr=0.001, lr_end=0.001, **rpgan)
    assert again.resume()
    log = again.step()  # and it can be trained on
    assert all(value.isfinite() for value in log.values())
