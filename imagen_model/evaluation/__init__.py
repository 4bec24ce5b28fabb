"""How good a model is: measured with features that its training never saw."""

from .extractor import Lite1
from .report import evaluate

__all__ = ["Lite1", "evaluate"]
