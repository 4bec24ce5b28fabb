"""Four times the pixels: a small convolutional network for what the generator draws.

Residual blocks without normalisation (EDSR, 1707.02921) at the low resolution, PixelShuffle
(1609.05158) up, added to a bilinear enlargement. It was trained against a discriminator
(tools/train_upscaler.py), so it decides on an edge where an average would blur. Any size, any
number of channels; pictures are NCHW in [-1, 1], four channels are premultiplied RGBA.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from .files import WEIGHTS_DIR, checked_sha256, dequantized
from .layers import channels_last
from .sampling import Progress, full_precision

SCALE = 4
UPSCALER_FILE = WEIGHTS_DIR / "upscaler" / "emoji-x4.safetensors"
MAX_SIDE = 1024  # pixels of what goes in
PIXELS_AT_ONCE = 64 * 64 * 16  # that go in: a batch of pictures, or a single large one


@dataclass(frozen=True)
class UpscalerConfig:
    """Width and depth."""

    channels: int = 4
    width: int = 32
    num_blocks: int = 8

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value < 1:
                raise ValueError(f"{name} is {value}; expected 1 or more")


class ResidualBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.silu(self.first(x)))


class Upscaler(nn.Module):
    """[N, C, H, W] -> [N, C, 4 H, 4 W]; at first the bilinear enlargement and nothing else."""

    def __init__(self, config: UpscalerConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.stem = nn.Conv2d(config.channels, width, 3, padding=1)
        self.blocks = nn.Sequential(*(ResidualBlock(width) for _ in range(config.num_blocks)))
        self.ups = nn.ModuleList(nn.Conv2d(width, 4 * width, 3, padding=1) for _ in range(2))
        self.out = nn.Conv2d(width, config.channels, 3, padding=1)
        for parameter in self.out.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        features = self.stem(x)
        features = features + self.blocks(features)
        for up in self.ups:
            features = F.silu(F.pixel_shuffle(up(features), 2))
        enlarged = F.interpolate(x, scale_factor=SCALE, mode="bilinear", align_corners=False)
        return enlarged + self.out(features)


def load_upscaler(path: Path = UPSCALER_FILE) -> Upscaler:
    """Read and verify a file that tools/train_upscaler.py wrote."""
    checked_sha256(path)
    with safe_open(path, "pt") as file:
        config = UpscalerConfig(**json.loads(file.metadata()["config"]))
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False):
        network = Upscaler(config).eval().requires_grad_(False)
        network.load_state_dict(dequantized(load_file(path)))
    return channels_last(network)


@lru_cache(maxsize=1)
def upscaler() -> Upscaler:
    """The bundled one, loaded once a process."""
    return load_upscaler()


@torch.no_grad()
def upscale(
    pictures: Tensor,
    *,
    network: Upscaler | None = None,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> Tensor:
    """Pictures [N, C, H, W] in [-1, 1] with C of 1, 3 or 4 -> [N, C, 4 H, 4 W] in [-1, 1].

    `progress` may raise to cancel. ValueError for other shapes and for sides over 1024 pixels.
    """
    if pictures.ndim != 4 or pictures.shape[1] not in (1, 3, 4):
        raise ValueError(f"pictures have shape {tuple(pictures.shape)}; expected [N, 1|3|4, H, W]")
    count, channels, height, width = pictures.shape
    if max(height, width) > MAX_SIDE:
        raise ValueError(f"pictures of {width}x{height}; expected sides of up to {MAX_SIDE} pixels")
    network = (network or upscaler()).to(device)
    batch = max(1, PIXELS_AT_ONCE // (height * width))
    parts = []
    with full_precision():
        for part in pictures.split(batch):
            large = network(_as_rgba(part).to(device)).clamp(-1, 1).cpu()
            parts.append(_in_channels(large, channels))
            if progress is not None:
                done = min(len(parts) * batch, count)
                progress(done, count, parts[-1])
    return torch.cat(parts)


def _as_rgba(pictures: Tensor) -> Tensor:
    x = pictures.float()
    if x.shape[1] == 1:
        x = x.expand(-1, 3, -1, -1)
    return x if x.shape[1] == 4 else torch.cat([x, torch.ones_like(x[:, :1])], dim=1)


def _in_channels(rgba: Tensor, channels: int) -> Tensor:
    """Of a picture that was opaque, or had RGBA."""
    if channels == 4:
        alpha = rgba[:, 3:]
        return torch.cat([torch.minimum(rgba[:, :3], alpha), alpha], dim=1)  # premultiplied
    return rgba[:, :3] if channels == 3 else rgba[:, :3].mean(dim=1, keepdim=True)
