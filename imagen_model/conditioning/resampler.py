"""The last layers of the encoders of other modalities: a sequence -> a text encoder's outputs.

Learned queries attend to the sequence in a small transformer decoder, as DETR's object queries
(2005.12872): one query a token, and one for the pooled vector.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import COND_DIM

NUM_TOKENS = 8  # of a condition row that does not come from text


class Resampler(nn.Module):
    """x [N, L, in_dim] -> tokens [N, num_slots, dim] and a pooled vector [N, dim] of unit length.

    It has no position embedding: positions must be in x.
    """

    def __init__(
        self,
        in_dim: int,
        dim: int = COND_DIM,
        num_slots: int = NUM_TOKENS,
        *,
        width: int = 192,
        num_layers: int = 2,
        num_heads: int = 4,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.project = nn.Linear(in_dim, width)
        self.queries = nn.Parameter(torch.randn(num_slots + 1, width) * width**-0.5)
        layer = nn.TransformerDecoderLayer(
            width, num_heads, 2 * width, dropout, "gelu", batch_first=True, norm_first=True
        )
        self.decoder = nn.TransformerDecoder(layer, num_layers, norm=nn.LayerNorm(width))
        self.to_tokens = nn.Linear(width, dim)
        self.to_pooled = nn.Linear(width, dim)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x [N, L, in_dim]; mask [N, L] bool, True at valid positions (None: all of them)."""
        queries = self.queries.expand(len(x), -1, -1)  # [N, K + 1, width]
        padding = None if mask is None else ~mask
        hidden = self.decoder(queries, self.project(x), memory_key_padding_mask=padding)
        return self.to_tokens(hidden[:, :-1]), F.normalize(self.to_pooled(hidden[:, -1]), dim=1)
