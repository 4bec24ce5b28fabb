"""The generator's building blocks: 2-D RoPE, attention with QK-norm, SwiGLU, modulation.

RMSNorm 1910.07467, RoPE 2104.09864 (here on two axes), QK-norm 2302.05442, SwiGLU 2002.05202.
Tokens are [N, T, D]; registers come first and have no position.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


def rope_2d(grid: int, head_dim: int, *, base: float = 100.0) -> tuple[Tensor, Tensor]:
    """cos and sin of the rotation angles for a `grid` x `grid` map, each [grid * grid,
    head_dim / 2]. Half of a head's pairs rotate with the row, half with the column."""
    assert head_dim % 4 == 0
    freqs = base ** (-torch.arange(head_dim // 4) / (head_dim // 4))  # [head_dim / 4]
    rows, cols = torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij")
    angles = torch.cat([rows.reshape(-1, 1) * freqs, cols.reshape(-1, 1) * freqs], dim=1)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the pairs (x[..., :half], x[..., half:]) of x [N, H, T, head_dim]."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


class QKNorm(nn.RMSNorm):
    """RMSNorm in the precision of its weights. Under autocast, queries and keys are bf16, and torch
    has no fused kernel for weights of another type."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(self.weight.dtype))


class SelfAttention(nn.Module):
    """y_i = sum_j a_ij v_j over the tokens, with 2-D RoPE for positions."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.q_norm = QKNorm(dim // num_heads)
        self.k_norm = QKNorm(dim // num_heads)
        self.out = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
        q, k, v = rearrange(self.qkv(x), "n t (qkv h d) -> qkv n h t d", qkv=3, h=self.num_heads)
        q, k = rotate(self.q_norm(q), *rope), rotate(self.k_norm(k), *rope)
        y = F.scaled_dot_product_attention(q, k, v)
        return self.out(rearrange(y, "n h t d -> n t (h d)"))


class CrossAttention(nn.Module):
    """Attention from the tokens to the condition's tokens."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(dim, dim, bias=False)
        self.kv = nn.Linear(dim, 2 * dim, bias=False)
        self.q_norm = QKNorm(dim // num_heads)
        self.k_norm = QKNorm(dim // num_heads)
        self.out = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor, context: Tensor, mask: Tensor) -> Tensor:
        """x [N, T, D], context [N, S, D], mask [N, S] True where there is a token."""
        q = rearrange(self.q(x), "n t (h d) -> n h t d", h=self.num_heads)
        k, v = rearrange(self.kv(context), "n s (kv h d) -> kv n h s d", kv=2, h=self.num_heads)
        q, k = self.q_norm(q), self.k_norm(k)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :])
        return self.out(rearrange(y, "n h t d -> n t (h d)"))


class SwiGLU(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        hidden = (8 * dim // 3 + 15) // 16 * 16
        self.up = nn.Linear(dim, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * value)


class ModulatedBlock(nn.Module):
    """Self-attention, cross-attention and SwiGLU, each scaled and gated by w [N, D].

    x + gate(w) * f((1 + scale(w)) * norm(x)). Gates start near the small `gate_gain`, so that a
    deep stack starts near the identity.
    """

    def __init__(self, dim: int, num_heads: int, *, gate_gain: float) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.RMSNorm(dim) for _ in range(3))
        self.attention = SelfAttention(dim, num_heads)
        self.cross = CrossAttention(dim, num_heads)
        self.mlp = SwiGLU(dim)
        self.modulation = nn.Linear(dim, 6 * dim)
        nn.init.normal_(self.modulation.weight, std=0.2 / dim**0.5)
        with torch.no_grad():
            self.modulation.bias[: 3 * dim] = 0.0
            self.modulation.bias[3 * dim :] = gate_gain

    def forward(
        self, x: Tensor, w: Tensor, context: Tensor, mask: Tensor, rope: tuple[Tensor, Tensor]
    ) -> Tensor:
        *scales, gate_self, gate_cross, gate_mlp = self.modulation(w)[:, None].chunk(6, dim=-1)
        x = x + gate_self * self.attention(self.norms[0](x) * (1 + scales[0]), rope)
        x = x + gate_cross * self.cross(self.norms[1](x) * (1 + scales[1]), context, mask)
        return x + gate_mlp * self.mlp(self.norms[2](x) * (1 + scales[2]))
