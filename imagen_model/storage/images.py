"""Tensors to PIL images and PNG files, and pictures of any shape to a model's.

Pictures are NCHW in [-1, 1]; four channels are premultiplied RGBA.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from .credentials import Signer
from .files import write_atomically
from .provenance import png_info

# What is opened, whatever a file is called. Nothing else is: Pillow would let Ghostscript run
# PostScript.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "JPEG2000", "AVIF")
MAX_WRITTEN_PX = 100_000_000  # of one picture that is written: what 2 GB hold, and Pillow opens


def open_image(file: Path | io.BytesIO, formats: tuple[str, ...] = FORMATS) -> Image.Image:
    """Image.open for a file of any origin; OSError where it is none of `formats`."""
    Image.init()
    return Image.open(file, formats=[f for f in formats if f in Image.OPEN])  # AVIF: Pillow 11.3


def check_written_size(width: int, height: int, remedy: str) -> None:
    """ValueError with the remedy for a picture of more than MAX_WRITTEN_PX."""
    if width * height > MAX_WRITTEN_PX:
        raise ValueError(
            f"the picture would have {width} x {height} pixels; expected {MAX_WRITTEN_PX:,} at "
            f"most: {remedy}"
        )


def straight(pictures: Tensor) -> tuple[Tensor, Tensor | None]:
    """[N, C, H, W] in [-1, 1] -> colour [N, 1 or 3, H, W] and alpha [N, 1, H, W] in [0, 1].

    Premultiplied colour is divided by alpha; it is 0 where alpha is under 1/255.
    """
    unit = (pictures.clamp(-1, 1) + 1) / 2
    if pictures.shape[1] != 4:
        return unit, None
    alpha = unit[:, 3:]
    visible = alpha >= 1 / 255
    colour = torch.where(visible, unit[:, :3] / alpha.clamp(min=1 / 255), 0.0).clamp(max=1)
    return colour, alpha


def to_image(picture: Tensor) -> Image.Image:
    """[C, H, W] in [-1, 1] -> a PIL image: L, RGB, or RGBA with straight alpha."""
    colour, alpha = straight(picture[None].float().cpu())
    unit = colour if alpha is None else torch.cat([colour, alpha], dim=1)
    array = (unit[0].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
    return Image.fromarray(array.squeeze(-1) if array.shape[-1] == 1 else array)


def to_deep_image(picture: Tensor) -> Image.Image:
    """[1, H, W] in [-1, 1] -> a 16-bit grey PIL image."""
    unit = (picture[0].float().cpu().clamp(-1, 1) + 1) / 2
    return Image.fromarray((unit * 65535).round().numpy().astype(np.uint16))


def save_png(
    picture: Tensor | Image.Image,
    path: Path,
    facts: dict | None,
    *,
    graph: dict | None = None,
    scale: int = 1,
    deep: bool = False,
    signer: Signer | None = None,
) -> None:
    """Write [C, H, W], or an image (palette.py), atomically with its provenance (provenance.py),
    signed by `signer`.

    `deep` writes a grey picture with 16 bits; colour always has 8.
    ValueError if `scale` makes it larger than MAX_WRITTEN_PX.
    """
    image = picture if isinstance(picture, Image.Image) else _image_of(picture, deep)
    width, height = image.size
    check_written_size(width * scale, height * scale, "lower the scale, or give fewer pictures")
    if scale > 1:
        image = image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", pnginfo=png_info(facts, graph))
    png = buffer.getvalue()
    if signer is not None:
        png = signer.sign(png, title=path.name)
    write_atomically(path, lambda p: p.write_bytes(png))


def _image_of(picture: Tensor, deep: bool) -> Image.Image:
    check_pictures(picture[None])
    return to_deep_image(picture) if deep and len(picture) == 1 else to_image(picture)


def check_pictures(pictures: Tensor) -> None:
    """ValueError for anything but [N, 1, 3 or 4, H, W] with pixels."""
    if pictures.ndim != 4 or pictures.shape[1] not in (1, 3, 4) or not pictures.numel():
        raise ValueError(f"pictures have shape {tuple(pictures.shape)}; expected [N, 1|3|4, H, W]")


def as_model_pictures(pictures: Tensor, *, resolution: int, channels: int) -> Tensor:
    """[N, 1, 3 or 4, H, W] in [-1, 1] -> the model's channels and resolution.

    A picture without alpha counts as opaque. If the model has no alpha, RGBA is composited over
    white.
    """
    check_pictures(pictures)
    x = pictures.float()
    if x.shape[1] == 4 and channels != 4:
        x = x[:, :3] + (1 - x[:, 3:])  # over white, as efficientnet.as_rgb
    if x.shape[1] == 1 and channels != 1:
        x = x.expand(-1, 3, -1, -1)
    if x.shape[1] == 3 and channels == 1:
        luma = x.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)  # ITU-R 601
        x = (x * luma).sum(dim=1, keepdim=True)
    if x.shape[1] == 3 and channels == 4:
        x = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
    if x.shape[2:] != (resolution, resolution):
        x = F.interpolate(x, size=(resolution, resolution), mode="bilinear", antialias=True)
    return x
