"""Ratings in, adapter out: the ladder, the A/B, and what is said about both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..model import Model
from ..networks.generator import Generator
from ..progress import OnPictures
from ..version import __version__
from .ab_test import ab_test, figures, objections
from .adapter import Adapter, apply_adapter, base_of
from .finetune import Pool, Tuner, draw_pool
from .recipe import model_hash
from .reward import SOME, Fit, Reward, fit_reward, refuse_what_teaches_nothing, settled_ratings
from .store import Rating

METHODS = ("auto", "best", "shift", "lora")
CANDIDATES = 4
UNCONFIRMED_CANDIDATES = 2  # where held-out ratings do not say that what was learned is better
HELD_EVERY = 4  # every fourth rating is held out from LoRA's reward
SCALES = (1.0, 0.6, 0.3)  # of what was learned; the largest that does no harm is kept
TOTAL = 1000  # progress is told in thousandths


def learn(
    model: Model,
    ratings: Sequence[Rating],
    *,
    method: str = "auto",
    progress: OnPictures | None = None,
) -> Adapter:
    """An adapter of the model (without one that it may have) from ratings of its pictures.

    method: "best" draws the best of a few, "shift" also moves w, "lora" also updates weights;
    "auto" takes what the number of ratings is enough for. The card's `objections` say why the
    adapter had better not be used; it is empty where nothing was found. ValueError where the
    ratings teach nothing. `progress` may raise to cancel.
    """
    if method not in METHODS:
        raise ValueError(f"method is {method!r}; expected one of {', '.join(METHODS)}")
    tell = _Stages(progress)
    base = base_of(model)
    refuse_what_teaches_nothing(settled_ratings(ratings))  # before anything is drawn
    _chosen(base, method, len(ratings))
    with torch.inference_mode(False), torch.enable_grad():  # ComfyUI runs nodes without
        pool = draw_pool(base, tell.stage(0, 150))
        fit = fit_reward(base, ratings, pool.seen, progress=tell.stage(150, 150))
        method = _chosen(base, method, fit.ratings)
        adapter = Adapter(_card(base, method, fit), fit.reward, candidates=CANDIDATES)
        course: dict = {}
        scales: tuple[float, ...] = ()
        if method != "best":
            course, adapter, scales = _tuned(base, adapter, ratings, pool, fit, method, tell)
        return _tried(base, adapter, fit, course, (*scales, 0.0), tell)


def _chosen(base: Model, method: str, count: int) -> str:
    if not isinstance(base.networks.generator, Generator):
        if method in ("shift", "lora"):
            raise ValueError(f"model {base.name} has no w to shift; only method 'best' suits it")
        return "best"
    if method == "auto":
        return "lora" if count >= SOME else "shift"
    return method


def _card(base: Model, method: str, fit: Fit) -> dict:
    return {
        "base": {"name": base.name, "sha256": model_hash(base)},
        "method": method,
        "ratings": {"thumbs": fit.thumbs, "pairs": fit.pairs},
        "accuracy": fit.accuracy,
        "train_accuracy": fit.train_accuracy,
        "complaints": list(fit.complaints),
        "code_version": __version__,
    }


def _tuned(
    base: Model, adapter: Adapter, ratings: Sequence[Rating], pool: Pool, fit: Fit, method: str,
    tell: _Stages,
) -> tuple[dict, Adapter, tuple[float, ...]]:  # fmt: skip
    """How tuning went, what it gave, and the scales of it to try; smaller ones, and fewer
    candidates, where held-out ratings (or without them the reward) do not like it better."""
    reward, judge = fit.reward, None
    if method == "lora":
        reward, judge = _split(base, ratings, pool, fit, tell.stage(150, 150))
    tuner = Tuner(base, pool, reward, judge, method)
    course = tuner.run(tell.stage(150, 800))
    shift, lora = tuner.result()
    adapter = replace(adapter, shift=shift, lora=lora)
    if course["after"]["judge"] > course["before"]["judge"]:
        return course, adapter, SCALES
    notes = [*adapter.card["complaints"], "held-out ratings do not confirm it: followed less far"]
    cautious = replace(adapter, candidates=UNCONFIRMED_CANDIDATES)
    return course, cautious.with_card(complaints=notes), SCALES[1:]


def _split(
    base: Model, ratings: Sequence[Rating], pool: Pool, fit: Fit, tell: OnPictures
) -> tuple[Reward, Reward | None]:
    """The reward to follow and one of held-out ratings; all and None where that leaves too few."""
    held = list(ratings[::HELD_EVERY])
    used = [r for i, r in enumerate(ratings) if i % HELD_EVERY]
    try:
        return (
            fit_reward(base, used, pool.seen, progress=tell).reward,
            fit_reward(base, held, pool.seen, progress=tell).reward,
        )
    except ValueError:
        return fit.reward, None


def _tried(
    base: Model, adapter: Adapter, fit: Fit, course: dict, scales: tuple[float, ...], tell: _Stages
) -> Adapter:
    """The adapter at the first of `scales` that does no harm, or at the last; 0 is best-of-N
    alone."""
    before = figures(base, base, fit.reward, tell.stage(800, 840))
    for i, scale in enumerate(scales):
        stage = tell.stage(840 + 40 * i, 880 + 40 * i)
        scaled = _scaled(adapter, scale).with_card()
        after = figures(base, apply_adapter(base, scaled), fit.reward, stage)
        ab = ab_test(before, after)
        against = objections(ab)
        if not against:
            break
    if fit.accuracy <= 0.5:
        against.append("the ratings do not predict each other")
    tell.stage(0, TOTAL)(1, 1, None)
    return scaled.with_card(ab=ab, objections=against, scale=scale, course=course)


def _scaled(adapter: Adapter, scale: float) -> Adapter:
    if not scale:
        return replace(adapter, shift=None, lora={})
    assert adapter.shift is not None
    lora = {name: ((up * scale).half(), down) for name, (up, down) in adapter.lora.items()}
    return replace(adapter, shift=adapter.shift * scale, lora=lora)


class _Stages:
    """One bar for several stages."""

    def __init__(self, progress: OnPictures | None) -> None:
        self.progress = progress

    def stage(self, begin: int, end: int) -> OnPictures:
        def on_progress(done: int, total: int, pictures: Tensor | None) -> None:
            if self.progress is not None:
                self.progress(begin + (end - begin) * done // total, TOTAL, pictures)

        return on_progress


def report(adapter: Adapter) -> str:
    """What a person should know of an adapter, a line each."""
    card = adapter.card
    ab, ratings = card["ab"], card["ratings"]
    ways = {
        "best": "best of N",
        "shift": "best of N and a shift in w; weights untouched",
        "lora": "best of N, a shift in w and LoRA",
    }
    lines = [
        f"learned from {ratings['thumbs']} thumbs and {ratings['pairs']} pairs: "
        f"{ways[card['method']]}",
        f"left-out ratings that the reward predicts: {card['accuracy']:.0%} (chance 50 %)",
        *(f"note: {complaint}" for complaint in card["complaints"]),
        f"A/B on {ab['pictures']} pictures: liked more in {ab['win_rate']:.0%} by the reward, "
        f"{ab['reward'][0]:+.2f} -> {ab['reward'][1]:+.2f}",
        *(
            f"{key}: {ab[key][0]:.3f} -> {ab[key][1]:.3f}"
            for key in ("realism", "diversity", "agreement")
        ),
    ]
    if card["objections"]:
        lines.append(f"better not used: {'; '.join(card['objections'])}")
    return "\n".join(lines)
