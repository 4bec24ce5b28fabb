"""Sprites with few colours and crisp edges, and indexed PNG files of them.

A PNG's palette has 256 entries of RGBA. Full transparency takes one of them; the colours share the
others with the levels of alpha, so that few colours leave many levels: 16 colours have 15.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .images import check_pictures, straight, to_image

ALPHAS = ("soft", "hard")
MAX_COLOURS = 255
MAX_SOLID = 100_000  # pixels that choose the colours
SETTLED = 1 / 1000  # k-means ends when a smaller share of them changes its colour


def check_crisp(alpha: str, colours: int) -> None:
    """ValueError for what `crisp` cannot do."""
    if alpha not in ALPHAS:
        raise ValueError(f"alpha is {alpha!r}; expected {' or '.join(ALPHAS)}")
    if not 0 <= colours <= MAX_COLOURS:
        raise ValueError(f"colours is {colours}; expected 1 to {MAX_COLOURS}, or 0 for all")


def crisp(pictures: Tensor, *, alpha: str = "soft", colours: int = 0) -> Tensor:
    """Pictures [N, C, H, W] in [-1, 1] with opaque or transparent pixels alone (`alpha` "hard"),
    and with so many colours, the same for the whole batch (0: all).

    The colours are a median cut, improved by k-means. Transparency counts as
    no colour. With "soft" alpha and few colours, alpha keeps as many levels as a PNG's palette has
    room for. ValueError for another alpha, and for more than MAX_COLOURS.
    """
    check_pictures(pictures)
    check_crisp(alpha, colours)
    if alpha == "soft" and not colours:
        return pictures
    colour, opacity = straight(pictures.float().nan_to_num(-1.0))
    if opacity is None:
        opacity = torch.ones_like(colour[:, :1])
    steps = MAX_COLOURS // colours if colours and alpha == "soft" else 1
    opacity = (opacity * steps + 0.5).floor() / steps
    if colours:
        colour = _quantized(colour, opacity, colours)
    if pictures.shape[1] == 4:
        colour = torch.cat([colour * opacity, opacity], dim=1)
    return (colour * 2 - 1).to(pictures)


def crisp_batches(
    batches: Iterable[Tensor], *, alpha: str = "soft", colours: int = 0
) -> Iterator[Tensor]:
    """`crisp` of pictures in batches; with `colours` one batch of all, for one palette."""
    for pictures in [torch.cat([*batches])] if colours else batches:
        yield crisp(pictures, alpha=alpha, colours=colours)


def _quantized(colour: Tensor, opacity: Tensor, colours: int) -> Tensor:
    """Straight colour [N, 1 or 3, H, W] in [0, 1] in the nearest colours of a palette. Mostly
    transparent pixels, whose colour is uncertain, have no part in choosing it."""
    rows = (
        (colour.expand(-1, 3, -1, -1) * 255).round().byte().permute(0, 2, 3, 1).cpu().flatten(0, 2)
    )
    opacity = opacity.cpu().flatten()
    solid = rows[opacity >= opacity.max().clamp(max=0.5)]  # [P, 3]
    solid = solid[:: len(solid) // MAX_SOLID + 1]
    palette = _as_row(solid).quantize(
        colours,
        method=Image.Quantize.MEDIANCUT,
        kmeans=round(len(solid) * SETTLED) + 1,
        dither=Image.Dither.NONE,
    )
    nearest = _as_row(rows).quantize(palette=palette, dither=Image.Dither.NONE).convert("RGB")
    chosen = torch.from_numpy(np.array(nearest)).view(len(colour), *colour.shape[2:], 3)
    return chosen.permute(0, 3, 1, 2)[:, : colour.shape[1]].to(colour) / 255


def _as_row(pixels: Tensor) -> Image.Image:
    return Image.fromarray(pixels.numpy()[None])


def palette_of(pictures: Tensor) -> np.ndarray:
    """uint8 [K, 4]: the straight RGBA colours in pictures [N, C, H, W], full transparency first.

    ValueError where they are more than a PNG's palette holds.
    """
    codes = np.unique(np.stack([_codes(picture) for picture in pictures]))
    if len(codes) > MAX_COLOURS + 1:
        raise ValueError(
            f"the pictures have {len(codes)} colours; expected {MAX_COLOURS + 1} at most"
        )
    return codes.astype(">u4").view(np.uint8).reshape(-1, 4)


def indexed_image(picture: Tensor, palette: np.ndarray) -> Image.Image:
    """[C, H, W], whose colours are all in the palette -> a PIL image of mode P."""
    known = np.ascontiguousarray(palette).view(">u4").ravel()
    image = Image.fromarray(np.searchsorted(known, _codes(picture)).astype(np.uint8), "P")
    image.putpalette(palette.tobytes(), "RGBA")
    return image


def _codes(picture: Tensor) -> np.ndarray:
    """[C, H, W] -> uint32 [H, W], a pixel's straight RGBA as one number."""
    rgba = np.asarray(to_image(picture).convert("RGBA"))
    return np.ascontiguousarray(rgba).view(">u4").squeeze(-1).astype(np.uint32)
