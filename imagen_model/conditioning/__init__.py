"""What steers the picture: the Condition type and the encoders that make it."""

from .condition import Condition, Conditioning, combined

__all__ = ["Condition", "Conditioning", "combined"]
