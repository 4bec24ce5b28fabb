"""What the user likes, as a number: a Bradley-Terry reward on frozen features.

A thumb says P(up) = s(r(x) + b), a pair P(a over b) = s(r(a) - r(b)) (Bradley and Terry, 1952),
with s the sigmoid and r linear in few features of the picture over white: the main components of
lite0's pooled features (what is shown) and of the means and spreads of its first two levels (how it
is drawn), plain statistics (colour, contrast, size), and the discriminator's word on styles. The
components are those of the model's own pictures, which need no ratings; so fifteen ratings are
enough to begin with. The fit is Newton's method on a convex problem, for all left-out ratings at
once.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..inference.sampling import BATCH
from ..model import Model
from ..networks.efficientnet import (
    LEVEL_CHANNELS,
    POOLED_CHANNELS,
    EfficientNetLite,
    as_rgb,
    lite0,
)
from ..networks.networks import Networks
from ..networks.precision import full_precision
from ..progress import OnPictures
from .recipe import redrawn
from .store import Rating

FEW, SOME = 5, 30  # ratings for a shift, and for LoRA
LOW_LEVELS = 2  # of lite0, whose textures count
STATISTICS = 7
# What a view consists of: numbers, and how many main components are kept (None: all as they are).
PARTS: tuple[tuple[int, int | None], ...] = (
    (POOLED_CHANNELS, 12),
    (2 * sum(LEVEL_CHANNELS[:LOW_LEVELS]), 24),
    (STATISTICS, None),
)
BIAS_SCALE = 3.0  # a thumb's bias is held nine times more loosely than the rest
RIDGES = (1.0, 3.0, 10.0, 30.0)
NEWTON_STEPS = 12
MAX_FOLDS = 64
OVERFIT = 0.3  # accuracy on the ratings it saw, over that on ratings it did not


class FeatureExtractor(nn.Module):
    """What the reward sees of pictures, by networks that stay as they are.

    lite0's features, plain statistics, and how well the discriminator finds each style to fit: a
    taste in styles is the commonest, and shows in nothing else as plainly.
    """

    def __init__(self, features: EfficientNetLite, networks: Networks) -> None:
        super().__init__()
        self.lite0, self.discriminator = features, networks.discriminator
        self.num_styles = len(networks.conditioning.config.styles)
        self.dim = networks.conditioning.config.dim

    @property
    def device(self) -> torch.device:
        return self.lite0.stem.weight.device

    def forward(self, pictures: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Pictures [N, C, H, W] -> [N, F], and lite0's levels for others' use."""
        rgb = as_rgb(pictures)  # over white
        levels = self.lite0(rgb)
        low = [
            part
            for level in levels[:LOW_LEVELS]
            for part in (level.mean(dim=(2, 3)), spread(level))
        ]
        parts = [self.lite0.pool(levels[-1]), *low, statistics(pictures, rgb)]
        if self.num_styles > 1:
            parts.append(self.styles(pictures, levels))
        return torch.cat(parts, dim=1), levels

    def styles(self, pictures: Tensor, levels: list[Tensor]) -> Tensor:
        """[N, S] how well each style fits, over what any does."""
        every = torch.eye(self.num_styles, device=self.device)
        asked = self.discriminator.embed_condition(every.new_zeros(len(every), self.dim), every)
        fits = self.discriminator(pictures, levels).match_matrix(asked)
        return fits - fits.mean(dim=1, keepdim=True)


def feature_extractor(model: Model) -> FeatureExtractor:
    """The eye for a model's pictures, on its device."""
    features = model.lite0
    if features is None:
        features = copy.deepcopy(lite0()).to(model.device)
    return FeatureExtractor(features, model.networks)


def content(seen: Tensor) -> Tensor:
    """[N, 1280] the part of views that says what is shown: lite0's pooled features."""
    return seen[:, :POOLED_CHANNELS]


def statistics(pictures: Tensor, rgb: Tensor) -> Tensor:
    """[N, 7]: mean and spread of each colour over white, and how much of the picture is filled."""
    if pictures.shape[1] == 4:
        filled = (pictures[:, 3].mean(dim=(1, 2)) + 1) / 2
    else:
        filled = torch.zeros_like(pictures[:, 0, 0, 0])
    return torch.cat([rgb.mean(dim=(2, 3)), spread(rgb), filled[:, None]], dim=1)


def spread(maps: Tensor) -> Tensor:
    """[N, C] standard deviation over places, differentiable where it is zero."""
    return (maps.var(dim=(2, 3)) + 1e-4).sqrt()


@torch.no_grad()
def views(
    pictures: Tensor, extractor: FeatureExtractor, *, progress: OnPictures | None = None
) -> Tensor:
    """[N, F] on the CPU, in batches. `progress` is called after each, and may raise to cancel."""
    parts = []
    with full_precision():
        for begin in range(0, len(pictures), BATCH):
            part = pictures[begin : begin + BATCH].to(extractor.device)
            parts.append(extractor(part)[0].cpu())
            if progress is not None:
                progress(begin + len(part), len(pictures), None)
    return torch.cat(parts)


