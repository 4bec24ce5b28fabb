"""Few colours and hard edges: one palette for a batch, and PNG files that keep it."""

from __future__ import annotations

import io

import pytest
import torch
from PIL import Image

import imagen_model as im
from imagen_model.storage.images import to_image
from imagen_model.storage.palette import MAX_COLOURS, indexed_image, palette_of


def pictures(channels: int, seed: int = 0) -> torch.Tensor:
    """Smooth noise [3, C, 24, 24] in [-1, 1]; of four channels premultiplied, partly clear."""
    rng = torch.Generator().manual_seed(seed)
    coarse = torch.rand(3, channels, 6, 6, generator=rng) * 3 - 1.5
    x = torch.nn.functional.interpolate(coarse, size=(24, 24), mode="bilinear").clamp(-1, 1)
    return torch.cat([torch.minimum(x[:, :3], x[:, 3:]), x[:, 3:]], dim=1) if channels == 4 else x


def distinct(x: torch.Tensor) -> int:
    return len(x.permute(0, 2, 3, 1).flatten(0, 2).unique(dim=0))


def test_by_default_nothing_changes():
    x = pictures(4)
    assert im.crisp(x) is x


def test_hard_alpha_leaves_opaque_and_transparent_pixels_in_their_straight_colour():
    x = pictures(4)
    hard = im.crisp(x, alpha="hard")
    assert set(hard[:, 3].unique().tolist()) == {-1.0, 1.0}
    opaque = x[:, 3] >= 0
    assert torch.equal(hard[:, 3] > 0, opaque)
    colour = im.straight(x)[0].permute(0, 2, 3, 1)[opaque]
    assert (hard[:, :3].permute(0, 2, 3, 1)[opaque] - (colour * 2 - 1)).abs().max() < 1e-6
    assert (hard.permute(0, 2, 3, 1)[~opaque] == -1).all()  # premultiplied: nothing


@pytest.mark.parametrize("channels", [1, 3])
def test_hard_alpha_changes_nothing_without_transparency(channels):
    x = pictures(channels)
    assert (im.crisp(x, alpha="hard") - x).abs().max() < 1e-6


@pytest.mark.parametrize("colours", [1, 2, 7, 64, MAX_COLOURS])
def test_a_batch_has_so_many_colours_and_transparency(colours):
    few = im.crisp(pictures(4), alpha="hard", colours=colours)
    assert 0.9 * colours <= distinct(few) - 1 <= colours
    assert distinct(im.crisp(pictures(3), colours=colours)) <= colours
    grey = im.crisp(pictures(1), colours=colours)
    assert grey.shape[1] == 1 and distinct(grey) <= colours


def test_few_colours_are_near_to_the_pictures_and_more_are_nearer():
    x = pictures(3)
    off = [float((im.crisp(x, colours=n) - x).square().mean()) for n in (4, 16, 64)]
    assert off[0] > 2 * off[1] > 4 * off[2]
    assert off[2] < 0.02


@pytest.mark.parametrize("colours", [1, 3, 16, 64, MAX_COLOURS])
def test_soft_alpha_keeps_as_many_levels_as_a_png_holds(colours):
    x = pictures(4)
    soft = im.crisp(x, colours=colours)
    levels = len(soft[:, 3].unique())
    assert levels <= 1 + MAX_COLOURS // colours
    assert (soft[:, 3] - x[:, 3]).abs().max() <= 1 / (MAX_COLOURS // colours) + 1e-6
    assert len(palette_of(soft)) <= 256


def test_what_is_barely_visible_has_few_colours_too():
    faint = torch.cat([pictures(3) * 0.05 - 0.9, torch.full((3, 1, 24, 24), -0.8)], dim=1)
    assert distinct(im.crisp(faint, colours=4)) <= 4
    broken = torch.full((2, 4, 8, 8), float("nan"))
    nothing = torch.full((2, 4, 8, 8), -1.0)
    assert torch.equal(im.crisp(broken, colours=4), nothing)
    assert torch.equal(im.crisp(nothing, alpha="hard", colours=4), nothing)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_an_indexed_png_shows_the_picture_and_shares_its_palette(channels):
    few = im.crisp(pictures(channels), colours=9)
    palette = palette_of(few)
    for picture in few:
        buffer = io.BytesIO()
        indexed_image(picture, palette).save(buffer, "PNG")
        with Image.open(buffer) as read:
            assert read.mode == "P"
            shown = read.convert("RGBA")
        assert shown.tobytes() == to_image(picture).convert("RGBA").tobytes()


def test_too_many_colours_for_an_index_are_refused():
    with pytest.raises(ValueError, match=r"the pictures have [0-9]+ colours; expected 256 at most"):
        palette_of(pictures(3))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"alpha": "crisp"}, "alpha is 'crisp'; expected soft or hard"),
        ({"colours": 256}, "colours is 256; expected 1 to 255, or 0 for all"),
        ({"colours": -1}, "colours is -1; expected 1 to 255, or 0 for all"),
    ],
)
def test_what_cannot_be_done_is_one_line(options, words):
    with pytest.raises(ValueError, match=words):
        im.crisp(pictures(4), **options)
    with pytest.raises(ValueError, match=r"shape \(4, 8, 8\)"):
        im.crisp(torch.zeros(4, 8, 8), colours=4)
