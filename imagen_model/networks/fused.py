"""The generator's blocks in two thirds of the operations, on a CPU and without gradients.

A single picture spends much of its time in small operations. `ModulatedBlock` is the reference; the
numbers are the same to rounding. What does not depend on the tokens is computed for all blocks at
once: scales and gates, rotations, and keys and values of the condition. The weights of norms are
multiplied into these.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .layers import ModulatedBlock

EPS = torch.tensor(torch.finfo(torch.float32).eps, device="cpu")  # nn.RMSNorm's


class BlockInputs(NamedTuple):
    """What a block needs besides its tokens."""

    scales: Tensor  # [3, N, 1, D], for self-attention, cross-attention and SwiGLU
    gates: Tensor  # [3, N, 1, D]
    cos: Tensor  # [T, 2, 1, head_dim], for queries and keys
    sin: Tensor  # the same, for the other half of the head
    keys: Tensor  # [N, H, S, head_dim], of the condition
    values: Tensor
    bias: Tensor  # [N, 1, 1, S]: 0 where the condition has a token, else -inf


def block_inputs(
    blocks: Sequence[ModulatedBlock],
    w: Tensor,
    context: Tensor,
    mask: Tensor,
    rope: tuple[Tensor, Tensor],
) -> list[BlockInputs]:
    """For each of B blocks; w [N, B, D], context [N, S, D], mask [N, S]."""
    num, (n, _, dim), heads = len(blocks), context.shape, blocks[0].attention.num_heads
    norms = torch.stack([p for b in blocks for p in b.norms.parameters()])
    norms = norms.view(num, 3, 1, 1, dim)
    modulation = torch.stack(
        [b.modulation(each) for b, each in zip(blocks, w.unbind(1), strict=True)]
    )
    scales, gates = modulation.view(num, n, 2, 3, 1, dim).permute(2, 0, 3, 1, 4, 5)
    scales = torch.addcmul(norms, norms, scales)  # [B, 3, N, 1, D]
    both = [(b.attention.q_norm.weight, b.attention.k_norm.weight) for b in blocks]
    qk_norms = torch.stack([weight for pair in both for weight in pair]).view(num, 1, 2, 1, -1)
    cos, sin = (angle[:, None, None] for angle in rope)  # [T, 1, 1, head_dim / 2]
    cos = torch.cat([cos, cos], dim=-1) * qk_norms
    sin = torch.cat([-sin, sin], dim=-1) * qk_norms.roll(sin.shape[-1], dims=-1)
    keys, values = (
        torch.stack([b.cross.kv(context) for b in blocks])
        .view(num, n, -1, 2, heads, dim // heads)
        .permute(3, 0, 1, 4, 2, 5)  # each [B, N, H, S, head_dim]
    )
    cross_norms = torch.stack([b.cross.q_norm.weight * b.cross.k_norm.weight for b in blocks])
    keys = scaled_norm(keys, cross_norms.view(num, 1, 1, 1, -1))
    bias = torch.zeros(mask.shape).masked_fill_(~mask, -math.inf)[:, None, None]
    rows = zip(scales, gates, cos, sin, keys, values, strict=True)
    return [BlockInputs._make((*row, bias)) for row in rows]


def run_block(block: ModulatedBlock, x: Tensor, inputs: BlockInputs) -> Tensor:
    """The block's tokens for tokens x [N, T, D]."""
    scales, gates = inputs.scales.unbind(), inputs.gates.unbind()
    x = torch.addcmul(x, gates[0], _self_attention(block, scaled_norm(x, scales[0]), inputs))
    x = torch.addcmul(x, gates[1], _cross_attention(block, scaled_norm(x, scales[1]), inputs))
    return torch.addcmul(x, gates[2], block.mlp(scaled_norm(x, scales[2])))


def _self_attention(block: ModulatedBlock, x: Tensor, inputs: BlockInputs) -> Tensor:
    attention = block.attention
    qkv = attention.qkv(x).unflatten(-1, (3, attention.num_heads, -1))  # [N, T, 3, H, head_dim]
    qk = qkv[:, :, :2]
    other = qk.roll(qk.shape[-1] // 2, dims=-1)
    rotated = (qk * inputs.cos).addcmul_(other, inputs.sin).mul_(inverse_rms(qk))
    q, k, v = (t.transpose(1, 2) for t in (*rotated.unbind(2), qkv[:, :, 2]))
    y = F.scaled_dot_product_attention(q, k, v)
    return attention.out(y.transpose(1, 2).flatten(2))


def _cross_attention(block: ModulatedBlock, x: Tensor, inputs: BlockInputs) -> Tensor:
    cross = block.cross
    q = cross.q(x).unflatten(-1, (cross.num_heads, -1))
    q = (q * inverse_rms(q)).transpose(1, 2)
    y = F.scaled_dot_product_attention(q, inputs.keys, inputs.values, attn_mask=inputs.bias)
    return cross.out(y.transpose(1, 2).flatten(2))


def scaled_norm(x: Tensor, scale: Tensor) -> Tensor:
    """F.rms_norm(x) * scale."""
    return (x * scale).mul_(inverse_rms(x))


def inverse_rms(x: Tensor) -> Tensor:
    """1 / sqrt(mean(x^2) + eps) over the last dimension, which becomes 1."""
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return torch.addcmul(EPS, norm, norm, value=1 / x.shape[-1]).rsqrt_()