@dataclass(frozen=True)
class Reward:
    """r(view) = (projected view) . theta, in standard deviations of the model's own pictures."""

    mean: Tensor  # [F] of the model's own pictures
    projection: Tensor  # [F, K]
    theta: Tensor  # [K]

    def __call__(self, seen: Tensor) -> Tensor:
        """[N, F] -> [N], differentiable."""
        mean, weights = self.mean.to(seen), (self.projection @ self.theta).to(seen)
        return (seen - mean) @ weights

    def tensors(self) -> dict[str, Tensor]:
        return {"mean": self.mean, "projection": self.projection, "theta": self.theta}


@dataclass(frozen=True)
class Fit:
    """A reward and what is known of it."""

    reward: Reward
    thumbs: int
    pairs: int
    accuracy: float  # on ratings that were left out of the fit; up and down count the same
    train_accuracy: float
    complaints: tuple[str, ...]

    @property
    def ratings(self) -> int:
        return self.thumbs + self.pairs


def projection_of(own: Tensor) -> tuple[Tensor, Tensor]:
    """Views [N, F] of the model's own pictures -> their mean [F] and a projection [F, K].

    All is standardised; parts are reduced to their main components as PARTS says, larger ones
    louder, of unit variance on average.
    """
    mean = own.mean(dim=0)
    scale = own.std(dim=0).clamp(min=1e-3)
    parts = []
    sizes, counts = zip(*PARTS, (own.shape[1] - sum(size for size, _ in PARTS), None), strict=True)
    for part, count in zip(((own - mean) / scale).split(sizes, dim=1), counts, strict=True):
        if count is None:
            parts.append(torch.eye(part.shape[1]))
            continue
        _, values, vectors = torch.linalg.svd(part, full_matrices=False)
        loudness = (values[:count].square().mean() / len(own)).sqrt().clamp(min=1e-6)
        parts.append(vectors[:count].t() / loudness)
    return mean, torch.block_diag(*parts) / scale[:, None]


def fit_reward(
    model: Model, ratings: Sequence[Rating], own: Tensor, *, progress: OnPictures | None = None
) -> Fit:
    """Fit to the ratings; `own` are views of the model's own pictures.

    The last thumb on a picture counts. `progress` may raise to cancel. ValueError where the ratings
    teach nothing: too few, all up or all down.
    """
    ratings = settled_ratings(ratings)
    sides = [r.picture for r in ratings] + [r.other for r in ratings if r.other is not None]
    pictures = dict(zip((p.id for p in sides), redrawn(model, sides, progress), strict=True))
    usable = [
        r
        for r in ratings
        if pictures[r.picture.id] is not None
        and (r.other is None or pictures[r.other.id] is not None)
    ]
    refuse_what_teaches_nothing(usable, lost=len(ratings) - len(usable))
    ids = [id_ for id_, picture in pictures.items() if picture is not None]
    stack = torch.stack([p for p in pictures.values() if p is not None])
    mean, projection = projection_of(own)
    seen = views(stack, feature_extractor(model), progress=progress)
    seen = (seen - mean) @ projection
    place = {id_: row for row, id_ in enumerate(ids)}
    rows = torch.stack([_row(r, seen, place) for r in usable])
    groups = torch.tensor([0 if r.other is not None else r.value for r in usable])
    theta, accuracy, train_accuracy = fit_logistic(rows, groups)
    spread = ((own - mean) @ projection @ theta[:-1]).std().clamp(min=1e-6)
    reward = Reward(mean, projection, theta[:-1] / spread)
    thumbs = int((groups != 0).sum())
    complaints = _complaints(ratings, len(usable), accuracy, train_accuracy)
    return Fit(reward, thumbs, len(usable) - thumbs, accuracy, train_accuracy, complaints)


def settled_ratings(ratings: Sequence[Rating]) -> list[Rating]:
    """Without thumbs that a later one on the same picture took back."""
    last = {r.picture.id: r.id for r in ratings if r.other is None}
    return [r for r in ratings if r.other is not None or last[r.picture.id] == r.id]


def refuse_what_teaches_nothing(ratings: Sequence[Rating], *, lost: int = 0) -> None:
    """ValueError for too few ratings, and for thumbs that all point one way."""
    if len(ratings) < FEW:
        gone = f" ({lost} more are of pictures that cannot be drawn again)" if lost else ""
        raise ValueError(f"there are {len(ratings)} ratings{gone}; learning needs {FEW} or more")
    values = {r.value for r in ratings if r.other is None}
    pairs = sum(r.other is not None for r in ratings)
    if len(values) == 1 and pairs < FEW:
        way, other = ("up", "dislike") if values == {1} else ("down", "like")
        raise ValueError(
            f"all {len(ratings) - pairs} thumbs are {way}; rate some pictures that you {other}, too"
        )


