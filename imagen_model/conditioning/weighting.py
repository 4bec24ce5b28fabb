"""Prompt weights in ComfyUI's syntax: `(word:1.4)`, `(word)` for 1.1, nested, `\\(` for a bracket.

ComfyUI moves each token away from what an empty prompt has in its place. Here the other end is the
prompt itself *without* the span: the same tokens with the span hidden from attention. Everything
that the span has changed in its neighbours is scaled with it, and a weight of 0 is as if the span
had not been written. Colours of the bundled model follow their weight (docs/multimodal.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from itertools import groupby
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from .text import TextEncoder

BRACKETS = 1.1  # the weight of brackets without a number; they multiply
MAX_WEIGHT = 3.0
MAX_DEPTH = 50
_HIDDEN = {r"\)": "\0\1", r"\(": "\0\2"}  # escaped brackets, while the others are looked for

Part = tuple[str, float]  # some of a prompt, and its weight


def parse_weights(text: str) -> list[Part]:
    """The parts of a prompt with their weights, as ComfyUI reads them; joined, they are the prompt.

    `(red apple:1.3)` weighs 1.3 whatever it stands in, `(apple)` 1.1 times what it stands in; a
    backslash makes a bracket plain, and brackets without a partner are plain text. ValueError for
    weights that are not from 0 to 3, and for brackets more than 50 deep.
    """
    for escaped, hidden in _HIDDEN.items():
        text = text.replace(escaped, hidden)
    parts = []
    for part, weight in _weighted(text, 1.0, 0):
        for escaped, hidden in _HIDDEN.items():
            part = part.replace(hidden, escaped[1])
        if part.strip() and not 0 <= weight <= MAX_WEIGHT:
            raise ValueError(
                f"the weight of {part.strip()[:40]!r} is {weight:.4g}; expected 0 to {MAX_WEIGHT:g}"
            )
        parts.append((part, weight))
    return parts


def _weighted(text: str, weight: float, depth: int) -> Iterator[Part]:
    if depth > MAX_DEPTH:
        raise ValueError(f"a prompt has brackets more than {MAX_DEPTH} deep; simplify it")
    for piece in _pieces(text):
        if not (len(piece) > 1 and piece[0] == "(" and piece[-1] == ")"):
            yield piece, weight
            continue
        inside, own = piece[1:-1], weight * BRACKETS
        words, _, number = inside.rpartition(":")
        with suppress(ValueError):  # for a colon of the text, such as "flag: Brazil"
            inside, own = (words, float(number)) if words else (inside, own)
        yield from _weighted(inside, own, depth + 1)


def _pieces(text: str) -> Iterator[str]:
    """Outermost brackets, and what is between them."""
    depth, begin = 0, 0
    for i, character in enumerate(text):
        if character == "(":
            if depth == 0 and begin < i:
                yield text[begin:i]
                begin = i
            depth += 1
        elif character == ")":
            depth -= 1
            if depth == 0:
                yield text[begin : i + 1]
                begin = i + 1
    if begin < len(text):
        yield text[begin:]


@torch.no_grad()
def encode_weighted(encoder: TextEncoder, parts: list[Part]) -> tuple[Tensor, Tensor, Tensor]:
    """One prompt's tokens [1, T, D], mask [1, T] and pooled vector [1, D] of unit length.

    token + sum over spans of (weight - 1) * (token - the token without the span), where the span's
    own tokens have the mean of the others for "without". Pooled is the mean of the results.
    """
    ids, mask, spans = encoder.pieces(["".join(text for text, _ in parts)])
    by_character = [weight for text, weight in parts for _ in text]
    by_token = [by_character[begin] if begin < end else 1.0 for begin, end in spans[0]]
    groups, place = [], 0
    for weight, run in groupby(by_token):
        count = len(list(run))
        if weight != 1.0:
            groups.append((place, place + count, weight))
        place += count
    hidden = torch.zeros(1 + len(groups), place, dtype=torch.bool)  # row 0 hides nothing
    for row, (begin, end, _) in zip(hidden[1:], groups, strict=True):
        row[begin:end] = True
    whole, *others = encoder.network(ids.expand(len(hidden), -1), mask & ~hidden)  # [T, D] each
    tokens = whole
    for without, span, (_, _, weight) in zip(others, hidden[1:], groups, strict=True):
        without = torch.where(span[:, None], without[~span].mean(dim=0), without)
        tokens = tokens + (weight - 1) * (whole - without)
    return tokens[None], mask, F.normalize(tokens.mean(dim=0), dim=0)[None]
