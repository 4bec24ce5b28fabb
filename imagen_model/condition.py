"""Condition: the common space of all modalities (text, pictures, sound).

It has tokens [N, T, D] with a mask, a pooled vector [N, D] and style weights [N, S]. A row whose
mask is all False is the null condition (any picture). If a row's style weights are all zero, the
seed chooses the style.
"""

from __future__ import annotations

import reprlib
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .config import ConditioningConfig

STYLE_SHARPNESS = 40.0  # inverse temperature of the softmax by which a seed chooses a style


@dataclass(frozen=True)
class Condition:
    """N conditions. `style` rows sum to one, or to zero for any style.

    ValueError where tokens, pooled and style are not of one floating-point type.
    """

    tokens: Tensor  # [N, T, D]
    mask: Tensor  # [N, T] bool, True where there is a token
    pooled: Tensor  # [N, D], zero in null rows
    style: Tensor  # [N, S]

    def __post_init__(self) -> None:
        n, t, d = self.tokens.shape
        assert self.mask.shape == (n, t) and self.mask.dtype == torch.bool
        assert self.pooled.shape == (n, d) and self.style.shape[0] == n
        types = [x.dtype for x in (self.tokens, self.pooled, self.style)]
        if len(set(types)) > 1 or not self.tokens.is_floating_point():
            raise ValueError(
                f"tokens, pooled and style of a condition are {types[0]}, {types[1]} and "
                f"{types[2]}; expected one floating-point type"
            )

    def __len__(self) -> int:
        return len(self.pooled)

    def __getitem__(self, index: Tensor | slice) -> Condition:
        return Condition(
            self.tokens[index], self.mask[index], self.pooled[index], self.style[index]
        )

    def to(self, *args: Any, **kwargs: Any) -> Condition:
        """Move like Tensor.to; the mask stays bool."""
        move = {k: getattr(self, k).to(*args, **kwargs) for k in ("tokens", "pooled", "style")}
        return Condition(mask=self.mask.to(device=move["tokens"].device), **move)

    def with_style(self, style: Tensor) -> Condition:
        return replace(self, style=style)

    @classmethod
    def null(cls, n: int, config: ConditioningConfig) -> Condition:
        """n null rows without a style."""
        return cls(
            torch.zeros(n, 1, config.dim),
            torch.zeros(n, 1, dtype=torch.bool),
            torch.zeros(n, config.dim),
            torch.zeros(n, len(config.styles)),
        )

    @classmethod
    def cat(cls, conditions: list[Condition]) -> Condition:
        """Rows of several conditions, padded to the longest."""
        length = max(c.tokens.shape[1] for c in conditions)

        def padded(x: Tensor) -> Tensor:
            return F.pad(x, [0, 0] * (x.ndim - 2) + [0, length - x.shape[1]])

        return cls(
            torch.cat([padded(c.tokens) for c in conditions]),
            torch.cat([padded(c.mask) for c in conditions]),
            torch.cat([c.pooled for c in conditions]),
            torch.cat([c.style for c in conditions]),
        )


def style_weights(styles: tuple[str, ...], style: str | None, n: int) -> Tensor:
    """[n, S] one-hot rows for the name of a style; zero rows for None, "" or "any"."""
    weights = torch.zeros(n, len(styles))
    if style and style != "any":
        if style not in styles:
            known = ", ".join(styles) or "no styles"
            raise ValueError(f"style is {reprlib.repr(style)}; this model knows: {known}")
        weights[:, styles.index(style)] = 1.0
    return weights


def settle_styles(style: Tensor, z: Tensor) -> Tensor:
    """Give rows without a style one that z samples, uniformly over seeds.

    It is continuous in z, so a latent walk moves from style to style.
    """
    num_styles = style.shape[1]
    if num_styles == 0:
        return style
    sampled = torch.softmax(STYLE_SHARPNESS * z[:, :num_styles], dim=1)
    return torch.where(style.sum(dim=1, keepdim=True) > 0, style, sampled.to(style.dtype))


def combined(a: Condition, b: Condition, weight: float) -> Condition:
    """Interpolate from a to b: weight 0 gives exactly a, 1 exactly b.

    Tokens are interpolated at the same relative position of the two texts, pooled vectors in
    direction and length, styles linearly. Where one side is open (a null row, no style), the other
    side's value is used. A single row is broadcast. ValueError for conditions of different models.
    """
    if not 0 <= weight <= 1:
        raise ValueError(f"weight is {weight}; expected 0 to 1")
    for name, unit in (("tokens", "numbers a token"), ("style", "styles")):
        ours, theirs = getattr(a, name).shape[-1], getattr(b, name).shape[-1]
        if ours != theirs:
            raise ValueError(
                f"the two conditions are of different models ({ours} and {theirs} {unit}); "
                "encode both with the same one"
            )
    if a.tokens.dtype != b.tokens.dtype:
        raise ValueError(
            f"the two conditions are of {a.tokens.dtype} and {b.tokens.dtype}; expected one type"
        )
    n = max(len(a), len(b))
    if not {len(a), len(b)} <= {1, n}:
        raise ValueError(f"{len(a)} and {len(b)} conditions; expected equal counts, or one")
    rows = torch.arange(n)
    a, b = (c[rows.to(c.pooled.device).clamp(max=len(c) - 1)] for c in (a, b))
    if weight in (0, 1):
        return b if weight else a
    count_a, count_b = (c.mask.sum(dim=1, keepdim=True) for c in (a, b))  # [N, 1] tokens of a row
    length = torch.maximum(count_a, count_b)
    tokens_a, tokens_b = stretched(a, count_a, length), stretched(b, count_b, length)
    tokens = torch.lerp(tokens_a, tokens_b, weight)  # [N, T, D]
    pooled = F.normalize(torch.lerp(a.pooled, b.pooled, weight), dim=1)
    norm_a, norm_b = (c.pooled.norm(dim=1, keepdim=True) for c in (a, b))
    pooled = pooled * torch.lerp(norm_a, norm_b, weight)
    style = torch.lerp(a.style, b.style, weight)
    null_a, null_b = count_a == 0, count_b == 0
    open_a, open_b = (c.style.sum(dim=1, keepdim=True) == 0 for c in (a, b))
    return Condition(
        _unless_open(tokens, tokens_a, tokens_b, null_a[:, None], null_b[:, None]),
        torch.arange(tokens.shape[1], device=length.device) < length,
        _unless_open(pooled, a.pooled, b.pooled, null_a, null_b),
        _unless_open(style, a.style, b.style, open_a, open_b),
    )


def _unless_open(both: Tensor, a: Tensor, b: Tensor, open_a: Tensor, open_b: Tensor) -> Tensor:
    """`both`, but b in rows where a is open, and a where b is."""
    return torch.where(open_a, b, torch.where(open_b, a, both))


def stretched(condition: Condition, count: Tensor, length: Tensor) -> Tensor:
    """Tokens [N, longest, D]: the first `count` [N, 1] of each row, stretched to its `length`."""
    place = torch.arange(max(1, int(length.max())), device=count.device)
    place = (place * count // length.clamp(min=1)).clamp(max=condition.tokens.shape[1] - 1)
    return condition.tokens.gather(1, place[:, :, None].expand(-1, -1, condition.tokens.shape[2]))
