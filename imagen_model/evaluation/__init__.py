"""How good a model is: measured with features that its training never saw."""
