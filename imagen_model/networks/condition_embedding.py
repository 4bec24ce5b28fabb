"""The learned part of a condition: what stands for the null condition, and for each style."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..condition import Condition
from ..config import ConditioningConfig


class ConditionEmbedding(nn.Module):
    """The learned part: what stands for null, and for each style."""

    def __init__(self, config: ConditioningConfig) -> None:
        super().__init__()
        self.config = config
        self.null_pooled = nn.Parameter(torch.randn(config.dim) * config.dim**-0.5)
        self.style_embed = nn.Parameter(
            torch.randn(len(config.styles), config.dim) * config.dim**-0.5
        )

    def forward(self, condition: Condition) -> tuple[Tensor, Tensor, Tensor]:
        """tokens [N, 2 + T, D], mask [N, 2 + T], pooled [N, D] as the generator takes them.

        The pooled vector, with the style, is the first token and the style alone the second, so
        every row has something to look at. Without any styles the second is the first again: what
        a model that knows no words looks at is one vector (training/start.py needs it).
        """
        null = ~condition.mask.any(dim=1, keepdim=True)  # [N, 1]
        style = condition.style @ self.style_embed
        pooled = torch.where(null, self.null_pooled, condition.pooled) + style
        if not self.config.styles:
            style = pooled
        tokens = torch.cat([pooled[:, None], style[:, None], condition.tokens], dim=1)
        mask = torch.cat([torch.ones_like(null).expand(-1, 2), condition.mask], dim=1)
        return tokens, mask, pooled
