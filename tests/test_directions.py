"""Directions with names: what is measured on a picture, and what they change in a model's own."""

import pytest
import torch
from conftest import tiny_model_config
from every_node import models

import imagen_model as im
from imagen_model.inference.directions import (
    ATTRIBUTES,
    FIRST_SEED,
    KNOWN,
    attribute_directions,
    measure_attributes,
)
from imagen_model.inference.directions import PICTURES as MEASURED
from imagen_model.networks.networks import Networks

STRENGTHS = (-1.0, -0.5, 0.0, 0.5, 1.0)
PICTURES = 16


def numbers_of(picture: torch.Tensor) -> dict[str, float]:
    """The attributes of one picture [C, H, W] with values in [0, 1]."""
    (row,) = measure_attributes(picture[None] * 2 - 1)
    return dict(zip(KNOWN[len(picture)], row.tolist(), strict=True))


def plain(*colour: float, side: int = 8) -> torch.Tensor:
    return torch.tensor(colour).view(-1, 1, 1).expand(-1, side, side).clone()


def test_what_is_measured_is_what_the_names_say():
    red, green = numbers_of(plain(1.0, 0.0, 0.0)), numbers_of(plain(0.0, 1.0, 0.0))
    assert red == pytest.approx({"lightness": 0.299, "warmth": 1, "green": -0.5, "detail": 0})
    assert green == pytest.approx({"lightness": 0.587, "warmth": 0, "green": 1, "detail": 0})
    assert numbers_of(plain(0.25)) == pytest.approx({"lightness": 0.25, "detail": 0})
    board = plain(0.0)
    board[:, ::2, ::2] = board[:, 1::2, 1::2] = 1.0
    assert numbers_of(board) == pytest.approx({"lightness": 0.5, "detail": 2})


def test_the_colour_of_a_sprite_does_not_depend_on_how_much_is_transparent():
    small = torch.zeros(4, 8, 8)
    small[:, 2:4, 2:4] = torch.tensor([1.0, 0.5, 0.0, 1.0]).view(4, 1, 1)
    large = plain(1.0, 0.5, 0.0, 1.0)
    a, b = numbers_of(small), numbers_of(large)
    for name in ("lightness", "warmth", "green"):
        assert a[name] == pytest.approx(b[name])
    assert (a["size"], b["size"]) == pytest.approx((4 / 64, 1))
    assert numbers_of(torch.zeros(4, 8, 8)) == pytest.approx(dict.fromkeys(ATTRIBUTES, 0.0))


@pytest.fixture(scope="module")
def bundled() -> im.Model:
    return im.load("emoji")


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_a_named_direction_moves_what_it_names_over_twice_as_far_as_others(bundled, name):
    condition, seeds = bundled.encode_text(""), range(PICTURES)
    w = bundled.into_w(condition, bundled.latent(seeds))
    way = bundled.direction(name)
    rows = [measure_attributes(bundled.draw(condition, im.moved(w, way, far))) for far in STRENGTHS]
    spread = rows[STRENGTHS.index(0.0)].std(dim=0)
    means = torch.stack(rows).mean(dim=1) / spread  # [strengths, attributes]
    this = ATTRIBUTES.index(name)
    assert (means[:, this].diff() > 0).all()
    half = (means[3] - means[1]).abs()
    assert half[this] > 1
    others = torch.cat([half[:this], half[this + 1 :]])
    assert others.max() < half[this] / 2


def test_a_small_step_along_a_named_direction_changes_its_attribute_alone(bundled):
    condition = bundled.encode_text("")
    w = bundled.into_w(condition, bundled.latent(range(FIRST_SEED, FIRST_SEED + MEASURED)))
    size = bundled.direction("size")
    back, there = (
        measure_attributes(bundled.draw(condition, im.moved(w, size, far))).mean(dim=0)
        for far in (-0.02, 0.02)
    )
    change = dict(zip(ATTRIBUTES, (there - back).tolist(), strict=True))
    size = change.pop("size")
    assert size > 0
    assert max(map(abs, change.values())) < 0.05 * size


@pytest.mark.parametrize("kind", ["rgb", "grey"])
def test_a_model_has_the_names_that_its_channels_can_show(kind):
    networks = Networks.seeded(models()[kind], 0).eval()
    found = attribute_directions(networks)
    assert tuple(found) == KNOWN[networks.generator.config.channels]
    for way in found.values():
        torch.testing.assert_close(way.norm(), torch.tensor(1.0))


def test_the_same_weights_give_the_same_directions_and_stay_as_they_are(tiny_networks):
    before = [p.clone() for p in tiny_networks.parameters()]
    first = attribute_directions(tiny_networks)
    with torch.inference_mode():  # as in ComfyUI
        loaded = Networks.seeded(tiny_model_config(), 0).eval()
        second = attribute_directions(loaded)
    assert all(torch.equal(first[name], second[name]) for name in ATTRIBUTES)
    assert all(map(torch.equal, tiny_networks.parameters(), before))
    assert all(p.grad is None and not p.requires_grad for p in tiny_networks.parameters())


def test_loading_measures_nothing_and_asking_twice_measures_once(tiny_checkpoint):
    model, heard = im.load(tiny_checkpoint), []

    def progress(done: int, total: int, pictures: torch.Tensor | None) -> None:
        heard.append((done, total))

    way = model.direction("size", progress=progress)
    once = len(heard)
    assert once > 1 and heard[-1][0] == heard[-1][1]
    assert torch.equal(model.direction("size", progress=progress), way)
    model.direction("warmth", progress=progress)
    assert len(heard) == once


def test_measuring_can_be_cancelled_and_asked_for_again(tiny_checkpoint):
    model = im.load(tiny_checkpoint)

    def cancel(*_: object) -> None:
        raise InterruptedError("cancelled")

    with pytest.raises(InterruptedError):
        model.direction("size", progress=cancel)
    assert model.direction("size").shape == (32,)


def test_a_name_that_is_none_says_which_there_are(tiny_model):
    with pytest.raises(ValueError, match="direction 'beauty'; this model has the names lightness"):
        tiny_model.direction("beauty")
    with pytest.raises(ValueError, match="no w space"):
        attribute_directions(Networks.seeded(models()["dcgan"], 0))
