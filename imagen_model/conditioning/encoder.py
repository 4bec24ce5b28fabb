"""The interface of text encoders: MiniLM (minilm.py) and CLIP (clip.py)."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

Part = tuple[str, float]  # part of a prompt, and its weight
MAX_CHARACTERS = 2000  # later ones can't affect the first word pieces


class Encoder(Protocol):
    """Text -> Condition: the bundled TextEncoder, or clip.ClipEncoder."""

    @property
    def identity(self) -> str:
        """Its name in checkpoints."""

    @property
    def width(self) -> int:
        """Numbers a token, D."""

    def encode(self, texts: list[str]) -> tuple[Tensor, Tensor, Tensor]:
        """texts -> tokens [N, T, D], mask [N, T], pooled [N, D] of unit length, on the CPU."""

    def weighted(self, parts: list[Part]) -> tuple[Tensor, Tensor, Tensor]:
        """The same for one prompt from its weighted parts."""
