"""Augmentation: one draw for real and fake, premultiplied in and out, and a path for gradients."""

import pytest
import torch

from imagen_model.training.augment import CUTOUT, Augmentation, downsampled, random_background


def drawn(n: int, p: float, seed: int = 0) -> Augmentation:
    generator = torch.Generator().manual_seed(seed)
    return Augmentation.sample(n, p, generator=generator, device=torch.device("cpu"))


def only(**changes) -> Augmentation:
    """The neutral draw of one picture, but for `changes`."""
    neutral = {
        "color": torch.tensor([[0.0, 1.0, 1.0]]),
        "shift": torch.zeros(1, 2),
        "hole": torch.tensor([[0.5, 0.5, 0.0]]),
    }
    return Augmentation(**neutral | {k: torch.tensor([v]) for k, v in changes.items()})


def pictures(n: int, channels: int, generator: torch.Generator) -> torch.Tensor:
    x = torch.rand(n, channels, 32, 32, generator=generator)
    if channels == 4:
        x[:, :3] *= x[:, 3:]  # premultiplied
    return x * 2 - 1


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_with_probability_zero_nothing_changes(channels, generator):
    x = pictures(4, channels, generator)
    torch.testing.assert_close(drawn(4, 0.0)(x), x, atol=1e-6, rtol=0)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_with_probability_one_every_picture_changes(channels, generator):
    x = pictures(8, channels, generator)
    y = drawn(8, 1.0)(x)
    assert y.shape == x.shape
    assert (y - x).abs().amax(dim=(1, 2, 3)).min() > 0.05


def test_the_same_draw_does_the_same_to_real_and_fake(generator):
    x = pictures(6, 4, generator)
    draw = drawn(6, 1.0)
    assert torch.equal(draw(x), draw(x.clone()))
    assert not torch.equal(drawn(6, 1.0, seed=1)(x), draw(x))


def test_a_picture_does_not_see_its_neighbours(generator):
    x = pictures(3, 4, generator)
    draw = drawn(3, 1.0)
    alone = Augmentation(draw.color[1:2], draw.shift[1:2], draw.hole[1:2])
    torch.testing.assert_close(alone(x[1:2]), draw(x)[1:2])


def test_each_transformation_touches_its_share_of_pictures():
    draw = drawn(20_000, 0.3)
    touched = [
        (draw.color != torch.tensor([0.0, 1.0, 1.0])).any(dim=1),
        (draw.shift != 0).any(dim=1),
        draw.hole[:, 2] > 0,
    ]
    for on in touched:
        assert float(on.float().mean()) == pytest.approx(0.3, abs=0.02)
    both = float((touched[0] & touched[1]).float().mean())
    assert both == pytest.approx(0.09, abs=0.01)  # independent of each other


def test_brightness_adds_where_there_is_cover(generator):
    x = pictures(1, 4, generator)
    y = only(color=[0.25, 1.0, 1.0])(x)
    cover = (x[:, 3:] + 1) / 2
    torch.testing.assert_close(y[:, :3] - x[:, :3], (2 * 0.25 * cover).expand(-1, 3, -1, -1))


def test_no_saturation_is_grey(generator):
    y = only(color=[0.0, 0.0, 1.0])(pictures(1, 3, generator))
    torch.testing.assert_close(y[:, 0], y[:, 1])
    torch.testing.assert_close(y[:, 0], y[:, 2])


def test_contrast_stretches_about_the_mean(generator):
    x = pictures(1, 3, generator)
    y = only(color=[0.0, 1.0, 0.5])(x)
    torch.testing.assert_close(y.mean(), x.mean(), atol=1e-3, rtol=0)
    torch.testing.assert_close(y.std(), x.std() / 2, atol=1e-3, rtol=0)


def test_shifts_move_whole_pixels_and_repeat_the_edge(generator):
    x = pictures(1, 3, generator)
    y = only(shift=[0.125, -0.0625])(x)  # four rows down, two columns left
    for moved, original in (
        (y[:, :, 4:, :-2], x[:, :, :-4, 2:]),
        (y[:, :, 0, :-2], x[:, :, 0, 2:]),
        (y[:, :, 4:, -1], x[:, :, :-4, -1]),
    ):
        torch.testing.assert_close(moved, original, atol=1e-6, rtol=0)


def test_the_hole_is_empty_and_has_its_size():
    x = torch.ones(1, 4, 32, 32)
    y = only(hole=[0.5, 0.5, CUTOUT])(x)
    assert int((y == -1).sum()) == 4 * 12 * 12
    assert (y[:, :, 10:22, 10:22] == -1).all()


def test_alpha_moves_with_colour_and_colour_leaves_it_alone(generator):
    x = pictures(1, 4, generator)
    assert torch.equal(only(color=[0.3, 1.5, 1.5])(x)[:, 3:], x[:, 3:])
    moved = only(shift=[0.125, 0.0], hole=[0.2, 0.2, CUTOUT])
    assert torch.equal(moved(x)[:, 3:], moved(x[:, 3:].expand(-1, 3, -1, -1))[:, :1])


def test_what_is_transparent_stays_empty():
    """No cover, no colour: the augmented picture is still premultiplied."""
    x = torch.full((16, 4, 32, 32), -1.0)
    x[:, :, 8:24, 8:24] = 0.5
    y = drawn(16, 1.0)(x)
    clear = (y[:, 3:] == -1).expand(-1, 3, -1, -1)
    assert clear.any()
    torch.testing.assert_close(y[:, :3][clear], torch.full_like(y[:, :3][clear], -1.0))
    assert y[:, 3].min() >= -1
    assert y[:, 3].max() <= 0.5


def test_gradients_flow_to_what_is_visible(generator):
    x = pictures(4, 4, generator).requires_grad_(True)
    y = drawn(4, 1.0)(x)
    y.square().sum().backward()
    assert x.grad.isfinite().all()
    assert (x.grad != 0).float().mean() > 0.4


def test_backgrounds_are_flat_colours_in_range(generator):
    background = random_background(500, generator, torch.device("cpu"))
    assert background.shape == (500, 3, 1, 1)
    assert background.abs().max() <= 1
    assert float(background.mean()) == pytest.approx(0, abs=0.08)
    assert float(background.std()) == pytest.approx(3**-0.5, abs=0.05)


def test_downsampling_is_a_mean():
    x = torch.arange(16.0).view(1, 1, 4, 4)
    assert downsampled(x, 2).flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
