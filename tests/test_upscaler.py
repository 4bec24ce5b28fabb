"""Four times the pixels: nearer to real pictures than bicubic, any size, windows without seams."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import imagen_model as im
from imagen_model.data.dataset import load_pictures
from imagen_model.data.folder import read_items
from imagen_model.data.prepare.emoji import build_emoji
from imagen_model.inference import upscaler
from imagen_model.inference.upscaler import (
    SCALE,
    UPSCALER_FILE,
    Upscaler,
    UpscalerConfig,
    load_upscaler,
    windows_of,
)
from imagen_model.networks.efficientnet import as_rgb, lite0
from imagen_model.networks.perceptual import feature_matching
from imagen_model.storage.files import sha256_of


def pictures(seed: int, *shape: int) -> torch.Tensor:
    """Smooth noise in [-1, 1]; of four channels premultiplied."""
    coarse = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    x = F.avg_pool2d(coarse, 3, stride=1, padding=1)
    return x if shape[1] != 4 else torch.cat([torch.minimum(x[:, :3], x[:, 3:]), x[:, 3:]], dim=1)


@pytest.fixture(scope="module")
def sharp(emoji_sources, tmp_path_factory) -> torch.Tensor:
    """Pictures at 64 px of two styles that the upscaler never saw: [26, 4, 64, 64]."""
    out = tmp_path_factory.mktemp("data") / "emoji"
    build_emoji(out, resolution=64, styles=("noto", "twemoji"), source=emoji_sources)
    samples = [sample for split in ("train", "test") for sample in read_items(out, split=split)]
    found = load_pictures(samples, resolution=64, channels=4)
    return found.batch(torch.arange(len(found)))


def shrunk(large: torch.Tensor) -> torch.Tensor:
    small = F.interpolate(large, scale_factor=1 / SCALE, mode="bicubic", antialias=True)
    return small.clamp(-1, 1)


def bicubic(small: torch.Tensor) -> torch.Tensor:
    return F.interpolate(small, scale_factor=SCALE, mode="bicubic").clamp(-1, 1)


def psnr(made: torch.Tensor, real: torch.Tensor) -> float:
    """Mean over pictures over white, in dB."""
    mse = (as_rgb(made) - as_rgb(real)).square().mean(dim=(1, 2, 3)) / 4
    return float((-10 * mse.log10()).mean())


def distance(made: torch.Tensor, real: torch.Tensor) -> float:
    """In lite0's levels over white."""
    levels = [lite0()(as_rgb(x)) for x in (real, made)]
    return float(feature_matching(*levels, *(lite0().pool(x[-1]) for x in levels)))


# What the weights give


def test_pictures_of_styles_that_it_never_saw_come_nearer_than_by_bicubic(sharp):
    small = shrunk(sharp)
    ours, theirs = im.upscale(small), bicubic(small)
    assert psnr(ours, sharp) > psnr(theirs, sharp) + 1.5  # dB
    assert distance(ours, sharp) < 0.75 * distance(theirs, sharp)


def test_soft_pictures_become_sharper_than_by_bicubic(sharp):
    small = shrunk(sharp)
    soft = F.avg_pool2d(F.pad(small, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    assert distance(im.upscale(soft), sharp) < 0.75 * distance(bicubic(soft), sharp)


@pytest.mark.parametrize("value", [-1.0, 1.0])
def test_what_is_wholly_transparent_or_opaque_stays_so(value):
    small = torch.full((1, 4, 16, 16), value)
    assert (im.upscale(small)[:, 3] - value).abs().max() < 2 / 255


# Any picture


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (33, 20), (230, 170)])
def test_any_size_becomes_four_times_as_large_and_stays_in_range(channels, size):
    large = im.upscale(pictures(0, 2, channels, *size))
    assert large.shape == (2, channels, SCALE * size[0], SCALE * size[1])
    assert large.abs().max() <= 1
    if channels == 4:
        assert (large[:, :3] <= large[:, 3:]).all()  # premultiplied


def test_the_same_pictures_give_the_same_pictures():
    small = pictures(1, 3, 4, 24, 24)
    assert torch.equal(im.upscale(small), im.upscale(small))


def test_image_i_does_not_depend_on_batch_size():
    small = pictures(2, 6, 4, 32, 32)
    assert (im.upscale(small)[2:3] - im.upscale(small[2:3])).abs().max() < 1e-5


