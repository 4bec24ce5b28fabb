"""The discriminator as a judge: pictures of any kind in, scores in order out."""

import pytest
import torch
from conftest import tiny_model_config

import imagen_model as im
from imagen_model.inference.scoring import Scores, map_colours, score
from imagen_model.networks.networks import Networks
from imagen_model.storage.images import as_model_pictures


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("size", [(32, 32), (7, 5), (100, 40)])
def test_pictures_of_any_size_and_channels_are_judged(tiny_model, generator, channels, size):
    pictures = torch.rand(2, channels, *size, generator=generator) * 2 - 1
    scores = tiny_model.score(pictures)
    assert scores.realism.shape == (2,)
    assert scores.realism_map.shape == (2, 32, 32)
    assert scores.realism.isfinite().all()
    assert scores.match is None


def test_scores_are_ordered_from_best_to_worst(tiny_model, generator):
    pictures = torch.rand(6, 4, 32, 32, generator=generator) * 2 - 1
    scores = tiny_model.score(pictures, tiny_model.encode_text("a red apple"))
    ranked = scores.total[scores.order]
    assert (ranked.diff() <= 0).all()
    assert ranked[0] > ranked[-1]
    torch.testing.assert_close(scores.total, scores.realism + scores.match)


def test_equal_scores_keep_their_order():
    scores = Scores(torch.tensor([1.0, 2.0, 1.0, 2.0]), None, torch.zeros(4, 2, 2))
    assert scores.order.tolist() == [1, 3, 0, 2]


def test_the_match_counts_in_the_ranking():
    scores = Scores(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 3.0]), torch.zeros(2, 2, 2))
    assert scores.order.tolist() == [1, 0]


def test_one_condition_serves_all_pictures(tiny_model, generator):
    pictures = torch.rand(3, 4, 32, 32, generator=generator) * 2 - 1
    one = tiny_model.encode_text("rocket", style="noto")
    each = tiny_model.encode_text(["rocket"] * 3, style="noto")
    torch.testing.assert_close(
        tiny_model.score(pictures, one).match, tiny_model.score(pictures, each).match
    )
    with pytest.raises(ValueError, match="2 conditions do not fit 3"):
        tiny_model.score(pictures, each[:2])


def test_the_condition_changes_the_match_and_not_the_realism(tiny_model, generator):
    pictures = torch.rand(2, 4, 32, 32, generator=generator) * 2 - 1
    apple = tiny_model.score(pictures, tiny_model.encode_text("a red apple"))
    rocket = tiny_model.score(pictures, tiny_model.encode_text("rocket"))
    assert torch.equal(apple.realism, rocket.realism)
    assert torch.equal(apple.realism_map, rocket.realism_map)
    assert (apple.match - rocket.match).abs().min() > 1e-4


def test_a_score_does_not_depend_on_batch_size(tiny_model, generator):
    pictures = torch.rand(3, 4, 32, 32, generator=generator) * 2 - 1
    condition = tiny_model.encode_text("rocket")
    together = tiny_model.score(pictures, condition)
    told = []
    apart = score(
        tiny_model.networks,
        tiny_model.lite0,
        pictures,
        condition,
        batch_size=2,
        progress=lambda done, total, _: told.append((done, total)),
    )
    torch.testing.assert_close(apart.realism, together.realism, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(apart.match, together.match, atol=1e-4, rtol=1e-4)
    assert told == [(2, 3), (3, 3)]


def test_a_picture_without_alpha_counts_as_opaque(tiny_model, generator):
    rgb = torch.rand(2, 3, 32, 32, generator=generator) * 2 - 1
    opaque = torch.cat([rgb, torch.ones(2, 1, 32, 32)], dim=1)
    torch.testing.assert_close(tiny_model.score(rgb).realism, tiny_model.score(opaque).realism)
    clear = torch.cat([-torch.ones(2, 3, 32, 32), -torch.ones(2, 1, 32, 32)], dim=1)
    assert (tiny_model.score(clear).realism - tiny_model.score(opaque).realism).abs().min() > 1e-4


def test_alpha_that_a_model_lacks_is_composited_over_white():
    half_black = torch.tensor([-1.0, -1.0, -1.0, 0.0]).view(1, 4, 1, 1).expand(1, 4, 32, 32)
    rgb = as_model_pictures(half_black, resolution=32, channels=3)
    torch.testing.assert_close(rgb, torch.zeros(1, 3, 32, 32))  # mid-grey
    grey = as_model_pictures(half_black, resolution=32, channels=1)
    torch.testing.assert_close(grey, torch.zeros(1, 1, 32, 32))


def test_grey_is_the_luma_of_itu_601():
    red = torch.tensor([1.0, -1.0, -1.0]).view(1, 3, 1, 1).expand(1, 3, 32, 32)
    grey = as_model_pictures(red, resolution=32, channels=1)
    torch.testing.assert_close(grey, torch.full((1, 1, 32, 32), 2 * 0.299 - 1))


@pytest.mark.parametrize("channels", [1, 3])
def test_models_without_alpha_judge_every_kind(channels, generator):
    config = tiny_model_config(channels=channels, features=False)
    model = im.Model("plain", config, Networks.seeded(config, 0).eval(), {})
    for given in (1, 3, 4):
        pictures = torch.rand(1, given, 40, 40, generator=generator) * 2 - 1
        assert model.score(pictures).realism.shape == (1,)


@pytest.mark.parametrize("shape", [(4, 32, 32), (1, 2, 32, 32), (1, 32, 32, 3)])
def test_what_is_no_batch_of_pictures_is_refused(tiny_model, shape):
    with pytest.raises(ValueError, match=r"expected \[N, 1\|3\|4, H, W\]"):
        tiny_model.score(torch.zeros(shape))


def test_map_colours_end_in_red_white_and_blue():
    logits = torch.tensor([[[-50.0, 0.0, 50.0]]])
    unit = (map_colours(logits) + 1) / 2
    assert unit.shape == (1, 3, 1, 3)
    fake, undecided, real = unit[0, :, 0].t()
    assert fake.tolist() == pytest.approx([0.70, 0.09, 0.17])
    assert undecided.tolist() == pytest.approx([0.97, 0.97, 0.97])
    assert real.tolist() == pytest.approx([0.13, 0.40, 0.67])


def test_map_colours_deepen_with_certainty():
    logits = torch.tensor([[[0.0, 0.5, 1.0, 4.0], [0.0, -0.5, -1.0, -4.0]]])
    colours = map_colours(logits)
    assert (colours[0, 0, 0].diff() < 0).all()  # real loses red
    assert (colours[0, 2, 1].diff() < 0).all()  # fake loses blue
    assert colours.abs().max() <= 1
