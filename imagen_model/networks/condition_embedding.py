"""The learned part of a condition: embeddings of the null condition and of each style."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..condition import Condition
from ..config import ConditioningConfig


class ConditionEmbedding(nn.Module):
    """A learned null vector and a learned vector per style."""

    def __init__(self, config: ConditioningConfig) -> None:
        super().__init__()
        self.config = config
        self.null_pooled = nn.Parameter(torch.randn(config.dim) * config.dim**-0.5)
        self.style_embed = nn.Parameter(
            torch.randn(len(config.styles), config.dim) * config.dim**-0.5
        )

    def forward(self, condition: Condition) -> tuple[Tensor, Tensor, Tensor]:
        """tokens [N, 2 + T, D], mask [N, 2 + T], pooled [N, D] as the generator takes them.

        The first token is the pooled vector plus the style and the second the style alone, so no
        row is empty. A model without styles repeats the first token, so that an unconditional
        model attends to a single vector (training/transfer.py needs it).
        """
        null = ~condition.mask.any(dim=1, keepdim=True)  # [N, 1]
        style = condition.style @ self.style_embed
        pooled = torch.where(null, self.null_pooled, condition.pooled) + style
        if not self.config.styles:
            style = pooled
        tokens = torch.cat([pooled[:, None], style[:, None], condition.tokens], dim=1)
        mask = torch.cat([torch.ones_like(null).expand(-1, 2), condition.mask], dim=1)
        return tokens, mask, pooled
