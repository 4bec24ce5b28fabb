"""Lay a batch of pictures out as one picture: a grid, or a contact sheet with captions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .images import check_pictures, check_written_size

LABEL_PX = 18  # height of a caption on a contact sheet


def picture_grid(pictures: Tensor, *, columns: int, blank: float = -1.0) -> Tensor:
    """[N, C, H, W] -> one picture [C, rows * H, columns * W]; missing cells are `blank`."""
    n, c, h, w = pictures.shape
    rows = -(-n // columns)
    sheet = pictures.new_full((rows * columns, c, h, w), blank)
    sheet[:n] = pictures
    sheet = sheet.view(rows, columns, c, h, w).permute(2, 0, 3, 1, 4)
    return sheet.reshape(c, rows * h, columns * w)


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
    width = columns * (pictures.shape[3] * scale + gap)
    height = -(-n // columns) * (pictures.shape[2] * scale + label + gap)
    check_written_size(width, height, "lower scale or gap, or give fewer pictures")
    cells = pictures.repeat_interleave(scale, dim=2).repeat_interleave(scale, dim=3)
    if captions:
        labels = [*captions, *[""] * (n - len(captions))]
        strips = torch.stack([_label(text, cells.shape[3]) for text in labels])
        strips = strips[:, None].repeat(1, c, 1, 1).to(cells)
        if c == 4:
            strips[:, 3] = 1.0  # an opaque label
        cells = torch.cat([cells, strips], dim=2)
    paper = -1.0 if c == 4 else 1.0  # premultiplied: transparent
    sheet = picture_grid(F.pad(cells, (0, gap, 0, gap), value=paper), columns=columns, blank=paper)
    sheet = sheet[:, : sheet.shape[1] - gap, : sheet.shape[2] - gap]
    return F.pad(sheet, (0, sheet.shape[2] % 2, 0, sheet.shape[1] % 2), value=paper)


def _label(text: str, width: int) -> Tensor:
    """[LABEL_PX, width] in [-1, 1]: dark text on white."""
    image = Image.new("L", (width, LABEL_PX), 255)
    font = ImageFont.load_default(LABEL_PX * 0.7)
    text = text[:width]  # a character is at least one pixel wide
    ImageDraw.Draw(image).text((2, LABEL_PX / 2), text, fill=0, font=font, anchor="lm")
    return torch.from_numpy(np.array(image)).float() / 127.5 - 1