def _row(rating: Rating, seen: Tensor, place: dict[str, int]) -> Tensor:
    """[K + 1] what must be positive times theta: the winner's view less the loser's."""
    here = seen[place[rating.picture.id]]
    if rating.other is not None:
        return torch.cat([here - seen[place[rating.other.id]], here.new_zeros(1)])
    return rating.value * torch.cat([here, here.new_tensor([BIAS_SCALE])])


def fit_logistic(rows: Tensor, groups: Tensor) -> tuple[Tensor, float, float]:
    """theta of min sum softplus(-rows theta) + ridge / 2 |theta|^2, with accuracies.

    rows [N, K]; groups [N] tells ups (1), downs (-1) and pairs (0) apart, as accuracy does. The
    ridge is the one whose left-out ratings are the most likely. Returns theta [K], the accuracy on
    left-out ratings and on those of the fit.
    """
    n = len(rows)
    folds = min(n, MAX_FOLDS)
    kept = torch.ones(folds + 1, n)  # the last fold keeps everything
    kept[torch.arange(n) % folds, torch.arange(n)] = 0.0
    best = None
    for ridge in RIDGES:
        thetas = newton(rows, kept, ridge)
        margins = (thetas[torch.arange(n) % folds] * rows).sum(dim=1)  # of left-out ratings
        loss = float(F.softplus(-margins).mean())
        if best is None or loss < best[0]:
            best = (loss, thetas[-1], margins)
    assert best is not None
    _, theta, margins = best
    return theta, balanced_accuracy(margins, groups), balanced_accuracy(rows @ theta, groups)


def newton(rows: Tensor, kept: Tensor, ridge: float) -> Tensor:
    """[folds, K] argmin of sum_i kept_i softplus(-rows_i theta) + ridge / 2 |theta|^2, for each row
    of kept [folds, N]."""
    folds, k = len(kept), rows.shape[1]
    theta = rows.new_zeros(folds, k)
    identity = torch.eye(k)
    for _ in range(NEWTON_STEPS):
        wrong = torch.sigmoid(-(theta @ rows.t())) * kept  # [folds, N]
        gradient = ridge * theta - wrong @ rows
        curvature = wrong * (1 - torch.sigmoid(-(theta @ rows.t())))
        hessian = torch.einsum("fn,nk,nl->fkl", curvature, rows, rows) + ridge * identity
        theta = theta - torch.linalg.solve(hessian, gradient)
    return theta


def balanced_accuracy(margins: Tensor, groups: Tensor) -> float:
    """Share of positive margins, ties half: pairs by their number, ups and downs as equals."""
    right = (margins > 0).float() + 0.5 * (margins == 0).float()
    thumbs, pairs = groups != 0, groups == 0
    total = right[pairs].sum()
    if thumbs.any():
        sides = [right[groups == side].mean() for side in (-1, 1) if (groups == side).any()]
        total = total + thumbs.sum() * torch.stack(sides).mean()
    return float(total / len(margins))


def _complaints(
    ratings: Sequence[Rating], usable: int, accuracy: float, train_accuracy: float
) -> tuple[str, ...]:
    """What an honest adviser would say of these ratings."""
    said = []
    if usable < len(ratings):
        said.append(f"{len(ratings) - usable} ratings are of pictures that cannot be drawn again")
    clashes = contradictions(ratings)
    if clashes:
        said.append(f"{clashes} ratings contradict each other (the same pictures, another verdict)")
    if accuracy < 0.5 + 0.5 * usable**-0.5:  # one standard error over chance
        said.append(
            f"your ratings do not predict each other: {accuracy:.0%} of left-out ratings are "
            "guessed, chance is 50 %. They contradict each other, or are about something that the "
            "features do not show; rate more"
        )
    elif train_accuracy - accuracy > OVERFIT:
        said.append(
            f"the reward remembers more than it learns: it predicts {train_accuracy:.0%} of the "
            f"ratings that it saw, and {accuracy:.0%} of others; rate more"
        )
    return tuple(said)


def contradictions(ratings: Sequence[Rating]) -> int:
    """Pairs that went both ways, and pairs against the thumbs on their two pictures."""
    thumbs = {r.picture.id: r.value for r in ratings if r.other is None}
    won = {(r.picture.id, r.other.id) for r in ratings if r.other is not None}
    both = sum((b, a) in won for a, b in won) // 2
    return both + sum(thumbs.get(a, 1) < thumbs.get(b, -1) for a, b in won)


def enough_for(count: int) -> str:
    """One line on how far so many ratings reach."""
    if count < FEW:
        return f"{count} ratings: {FEW - count} more and a first adapter can be learned"
    if count < SOME:
        return (
            f"{count} ratings: enough for best-of-N and a shift in w, weights untouched; "
            f"{SOME - count} more for LoRA"
        )
    return f"{count} ratings: enough for LoRA on the generator"
