"""lite0: folding batch normalisation, padding, and what the frozen networks are shown."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from imagen_model.networks.efficientnet import (
    LEVEL_CHANNELS,
    REPEATS,
    STAGES,
    EfficientNetLite,
    as_rgb,
    fold_batch_norm,
    lite0,
    load_published,
)


class Unfolded(nn.Module):
    """Convolution, batch normalisation, perhaps ReLU6, as published; TensorFlow's padding."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(c_out, eps=1e-3)
        # even sizes: a stride of 2 pads one pixel less on the left and at the top
        low = (kernel - stride) // 2
        self.pads = (low, kernel - stride - low) * 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(F.pad(x, self.pads)))


def unfolded_lite(variant: str) -> tuple[dict[str, Unfolded], dict[str, torch.Tensor]]:
    """Random layers by their published names, and the state dict that would be published."""
    layers = {"_conv_stem _bn0": Unfolded(3, 32, 3, 2)}
    c_in, index = 32, 0
    for (kernel, stride, expansion, c_out, _), repeats in zip(
        STAGES, REPEATS[variant], strict=True
    ):
        for i in range(repeats):
            block, hidden = f"_blocks.{index}", c_in * expansion
            if expansion > 1:
                layers[f"{block}._expand_conv {block}._bn0"] = Unfolded(c_in, hidden, 1, 1)
            layers[f"{block}._depthwise_conv {block}._bn1"] = Unfolded(
                hidden, hidden, kernel, stride if i == 0 else 1, groups=hidden
            )
            layers[f"{block}._project_conv {block}._bn2"] = Unfolded(hidden, c_out, 1, 1)
            c_in, index = c_out, index + 1
    layers["_conv_head _bn1"] = Unfolded(320, 1280, 1, 1)
    state = {}
    for names, layer in layers.items():
        layer.eval().double()
        for parameter in (layer.norm.weight, layer.norm.running_var):
            nn.init.uniform_(parameter, 0.5, 1.5)
        for parameter in (layer.norm.bias, layer.norm.running_mean):
            nn.init.normal_(parameter, std=0.3)
        conv, norm = names.split()
        state[f"{conv}.weight"] = layer.conv.weight.detach()
        state |= {f"{norm}.{name}": tensor for name, tensor in layer.norm.state_dict().items()}
    return layers, state


def unfolded_levels(layers: dict[str, Unfolded], x: torch.Tensor) -> list[torch.Tensor]:
    found = iter(layers.values())
    x = F.relu6(next(found)(x))
    levels, c_in = [], 32
    for number, (_, stride, expansion, c_out, repeats) in enumerate(STAGES):
        for i in range(repeats):
            y = F.relu6(next(found)(x)) if expansion > 1 else x
            y = F.relu6(next(found)(y))
            y = next(found)(y)
            same = c_in == c_out and (stride == 1 or i > 0)
            x, c_in = (x + y if same else y), c_out
        if number in (1, 2, 4, 6):
            levels.append(x)
    return levels


@torch.no_grad()
def test_folded_batch_norm_computes_what_the_published_layers_compute(generator, tmp_path):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers, state = unfolded_lite("lite0")
    network = EfficientNetLite("lite0").double()
    network.load_state_dict(fold_batch_norm(state, "lite0"))
    picture = torch.rand(2, 3, 64, 64, generator=generator).double() * 2 - 1
    expected = unfolded_levels(layers, picture)
    levels = network(picture)
    for ours, theirs in zip(levels, expected, strict=True):
        assert theirs.std() > 0
        torch.testing.assert_close(ours, theirs)
    head = layers["_conv_head _bn1"]
    torch.testing.assert_close(network.pool(levels[-1]), F.relu6(head(expected[-1])).mean((2, 3)))


def test_published_files_are_read_without_running_pickles(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("ran",))

    torch.save({"_conv_stem.weight": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(Exception, match=r"(?i)weights.only"):
        load_published(tmp_path / "evil.pth", "lite0")


@torch.no_grad()
@pytest.mark.parametrize(("size", "sides"), [(64, [16, 8, 4, 2]), (70, [18, 9, 5, 3])])
def test_levels_have_strides_of_four_to_thirty_two(size, sides):
    levels = lite0()(torch.zeros(1, 3, size, size))
    assert [level.shape[1:] for level in levels] == [
        (c, side, side) for c, side in zip(LEVEL_CHANNELS, sides, strict=True)
    ]
    assert lite0().pool(levels[-1]).shape == (1, 1280)


def test_lite0_is_frozen_and_passes_gradients_to_pictures():
    assert not any(p.requires_grad for p in lite0().parameters())
    picture = torch.zeros(1, 3, 64, 64, requires_grad=True)
    lite0()(picture)[-1].square().sum().backward()
    assert picture.grad.abs().sum() > 0


def test_an_unknown_variant_is_refused():
    with pytest.raises(ValueError, match="lite9"):
        EfficientNetLite("lite9")


def test_grey_is_repeated():
    grey = torch.linspace(-1, 1, 64 * 64).view(1, 1, 64, 64)
    torch.testing.assert_close(as_rgb(grey), grey.expand(1, 3, 64, 64))


def test_rgb_is_left_alone():
    rgb = torch.linspace(-1, 1, 3 * 64 * 64).view(1, 3, 64, 64)
    torch.testing.assert_close(as_rgb(rgb), rgb)


@pytest.mark.parametrize(
    ("colour01", "alpha01", "background", "expected"),
    [
        (0.0, 0.0, 1.0, 1.0),  # transparent shows the background
        (0.0, 0.0, -1.0, -1.0),
        (0.75, 1.0, -1.0, 0.5),  # opaque shows itself
        (0.25, 0.5, 1.0, 0.5),  # half of 0.5 and half of white: 0.75
        (0.25, 0.5, -1.0, -0.5),
    ],
)
def test_premultiplied_rgba_is_composited(colour01, alpha01, background, expected):
    picture = torch.full((1, 4, 64, 64), colour01 * 2 - 1)
    picture[:, 3] = alpha01 * 2 - 1
    torch.testing.assert_close(as_rgb(picture, background), torch.full((1, 3, 64, 64), expected))


def test_each_picture_may_have_its_own_background():
    background = torch.tensor([[-1.0, 0.0, 1.0], [0.5, 0.5, 0.5]]).view(2, 3, 1, 1)
    seen = as_rgb(torch.full((2, 4, 64, 64), -1.0), background)
    torch.testing.assert_close(seen, background.expand(2, 3, 64, 64))


@pytest.mark.parametrize(("size", "seen"), [(32, 64), (64, 64), (128, 128)])
def test_small_pictures_are_enlarged_to_64_pixels(size, seen):
    assert as_rgb(torch.zeros(1, 3, size, size)).shape == (1, 3, seen, seen)
