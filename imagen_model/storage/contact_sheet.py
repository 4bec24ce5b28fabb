"""Lay a batch of pictures out as one picture: a grid, or a contact sheet with captions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .images import check_pictures, check_written_size

LABEL_PX = 18  # height of a caption on a contact sheet


def picture_grid(pictures: Tensor, *, columns: int, blank: float = -1.0) -> Tensor:
    """[N, C, H, W] -> one picture [C, rows * H, columns * W]; missing cells are `blank`."""
    n, c, h, w = pictures.shape
    rows = -(-n // columns)
    sheet = pictures.new_full((c, rows * h, columns * w), blank)
    for cells, part in _by_rows(_cells(sheet, rows, columns), pictures):
        cells.copy_(part)
    return sheet


def contact_sheet(
    pictures: Tensor, *, columns: int, scale: int = 1, gap: int = 0, captions: Sequence[str] = ()
) -> Tensor:
    """[N, C, H, W] in [-1, 1] -> one picture [C, height, width] on white, captions below.

    RGBA sheets are transparent between the pictures. Each pixel is enlarged `scale` times; `gap` is
    the distance between pictures in pixels of the sheet. Captions are cut at their picture's width.
    An odd height or width gets one more pixel of paper at its end, because H.264 takes even ones.
    ValueError for more captions than pictures, and for a sheet of more than images.MAX_WRITTEN_PX.
    """
    check_pictures(pictures)
    n, c = pictures.shape[:2]
    if len(captions) > n:
        raise ValueError(f"{len(captions)} captions do not fit {n} pictures; expected {n} or fewer")
    if columns < 1 or scale < 1 or gap < 0:
        raise ValueError(f"columns {columns}, scale {scale}, gap {gap}: expected 1, 1, 0 or more")
    label = LABEL_PX if captions else 0
    inner_h, inner_w = pictures.shape[2] * scale, pictures.shape[3] * scale
    cell_h, cell_w, rows = inner_h + label + gap, inner_w + gap, -(-n // columns)
    check_written_size(
        columns * cell_w, rows * cell_h, "lower scale or gap, or give fewer pictures"
    )
    paper = -1.0 if c == 4 else 1.0  # premultiplied: transparent
    # one allocation; enlarged pictures are written where they belong
    sheet = pictures.new_full((c, rows * cell_h + 1, columns * cell_w + 1), paper)
    cells = _cells(sheet[:, :-1, :-1], rows, columns)
    for rows_of, part in _by_rows(cells, pictures):
        enlarged = rows_of[..., :inner_h, :inner_w].unflatten(4, (-1, scale))
        enlarged.unflatten(3, (-1, scale)).copy_(part[..., :, None, :, None])
    if captions:
        labels = [*captions, *[""] * (n - len(captions))]
        strips = torch.stack([_label(text, inner_w) for text in labels])
        strips = strips[:, None].repeat(1, c, 1, 1).to(pictures)
        if c == 4:
            strips[:, 3] = 1.0  # an opaque label
        for rows_of, part in _by_rows(cells, strips):
            rows_of[..., inner_h : inner_h + label, :inner_w] = part
    height, width = rows * cell_h - gap, columns * cell_w - gap
    return sheet[:, : height + height % 2, : width + width % 2]


def _cells(sheet: Tensor, rows: int, columns: int) -> Tensor:
    """A view of a sheet [C, H, W] as cells [rows, columns, C, H / rows, W / columns]."""
    return sheet.unflatten(1, (rows, -1)).unflatten(3, (columns, -1)).permute(1, 3, 0, 2, 4)


def _by_rows(cells: Tensor, pictures: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Cells, and the pictures [n, C, h, w] that belong there: all full rows, then the last one."""
    columns = cells.shape[1]
    full, rest = divmod(len(pictures), columns)
    if full:
        yield cells[:full], pictures[: full * columns].unflatten(0, (full, columns))
    if rest:
        yield cells[full : full + 1, :rest], pictures[None, full * columns :]


def _label(text: str, width: int) -> Tensor:
    """[LABEL_PX, width] in [-1, 1]: dark text on white."""
    image = Image.new("L", (width, LABEL_PX), 255)
    font = ImageFont.load_default(LABEL_PX * 0.7)
    text = text[:width]  # a character is at least one pixel wide
    ImageDraw.Draw(image).text((2, LABEL_PX / 2), text, fill=0, font=font, anchor="lm")
    return torch.from_numpy(np.array(image)).float() / 127.5 - 1
