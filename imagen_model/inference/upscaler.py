"""Two or four times the pixels a side: a small convolutional upscaler for generated pictures.

Residual blocks without normalisation (EDSR, 1707.02921) at the low resolution and PixelShuffle
(1609.05158) give a residual that is added to a bilinear enlargement. It is trained against a
discriminator (training/upscaler.py), which keeps edges sharp. Pictures are NCHW in [-1, 1] of any
size; four channels are premultiplied RGBA.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn

from ..checkpoint import tensors_sha256
from ..networks.generator import check_tile
from ..networks.precision import channels_last, full_precision
from ..progress import OnPictures
from ..storage.files import WEIGHTS_DIR, brief, checked_sha256, json_of, write_atomically
from ..storage.images import check_pictures
from ..storage.int8 import dequantized, quantized
from ..storage.tensor_file import read_tensors, save_tensors

SCALE = 4  # of the bundled one
SCALES = (2, 4)
UPSCALER_FILE = WEIGHTS_DIR / "upscaler" / "emoji-x4.safetensors"
MAX_SIDE = 1024  # pixels of the input
BATCH_PIXELS = 64 * 64  # of small pictures that are batched together
WINDOW_PX = 128  # a side; larger pictures are split into windows
MAX_SIZE = 256  # of whatever a configuration counts


@dataclass(frozen=True)
class UpscalerConfig:
    """Width and depth, and how many times the pixels a side."""

    channels: int = 4
    width: int = 32
    num_blocks: int = 8
    scale: int = SCALE

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not isinstance(value, int) or not 1 <= value <= MAX_SIZE:
                raise ValueError(f"{name} is {value}; expected 1 or more, at most {MAX_SIZE}")
        if self.scale not in SCALES:
            raise ValueError(f"scale is {self.scale}; expected 2 or 4")


class ResidualBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.silu(self.first(x)))


class Upscaler(nn.Module):
    """[N, C, H, W] -> [N, C, scale H, scale W]; initially the bilinear enlargement alone."""

    card: dict  # what its file says of it

    def __init__(self, config: UpscalerConfig) -> None:
        super().__init__()
        self.config, self.card = config, {}
        width = config.width
        self.stem = nn.Conv2d(config.channels, width, 3, padding=1)
        self.blocks = nn.Sequential(*(ResidualBlock(width) for _ in range(config.num_blocks)))
        doublings = config.scale.bit_length() - 1
        self.ups = nn.ModuleList(
            nn.Conv2d(width, 4 * width, 3, padding=1) for _ in range(doublings)
        )
        self.out = nn.Conv2d(width, config.channels, 3, padding=1)
        for parameter in self.out.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        features = self.stem(x)
        features = features + self.blocks(features)
        for up in self.ups:
            features = F.silu(F.pixel_shuffle(up(features), 2))
        scale = self.config.scale
        enlarged = F.interpolate(x, scale_factor=scale, mode="bilinear", align_corners=False)
        return enlarged + self.out(features)

    @property
    def reach(self) -> int:
        """Radius of the receptive field, in input pixels."""
        return 2 * self.config.num_blocks + 3  # stem, blocks and the first `up`; the rest: under 1


def load_upscaler(path: Path = UPSCALER_FILE) -> Upscaler:
    """Read and verify the bundled file, or one by training/upscaler.py.

    ValueError with one line where it is missing, no upscaler, or damaged.
    """
    if not path.is_file():
        raise ValueError(
            f"the upscaler's weights {path} are missing; name another file, reinstall the package, "
            "or enlarge with ComfyUI's own Upscale Image (ImageScale)"
        )
    if path == UPSCALER_FILE or Path(f"{path}.sha256").is_file():
        checked_sha256(path)
    try:
        stored, metadata = read_tensors(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is not a readable safetensors file ({brief(error)})") from None
    if not {"config", "card"} <= metadata.keys():
        raise ValueError(f"{path} is not an upscaler; expected one by imagen train-upscaler")
    try:
        config, card = (
            UpscalerConfig(**json_of(metadata["config"])),
            dict(json_of(metadata["card"])),
        )
        if card.get("sha256", digest := tensors_sha256(stored)) != digest:
            raise ValueError("its tensors do not have the hash that its card names")
        with torch.random.fork_rng(devices=[]), torch.inference_mode(False):
            network = Upscaler(config).eval().requires_grad_(False)
            network.load_state_dict(dequantized(stored))
    except (ValueError, TypeError, RuntimeError) as error:
        raise ValueError(f"the upscaler {path} is damaged ({brief(error)})") from None
    network.card = card
    return channels_last(network)


def save_upscaler(path: Path, network: Upscaler, card: dict, *, int8: bool = False) -> None:
    """Write weights, configuration and card atomically; the hash of the tensors joins the card."""
    state = {k: v.detach().cpu().contiguous() for k, v in network.state_dict().items()}
    state = quantized(state) if int8 else state
    card = {**card, "sha256": tensors_sha256(state)}
    metadata = {"config": json.dumps(asdict(network.config)), "card": json.dumps(card)}
    write_atomically(path, lambda new: save_tensors(state, new, metadata))


@lru_cache(maxsize=2)
def bundled_upscaler(device: torch.device) -> Upscaler:
    """The bundled upscaler, loaded once per process and device."""
    return load_upscaler().to(device)


@torch.no_grad()
def upscale(
    pictures: Tensor,
    *,
    network: Upscaler | None = None,
    device: torch.device | str = "cpu",
    tile: str = "none",
    progress: OnPictures | None = None,
) -> Tensor:
    """Pictures [N, C, H, W] in [-1, 1] with C of 1, 3 or 4 -> [N, C, 4 H, 4 W] in [-1, 1], fp32 on
    the CPU.

    `network` (default: the bundled one; others may give 2 H, 2 W) must be on `device`. `tile` says
    which edges stay seamless: "none", "x" left and right, "both" also top and bottom. `progress`
    counts batches, or windows of large pictures, and may raise to cancel. ValueError for other
    shapes and tiles, for sides over MAX_SIDE, and where the weights are missing.
    """
    check_pictures(pictures)
    count, channels, height, width = pictures.shape
    if max(height, width) > MAX_SIDE:
        raise ValueError(f"pictures of {width}x{height}; expected sides of up to {MAX_SIDE} pixels")
    check_tile(tile)
    if network is None:
        network = bundled_upscaler(torch.device(device))
    scale = network.config.scale
    windows = list(windows_of(height, width, network.reach, tile, scale))
    parts = pictures.split(max(1, BATCH_PIXELS // (height * width)))
    result = torch.empty(count, channels, scale * height, scale * width)
    done = 0
    with full_precision():
        for part, large in zip(parts, result.split(len(parts[0])), strict=True):
            for i, window in enumerate(windows, start=1):
                rgba = network(as_rgba(part[window.input].to(device))).clamp(-1, 1)
                large[window.target] = in_channels(rgba, channels)[window.valid].cpu()
                done += 1
                if progress is not None:
                    whole = large if i == len(windows) else None
                    progress(done, len(parts) * len(windows), whole)
    return result


class Window(NamedTuple):
    """A part of pictures [..., H, W], as indices."""

    input: tuple  # into the input
    valid: tuple  # into the window's output: without its margin
    target: tuple  # into the whole output


def windows_of(
    height: int, width: int, reach: int, tile: str = "none", scale: int = SCALE
) -> Iterator[Window]:
    """Windows that cover a picture, each with a margin of `reach` pixels, so that the result is
    that of the whole picture. Where edges join, the margin wraps around."""
    side = max(height, width)
    if height * width > WINDOW_PX**2:
        side = WINDOW_PX - 2 * reach
    form = {"side": side, "reach": reach, "scale": scale}
    for top in range(0, height, side):
        for left in range(0, width, side):
            rows = _span(top, height, joins=tile == "both", **form)
            columns = _span(left, width, joins=tile != "none", **form)
            source = (..., rows[0][:, None], columns[0])
            yield Window(source, (..., rows[1], columns[1]), (..., rows[2], columns[2]))


def _span(
    begin: int, length: int, *, side: int, reach: int, scale: int, joins: bool
) -> tuple[Tensor, slice, slice]:
    """input, valid and target of a Window along one axis, whose ends may join."""
    end = min(begin + side, length)
    low, high = begin - reach, end + reach
    if not joins:
        low, high = max(low, 0), min(high, length)
    return (
        torch.arange(low, high) % length,
        slice(scale * (begin - low), scale * (end - low)),
        slice(scale * begin, scale * end),
    )


def as_rgba(pictures: Tensor) -> Tensor:
    """Grey and RGB as opaque RGBA, fp32."""
    x = pictures.float()
    if x.shape[1] == 1:
        x = x.expand(-1, 3, -1, -1)
    return x if x.shape[1] == 4 else torch.cat([x, torch.ones_like(x[:, :1])], dim=1)


def in_channels(rgba: Tensor, channels: int) -> Tensor:
    """An RGBA result with the picture's own number of channels; RGBA stays premultiplied."""
    if channels == 4:
        alpha = rgba[:, 3:]
        return torch.cat([torch.minimum(rgba[:, :3], alpha), alpha], dim=1)
    return rgba[:, :3] if channels == 3 else rgba[:, :3].mean(dim=1, keepdim=True)
