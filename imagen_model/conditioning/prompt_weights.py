"""Parse prompt weights in ComfyUI's syntax: `(word:1.4)`, `(word)` for 1.1, nested, `\\(` for a
bracket. minilm.encode_weighted and clip.ClipEncoder.weighted apply them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import groupby

from .encoder import Part

BRACKETS = 1.1  # factor of brackets without a number
MAX_WEIGHT = 3.0
MAX_DEPTH = 50
_HIDDEN = {r"\)": "\0\1", r"\(": "\0\2"}  # stand for escaped brackets during parsing


def parse_weights(text: str) -> list[Part]:
    """The parts of a prompt with their weights, as in ComfyUI.

    `(red apple:1.3)` has the weight 1.3 at any depth, `(apple)` 1.1 times that of its surroundings.
    Brackets after a backslash or without a partner are plain text. ValueError for weights that are
    not from 0 to 3, and for brackets more than 50 deep.
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
        with suppress(ValueError):  # a colon of the text, such as "flag: Brazil"
            inside, own = (words, float(number)) if words else (inside, own)
        yield from _weighted(inside, own, depth + 1)


def _pieces(text: str) -> Iterator[str]:
    """Outermost brackets, and the text between them."""
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


def weighted_spans(weights: Iterable[float]) -> list[tuple[int, int, float]]:
    """(begin, end, weight) of each run of one weight other than 1."""
    spans, begin = [], 0
    for weight, run in groupby(weights):
        end = begin + len(list(run))
        if weight != 1.0:
            spans.append((begin, end, weight))
        begin = end
    return spans
