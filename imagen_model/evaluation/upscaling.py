"""An upscaler beside bicubic and Lanczos enlargement, on real pictures that were reduced."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..inference.upscaler import Upscaler, upscale
from ..networks.efficientnet import as_rgb, lite0
from ..networks.perceptual import feature_matching
from ..training.upscaler_data import reduced

BATCH = 12


def enlarged(network: Upscaler, large: Tensor) -> dict[str, Tensor]:
    """Pictures [N, 4, H, W], reduced and enlarged again, by method; `network` is on the CPU."""
    scale = network.config.scale
    small = reduced(large, scale)
    return {
        "bicubic": F.interpolate(small, scale_factor=scale, mode="bicubic").clamp(-1, 1),
        "lanczos": _lanczos(small, scale),
        "upscaler": upscale(small, network=network),
    }


def compare(
    network: Upscaler, large: Tensor, features: Callable[[Tensor], Tensor] | None = None
) -> dict:
    """By method, over white: PSNR in dB, the distance in lite0's levels, and with `features` (of
    unit length, as Lite1) one minus their cosine."""
    real_features = features(large) if features else None
    result: dict = {"held_out_pictures": len(large)}
    for name, pictures in enlarged(network, large).items():
        mse = (as_rgb(pictures) - as_rgb(large)).square().mean(dim=(1, 2, 3)) / 4  # of [0, 1]
        figures = {
            "psnr": round(float((-10 * mse.clamp(min=1e-8).log10()).mean()), 2),
            "lite0_distance": round(_lite0_distance(pictures, large), 4),
        }
        if features and real_features is not None:
            cosine = (features(pictures) * real_features).sum(dim=1)
            figures["lite1_distance"] = round(float((1 - cosine).mean()), 4)
        result[name] = figures
    return result


@torch.no_grad()
def _lite0_distance(pictures: Tensor, real: Tensor) -> float:
    """Feature matching over white, a mean over pictures."""
    total = 0.0
    for part in zip(pictures.split(BATCH), real.split(BATCH), strict=True):
        levels, real_levels = (lite0()(as_rgb(x)) for x in part)
        pooled = (lite0().pool(x[-1]) for x in (real_levels, levels))
        total += len(part[0]) * float(feature_matching(real_levels, levels, *pooled))
    return total / len(pictures)


def _lanczos(small: Tensor, scale: int) -> Tensor:
    """Pillow's Lanczos enlargement, each channel of premultiplied RGBA by itself."""
    planes = ((small + 1) * 127.5).round().clamp(0, 255).byte()
    size = (small.shape[3] * scale, small.shape[2] * scale)
    large = [
        np.array(Image.fromarray(plane.numpy()).resize(size, Image.Resampling.LANCZOS))
        for plane in planes.flatten(0, 1)
    ]
    return torch.from_numpy(np.stack(large)).view(*small.shape[:2], *size[::-1]) / 127.5 - 1
