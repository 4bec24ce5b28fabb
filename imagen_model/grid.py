"""Pictures for people: a batch as one contact sheet, and tensors as PIL images."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .files import write_atomically
from .provenance import png_info

if TYPE_CHECKING:
    from .credentials import Signer

LABEL_PX = 18  # height of a caption on a contact sheet
MAX_SHEET_PX = 100_000_000  # of a contact sheet: what 2 GB hold, and Pillow opens


def straight(pictures: Tensor) -> tuple[Tensor, Tensor | None]:
    """[N, C, H, W] in [-1, 1] -> colour [N, 1 or 3, H, W] and alpha [N, 1, H, W] in [0, 1].

    Premultiplied colour is divided by alpha; where alpha is under 1/255 it is 0.
    """
    unit = (pictures.clamp(-1, 1) + 1) / 2
    if pictures.shape[1] != 4:
        return unit, None
    alpha = unit[:, 3:]
    visible = alpha >= 1 / 255
    colour = torch.where(visible, unit[:, :3] / alpha.clamp(min=1 / 255), 0.0).clamp(max=1)
    return colour, alpha


def picture_grid(pictures: Tensor, *, columns: int, blank: float = -1.0) -> Tensor:
    """[N, C, H, W] -> one picture [C, rows * H, columns * W], `blank` where there are too few."""
    n, c, h, w = pictures.shape
    rows = -(-n // columns)
    sheet = pictures.new_full((rows * columns, c, h, w), blank)
    sheet[:n] = pictures
    sheet = sheet.view(rows, columns, c, h, w).permute(2, 0, 3, 1, 4)
    return sheet.reshape(c, rows * h, columns * w)


def contact_sheet(
    pictures: Tensor, *, columns: int, scale: int = 1, gap: int = 0, captions: Sequence[str] = ()
) -> Tensor:
    """[N, C, H, W] in [-1, 1] -> one picture [C, rows, columns] on white, captions below.

    RGBA stands on nothing: between the pictures it is transparent. Pixels are enlarged `scale`
    times; `gap` pixels of the sheet stand between pictures. A caption that is too long is cut at
    its picture's width. ValueError for more captions than pictures, and for a sheet of more than
    MAX_SHEET_PX.
    """
    n, c = pictures.shape[:2]
    if len(captions) > n:
        raise ValueError(f"{len(captions)} captions do not fit {n} pictures; expected {n} or fewer")
    if columns < 1 or scale < 1 or gap < 0:
        raise ValueError(f"columns {columns}, scale {scale}, gap {gap}: expected 1, 1, 0 or more")
    label = LABEL_PX if captions else 0
    width = columns * (pictures.shape[3] * scale + gap)
    height = -(-n // columns) * (pictures.shape[2] * scale + label + gap)
    if width * height > MAX_SHEET_PX:
        raise ValueError(
            f"the sheet would have {width} x {height} pixels; expected {MAX_SHEET_PX:,} at most: "
            "lower scale or gap, or give fewer pictures"
        )
    cells = pictures.repeat_interleave(scale, dim=2).repeat_interleave(scale, dim=3)
    if captions:
        labels = [*captions, *[""] * (n - len(captions))]
        strips = torch.stack([_label(text, cells.shape[3]) for text in labels])
        strips = strips[:, None].expand(-1, c, -1, -1).to(cells).clone()
        if c == 4:
            strips[:, 3] = 1.0  # an opaque label
        cells = torch.cat([cells, strips], dim=2)
    paper = -1.0 if c == 4 else 1.0  # premultiplied: nothing
    sheet = picture_grid(F.pad(cells, (0, gap, 0, gap), value=paper), columns=columns, blank=paper)
    return sheet[:, : sheet.shape[1] - gap, : sheet.shape[2] - gap]


def _label(text: str, width: int) -> Tensor:
    """[LABEL_PX, width] in [-1, 1]: dark text on white."""
    image = Image.new("L", (width, LABEL_PX), 255)
    font = ImageFont.load_default(LABEL_PX * 0.7)
    shown = text[:width]  # a character is a pixel wide, or more
    ImageDraw.Draw(image).text((2, LABEL_PX / 2), shown, fill=0, font=font, anchor="lm")
    return torch.from_numpy(np.array(image)).float() / 127.5 - 1


def to_image(picture: Tensor) -> Image.Image:
    """[C, H, W] in [-1, 1] -> a PIL image, L, RGB or RGBA with straight alpha."""
    colour, alpha = straight(picture[None].float().cpu())
    parts = [colour] if alpha is None else [colour, alpha]
    unit = torch.cat(parts, dim=1)[0].permute(1, 2, 0)
    array = np.asarray((unit * 255).round().to(torch.uint8))
    return Image.fromarray(array.squeeze(-1) if array.shape[-1] == 1 else array)


def to_deep_image(picture: Tensor) -> Image.Image:
    """[1, H, W] in [-1, 1] -> a grey PIL image of 16 bits."""
    unit = (picture[0].float().cpu().clamp(-1, 1) + 1) / 2
    return Image.fromarray((unit * 65535).round().numpy().astype(np.uint16))


def save_png(
    picture: Tensor,
    path: Path,
    facts: dict | None,
    *,
    graph: dict | None = None,
    scale: int = 1,
    deep: bool = False,
    signer: Signer | None = None,
) -> None:
    """Write [C, H, W] atomically, with where it comes from (provenance.py), signed by `signer`.

    `deep` keeps 16 bits of a grey picture; one with colour has 8 in any case.
    """
    image = to_deep_image(picture) if deep and len(picture) == 1 else to_image(picture)
    if scale > 1:
        size = (image.width * scale, image.height * scale)
        image = image.resize(size, Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", pnginfo=png_info(facts, graph))
    png = buffer.getvalue()
    if signer is not None:
        png = signer.sign(png, title=path.name)
    write_atomically(path, lambda p: p.write_bytes(png))
