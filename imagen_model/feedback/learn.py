"""Ratings -> adapter: reward, fine-tuning and A/B test, and a report of them."""

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
from .finetune import Pool, Tuner, generate_pool
from .recipe import model_hash
from .reward import SOME, Fit, Reward, check_ratings, fit_reward, num_given, settled_ratings
from .store import Rating

METHODS = ("auto", "best", "shift", "lora")
CANDIDATES = 4
UNCONFIRMED_CANDIDATES = 2  # where held-out ratings did not improve
HELD_EVERY = 4  # every fourth rating is held out from LoRA's reward
SCALES = (1.0, 0.6, 0.3)  # of the update; the largest without objections is kept
TOTAL = 1000  # progress counts in thousandths


def learn(
    model: Model,
    ratings: Sequence[Rating],
    *,
    method: str = "auto",
    progress: OnPictures | None = None,
) -> Adapter:
    """An adapter of the base model from ratings of its pictures.

    method: "best" chooses the best of a few candidates, "shift" also shifts w, "lora" also updates
    weights; "auto" chooses by the number of ratings. The card's `objections` are the reasons not to
    use the adapter, if any. ValueError for too few or one-sided ratings. `progress` may raise to
    cancel.
    """
    if method not in METHODS:
        raise ValueError(f"method is {method!r}; expected one of {', '.join(METHODS)}")
    stages = _Stages(progress)
    base = base_of(model)
    check_ratings(settled_ratings(ratings))  # before any picture is generated
    _chosen(base, method, num_given(ratings))
    with torch.inference_mode(False), torch.enable_grad():  # ComfyUI runs nodes in inference mode
        pool = generate_pool(base, stages.part(0, 150))
        fit = fit_reward(base, ratings, pool.features, progress=stages.part(150, 150))
        method = _chosen(base, method, fit.given)
        adapter = Adapter(_card(base, method, fit), fit.reward, candidates=CANDIDATES)
        course: dict = {}
        scales: tuple[float, ...] = ()
        if method != "best":
            course, adapter, scales = _tuned(base, adapter, ratings, pool, fit, method, stages)
        return _tested(base, adapter, fit, course, (*scales, 0.0), stages)


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
    stages: _Stages,
) -> tuple[dict, Adapter, tuple[float, ...]]:  # fmt: skip
    """The record of tuning, its adapter, and the scales to test. If the reward of held-out ratings
    (or without them the reward) does not improve, there are smaller scales and fewer candidates."""
    reward, judge = fit.reward, None
    if method == "lora":
        reward, judge = _split(base, ratings, pool, fit, stages.part(150, 150))
    tuner = Tuner(base, pool, reward, judge, method)
    course = tuner.run(stages.part(150, 800))
    shift, lora = tuner.result()
    adapter = replace(adapter, shift=shift, lora=lora)
    if course["after"]["judge"] > course["before"]["judge"]:
        return course, adapter, SCALES
    notes = [
        *adapter.card["complaints"],
        "held-out ratings do not confirm it: the update starts smaller",
    ]
    cautious = replace(adapter, candidates=UNCONFIRMED_CANDIDATES)
    return course, cautious.with_card(complaints=notes), SCALES[1:]


def _split(
    base: Model, ratings: Sequence[Rating], pool: Pool, fit: Fit, progress: OnPictures
) -> tuple[Reward, Reward | None]:
    """The reward to train on and one of held-out ratings; that of all ratings and None where there
    are too few to split."""
    used = [r for i, r in enumerate(ratings) if i % HELD_EVERY]
    try:
        reward, judge = (
            fit_reward(base, part, pool.features, progress=progress).reward
            for part in (used, ratings[::HELD_EVERY])
        )
    except ValueError:
        return fit.reward, None
    return reward, judge


def _tested(
    base: Model, adapter: Adapter, fit: Fit, course: dict, scales: Sequence[float], stages: _Stages
) -> Adapter:
    """The adapter at the first of `scales` without objections, or at the last; 0 is best-of-N
    alone."""
    before = figures(base, base, fit.reward, stages.part(800, 840))
    for i, scale in enumerate(scales):
        progress = stages.part(840 + 40 * i, 880 + 40 * i)
        scaled = _scaled(adapter, scale).with_card()
        after = figures(base, apply_adapter(base, scaled), fit.reward, progress)
        ab = ab_test(before, after)
        reasons = objections(ab)
        if not reasons:
            break
    if fit.accuracy <= 0.5:
        reasons.append("the ratings do not predict each other")
    stages.part(0, TOTAL)(1, 1, None)
    return scaled.with_card(ab=ab, objections=reasons, scale=scale, course=course)


def _scaled(adapter: Adapter, scale: float) -> Adapter:
    if not scale:
        return replace(adapter, shift=None, lora={})
    assert adapter.shift is not None
    lora = {name: ((up * scale).half(), down) for name, (up, down) in adapter.lora.items()}
    return replace(adapter, shift=adapter.shift * scale, lora=lora)


class _Stages:
    """One progress bar for several stages."""

    def __init__(self, progress: OnPictures | None) -> None:
        self.progress = progress

    def part(self, begin: int, end: int) -> OnPictures:
        def on_progress(done: int, total: int, pictures: Tensor | None) -> None:
            if self.progress is not None:
                self.progress(begin + (end - begin) * done // total, TOTAL, pictures)

        return on_progress


def report(adapter: Adapter) -> str:
    """An adapter's summary for people, in lines."""
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
