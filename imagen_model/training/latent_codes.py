"""Latent codes: z tells apart the pictures that share one caption.

Where many real pictures fit one caption ("flag", or the name of a class), matching each of them
teaches their blur, and a generator that can ignore z will. There, the last numbers of z are the
picture's own code: the principal components of its 8x8 miniature, standardised among the pictures
that share the caption, so that codes are distributed like the normal numbers of z in inference. It
is BicycleGAN's conditional VAE (1711.11586) with a fixed encoder. Captions of a single picture get
plain noise, which the generator learns to ignore there. Without captions, pictures have richer
codes (layout_codes.py).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..data.captions import OPEN_FROM, CaptionSampler, SampledCaptions
from ..data.dataset import PictureDataset
from ..progress import batches

NUM_CODES = 16  # at most; the first numbers of z choose styles (conditioning/condition.py)
LIMIT = 3.0
FITTED = 1 << 16  # pictures, evenly chosen, from which the axes are computed


def principal_components(x: Tensor, num: int) -> tuple[Tensor, Tensor]:
    """Of centred rows [N, F]: axes [F, num] and the deviations [num] along them, ascending."""
    covariance = x.t() @ x / len(x)
    # double, because LAPACK may not converge in float32 if all pictures are alike
    variance, axes = torch.linalg.eigh(covariance.double())  # ascending
    return axes[:, -num:].to(x), variance[-num:].to(x).clamp(min=1e-6).sqrt()


class LatentCodes:
    """codes [N, num], with mean and deviation by open text; the last row is for all pictures."""

    def __init__(self, dataset: PictureDataset, captions: CaptionSampler, z_dim: int) -> None:
        num = min(NUM_CODES, z_dim // 2)
        style, size = captions.style.cpu(), len(dataset)
        some = slice(0, size, -(-size // FITTED))
        x, known = dataset.miniatures(some), style[some]
        if style.shape[1]:  # the condition has the style, so the code need not
            of_style = known.t() @ x / known.sum(dim=0)[:, None].clamp(min=1)
            x = x - known @ of_style
        mean = x.mean(dim=0)
        x = x - mean
        axes, deviation = principal_components(x, num)
        parts = []
        for rows in batches(size, FITTED, None):
            x = dataset.miniatures(rows)
            if style.shape[1]:
                x = x - style[rows] @ of_style
            parts.append((x - mean) @ axes / deviation)
        self.codes = torch.cat(parts)
        self._normalize_by_text(captions)

    def _normalize_by_text(self, captions: CaptionSampler) -> None:
        """Only open texts get codes; most of a large set's texts belong to one picture."""
        is_open = captions.num_sharing >= OPEN_FROM
        self.row_of = (is_open.cumsum(0) - 1).clamp(min=0)  # of each text that is open
        items, text = captions.words[:, is_open[captions.words[1]]]
        count = captions.num_sharing[is_open][:, None]
        sums = torch.zeros(len(count), self.codes.shape[1])
        squares = sums.clone()
        sums.index_add_(0, self.row_of[text], self.codes[items])
        squares.index_add_(0, self.row_of[text], self.codes[items].square())
        self.mean = sums / count
        self.deviation = (squares / count - self.mean.square()).clamp(min=1e-2).sqrt()
        self.mean[-1], self.deviation[-1] = 0.0, 1.0

    def write(self, z: Tensor, index: Tensor, draw: SampledCaptions) -> Tensor:
        """z [n, z_dim] (on the CPU) of items `index`, with codes where captions are shared."""
        row = self.row_of[draw.text]
        code = (self.codes[index] - self.mean[row]) / self.deviation[row]
        coded = torch.cat([z[:, : -code.shape[1]], code.clamp(-LIMIT, LIMIT)], dim=1)
        return torch.where(draw.is_open[:, None], coded, z)
