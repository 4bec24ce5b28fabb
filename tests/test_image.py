"""Pictures as prompts: any picture is read or refused, and what it shows is what is meant."""

from __future__ import annotations

import math

import pytest
import torch
from conftest import tiny_model_config

import imagen_model as im
from imagen_model.conditioning.image import BATCH, squared
from imagen_model.config import COND_DIM
from imagen_model.data.dataset import InMemoryDataset
from imagen_model.networks.efficientnet import lite0_hash
from imagen_model.networks.networks import Networks

SHOWN, ASKED = "noto", "twemoji"  # the style of the prompts, and the one that is asked for
CARD = {"lite0": lite0_hash()}


@pytest.fixture(scope="module")
def pairs(emoji_pictures: InMemoryDataset) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    """Each concept's picture in SHOWN and in ASKED, [N, 4, 32, 32] in [-1, 1], and its caption."""
    rows: dict[str, dict[str, int]] = {}
    for i, sample in enumerate(emoji_pictures.items):
        if sample.hexcode == sample.base:
            rows.setdefault(sample.base, {})[sample.style] = i
    both = [row for row in rows.values() if {SHOWN, ASKED} <= row.keys()]
    texts = [emoji_pictures.items[row[SHOWN]].text for row in both]
    shown, asked = (
        emoji_pictures.batch(torch.tensor([row[style] for row in both])) for style in (SHOWN, ASKED)
    )
    return shown, asked, texts


@pytest.fixture(scope="module")
def real_model() -> im.Model:
    return im.load("emoji")


def picture(channels: int, height: int, width: int, *, seed: int = 0) -> torch.Tensor:
    chance = torch.Generator().manual_seed(seed)
    return torch.rand(1, channels, height, width, generator=chance) * 2 - 1


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 300), (32, 32), (513, 129)])
def test_a_picture_of_any_size_and_kind_is_one_condition_row(tiny_model, channels, height, width):
    condition = tiny_model.encode_image(picture(channels, height, width), style="noto")
    assert condition.tokens.shape == (1, 8, COND_DIM) and condition.mask.all()
    assert float(condition.pooled.norm()) == pytest.approx(1, abs=1e-5)
    assert condition.tokens.isfinite().all()
    assert condition.style[0, tiny_model.styles.index("noto")] == 1


def test_grey_is_the_same_as_its_three_channels_and_opaque_rgba_as_rgb(tiny_model):
    grey, colour = picture(1, 48, 48), picture(3, 48, 48)
    for one, other in (
        (grey, grey.expand(-1, 3, -1, -1)),
        (colour, torch.cat([colour, torch.ones(1, 1, 48, 48)], dim=1)),
    ):
        ours, theirs = tiny_model.encode_image(one), tiny_model.encode_image(other)
        torch.testing.assert_close(ours.pooled, theirs.pooled)


def test_what_is_transparent_is_seen_as_white(tiny_model):
    rgba = torch.full((1, 4, 40, 40), -1.0)  # premultiplied: nothing there
    rgba[:, 0, 10:30, 10:30] = 1.0
    rgba[:, 3, 10:30, 10:30] = 1.0
    white = torch.ones(1, 3, 40, 40)
    white[:, 1:, 10:30, 10:30] = -1.0
    ours, theirs = tiny_model.encode_image(rgba), tiny_model.encode_image(white)
    torch.testing.assert_close(ours.pooled, theirs.pooled, atol=1e-4, rtol=0)


def test_transparent_pictures_are_padded_to_a_square_and_opaque_ones_cut():
    wide = torch.full((1, 4, 64, 128), -1.0)
    wide[..., :32] = 1.0  # a bar at the left edge, opaque
    padded, cut = squared(wide), squared(torch.where(torch.ones(4, 1, 1) > 0, wide, 0)[:, :3])
    assert (padded[0, 0, 64, 2:29] > 0.9).all() and (padded[0, 0, :28] < -0.9).all()
    assert (cut < -0.9).all()  # the bar lies outside the central square


def test_rows_do_not_depend_on_the_batch(tiny_model, pairs):
    shown = pairs[0]
    many = shown.repeat(math.ceil((BATCH + 5) / len(shown)), 1, 1, 1)[: BATCH + 5]
    whole = tiny_model.encode_image(many)
    for i in (0, 3, BATCH - 1, BATCH, BATCH + 4):
        alone = tiny_model.encode_image(many[i : i + 1])
        torch.testing.assert_close(whole[i : i + 1].tokens, alone.tokens, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(whole[i : i + 1].pooled, alone.pooled, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("pictures", "words"),
    [
        (torch.zeros(3, 32, 32), r"pictures of shape \[3, 32, 32\]; expected \[N, 1, 3 or 4"),
        (torch.zeros(1, 2, 32, 32), r"pictures of shape \[1, 2, 32, 32\]"),
        (torch.zeros(0, 3, 32, 32), r"pictures of shape \[0, 3, 32, 32\]"),
        (torch.zeros(1, 3, 0, 32), r"pictures of shape \[1, 3, 0, 32\]"),
        (torch.full((1, 3, 8, 8), math.nan), "holds NaN or infinite"),
    ],
    ids=["no batch", "two channels", "no pictures", "no pixels", "NaN"],
)
def test_what_is_no_picture_is_refused_in_one_line(tiny_model, pictures, words):
    with pytest.raises(ValueError, match=words) as caught:
        tiny_model.encode_image(pictures)
    assert "\n" not in str(caught.value)


def test_an_unknown_style_is_refused(tiny_model):
    with pytest.raises(ValueError, match="style is 'cubist'; this model knows"):
        tiny_model.encode_image(picture(3, 32, 32), style="cubist")


@pytest.mark.parametrize(
    ("encoder", "words"), [("", "without text; it takes no pictures"), ("0" * 64, "another text")]
)
def test_a_model_without_the_bundled_text_encoder_takes_no_pictures(encoder, words):
    config = tiny_model_config(text_encoder=encoder)
    model = im.Model("other", config, Networks.seeded(config, 0).eval(), CARD)
    with pytest.raises(ValueError, match=words):
        model.encode_image(picture(3, 32, 32))


def test_a_picture_s_nearest_caption_is_its_own(real_model, pairs):
    shown, asked, texts = pairs
    captions = real_model.encode_text(texts).pooled
    for pictures in (shown, asked):
        likeness = real_model.encode_image(pictures).pooled @ captions.t()
        assert (likeness.argmax(dim=1) == torch.arange(len(texts))).float().mean() > 0.8


def share_of_wins(model: im.Model, pictures: torch.Tensor, conditions: im.Condition) -> float:
    """How often a picture's own condition fits it better than another picture's."""
    n = len(pictures)
    match = [model.score(pictures, conditions[torch.arange(n).roll(by)]).match for by in range(n)]
    return float(torch.stack([match[0] > other for other in match[1:]]).float().mean())


def test_the_right_picture_fits_better_than_a_shuffled_one_says_the_discriminator(
    real_model, pairs
):
    shown, asked, _ = pairs
    assert share_of_wins(real_model, asked, real_model.encode_image(shown, style=ASKED)) > 0.85


def test_what_is_drawn_for_a_picture_fits_its_words(real_model, pairs):
    shown, _, texts = pairs
    condition = real_model.encode_image(shown, style=ASKED)
    drawn = real_model.draw(condition, real_model.latent(range(len(texts))))
    words = real_model.encode_text(texts, style=ASKED)
    assert share_of_wins(real_model, drawn, words) > 0.75
