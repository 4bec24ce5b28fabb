"""Differentiable augmentation (DiffAugment, 2006.10738), the same for real and generated pictures.

It is sampled once per step and applied to both, so that a generated picture stays comparable, pixel
by pixel, with its real picture. Pictures are in [-1, 1]; RGBA stays premultiplied.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..device import sent

SHIFT = 0.125  # of the picture's side
CUTOUT = 0.375


@dataclass(frozen=True)
class Augmentation:
    """The parameters of one batch; each transformation changes a picture with probability p."""

    color: Tensor  # [N, 3]: brightness in [-.5, .5], saturation in [0, 2], contrast in [.5, 1.5]
    shift: Tensor  # [N, 2] in [-SHIFT, SHIFT], rows and columns
    hole: Tensor  # [N, 3]: centre row and column in [0, 1], side in {0, CUTOUT}

    @classmethod
    def sample(
        cls, n: int, p: float, *, generator: torch.Generator, device: torch.device
    ) -> Augmentation:
        u = torch.rand(n, 8, generator=generator)
        on = torch.rand(n, 3, generator=generator) < p
        neutral = torch.tensor([0.0, 1.0, 1.0])
        color = torch.stack([u[:, 0] - 0.5, u[:, 1] * 2, u[:, 2] + 0.5], dim=1)
        color = torch.where(on[:, :1], color, neutral)
        shift = (u[:, 3:5] * 2 - 1) * SHIFT * on[:, 1:2]
        hole = torch.cat([u[:, 5:7], CUTOUT * on[:, 2:3].float()], dim=1)
        return cls(sent(color, device), sent(shift, device), sent(hole, device))

    def __getitem__(self, rows: slice) -> Augmentation:
        return Augmentation(self.color[rows], self.shift[rows], self.hole[rows])

    def __call__(self, pictures: Tensor) -> Tensor:
        return self._cut(self._translate(self._recolor(pictures)))

    def _recolor(self, x: Tensor) -> Tensor:
        brightness, saturation, contrast = (c[:, None, None, None] for c in self.color.unbind(1))
        rgb, alpha = x[:, :3], x[:, 3:]
        cover = (alpha + 1) / 2 if x.shape[1] == 4 else torch.ones_like(x[:, :1])
        rgb = (rgb + 1) / 2  # premultiplied, in [0, 1]
        grey = rgb.mean(dim=1, keepdim=True)
        rgb = grey + saturation * (rgb - grey)
        covered = rgb.shape[1] * cover.sum(dim=(1, 2, 3), keepdim=True)
        mean = rgb.sum(dim=(1, 2, 3), keepdim=True) / (covered + 1e-3)
        rgb = (mean + brightness) * cover + contrast * (rgb - mean * cover)
        return torch.cat([rgb * 2 - 1, alpha], dim=1)

    def _translate(self, x: Tensor) -> Tensor:
        """Whole pixels, edges repeated: text and outlines stay sharp."""
        n, _, h, w = x.shape
        rows = torch.arange(h, device=x.device) - (self.shift[:, :1] * h).round().long()
        cols = torch.arange(w, device=x.device) - (self.shift[:, 1:] * w).round().long()
        rows, cols = rows.clamp(0, h - 1), cols.clamp(0, w - 1)
        batch = torch.arange(n, device=x.device)[:, None, None]
        return x.permute(0, 2, 3, 1)[batch, rows[:, :, None], cols[:, None, :]].permute(0, 3, 1, 2)

    def _cut(self, x: Tensor) -> Tensor:
        _, _, h, w = x.shape
        centre, side = self.hole[:, :2], self.hole[:, 2:]
        rows = (torch.arange(h, device=x.device) + 0.5) / h
        cols = (torch.arange(w, device=x.device) + 0.5) / w
        in_rows = (rows - centre[:, :1]).abs() < side / 2  # [N, H]
        in_cols = (cols - centre[:, 1:]).abs() < side / 2
        hole = (in_rows[:, :, None] & in_cols[:, None, :])[:, None]
        return torch.where(hole, torch.full_like(x, -1.0), x)


def random_background(n: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """One flat colour per picture, [n, 3, 1, 1] in [-1, 1], for real and generated alike."""
    return sent(torch.rand(n, 3, 1, 1, generator=generator) * 2 - 1, device)


def downsampled(x: Tensor, side: int) -> Tensor:
    return F.adaptive_avg_pool2d(x, side)
