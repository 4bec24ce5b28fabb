"""How well pictures are drawn, against the real pictures that they stand for: their edges, insides
and symmetry.

Features forget most of this. Each measure is a mean over pictures, and means something beside the
same measure of real pictures. Colours are over white, in luma and chroma (BT.601).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .results import DetailResult

BATCH = 64
OPAQUE, CLEAR = 0.95, 0.05  # alpha; a pixel between them is half transparent
INSIDE = 4  # pixels from the outline
SYMMETRIC = 0.01  # mean difference from the mirror image, of the range, up to which one counts
LUMA = ((0.299, 0.587, 0.114),)
CHROMA = ((-0.169, -0.331, 0.5), (0.5, -0.419, -0.081))


def measure_detail(real: Tensor, generated: Tensor) -> DetailResult:
    """Pictures [N, C, H, W] in [-1, 1]; generated picture i stands for real picture i."""
    of_real, of_generated = _measured(real), _measured(generated)
    symmetric = of_real["asymmetry"] < SYMMETRIC
    means = {}
    for suffix, found in (("_real", of_real), ("", of_generated)):
        power = _ratio(found["inside_power"], found["inside"])
        means["sharpness" + suffix] = (power or 0.0) ** 0.5
        means["chroma_noise" + suffix] = float(found["chroma_noise"].mean())
        means["edge_width" + suffix] = _ratio(found["half_transparent"], found["outline"])
        mirrored = found["asymmetry"][symmetric]
        means["asymmetry" + suffix] = float(mirrored.mean()) if len(mirrored) else None
    return DetailResult(symmetric_pictures=int(symmetric.sum()), **means)


def _ratio(parts: Tensor, wholes: Tensor) -> float | None:
    return float(parts.sum() / wholes.sum()) if wholes.sum() else None


@torch.no_grad()
def _measured(pictures: Tensor) -> dict[str, Tensor]:
    """Each measure [N] of pictures, or the two parts of a ratio."""
    parts = [_measured_batch(part) for part in pictures.split(BATCH)]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _measured_batch(pictures: Tensor) -> dict[str, Tensor]:
    rgb, alpha = over_white(pictures)
    luma, chroma = (torch.einsum("nchw,oc->nohw", rgb, torch.tensor(w)) for w in (LUMA, CHROMA))
    detail = luma - F.avg_pool2d(_padded(luma), 3, stride=1)
    shape = (alpha > 0.5).squeeze(1)
    steps = [shape.diff(dim=axis).sum(dim=(1, 2)) for axis in (1, 2)]
    half = (alpha > CLEAR) & (alpha < OPAQUE)
    inside = 1 - F.max_pool2d((alpha <= OPAQUE).float(), 2 * INSIDE + 1, stride=1, padding=INSIDE)
    return {
        "inside": inside.sum(dim=(1, 2, 3)),
        "inside_power": (inside * detail.square()).sum(dim=(1, 2, 3)),
        "chroma_noise": (chroma - local_median(chroma)).norm(dim=1).mean(dim=(1, 2)),
        "half_transparent": half.sum(dim=(1, 2, 3)).float(),
        "outline": (steps[0] + steps[1]).float(),
        "asymmetry": (rgb - rgb.flip(3)).abs().mean(dim=(1, 2, 3)),
    }


def over_white(pictures: Tensor) -> tuple[Tensor, Tensor]:
    """RGB [N, 3, H, W] and alpha [N, 1, H, W] in [0, 1] of pictures in [-1, 1]."""
    x = (pictures + 1) / 2
    if x.shape[1] < 4:
        return x.expand(-1, 3, -1, -1), torch.ones_like(x[:, :1])
    return x[:, :3] + 1 - x[:, 3:], x[:, 3:]  # premultiplied


def local_median(x: Tensor) -> Tensor:
    """[N, C, H, W] the median of 3x3 pixels: it removes lines of one pixel, and keeps edges."""
    windows = _padded(x).unfold(2, 3, 1).unfold(3, 3, 1)
    return windows.flatten(4).median(dim=4).values


def _padded(x: Tensor) -> Tensor:
    return F.pad(x, [1] * 4, mode="replicate")
