"""A second evaluator that shares nothing with the discriminator's lite0: a linear classifier of
concepts, trained on the real training pictures when it is needed.

Its features are strokes and colours: histograms of oriented gradients (Dalal and Triggs, 2005) and
the picture at 12 x 12. Fisher's discriminant, regularised (Friedman, 1989), finds the directions in
which pictures of one concept agree across styles. It has a closed form, so the same data gives the
same classifier in seconds.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.item import Item
from .dataset import EvaluationSet, all_pixels, concept_of, concepts_and_styles
from .results import RetrievalResult
from .retrieval import Retrieval, retrieve

SIDE, CELLS, COLOURS = 32, 8, 12  # of the picture, its histograms and its colours, a side
DIRECTIONS = 8
SHRINKAGE = 0.1  # of the mean variance, added to each
BATCH = 256


def strokes_and_colours(pictures: Tensor) -> Tensor:
    """[N, C, H, W] in [-1, 1] -> [N, F]."""
    return torch.cat([_strokes_and_colours(part) for part in pictures.split(BATCH)])


def _strokes_and_colours(pictures: Tensor) -> Tensor:
    x = F.interpolate(pictures, size=(SIDE, SIDE), mode="bilinear", antialias=True)
    colours = F.adaptive_avg_pool2d(x, COLOURS).flatten(1)
    light = x[:, :3].mean(dim=1, keepdim=True)
    planes = torch.cat([light, x[:, 3:]], dim=1)  # with alpha, where there is one
    dx = F.pad(planes.diff(dim=3), (0, 1))
    dy = F.pad(planes.diff(dim=2), (0, 0, 0, 1))
    strength, angle = torch.hypot(dx, dy), torch.atan2(dy, dx)
    turns = torch.arange(DIRECTIONS) * (2 * torch.pi / DIRECTIONS)
    near = F.relu(torch.cos(angle[:, :, None] - turns[:, None, None])) ** 3  # [N, P, 8, H, W]
    histograms = F.adaptive_avg_pool2d((strength[:, :, None] * near).flatten(1, 2), CELLS)
    return torch.cat([colours, histograms.flatten(1).sqrt()], dim=1)


class ConceptClassifier:
    """Pictures and concepts as directions in one space, where a concept is its pictures' mean."""

    def __init__(self, pictures: Tensor, items: Sequence[Item]) -> None:
        """Train on real pictures [N, C, H, W]."""
        features = strokes_and_colours(pictures)
        styles = [item.style for item in items]
        self._mean = features.mean(dim=0)
        self._style_mean = {
            style: features[[i for i, s in enumerate(styles) if s == style]].mean(dim=0)
            for style in set(styles)
        }
        self._number: dict[str, int] = {}
        labels = [self._number.setdefault(concept_of(item), len(self._number)) for item in items]
        label = torch.tensor(labels)
        centred = self._centred(features, styles)
        counts = label.bincount()
        means = torch.zeros(len(counts), centred.shape[1]).index_add_(0, label, centred)
        means /= counts[:, None]
        within = (centred - means[label])[counts[label] > 1].double()
        scatter = within.t() @ within / max(len(within), 1)
        scatter += SHRINKAGE * (scatter.diag().mean() + 1e-6) * torch.eye(len(scatter))
        self._factor = torch.linalg.cholesky(scatter)
        self._concepts = self._whitened(means)

    def __contains__(self, concept: str) -> bool:
        return concept in self._number

    def concepts(self, names: Sequence[str]) -> Tensor:
        """[N, F] of unit length."""
        return self._concepts[[self._number[name] for name in names]]

    def __call__(self, pictures: Tensor, styles: Sequence[str]) -> Tensor:
        """[N, C, H, W] and the style of each -> [N, F] of unit length."""
        return self._whitened(self._centred(strokes_and_colours(pictures), styles))

    def _centred(self, features: Tensor, styles: Sequence[str]) -> Tensor:
        return features - torch.stack([self._style_mean.get(s, self._mean) for s in styles])

    def _whitened(self, features: Tensor) -> Tensor:
        rows = torch.linalg.solve_triangular(self._factor, features.double().t(), upper=False).t()
        return F.normalize(rows, dim=1).float()


def classifier_retrieval(data: EvaluationSet, generated: Tensor) -> RetrievalResult | None:
    """Retrieval by the classifier's features, among held-out concepts of the style, of pictures
    [pairs, seeds, C, H, W]; None where training shows none of the concepts."""
    classifier = ConceptClassifier(all_pixels(data.train), data.train.items)
    known = [i for i, item in enumerate(data.test.items) if concept_of(item) in classifier]
    if not known:
        return None
    names, styles = concepts_and_styles([data.test.items[i] for i in known])
    gallery = classifier.concepts(names)

    def retrieved(pictures: Tensor) -> Retrieval:  # [N, S, C, H, W]
        repeated = [style for style in styles for _ in range(pictures.shape[1])]
        features = classifier(pictures.flatten(0, 1), repeated).unflatten(0, pictures.shape[:2])
        return retrieve(features, names, styles, gallery, names, styles)

    real = retrieved(data.test.batch(torch.tensor(known))[:, None])
    return retrieved(generated[known]).result(real.recall(1))
