"""The terms between a drawn picture and the real one of its caption."""

import math

import pytest
import torch
import torch.nn.functional as F

from imagen_model.networks import perceptual as likeness
from imagen_model.networks.efficientnet import as_rgb, lite0
from imagen_model.networks.perceptual import fine_detail, low_resolution_l1
from imagen_model.training.losses import common_detail, feature_contrast


def levels(pictures: torch.Tensor) -> list[torch.Tensor]:
    return lite0()(as_rgb(pictures))


def feature_matching(real: list[torch.Tensor], fake: list[torch.Tensor]) -> torch.Tensor:
    return likeness.feature_matching(real, fake, lite0().pool(real[-1]), lite0().pool(fake[-1]))


def test_equal_pictures_match_perfectly(generator):
    x = levels(torch.rand(2, 3, 32, 32, generator=generator) * 2 - 1)
    assert feature_matching(x, x).item() == pytest.approx(0, abs=1e-5)


def test_the_more_a_picture_differs_the_worse_it_matches(generator):
    real = torch.rand(2, 3, 32, 32, generator=generator) * 2 - 1
    noise = torch.randn(2, 3, 32, 32, generator=generator)
    values = [
        feature_matching(levels(real), levels(real + amount * noise)).item()
        for amount in (0.05, 0.3, 1.0)
    ]
    assert 0 < values[0] < values[1] < values[2]


def test_feature_matching_does_not_depend_on_the_scale_of_features(generator):
    """Levels are normalised along their channels, so a level counts by direction."""
    real, fake = (levels(torch.rand(1, 3, 32, 32, generator=generator)) for _ in range(2))
    same_last = [*real[:3], real[3]], [*fake[:3], real[3]]
    doubled = [*(2 * x for x in real[:3]), real[3]], [*(2 * x for x in fake[:3]), real[3]]
    torch.testing.assert_close(feature_matching(*doubled), feature_matching(*same_last))


def test_feature_matching_pulls_a_picture_towards_the_real_one(generator):
    real = levels(torch.rand(1, 3, 64, 64, generator=generator) * 2 - 1)
    x = (torch.rand(1, 3, 64, 64, generator=generator) * 2 - 1).requires_grad_(True)
    before = feature_matching(real, levels(x))
    (gradient,) = torch.autograd.grad(before, x)
    after = feature_matching(real, levels(x.detach() - 0.5 * gradient / gradient.norm()))
    assert after < before


def test_low_resolution_l1_sees_colour_and_not_texture():
    flat = torch.zeros(1, 3, 32, 32)
    rows = torch.arange(32) % 2 * 2.0 - 1
    checkers = (rows[:, None] * rows).expand(1, 3, 32, 32)
    assert low_resolution_l1(flat, flat).item() == 0
    assert low_resolution_l1(flat, checkers).item() == 0  # means of 2x2 pixels vanish
    assert low_resolution_l1(flat, flat + 0.5).item() == pytest.approx(1.0)  # 0.5 at both scales


def test_contrast_is_low_where_each_picture_is_nearest_to_its_own(generator):
    real = torch.randn(8, 20, generator=generator)
    near = real + 0.01 * torch.randn(8, 20, generator=generator)
    assert feature_contrast(real, near) < 0.1 < feature_contrast(real, near.roll(1, dims=0))


def test_contrast_of_the_average_picture_is_chance(generator):
    """What matches every picture a little is told apart from none, however well it matches."""
    real = torch.rand(8, 20, generator=generator)
    average = real.mean(dim=0).expand(8, -1)
    assert feature_contrast(real, average).item() == pytest.approx(math.log(8), rel=0.1)


def test_what_every_drawing_has_over_its_picture_is_found(generator):
    """The mean square of the common part, whatever else each drawing has: in the mean over many
    batches, for one of eight sees it with noise."""
    stroke = torch.zeros(4, 16, 16)
    stroke[:, 8, 4:12] = 0.5
    own = [torch.randn(8, 4, 16, 16, generator=generator) for _ in range(200)]
    found = torch.stack([common_detail(each + stroke) for each in own]).mean()
    nothing = torch.stack([common_detail(each) for each in own]).mean()
    assert found.item() == pytest.approx(stroke.square().mean().item(), rel=0.15)
    assert nothing.item() == pytest.approx(0, abs=1e-3)


def test_common_detail_pulls_at_the_stroke_and_not_at_the_rest(generator):
    stroke = torch.zeros(4, 16, 16)
    stroke[:, 8, 4:12] = 0.5
    own = torch.randn(8, 4, 16, 16, generator=generator)
    own -= own.mean(dim=0)
    excess = (own + stroke).requires_grad_(True)
    (gradient,) = torch.autograd.grad(common_detail(excess), excess)
    along = (gradient * stroke).sum(dim=(1, 2, 3))
    assert (along > 0).all()
    assert (gradient * own).sum() <= 0  # no drawing is asked to have less detail


def test_a_single_drawing_has_nothing_in_common():
    assert common_detail(torch.ones(1, 4, 16, 16)).item() == 0


def test_flat_pictures_have_no_fine_detail():
    slope = torch.linspace(-1, 1, 32).expand(2, 4, 32, 32)
    assert fine_detail(torch.full((2, 4, 32, 32), 0.3)).abs().max() < 1e-6
    assert fine_detail(slope)[..., 2:-2].abs().max() < 1e-6


@pytest.mark.parametrize("size", [(32, 32), (128, 128), (48, 20)])
def test_fine_detail_is_what_the_mean_over_a_window_leaves(size, generator):
    pictures = torch.randn(2, 4, *size, generator=generator)
    reach = max(1, size[0] // 16)
    padded = F.pad(pictures, [reach] * 4, mode="replicate")
    expected = pictures - F.avg_pool2d(padded, 2 * reach + 1, stride=1)
    torch.testing.assert_close(fine_detail(pictures), expected, atol=1e-5, rtol=0)


def test_fine_detail_measured_first_can_be_trained_with_later():
    with torch.inference_mode():
        fine_detail(torch.zeros(1, 4, 96, 96))
    pictures = torch.zeros(1, 4, 96, 96, requires_grad=True)
    fine_detail(pictures).square().sum().backward()
    assert pictures.grad is not None