def test_windows_of_a_large_picture_join_without_seams():
    small = pictures(3, 2, 4, 170, 230)
    with torch.no_grad():
        whole = load_upscaler()(small).clamp(-1, 1)
    assert len(list(windows_of(170, 230, load_upscaler().reach))) > 1
    assert (upscaler.in_channels(whole, 4) - im.upscale(small)).abs().max() < 1e-5


@pytest.mark.parametrize(("tile", "shift"), [("x", (0, 5)), ("both", (3, 5))])
@pytest.mark.parametrize("size", [(16, 9), (120, 170)], ids=["whole", "windows"])
def test_edges_that_join_are_drawn_like_any_other_place(tile, shift, size):
    """Where a seamless picture begins makes no difference, which at closed edges it does."""
    small = pictures(7, 1, 4, *size)
    moved = small.roll(shift, dims=(2, 3))
    large_shift = tuple(SCALE * s for s in shift)
    expected = im.upscale(small, tile=tile).roll(large_shift, dims=(2, 3))
    assert (im.upscale(moved, tile=tile) - expected).abs().max() < 1e-5
    closed = im.upscale(small).roll(large_shift, dims=(2, 3))
    assert (im.upscale(moved) - closed).abs().max() > 0.05


@pytest.mark.parametrize(("height", "width"), [(1, 1), (128, 128), (1024, 40), (257, 300)])
@pytest.mark.parametrize("tile", ["none", "x", "both"])
def test_windows_cover_every_pixel_once(height, width, tile):
    covered = torch.zeros(SCALE * height, SCALE * width)
    for window in windows_of(height, width, 19, tile):
        source = torch.empty(height, width)[window.input]
        output = source.repeat_interleave(SCALE, dim=0).repeat_interleave(SCALE, dim=1)
        assert output[window.valid].shape == covered[window.target].shape
        covered[window.target] += 1
    assert (covered == 1).all()


def test_an_untrained_upscaler_is_the_bilinear_enlargement():
    small = pictures(4, 1, 4, 9, 7)
    bilinear = F.interpolate(small, scale_factor=SCALE, mode="bilinear")
    assert torch.equal(Upscaler(UpscalerConfig(width=8, num_blocks=1))(small), bilinear)


# Progress and refusals


def test_progress_counts_to_the_end_with_the_newest_pictures():
    told = []
    im.upscale(pictures(5, 10, 3, 32, 32), progress=lambda *args: told.append(args))
    assert [(done, total, len(newest)) for done, total, newest in told] == [
        (1, 3, 4), (2, 3, 4), (3, 3, 2),
    ]  # fmt: skip


def test_progress_cancels_between_the_windows_of_one_picture():
    def stop(done: int, total: int, newest: object) -> None:
        assert done < total and newest is None
        raise InterruptedError

    with pytest.raises(InterruptedError):
        im.upscale(pictures(6, 1, 3, 200, 200), progress=stop)


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((4, 8, 8), r"shape \(4, 8, 8\); expected \[N, 1\|3\|4, H, W\]"),
        ((1, 2, 8, 8), r"shape \(1, 2, 8, 8\)"),
        ((0, 4, 8, 8), r"shape \(0, 4, 8, 8\)"),
        ((1, 4, 8, 1025), "pictures of 1025x8; expected sides of up to 1024 pixels"),
    ],
)
def test_what_is_no_picture_or_too_large_is_refused(shape, words):
    with pytest.raises(ValueError, match=words):
        im.upscale(torch.zeros(shape))


def test_an_unknown_tile_is_refused():
    with pytest.raises(ValueError, match="tile is 'y'; expected one of none, x, both"):
        im.upscale(torch.zeros(1, 4, 8, 8), tile="y")


def test_missing_weights_name_what_does_without_them(tmp_path):
    with pytest.raises(ValueError, match=r"gone.* are missing; .*\(ImageScale\)"):
        load_upscaler(tmp_path / "gone.safetensors")


def test_damaged_weights_are_one_line(tmp_path):
    path: Path = tmp_path / "damaged.safetensors"
    path.write_bytes(UPSCALER_FILE.read_bytes()[:-1])
    Path(f"{path}.sha256").write_text(sha256_of(UPSCALER_FILE))
    with pytest.raises(ValueError, match="is damaged"):
        load_upscaler(path)


def test_a_width_of_zero_is_refused():
    with pytest.raises(ValueError, match="width is 0; expected 1 or more"):
        UpscalerConfig(width=0)
