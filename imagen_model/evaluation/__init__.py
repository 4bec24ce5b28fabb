"""How good a model is: measured with features that its training never saw."""

from .extractor import Lite1
from .glance import Glance
from .report import evaluate

__all__ = ["Glance", "Lite1", "evaluate"]
