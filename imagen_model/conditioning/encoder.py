"""What every text encoder offers: MiniLM (minilm.py) and CLIP (clip.py) alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    pass
from typing import Protocol

Part = tuple[str, float]  # some of a prompt, and its weight
MAX_CHARACTERS = 2000  # more can't change the first word pieces, and would only cost time


class Encoder(Protocol):
    """Text -> Condition: the bundled TextEncoder, or clip.ClipEncoder."""

    @property
    def identity(self) -> str:
        """What a checkpoint names it by."""

    @property
    def width(self) -> int:
        """Numbers a token, D."""

    def encode(self, texts: list[str]) -> tuple[Tensor, Tensor, Tensor]:
        """texts -> tokens [N, T, D], mask [N, T], pooled [N, D] of unit length, on the CPU."""

    def weighted(self, parts: list[Part]) -> tuple[Tensor, Tensor, Tensor]:
        """The same of one prompt, some parts of which weigh more or less than 1."""
