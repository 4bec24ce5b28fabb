"""Evaluation sees how pictures are drawn: each fault that a person sees first has its figure."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from imagen_model.data.dataset import load_pictures
from imagen_model.data.folder import read_items
from imagen_model.data.prepare.emoji import build_emoji
from imagen_model.evaluation.density_coverage import precision_and_recall
from imagen_model.evaluation.detail import local_median, measure_detail, over_white
from imagen_model.evaluation.distribution import frechet_distance
from imagen_model.evaluation.features import PACKAGE, SPATIAL_DIM, Lite1
from imagen_model.evaluation.quality_checks import check_detail

STYLES = ("noto", "twemoji", "emojione", "noto-v1")


@pytest.fixture(scope="module")
def real(emoji_sources, tmp_path_factory) -> Tensor:
    """Emoji at 64 px, premultiplied RGBA [N, 4, 64, 64] in [-1, 1]."""
    out = tmp_path_factory.mktemp("data") / "emoji"
    build_emoji(out, resolution=64, styles=STYLES, source=emoji_sources)
    items = [item for split in ("train", "test") for item in read_items(out, split=split)]
    found = load_pictures(items, resolution=64, channels=4)
    return found.batch(torch.arange(len(found)))


def blurred(pictures: Tensor) -> Tensor:
    return F.avg_pool2d(F.pad(pictures, [2] * 4, mode="replicate"), 5, stride=1)


def with_colours_apart(pictures: Tensor) -> Tensor:
    """Red a pixel to the left and blue one to the right, as a bad lens has it."""
    red, green, blue, alpha = pictures.unbind(dim=1)
    moved = torch.stack([red.roll(-1, 2), green, blue.roll(1, 2), alpha], dim=1)
    return torch.minimum(moved, alpha[:, None])


def with_wide_outlines(pictures: Tensor) -> Tensor:
    """Sharp inside, and fading out over several pixels."""
    alpha = (pictures[:, 3:] + 1) / 2
    near = F.avg_pool2d(alpha, 9, stride=1, padding=4)
    fade = ((near - 0.4) / 0.6).clamp(0, 1)
    return (pictures + 1) * fade - 1


def test_real_pictures_have_no_fault(real):
    found = measure_detail(real, real)
    assert found.sharpness == found.sharpness_real > 0.02
    assert found.edge_width == found.edge_width_real and 0.8 < found.edge_width < 1.5
    assert found.asymmetry == found.asymmetry_real < 0.01
    assert found.symmetric_pictures >= 3
    assert check_detail(found) == {}
    halves = measure_detail(real[::2], real[1::2])  # of other captions
    assert check_detail(halves) == {}


@pytest.mark.parametrize(
    ("fault", "flags", "words"),
    [
        (blurred, {"smear"}, r"smeared: insides have \d\d?% of the sharpness .* and outlines are"),
        (with_colours_apart, {"rainbow"}, "thin lines of wrong colours"),
        (with_wide_outlines, {"smear"}, r"outlines are \d\.\d times as wide as those of real ones"),
    ],
)
def test_a_fault_is_named_and_no_other(real, fault, flags, words):
    found = check_detail(measure_detail(real, fault(real)))
    assert found.keys() == flags
    assert re.search(words, " ".join(found.values()))


def test_what_is_the_same_left_and_right_is_missed_where_it_is_not(real):
    lopsided = real.clone()
    lopsided[:, :, 20:40, :20] = -1  # a piece is missing on the left
    found = measure_detail(real, lopsided)
    assert found.asymmetry > 5 * found.asymmetry_real
    moved = measure_detail(real, real.roll(1, 3))  # a pixel beside the middle is nearly alike
    assert moved.asymmetry < found.asymmetry


def test_pictures_without_transparency_have_no_outlines(real):
    rgb = over_white(real)[0] * 2 - 1
    found = measure_detail(rgb, blurred(rgb))
    assert found.edge_width is None and found.edge_width_real is None
    assert check_detail(found).keys() == {"smear"}
    grey = rgb.mean(dim=1, keepdim=True)
    assert measure_detail(grey, grey).chroma_noise == pytest.approx(0, abs=1e-3)


def test_no_symmetric_picture_is_no_figure(real):
    lopsided = real.clone()
    lopsided[:, :, :, :20] = -1
    found = measure_detail(lopsided, real)
    assert found.symmetric_pictures == 0 and found.asymmetry is None


def test_the_median_removes_a_line_and_keeps_an_edge():
    edge = torch.zeros(1, 1, 8, 8)
    edge[..., 4:] = 1
    assert torch.equal(local_median(edge), edge)
    line = torch.zeros(1, 1, 8, 8)
    line[..., 4] = 1
    assert not local_median(line).any()


def test_spatial_features_see_blur_and_places(real):
    pytest.importorskip(PACKAGE)
    lite1 = Lite1()
    darker = (real + 1) * 0.95 - 1
    swapped = torch.cat([real[:, :, 32:], real[:, :, :32]], dim=2)  # top and bottom
    features = [lite1.pooled_and_spatial(x)[1] for x in (real, darker, blurred(real), swapped)]
    assert features[0].shape == (len(real), SPATIAL_DIM)
    alone = lite1.pooled_and_spatial(real[1:3])[1]
    torch.testing.assert_close(features[0][1:3], alone, atol=1e-3, rtol=1e-3)
    a_little, blur, places = (frechet_distance(features[0], x) for x in features[1:])
    assert blur > 3 * a_little and places > 3 * a_little


def test_precision_and_recall_are_the_shares_that_lie_in_the_others_balls():
    real = torch.arange(10.0)[:, None]
    assert precision_and_recall(real, real + 0.1) == (1, 1)
    one = torch.linspace(0, 1, 10)[:, None]  # pictures of one kind only
    found = precision_and_recall(real, one)
    assert found == (1, pytest.approx(0.2))
    assert precision_and_recall(real, real + 100) == (0, 0)
