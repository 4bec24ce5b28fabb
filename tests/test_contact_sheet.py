"""Pictures for people: straight alpha, contact sheets and PNG files that say how they were made."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import imagen_model as im
from imagen_model.data.image_reader import premultiplied
from imagen_model.storage.contact_sheet import LABEL_PX, contact_sheet
from imagen_model.storage.images import save_png


def rgba(*values01: float) -> torch.Tensor:
    """One premultiplied pixel [1, 4, 1, 1], given in [0, 1]."""
    return torch.tensor(values01).view(1, 4, 1, 1) * 2 - 1


def test_straight_colour_is_premultiplied_colour_over_alpha():
    colour, alpha = im.straight(rgba(0.25, 0.5, 0.0, 0.5))
    assert colour.flatten().tolist() == pytest.approx([0.5, 1.0, 0.0])
    assert alpha.item() == pytest.approx(0.5)


def test_invisible_pixels_have_no_colour():
    colour, alpha = im.straight(rgba(0.002, 0.002, 0.002, 0.003))
    assert colour.flatten().tolist() == [0, 0, 0]
    assert alpha.item() == pytest.approx(0.003, abs=1e-6)


def test_colour_brighter_than_its_alpha_is_cut():
    colour, _ = im.straight(rgba(0.9, 0.1, 0.1, 0.3))
    assert colour.max() == 1


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_without_alpha_are_only_scaled(channels):
    colour, alpha = im.straight(torch.tensor([-1.0, 0.0, 2.0]).repeat(channels, 1)[None, :, None])
    assert alpha is None
    assert colour[0, 0, 0].tolist() == [0, 0.5, 1]  # clamped


def test_straight_inverts_premultiplication(generator):
    straight = torch.randint(0, 256, (8, 8, 4), generator=generator, dtype=torch.uint8).numpy()
    straight[..., 3] = np.maximum(straight[..., 3], 128)
    pictures = torch.from_numpy(premultiplied(straight)).permute(2, 0, 1)[None] / 127.5 - 1
    image = np.asarray(im.to_image(pictures[0])).astype(int)
    assert (image[..., 3] == straight[..., 3]).all()
    assert np.abs(image - straight).max() <= 2  # 8-bit colour at half alpha has half the steps


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (4, "RGBA")])
def test_channels_choose_the_image_mode(channels, mode):
    image = im.to_image(torch.ones(channels, 5, 7))
    assert (image.mode, image.size) == (mode, (7, 5))
    assert np.asarray(image).min() == 255


def test_a_sheet_is_filled_row_by_row_and_blank_at_the_end():
    pictures = torch.linspace(0, 1, 5).view(5, 1, 1, 1).expand(5, 4, 2, 3)
    sheet = im.picture_grid(pictures, columns=3)
    assert sheet.shape == (4, 4, 9)
    assert sheet[0, ::2, ::3].flatten().tolist() == [0, 0.25, 0.5, 0.75, 1, -1]
    assert (sheet[:, :2, 3:6] == 0.25).all()


def test_a_png_says_how_it_was_made(tmp_path):
    path = tmp_path / "new" / "picture.png"
    facts = {"prompt": "日本 café", "seed": 2**64 - 1}
    save_png(torch.zeros(4, 8, 8), path, facts, scale=3)
    with Image.open(path) as image:
        assert image.size == (24, 24)
        assert image.mode == "RGBA"
        assert json.loads(image.text["imagen"]) == facts


def test_enlarging_repeats_pixels(tmp_path, generator):
    picture = torch.rand(3, 4, 4, generator=generator) * 2 - 1
    save_png(picture, tmp_path / "a.png", {})
    save_png(picture, tmp_path / "b.png", {}, scale=2)
    small, large = (np.asarray(Image.open(tmp_path / name)) for name in ("a.png", "b.png"))
    assert (large == small.repeat(2, axis=0).repeat(2, axis=1)).all()


def test_a_contact_sheet_enlarges_and_spaces_its_pictures():
    pictures = torch.stack([torch.full((3, 2, 2), value) for value in (-1.0, 0.0, 0.5)])
    sheet = contact_sheet(pictures, columns=2, scale=3, gap=1)
    assert sheet.shape == (3, 14, 14)  # 13 made even
    assert (sheet[:, :6, :6] == -1).all() and (sheet[:, :6, 7:13] == 0).all()
    assert (sheet[:, 7:13, :6] == 0.5).all()
    assert (sheet[:, 6] == 1).all() and (sheet[:, :, 6] == 1).all()  # the gap
    assert (sheet[:, 7:, 7:] == 1).all()  # no fourth picture
    assert (sheet[:, 13] == 1).all() and (sheet[:, :, 13] == 1).all()


def test_between_transparent_pictures_there_is_nothing():
    sheet = contact_sheet(torch.ones(3, 4, 2, 2), columns=2, gap=1)
    assert (sheet[:, :2, :2] == 1).all()
    assert (sheet[:, 2] == -1).all() and (sheet[:, :, 2] == -1).all()
    assert (sheet[:, 3:, 3:] == -1).all()  # no fourth picture
    assert sheet.shape == (4, 6, 6) and (sheet[:, 5] == -1).all() and (sheet[:, :, 5] == -1).all()


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_captions_stand_below_their_pictures(channels):
    pictures = torch.full((2, channels, 64, 64), -0.5)
    sheet = contact_sheet(pictures, columns=2, captions=["flag"])
    assert sheet.shape == (channels, 64 + LABEL_PX, 128)
    assert (sheet[:, :64] == -0.5).all()
    written, empty = sheet[0, 64:, :64], sheet[0, 64:, 64:]
    assert written.min() < -0.5 and (empty == 1).all()
    if channels == 4:
        assert (sheet[3, 64:] == 1).all()  # labels are opaque


def test_more_captions_than_pictures_are_refused():
    with pytest.raises(ValueError, match="2 captions do not fit 1 pictures"):
        contact_sheet(torch.zeros(1, 3, 4, 4), columns=1, captions=["a", "b"])
    with pytest.raises(ValueError, match="columns 0"):
        contact_sheet(torch.zeros(1, 3, 4, 4), columns=0)
