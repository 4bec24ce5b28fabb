"""Latents brought into w, mixed, walked between and moved, through what users call."""

import math

import pytest
import torch
import torch.nn.functional as F
from conftest import tiny_model_config

import imagen_model as im
from imagen_model.config import dcgan
from imagen_model.inference.directions import directions
from imagen_model.inference.latent import Latent
from imagen_model.networks.networks import Networks


@pytest.fixture
def condition(tiny_model):
    return tiny_model.encode_text("rocket", style="noto")


def test_a_latent_in_w_draws_what_it_drew_in_z(tiny_model, condition):
    z = tiny_model.latent([3, 4])
    w = tiny_model.into_w(condition, z)
    assert w.space == "w" and w.values.shape == (2, 3, 32) and w.seeds == (3, 4)
    torch.testing.assert_close(tiny_model.draw(condition, w), tiny_model.draw(condition, z))


def test_a_style_that_is_left_open_stays_the_seed_s_in_w(tiny_model):
    condition = tiny_model.encode_text("rocket")
    z = tiny_model.latent(range(8))
    w = tiny_model.into_w(condition, z)
    torch.testing.assert_close(tiny_model.draw(condition, w), tiny_model.draw(condition, z))


def test_truncation_in_w_is_truncation_in_z(tiny_model, condition):
    z = tiny_model.latent([3, 4])
    w = tiny_model.into_w(condition, z, truncation=0.4)
    expected = tiny_model.draw(condition, z, truncation=0.4)
    torch.testing.assert_close(tiny_model.draw(condition, w), expected)
    again = tiny_model.into_w(condition, tiny_model.into_w(condition, z), truncation=0.4)
    torch.testing.assert_close(again.values, w.values)
    average = tiny_model.into_w(condition, z, truncation=0.0).values
    torch.testing.assert_close(average[0], average[1])


def test_many_latents_go_into_w_as_each_alone(tiny_model, condition):
    all_of_them = tiny_model.into_w(condition, tiny_model.latent(range(70)))
    alone = tiny_model.into_w(condition, tiny_model.latent([69]))
    torch.testing.assert_close(all_of_them.values[69:], alone.values)


def constant(value: float, n: int = 1, seed: int = 0) -> Latent:
    return Latent("w", torch.full((n, 3, 4), value), tuple(range(seed, seed + n)))


def test_mixing_takes_early_blocks_from_coarse_and_late_ones_from_fine():
    mixture = im.mixed(constant(1.0, 2), constant(2.0, 2, seed=50), from_block=1)
    assert mixture.values[:, :, 0].tolist() == [[1, 2, 2], [1, 2, 2]]
    assert mixture.seeds == (0, 1)
    assert (im.mixed(constant(1.0), constant(2.0), from_block=0).values == 2).all()
    assert (im.mixed(constant(1.0), constant(2.0), from_block=3).values == 1).all()


def test_one_latent_mixes_with_many():
    assert len(im.mixed(constant(1.0), constant(2.0, 3), from_block=1)) == 3
    assert im.mixed(constant(1.0, seed=9), constant(2.0, 3), from_block=1).seeds == (9, 9, 9)
    assert len(im.mixed(constant(1.0, 3), constant(2.0), from_block=1)) == 3


@pytest.mark.parametrize(
    ("coarse", "fine", "from_block", "words"),
    [
        (constant(1.0), Latent("z", torch.zeros(1, 4), (0,)), 1, "needs latents in w"),
        (constant(1.0, 2), constant(1.0, 3), 1, "2 coarse and 3 fine"),
        (constant(1.0), constant(1.0), 4, "from_block is 4; expected 0 to 3"),
        (constant(1.0), Latent("w", torch.zeros(1, 3, 5), (0,)), 1, "different models"),
    ],
)
def test_what_can_not_be_mixed_is_named(coarse, fine, from_block, words):
    with pytest.raises(ValueError, match=words):
        im.mixed(coarse, fine, from_block=from_block)


def test_a_walk_passes_through_every_latent(tiny_model):
    points = tiny_model.latent([5, 6, 7])
    path = im.walk(points, 9)
    assert len(path) == 9 and path.seeds == (5, 5, 5, 5, 6, 6, 6, 6, 6)
    for frame, point in ((0, 0), (4, 1), (8, 2)):
        torch.testing.assert_close(path.values[frame], points.values[point])


