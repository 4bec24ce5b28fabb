"""Latent codes: z tells apart the pictures that share one caption.

Where many real pictures fit one caption ("flag", or the name of a class), matching each of them
teaches their blur, and a generator that can ignore z will. There, the last numbers of z are the
picture's own code: the principal components of its 8x8 miniature, standardised among the pictures
that share the caption, so that codes are distributed like the normal numbers of z in inference. It
is BicycleGAN's conditional VAE (1711.11586) with a fixed encoder. Captions of a single picture get
plain noise, which the generator learns to ignore there. Without captions, all pictures have codes;
adversarial training alone ends in one picture for every z.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..data.captions import CaptionSampler, SampledCaptions
from ..data.dataset import PictureDataset

NUM_CODES = 16  # at most; the first numbers of z choose styles (conditioning/condition.py)
LIMIT = 3.0


class LatentCodes:
    """codes [N, num], with mean and deviation by text; the last row is for all pictures."""

    def __init__(self, dataset: PictureDataset, captions: CaptionSampler, z_dim: int) -> None:
        num = min(NUM_CODES, z_dim // 2)
        x = dataset.miniatures()
        style = captions.style.cpu()
        if style.shape[1]:  # the condition has the style, so the code need not
            x = x - style @ (style.t() @ x / style.sum(dim=0)[:, None].clamp(min=1))
        x = x - x.mean(dim=0)
        covariance = x.t() @ x / len(x)
        # double, because LAPACK may not converge in float32 if all pictures are alike
        variance, axes = torch.linalg.eigh(covariance.double())  # ascending
        axes, variance = axes[:, -num:].to(x), variance[-num:].to(x)
        self.codes = x @ axes / variance.clamp(min=1e-6).sqrt()
        rows, text = captions.words
        count = captions.num_sharing.clamp(min=1)[:, None]
        sums = torch.zeros(len(captions.num_sharing), num)
        squares = sums.clone()
        sums.index_add_(0, text, self.codes[rows])
        squares.index_add_(0, text, self.codes[rows].square())
        self.mean = sums / count
        self.deviation = (squares / count - self.mean.square()).clamp(min=1e-2).sqrt()
        self.mean[-1], self.deviation[-1] = 0.0, 1.0

    def write(self, z: Tensor, index: Tensor, draw: SampledCaptions) -> Tensor:
        """z [n, z_dim] (on the CPU) of items `index`, with codes where captions are shared."""
        code = (self.codes[index] - self.mean[draw.text]) / self.deviation[draw.text]
        coded = torch.cat([z[:, : -code.shape[1]], code.clamp(-LIMIT, LIMIT)], dim=1)
        return torch.where(draw.is_open[:, None], coded, z)
