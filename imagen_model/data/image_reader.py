"""Image files -> arrays of one size: decoding, orientation, alpha, fitting to a square.

Damaged files give one line that names them.
"""

from __future__ import annotations

import io
import logging
import struct
import threading
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from ..progress import OnProgress, reported
from ..storage.files import brief
from ..storage.images import open_image
from .item import Item
from .reading import MOST_LISTED

logger = logging.getLogger(__name__)
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
MAX_PIXELS = 89_000_000  # larger pictures are refused: 350 MB as RGBA
LARGE_PIXELS = 8_000_000  # larger pictures are decoded one at a time
CHUNK = 1024
MOST_CROPPED = 1 / 3  # of an opaque picture, without a warning
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_EXTRAS = {b"tEXt", b"zTXt", b"iTXt", b"iCCP"}
# What Pillow's decoders raise for damaged files.
DAMAGE = (
    OSError, SyntaxError, ValueError, TypeError, ArithmeticError, LookupError, EOFError,
    MemoryError, struct.error, zlib.error, RuntimeError, AttributeError, AssertionError,
    Image.DecompressionBombError,
)  # fmt: skip
_opening = threading.Lock()
_decoding_large = threading.Lock()


class Source(NamedTuple):
    """What is known of a picture's file: its smaller side in pixels, and whether more than
    MOST_CROPPED of the picture is cropped."""

    side: int
    is_cropped: bool


def read_picture(path: Path, *, resolution: int, channels: int) -> np.ndarray:
    """One picture as uint8 [resolution, resolution, channels], straight alpha (see fit_picture).

    ValueError if the file is not a readable picture.
    """
    return read_item(Item(path), resolution=resolution, channels=channels)[0]


def read_item(item: Item, *, resolution: int, channels: int) -> tuple[np.ndarray, Source]:
    """read_picture's array, and what is known of the file."""
    with _decoded(item, enough_px=2 * resolution) as (upright, size):
        side, longer = min(size), max(size)
        is_cropped = 1 - side / longer > MOST_CROPPED and _is_opaque(upright)
        array = fit_picture(upright, resolution=resolution, channels=channels)
        return array, Source(side, is_cropped)


def read_whole(item: Item) -> np.ndarray:
    """A picture of its own size as uint8 [H, W, 4], straight alpha; ValueError as read_picture."""
    with _decoded(item) as (upright, _):
        return np.array(upright)


@contextmanager
def _decoded(
    item: Item, enough_px: int | None = None
) -> Iterator[tuple[Image.Image, tuple[int, int]]]:
    """The picture as RGBA, upright, and the size of the file's. `enough_px`: sides from which a
    JPEG may be decoded smaller. ValueError for damage, also where it is found in the block."""
    try:
        with _opened(item.file().opened()) as image:
            size = image.size
            # libjpeg holds a progressive one at its full size
            if enough_px and not image.info.get("progressive"):
                image.draft(None, (enough_px, enough_px))
            pixels = image.width * image.height
            if pixels > MAX_PIXELS:
                raise ValueError(f"{image.width} x {image.height} pixels are too many; scale it")
            with _decoding_large if pixels > LARGE_PIXELS else nullcontext():
                yield ImageOps.exif_transpose(_in_eight_bits(image)).convert("RGBA"), size
    except DAMAGE as error:
        raise ValueError(f"{item.path}: not a readable picture ({brief(error)})") from None


def _opened(file: Path | io.BytesIO) -> Image.Image:
    """open_image without its limit on pixels: a JPEG over it can still be decoded smaller. Of a PNG
    only what makes the picture is read."""
    with _opening:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return open_image(_without_extras(file))
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _without_extras(file: Path | io.BytesIO) -> Path | io.BytesIO:
    """A PNG without its texts and colour profile, which Pillow refuses where they are large; any
    other file as it is."""
    with file.open("rb") if isinstance(file, Path) else nullcontext(file) as stream:
        if stream.read(len(PNG_SIGNATURE)) != PNG_SIGNATURE:
            stream.seek(0)
            return file
        kept = io.BytesIO()
        kept.write(PNG_SIGNATURE)
        while len(header := stream.read(8)) == 8:
            size, kind = struct.unpack(">I4s", header)
            if kind in PNG_EXTRAS:
                stream.seek(size + 4, io.SEEK_CUR)
            else:
                kept.write(header)
                kept.write(stream.read(size + 4))
    kept.seek(0)
    return kept


