"""The moving average: its half-life, its start, and that it follows without being followed."""

import pytest
import torch
from conftest import tiny_model_config

from imagen_model.networks.networks import Networks
from imagen_model.training.ema import Ema, halflife_images


@pytest.fixture
def source():
    return Networks.seeded(tiny_model_config(features=False), 0)


def fill(networks: Networks, value: float) -> None:
    with torch.no_grad():
        for parameter in networks.parameters():
            parameter.fill_(value)


def test_the_half_life_is_a_twentieth_of_the_images_until_it_is_full():
    assert halflife_images(0, 10) == pytest.approx(0, abs=1e-6)
    assert halflife_images(20_000, 10) == 1000
    assert halflife_images(200_000, 10) == 10_000
    assert halflife_images(5_000_000, 10) == 10_000


def test_after_one_half_life_half_is_forgotten(source):
    fill(source, 0.0)
    ema = Ema(source, halflife_kimg=1.0)
    fill(source, 1.0)
    for _ in range(10):
        ema.update(source, cur_nimg=1_000_000, batch=100)
    torch.testing.assert_close(ema.module.generator.grid, torch.full((16, 32), 0.5))


def test_the_batch_size_does_not_change_the_pace(source):
    averages = []
    for batch in (50, 500):
        fill(source, 0.0)
        ema = Ema(source, halflife_kimg=1.0)
        fill(source, 1.0)
        for _ in range(2000 // batch):
            ema.update(source, cur_nimg=1_000_000, batch=batch)
        averages.append(ema.module.generator.grid[0, 0].item())
    assert averages == pytest.approx([0.75, 0.75], abs=1e-4)


def test_the_first_update_forgets_the_initial_weights(source):
    fill(source, 0.0)
    ema = Ema(source, halflife_kimg=10.0)
    fill(source, 1.0)
    ema.update(source, cur_nimg=32, batch=32)
    assert ema.module.generator.grid.min() > 0.999


def test_the_average_is_a_frozen_copy(source):
    ema = Ema(source, halflife_kimg=1.0)
    before = ema.module.generator.grid.clone()
    fill(source, 7.0)
    assert torch.equal(ema.module.generator.grid, before)
    assert not any(p.requires_grad for p in ema.module.parameters())
    assert not ema.module.training
    ema.update(source, cur_nimg=100_000, batch=32)
    assert (source.generator.grid == 7).all()
