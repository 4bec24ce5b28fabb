"""From a picture to the latent that draws it."""

import pytest
import torch

import imagen_model as im
from imagen_model.config import dcgan
from imagen_model.inference.inversion import invert
from imagen_model.networks.networks import Networks

STEPS = 40


def psnr(a, b):
    """[N] decibels between pictures in [-1, 1]."""
    return -10 * torch.log10(((a - b) / 2).square().mean(dim=(1, 2, 3)))


@pytest.fixture(scope="module")
def condition(tiny_model):
    return tiny_model.encode_text("rocket", style="noto")


@pytest.fixture(scope="module")
def pictures(tiny_model, condition):
    return tiny_model.draw(condition, tiny_model.latent([100, 101]))


@pytest.fixture(scope="module")
def inverted(tiny_model, condition, pictures):
    return tiny_model.invert(pictures, condition, steps=STEPS)


def test_a_picture_of_the_model_is_found_again(tiny_model, condition, pictures, inverted):
    assert inverted.space == "w" and inverted.values.shape == (2, 3, 32)
    average = tiny_model.into_w(condition, inverted, truncation=0.0)
    before = psnr(tiny_model.draw(condition, average), pictures)
    after = psnr(tiny_model.draw(condition, inverted), pictures)
    assert (after > before + 10).all() and (after > 30).all(), (before, after)


def test_pictures_of_the_bundled_model_are_found_from_another_prompt():
    """The mean of four: a search of 60 steps depends on the last digits of a single picture."""
    model = im.load("emoji")
    pictures = model.sample("rocket", seeds=range(4), style="noto")
    condition = model.encode_text("red apple", style="noto")
    found = model.invert(pictures, condition, steps=60)
    average = model.into_w(condition, found, truncation=0.0)
    before = psnr(model.draw(condition, average), pictures)
    after = psnr(model.draw(condition, found), pictures)
    assert (after - before).mean() > 12, (before, after)


def test_a_picture_is_inverted_alike_whatever_else_is_in_the_batch(
    tiny_model, condition, pictures, inverted
):
    alone = tiny_model.invert(pictures[1:], condition, steps=STEPS)
    drawn = tiny_model.draw(condition, inverted)[1:]
    assert psnr(tiny_model.draw(condition, alone), drawn) > 40


def test_batches_after_the_first_are_inverted_too(tiny_model, condition, pictures):
    settings = {"condition": condition, "steps": 2}
    parts = (tiny_model.networks, tiny_model.lite0)
    seen = []
    both = invert(
        *parts, pictures, **settings, batch_size=1, progress=lambda *call: seen.append(call[:2])
    )
    second = invert(*parts, pictures[1:], **settings)
    assert torch.equal(both.values[1:], second.values)
    assert [*dict.fromkeys(seen)] == [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]


def test_an_open_style_is_the_nearest_one(tiny_model):
    styled = tiny_model.encode_text("rocket", style="twemoji")
    picture = tiny_model.draw(styled, tiny_model.latent([5]))
    condition = tiny_model.encode_text("rocket")
    found = tiny_model.invert(picture, condition, steps=STEPS)
    assert psnr(tiny_model.draw(condition, found), picture) > 25


def test_inputs_and_model_stay_as_they_were(tiny_model, condition, pictures):
    before = [pictures.clone(), condition.tokens.clone(), condition.pooled.clone()]
    weights = {k: v.clone() for k, v in tiny_model.networks.state_dict().items()}
    tiny_model.invert(pictures, condition, steps=2)
    assert all(
        torch.equal(a, b)
        for a, b in zip(before, (pictures, condition.tokens, condition.pooled), strict=True)
    )
    assert all(torch.equal(weights[k], v) for k, v in tiny_model.networks.state_dict().items())
    assert not any(p.requires_grad for p in tiny_model.networks.parameters())


def test_it_runs_in_inference_mode_as_the_host_does(tiny_checkpoint, pictures, inverted):
    with torch.inference_mode():
        model = im.load(tiny_checkpoint)
        given = pictures.clone()
        assert next(model.networks.parameters()).is_inference() and given.is_inference()
        found = model.invert(given, model.encode_text("rocket", style="noto"), steps=STEPS)
        assert torch.equal(found.values, inverted.values)
        assert torch.equal(given, pictures)


def test_progress_shows_pictures_and_can_cancel(tiny_model, condition, pictures):
    calls = []

    def progress(done, total, newest):
        calls.append((done, total, newest))
        if done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tiny_model.invert(pictures, condition, steps=100, progress=progress)
    told = dict.fromkeys((done, total) for done, total, _ in calls)  # 0 while it looks for a start
    assert [*told] == [(i, 100) for i in range(8)]
    shown = [newest for _, _, newest in calls if newest is not None]
    assert [x.shape for x in shown] == [pictures.shape] * 2
    assert not torch.equal(shown[0], shown[1])


@pytest.mark.parametrize(("channels", "size"), [(1, 32), (3, 48), (4, 20)])
def test_pictures_of_another_size_or_without_alpha_are_taken(tiny_model, condition, channels, size):
    opaque = torch.full((1, channels, size, size + 4), 0.25)
    found = tiny_model.invert(opaque, condition, steps=3)
    assert found.values.shape == (1, 3, 32) and found.values.isfinite().all()


def test_without_features_colours_and_layout_are_enough(tiny_model, condition, pictures):
    found = invert(tiny_model.networks, None, pictures, condition, steps=STEPS)
    assert (psnr(tiny_model.draw(condition, found), pictures) > 30).all()


def test_a_model_whose_w_is_z_inverts_too(generator):
    networks = Networks.seeded(dcgan(channels=3, width=2, discriminator_width=2), 0).eval()
    null = im.Condition.null(1, networks.conditioning.config)
    found = invert(networks, None, torch.randn(1, 3, 64, 64, generator=generator), null, steps=2)
    assert found.values.shape == (1, 1, 64 * 64) and found.values.isfinite().all()


def test_what_can_not_be_inverted_is_one_line(tiny_model, condition, pictures):
    with pytest.raises(ValueError, match="steps is 0; expected 1 to 10000"):
        tiny_model.invert(pictures, condition, steps=0)
    with pytest.raises(ValueError, match="3 conditions do not fit 2"):
        tiny_model.invert(pictures, tiny_model.encode_text(["a", "b", "c"]))
    with pytest.raises(ValueError, match=r"expected \[N, 1\|3\|4, H, W\]"):
        tiny_model.invert(pictures[0], condition)
