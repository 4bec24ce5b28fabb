"""Pictures for people: a batch as one contact sheet, and tensors as PIL images."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from .files import write_atomically


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


def picture_grid(pictures: Tensor, *, columns: int) -> Tensor:
    """[N, C, H, W] -> one picture [C, rows * H, columns * W], blank where there are too few."""
    n, c, h, w = pictures.shape
    rows = -(-n // columns)
    sheet = pictures.new_full((rows * columns, c, h, w), -1.0)
    sheet[:n] = pictures
    sheet = sheet.view(rows, columns, c, h, w).permute(2, 0, 3, 1, 4)
    return sheet.reshape(c, rows * h, columns * w)


def to_image(picture: Tensor) -> Image.Image:
    """[C, H, W] in [-1, 1] -> a PIL image, L, RGB or RGBA with straight alpha."""
    colour, alpha = straight(picture[None].float().cpu())
    parts = [colour] if alpha is None else [colour, alpha]
    unit = torch.cat(parts, dim=1)[0].permute(1, 2, 0)
    array = np.asarray((unit * 255).round().to(torch.uint8))
    return Image.fromarray(array.squeeze(-1) if array.shape[-1] == 1 else array)


def save_png(picture: Tensor, path: Path, facts: dict, *, scale: int = 1) -> None:
    """Write [C, H, W] atomically; `facts` go into the file as JSON under the key "imagen"."""
    image = to_image(picture)
    if scale > 1:
        size = (image.width * scale, image.height * scale)
        image = image.resize(size, Image.Resampling.NEAREST)
    info = PngInfo()
    info.add_itxt("imagen", json.dumps(facts, ensure_ascii=False))
    write_atomically(path, lambda p: image.save(p, format="PNG", pnginfo=info))
