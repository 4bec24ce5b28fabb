"""The user's preference as a number: a Bradley-Terry reward on frozen features.

A thumb has P(up) = s(r(x) + b), a pair P(a over b) = s(r(a) - r(b)) (Bradley and Terry, 1952), with
s the sigmoid. r is linear in few features of the picture over white: principal components of
lite0's pooled features (content) and of the means and deviations of its first two levels (texture),
plain statistics (colour, contrast, size), and the discriminator's match with each style. The
components are those of the model's own pictures, which need no ratings, so fifteen ratings are
enough to begin with. The problem is convex; Newton's method fits it for all cross-validation folds
at once.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..inference.sampling import BATCH, batches
from ..model import Model
from ..networks.efficientnet import LEVEL_CHANNELS, POOLED_CHANNELS, EfficientNetLite, as_rgb, lite0
from ..networks.networks import Networks
from ..networks.precision import full_precision
from ..progress import OnPictures
from .recipe import regenerated
from .store import ID_LENGTH, Rating

FEW, SOME = 5, 30  # ratings that a shift and LoRA need
LOW_LEVELS = 2  # of lite0, for texture
STATISTICS = 7
# The parts of the features: their sizes, and how many components are kept (None: no reduction).
PARTS: tuple[tuple[int, int | None], ...] = (
    (POOLED_CHANNELS, 12),
    (2 * sum(LEVEL_CHANNELS[:LOW_LEVELS]), 24),
    (STATISTICS, None),
)
BIAS_SCALE = 3.0  # a thumb's bias is regularised nine times less than the other weights
RIDGES = (1.0, 3.0, 10.0, 30.0)
NEWTON_STEPS = 12
MAX_FOLDS = 64
OVERFIT = 0.3  # training accuracy minus accuracy on left-out ratings, above which a note says so


class FeatureExtractor(nn.Module):
    """The reward's features, by frozen networks: lite0's features, plain statistics, and the
    discriminator's match with each style, because preferences of style are the most common."""

    def __init__(self, features: EfficientNetLite, networks: Networks) -> None:
        super().__init__()
        self.lite0, self.discriminator = features, networks.discriminator
        self.num_styles = len(networks.conditioning.config.styles)
        self.dim = networks.conditioning.config.dim

    @property
    def device(self) -> torch.device:
        return self.lite0.stem.weight.device

    def forward(self, pictures: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Pictures [N, C, H, W] -> features [N, F], and lite0's levels for the discriminator."""
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
        """[N, S] match with each style, minus the mean over styles."""
        every = torch.eye(self.num_styles, device=self.device)
        embedded = self.discriminator.embed_condition(every.new_zeros(len(every), self.dim), every)
        match = self.discriminator(pictures, levels).match_matrix(embedded)
        return match - match.mean(dim=1, keepdim=True)


def feature_extractor(model: Model) -> FeatureExtractor:
    """The extractor for a model's pictures, on its device."""
    own = model.lite0
    if own is None:
        own = copy.deepcopy(lite0()).to(model.device)
    return FeatureExtractor(own, model.networks)


def num_features(model: Model) -> int:
    """How many features the extractor has for a model's pictures."""
    styles = len(model.styles)
    return sum(size for size, _ in PARTS) + (styles if styles > 1 else 0)


def content(features: Tensor) -> Tensor:
    """[N, 1280] of the features [N, F], those of content: lite0's pooled features."""
    return features[:, :POOLED_CHANNELS]


def statistics(pictures: Tensor, rgb: Tensor) -> Tensor:
    """[N, 7]: mean and standard deviation of each colour over white, and mean alpha."""
    if pictures.shape[1] == 4:
        filled = (pictures[:, 3].mean(dim=(1, 2)) + 1) / 2
    else:
        filled = torch.zeros_like(pictures[:, 0, 0, 0])
    return torch.cat([rgb.mean(dim=(2, 3)), spread(rgb), filled[:, None]], dim=1)


def spread(maps: Tensor) -> Tensor:
    """[N, C] standard deviation over pixels, differentiable where it is zero."""
    return (maps.var(dim=(2, 3)) + 1e-4).sqrt()


@torch.no_grad()
def extract_features(
    pictures: Tensor, extractor: FeatureExtractor, *, progress: OnPictures | None = None
) -> Tensor:
    """[N, F] on the CPU, in batches. `progress` is called after each, and may raise to cancel."""
    parts = []
    with full_precision():
        for rows in batches(len(pictures), BATCH):
            parts.append(extractor(pictures[rows].to(extractor.device))[0].cpu())
            if progress is not None:
                progress(rows.stop, len(pictures), None)
    return torch.cat(parts)


@dataclass(frozen=True)
class Reward:
    """r(x) = (projected features) . theta, in standard deviations of the model's own pictures."""

    mean: Tensor  # [F] of the model's own pictures
    projection: Tensor  # [F, K]
    theta: Tensor  # [K]

    def __post_init__(self) -> None:
        size, count = self.mean.numel(), self.theta.numel()
        shapes = [self.mean.shape, self.projection.shape, self.theta.shape]
        if shapes != [(size,), (size, count), (count,)]:
            raise ValueError("the parts of the reward do not fit each other")

    def __call__(self, features: Tensor) -> Tensor:
        """[N, F] -> [N], differentiable. ValueError for other features than it was fitted to."""
        if features.shape[1] != len(self.mean):
            raise ValueError(
                f"the reward is of {len(self.mean)} features, and the pictures have "
                f"{features.shape[1]}; learn again"
            )
        mean, weights = self.mean.to(features), (self.projection @ self.theta).to(features)
        return (features - mean) @ weights

    def tensors(self) -> dict[str, Tensor]:
        return {"mean": self.mean, "projection": self.projection, "theta": self.theta}


@dataclass(frozen=True)
class Fit:
    """A reward and how well it fits."""

    reward: Reward
    given: int  # ratings; the pairs of one "best" count as one
    thumbs: int
    pairs: int
    accuracy: float  # on left-out ratings, balanced between up and down
    train_accuracy: float
    complaints: tuple[str, ...]


def projection_of(own: Tensor) -> tuple[Tensor, Tensor]:
    """Features [N, F] of the model's own pictures -> their mean [F] and a projection [F, K].

    Features are standardised. Each of PARTS is reduced to its principal components, which keep
    their relative sizes and have unit variance on average.
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
        deviation = (values[:count].square().mean() / len(own)).sqrt().clamp(min=1e-6)
        parts.append(vectors[:count].t() / deviation)
    return mean, torch.block_diag(*parts) / scale[:, None]


def fit_reward(
    model: Model, ratings: Sequence[Rating], own: Tensor, *, progress: OnPictures | None = None
) -> Fit:
    """Fit to the ratings; `own` are features of the model's own pictures.

    The last thumb on a picture counts. `progress` may raise to cancel. ValueError for too few
    ratings, or only thumbs of one kind.
    """
    ratings = settled_ratings(ratings)
    sides = [r.picture for r in ratings] + [r.other for r in ratings if r.other is not None]
    every = dict(zip((p.id for p in sides), regenerated(model, sides, progress), strict=True))
    pictures = {id_: picture for id_, picture in every.items() if picture is not None}
    usable = [
        r for r in ratings if all(p is None or p.id in pictures for p in (r.picture, r.other))
    ]
    check_ratings(usable, lost=len(ratings) - len(usable))
    mean, projection = projection_of(own)
    stack = torch.stack(list(pictures.values()))
    features = extract_features(stack, feature_extractor(model), progress=progress)
    projected = dict(zip(pictures, (features - mean) @ projection, strict=True))
    rows = torch.stack([_row(r, projected) for r in usable])
    groups = torch.tensor([0 if r.other is not None else r.value for r in usable])
    theta, accuracy, train_accuracy = fit_logistic(rows, groups)
    spread = ((own - mean) @ projection @ theta[:-1]).std().clamp(min=1e-6)
    reward = Reward(mean, projection, theta[:-1] / spread)
    thumbs = int((groups != 0).sum())
    complaints = _complaints(ratings, len(usable), accuracy, train_accuracy)
    given, pairs = num_given(usable), len(usable) - thumbs
    return Fit(reward, given, thumbs, pairs, accuracy, train_accuracy, complaints)


def num_given(ratings: Sequence[Rating]) -> int:
    """How many times someone rated: the pairs of one "best" count as one."""
    return len({rating.id[:ID_LENGTH] for rating in ratings})


def settled_ratings(ratings: Sequence[Rating]) -> list[Rating]:
    """Without thumbs that a later one on the same picture replaces."""
    last = {r.picture.id: r.id for r in ratings if r.other is None}
    return [r for r in ratings if r.other is not None or last[r.picture.id] == r.id]


def check_ratings(ratings: Sequence[Rating], *, lost: int = 0) -> None:
    """ValueError for too few ratings, and if all thumbs are up or all are down."""
    if (given := num_given(ratings)) < FEW:
        more = f" ({lost} more are of pictures that cannot be generated again)" if lost else ""
        raise ValueError(f"there are {given} ratings{more}; learning needs {FEW} or more")
    values = {r.value for r in ratings if r.other is None}
    pairs = sum(r.other is not None for r in ratings)
    if len(values) == 1 and pairs < FEW:
        way, other = ("up", "dislike") if values == {1} else ("down", "like")
        raise ValueError(
            f"all {len(ratings) - pairs} thumbs are {way}; rate some pictures that you {other}, too"
        )


def _row(rating: Rating, features: dict[str, Tensor]) -> Tensor:
    """[K + 1] whose product with theta should be positive: the winner's features minus the loser's,
    or a thumb's features, times its value; last comes the bias."""
    own = features[rating.picture.id]
    if rating.other is not None:
        return torch.cat([own - features[rating.other.id], own.new_zeros(1)])
    return rating.value * torch.cat([own, own.new_tensor([BIAS_SCALE])])


def fit_logistic(rows: Tensor, groups: Tensor) -> tuple[Tensor, float, float]:
    """theta of min sum softplus(-rows theta) + ridge / 2 |theta|^2, with accuracies.

    rows [N, K]; groups [N]: 1 for up, -1 for down, 0 for a pair. The ridge is the one with the best
    likelihood of left-out ratings. Returns theta [K], and the accuracies on left-out ratings and on
    the ratings of the fit.
    """
    n = len(rows)
    folds = min(n, MAX_FOLDS)
    kept = torch.ones(folds + 1, n)  # the last fold keeps everything
    kept[torch.arange(n) % folds, torch.arange(n)] = 0.0
    fits = []
    for ridge in RIDGES:
        thetas = newton(rows, kept, ridge)
        margins = (thetas[torch.arange(n) % folds] * rows).sum(dim=1)  # of left-out ratings
        fits.append((float(F.softplus(-margins).mean()), thetas[-1], margins))
    _, theta, margins = min(fits, key=lambda fit: fit[0])
    return theta, balanced_accuracy(margins, groups), balanced_accuracy(rows @ theta, groups)


def newton(rows: Tensor, kept: Tensor, ridge: float) -> Tensor:
    """[folds, K] argmin of sum_i kept_i softplus(-rows_i theta) + ridge / 2 |theta|^2, for each row
    of kept [folds, N]."""
    theta = rows.new_zeros(len(kept), rows.shape[1])
    identity = torch.eye(rows.shape[1])
    for _ in range(NEWTON_STEPS):
        p_wrong = torch.sigmoid(-(theta @ rows.t()))  # [folds, N]
        gradient = ridge * theta - (p_wrong * kept) @ rows
        curvature = p_wrong * kept * (1 - p_wrong)
        hessian = torch.einsum("fn,nk,nl->fkl", curvature, rows, rows) + ridge * identity
        theta = theta - torch.linalg.solve(hessian, gradient)
    return theta


def balanced_accuracy(margins: Tensor, groups: Tensor) -> float:
    """Share of positive margins, ties half; thumbs up and thumbs down have equal weight."""
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
    """Notes on the quality of the ratings."""
    notes, lost = [], len(ratings) - usable
    if lost:
        notes.append(f"{lost} ratings are of pictures that cannot be generated again")
    if clashes := contradictions(ratings):
        notes.append(f"{clashes} ratings contradict each other (the same pictures, another rating)")
    if accuracy < 0.5 + 0.5 * usable**-0.5:  # one standard error over chance
        notes.append(
            f"your ratings do not predict each other: {accuracy:.0%} of left-out ratings are "
            "predicted, chance is 50 %. They contradict each other, or are about something that "
            "the features do not show; rate more"
        )
    elif train_accuracy - accuracy > OVERFIT:
        notes.append(
            f"the reward overfits: it predicts {train_accuracy:.0%} of the ratings that it was "
            f"fitted to, and {accuracy:.0%} of others; rate more"
        )
    return tuple(notes)


def contradictions(ratings: Sequence[Rating]) -> int:
    """How many pairs are rated both ways, or against the thumbs on their two pictures."""
    thumbs = {r.picture.id: r.value for r in ratings if r.other is None}
    won = {(r.picture.id, r.other.id) for r in ratings if r.other is not None}
    both = sum((b, a) in won for a, b in won) // 2
    return both + sum(thumbs.get(a, 1) < thumbs.get(b, -1) for a, b in won)


def enough_for(count: int) -> str:
    """One line on what so many ratings are enough for."""
    if count < FEW:
        ratings = "1 rating" if count == 1 else f"{count} ratings"
        return f"{ratings}: {FEW - count} more and a first adapter can be learned"
    if count < SOME:
        return (
            f"{count} ratings: enough for best-of-N and a shift in w, weights untouched; "
            f"{SOME - count} more for LoRA"
        )
    return f"{count} ratings: enough for LoRA on the generator"