def test_a_loop_returns_without_repeating_its_first_frame(tiny_model):
    points = tiny_model.latent([5, 6])
    path = im.walk(points, 8, loop=True)
    torch.testing.assert_close(path.values[[0, 4]], points.values)
    there, back = path.values[1:4], path.values[5:].flip(0)
    torch.testing.assert_close(there, back)  # two points: the way back is the way there
    way = F.normalize(path.values, dim=1)
    steps = (way - way.roll(1, dims=0)).norm(dim=1)
    torch.testing.assert_close(steps, steps[:1].expand(8))  # at one speed


def test_slerp_keeps_the_length_and_linear_shortens():
    points = Latent("z", torch.tensor([[1.0, 0.0], [0.0, 1.0]]), (0, 1))
    arc, line = im.walk(points, 3).values, im.walk(points, 3, curve="linear").values
    torch.testing.assert_close(arc[1], torch.full((2,), math.sqrt(0.5)))
    torch.testing.assert_close(line[1], torch.full((2,), 0.5))


def test_slerp_between_equal_points_stays():
    points = Latent("z", torch.ones(2, 4), (0, 1))
    torch.testing.assert_close(im.walk(points, 5).values, torch.ones(5, 4))


@pytest.mark.parametrize(
    ("count", "choice", "words"),
    [
        (1, {"frames": 4}, "needs 2 latents or more"),
        (2, {"frames": 0}, "frames is 0; expected 1 to 4096"),
        (2, {"frames": 4, "curve": "zigzag"}, "curve is 'zigzag'; expected one of slerp, linear"),
    ],
)
def test_a_walk_that_can_not_be_is_named(tiny_model, count, choice, words):
    with pytest.raises(ValueError, match=words):
        im.walk(tiny_model.latent(range(count)), **choice)


def test_directions_are_orthonormal_and_the_first_changes_modulation_most(tiny_networks):
    found = directions(tiny_networks)
    torch.testing.assert_close(found @ found.t(), torch.eye(32), atol=1e-5, rtol=0)
    weights = torch.cat([block.modulation.weight for block in tiny_networks.generator.blocks])
    change = (weights @ found.t()).norm(dim=0)
    assert (change.diff() <= 1e-4).all()
    _, singular, _ = torch.linalg.svd(weights)
    torch.testing.assert_close(change[0], singular[0])
    assert torch.equal(directions(tiny_networks), found)


def test_a_moved_latent_moves_by_its_spread_in_every_block(tiny_model, condition):
    w = tiny_model.into_w(condition, tiny_model.latent([1, 2]))
    direction = tiny_model.direction(2)
    there = im.moved(w, direction, 1.5)
    step = there.values - w.values
    spread = w.values.square().mean(dim=(1, 2)).sqrt()
    torch.testing.assert_close(step.square().mean(dim=2).sqrt(), 1.5 * spread[:, None].expand(2, 3))
    torch.testing.assert_close(im.moved(w, direction, 0.0).values, w.values)
    assert (tiny_model.draw(condition, there) != tiny_model.draw(condition, w)).any()


def test_steps_along_two_directions_do_not_ask_for_an_order(tiny_model, condition):
    w = tiny_model.into_w(condition, tiny_model.latent([1, 2]))
    ways = [(tiny_model.direction(0), 1.0), (tiny_model.direction(1), -2.0)]
    there, other = im.moved_along(w, ways), im.moved_along(w, ways[::-1])
    torch.testing.assert_close(there.values, other.values)
    steps = [im.moved(w, *way).values - w.values for way in ways]
    torch.testing.assert_close(there.values - w.values, sum(steps))
    assert torch.equal(im.moved_along(w, []).values, w.values)


def test_directions_that_do_not_exist_are_named(tiny_model):
    with pytest.raises(ValueError, match="direction 32; this model has 0 to 31"):
        tiny_model.direction(32)
    with pytest.raises(ValueError, match="no w space"):
        directions(Networks.seeded(dcgan(channels=3, width=2, discriminator_width=2), 0))
    with pytest.raises(ValueError, match="moves latents in w"):
        im.moved(tiny_model.latent([0]), tiny_model.direction(0), 1.0)
    with pytest.raises(ValueError, match="of another model"):
        im.moved(constant(1.0), tiny_model.direction(0), 1.0)


def test_latents_of_another_model_do_not_go_into_w(tiny_model, condition):
    other = Networks.seeded(tiny_model_config(num_blocks=6), 0)
    assert other.generator.config.num_blocks == 6
    with pytest.raises(ValueError, match="do not fit this model"):
        tiny_model.into_w(condition, Latent("w", torch.zeros(1, 6, 32), (0,)))