def _in_eight_bits(image: Image.Image) -> Image.Image:
    """Deep grey (16 bits, floats) in eight bits; other pictures unchanged."""
    if image.mode not in ("I", "F") and not image.mode.startswith("I;"):
        return image
    values = np.asarray(image, np.float32)
    tops = (1.0, 255.0, 65535.0) if image.mode == "F" else (65535.0,)
    top = next((top for top in tops if values.max() <= top), values.max())
    grey = Image.fromarray((values / top * 255).clip(0, 255).round().astype(np.uint8))
    grey.info = image.info  # it has the camera's orientation
    return grey


def fit_picture(image: Image.Image, *, resolution: int, channels: int) -> np.ndarray:
    """An RGBA picture as a square uint8 [resolution, resolution, channels], straight alpha.

    A picture with transparency is scaled to fit and padded with transparency; an opaque one is
    cropped to its central square. Fewer channels than four are composited over white.
    """
    size = (resolution, resolution)
    if _is_opaque(image):
        image = ImageOps.fit(image, size, Image.Resampling.LANCZOS)
    else:
        scaled = ImageOps.contain(image, size, Image.Resampling.LANCZOS)
        image = Image.new("RGBA", size, (255, 255, 255, 0))
        image.paste(scaled, ((resolution - scaled.width) // 2, (resolution - scaled.height) // 2))
    if channels != 4:
        paper = Image.new("RGBA", size, (255, 255, 255, 255))
        paper.alpha_composite(image)
        image = paper.convert(MODES[channels])
    return np.array(image).reshape(resolution, resolution, channels)  # a writable copy


def _is_opaque(image: Image.Image) -> bool:
    return image.getchannel("A").getextrema() == (255, 255)


def premultiplied(array: np.ndarray) -> np.ndarray:
    """uint8 [..., 4] straight alpha -> premultiplied; other channel counts unchanged."""
    if array.shape[-1] != 4:
        return array
    rgb = (array[..., :3].astype(np.uint16) * array[..., 3:] + 127) // 255
    return np.concatenate([rgb.astype(np.uint8), array[..., 3:]], axis=-1)


def read_all(
    items: list[Item], *, resolution: int, channels: int, progress: OnProgress | None = None
) -> Iterator[tuple[np.ndarray, Source] | str]:
    """(uint8 [C, H, W] premultiplied, its source) of each item in order, or why it is unreadable.

    Several threads decode; at most CHUNK results wait in memory.
    """

    def read(item: Item) -> tuple[np.ndarray, Source] | str:
        try:
            array, source = read_item(item, resolution=resolution, channels=channels)
        except ValueError as error:
            return str(error)
        return premultiplied(array).transpose(2, 0, 1), source

    pool = ThreadPoolExecutor()
    try:
        chunks = (items[begin : begin + CHUNK] for begin in range(0, len(items), CHUNK))
        results = (result for chunk in chunks for result in pool.map(read, chunk))
        yield from reported(results, len(items), progress)
    finally:
        pool.shutdown(cancel_futures=True)  # after an interruption the rest is not read


def check_skipped(skipped: list[str], num_kept: int) -> None:
    """Warn of unreadable pictures; ValueError if no picture is left."""
    if not num_kept:
        raise ValueError(
            f"none of {len(skipped)} pictures could be read; the first: {brief(skipped[0])}"
        )
    warn_of_skipped(skipped)


def warn_of_cropped(cropped: int, pictures: int) -> None:
    if cropped:
        logger.warning(
            "%s of %s pictures lose more than a third, because opaque pictures are cropped to "
            "their central square; pad them to a square, or crop them to what matters",
            f"{cropped:,}",
            f"{pictures:,}",
        )


def warn_of_skipped(skipped: list[str]) -> None:
    """Name the first MOST_LISTED unreadable files and count the rest."""
    for reason in skipped[:MOST_LISTED]:
        logger.warning("skipped %s", reason)
    if len(skipped) > MOST_LISTED:
        logger.warning("skipped %d more unreadable files", len(skipped) - MOST_LISTED)
