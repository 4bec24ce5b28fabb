"""Pairs for an upscaler: parts of pictures at their full size, and small versions with faults.

The small version mostly has the faults of generated pictures: soft, wobbly and fringed edges, some
noise. Pictures are premultiplied RGBA, NCHW, in [-1, 1].
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.image_reader import check_skipped, premultiplied, read_whole
from ..data.item import Item
from ..progress import OnProgress, reported
from .augment import random_background

CROP = 64  # pixels a side of a target
MARGIN = 4  # small pixels around a small crop, so that its edges are like any other place
MAX_PATCHES = 8192
PATCH_SHARE = 32 * 32  # a picture gives at most one patch for so many pixels
TRIES = 4  # for a place that is not flat
FLAT = 16  # of 255: the most by which the pixels of a flat place differ
CLEAN, OPAQUE = 0.3, 0.4  # shares of the small pictures without faults, and over a flat colour
BLUR_PX, WOBBLE_PX, FRINGE_PX, NOISE = 1.0, 0.4, 0.15, 0.03  # at most, in small pixels


@dataclass
class Patches:
    """Parts of pictures, and the chance of each to be sampled."""

    pixels: Tensor  # uint8 [N, 4, side, side], with a margin around CROP
    weights: Tensor  # [N]
    num_pictures: int
    skipped: list[str] = field(default_factory=list)  # unreadable, "file: why"
    num_small: int = 0  # pictures with a side under CROP

    def batch(self, index: Tensor) -> Tensor:
        """[n, 4, side, side] in [-1, 1]."""
        return self.pixels[index].float() / 127.5 - 1

    def targets(self, most: int) -> Tensor:
        """[n, 4, CROP, CROP] without the margin, of up to `most` patches."""
        return cropped(self.batch(torch.arange(min(most, len(self.pixels)))), CROP)


def read_patches(
    items: list[Item],
    *,
    scale: int,
    seed: int,
    most: int = MAX_PATCHES,
    progress: OnProgress | None = None,
) -> Patches:
    """Cut about `most` patches from pictures at their full size, at random places.

    ValueError if no picture can be read, or if all are smaller than CROP.
    """
    rng = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(items), generator=rng)[:most].tolist()
    each = math.ceil(most / len(chosen))
    parts, weights, skipped, small = [], [], [], 0
    pictures = _read_all([items[i] for i in chosen])
    for i, picture in zip(chosen, reported(pictures, len(chosen), progress), strict=True):
        if isinstance(picture, str):
            skipped.append(picture)
        elif min(picture.shape[1:]) < CROP:
            small += 1
        else:
            found = _cut(picture, each, MARGIN * scale, rng)
            parts.append(found)
            weights += [items[i].weight / len(found)] * len(found)
    check_skipped(skipped, len(chosen) - len(skipped))
    if not parts:
        raise ValueError(
            f"all pictures are smaller than {CROP} pixels a side; expected larger ones"
        )
    return Patches(torch.cat(parts), torch.tensor(weights), len(parts), skipped, small)


def _read_all(items: list[Item]) -> Iterator[Tensor | str]:
    """uint8 [4, H, W] premultiplied of each item in order, or why it is unreadable."""

    def read(item: Item) -> Tensor | str:
        try:
            array = premultiplied(read_whole(item))
        except ValueError as error:
            return str(error)
        return torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1)))

    with ThreadPoolExecutor() as pool:
        for begin in range(0, len(items), 16):  # few whole pictures wait in memory
            yield from pool.map(read, items[begin : begin + 16])


def _cut(picture: Tensor, most: int, margin: int, rng: torch.Generator) -> Tensor:
    """uint8 [n, 4, side, side] at random places of a picture [4, H, W], whose edges are repeated
    around it."""
    height, width = picture.shape[1:]
    rows, columns = (
        torch.arange(-margin, length + margin).clamp(0, length - 1) for length in (height, width)
    )
    found = []
    for _ in range(min(most, math.ceil(height * width / PATCH_SHARE))):
        for _ in range(TRIES):
            top = int(torch.randint(height - CROP + 1, (), generator=rng))
            left = int(torch.randint(width - CROP + 1, (), generator=rng))
            place = picture[:, top : top + CROP, left : left + CROP].flatten(1)
            if (place.amax(dim=1) - place.amin(dim=1)).max() > FLAT:
                break
        side = CROP + 2 * margin
        found.append(picture[:, rows[top : top + side, None], columns[left : left + side]])
    return torch.stack(found)


def pairs_of(large: Tensor, scale: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Small crops and their targets, of patches [N, 4, side, side]."""
    large = over_flat_colours(large, rng)
    small = with_faults(shrunk(large, scale, rng), rng)
    return cropped(small, CROP // scale), cropped(large, CROP)


def cropped(pictures: Tensor, side: int) -> Tensor:
    """The middle [N, C, side, side]."""
    top = (pictures.shape[2] - side) // 2
    return pictures[:, :, top : top + side, top : top + side]


def random_crops(pictures: Tensor, side: int, rng: torch.Generator) -> Tensor:
    """[N, C, side, side] at random places of pictures [N, C, H, W]."""
    rows, columns = (
        torch.randint(length - side + 1, (len(pictures),), generator=rng).tolist()
        for length in pictures.shape[2:]
    )
    places = zip(pictures, rows, columns, strict=True)
    return torch.stack([x[:, r : r + side, c : c + side] for x, r, c in places])


def over_flat_colours(pictures: Tensor, rng: torch.Generator) -> Tensor:
    """Makes a share of premultiplied RGBA pictures opaque, half of them over white."""
    n = len(pictures)
    chance = torch.rand(n, 1, 1, 1, generator=rng)
    background = random_background(n, rng, pictures.device)
    background = torch.where(chance < OPAQUE / 2, torch.ones(()), background)
    colour = pictures[:, :3] + (1 - pictures[:, 3:]) / 2 * (background + 1)
    opaque = torch.cat([colour, torch.ones_like(colour[:, :1])], dim=1)
    return torch.where(chance < OPAQUE, opaque, pictures)


def shrunk(large: Tensor, scale: int, rng: torch.Generator) -> Tensor:
    """Smaller by `scale`: half of the batches by box, the others by antialiased bicubic."""
    if torch.rand((), generator=rng) < 0.5:
        return F.avg_pool2d(large, scale)
    return reduced(large, scale)


def reduced(large: Tensor, scale: int) -> Tensor:
    """Smaller by `scale`, by antialiased bicubic."""
    small = F.interpolate(large, scale_factor=1 / scale, mode="bicubic", antialias=True)
    return small.clamp(-1, 1)


def with_faults(small: Tensor, rng: torch.Generator) -> Tensor:
    """Pictures [N, C, H, W] with the faults of generated ones, each in its own degree."""
    n, channels, height, width = small.shape
    degree = torch.rand(n, 4, generator=rng) * (torch.rand(n, 1, generator=rng) > CLEAN)
    blur, wobble, fringe, noise = degree.T
    soft = blurred(small, (blur * BLUR_PX).clamp(min=1e-2))
    # wobbly: smooth displacements, a part of them each channel's own
    shift = smooth_noise(n, 2, height, width, rng) * (WOBBLE_PX * wobble)[:, None, None, None]
    own = smooth_noise(n * channels, 2, height, width, rng)
    own = own * (FRINGE_PX * fringe).repeat_interleave(channels)[:, None, None, None]
    shift = shift.repeat_interleave(channels, dim=0) + own  # [N C, 2, H, W] in pixels
    identity = torch.eye(2, 3).expand(n * channels, 2, 3)
    grid = F.affine_grid(identity, [n * channels, 1, height, width], align_corners=False)
    grid = grid + shift.permute(0, 2, 3, 1) * (2 / torch.tensor([width, height]))
    planes = soft.flatten(0, 1)[:, None]  # [N C, 1, H, W]
    bent = F.grid_sample(planes, grid, padding_mode="border", align_corners=False)
    grain = torch.randn(small.shape, generator=rng) * (NOISE * noise)[:, None, None, None]
    return (bent.view_as(small) + grain).clamp(-1, 1)


def blurred(pictures: Tensor, sigma: Tensor) -> Tensor:
    """A Gaussian for each picture of [N, C, H, W], sigma [N] in pixels."""
    n, channels = pictures.shape[:2]
    x = torch.arange(-2, 3)
    kernel = torch.exp(-(x**2) / (2 * sigma[:, None] ** 2))
    kernel = torch.einsum("nh,nw->nhw", kernel, kernel)
    kernel = kernel / kernel.sum(dim=(1, 2), keepdim=True)
    weight = kernel.repeat_interleave(channels, dim=0)[:, None]  # [N C, 1, 5, 5]
    padded = F.pad(pictures, (2, 2, 2, 2), mode="replicate").flatten(0, 1)[None]
    return F.conv2d(padded, weight, groups=n * channels).view_as(pictures)


def smooth_noise(n: int, channels: int, height: int, width: int, rng: torch.Generator) -> Tensor:
    """[n, channels, height, width] about normal, smooth over two pixels."""
    coarse = torch.randn(n, channels, height // 2, width // 2, generator=rng)
    return F.interpolate(coarse, size=(height, width), mode="bicubic")
