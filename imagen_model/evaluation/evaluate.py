"""`imagen evaluate`: the figures of one model on one prepared data set, as a dictionary.

Everything is drawn from fixed seeds, so two runs on one machine print the same figures, but for
`speed` and `seconds`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.dataset import InMemoryDataset
from ..data.item import Item
from ..model import Model
from ..progress import OnStage
from .concept_classifier import ConceptClassifier
from .dataset import (
    all_pixels,
    base_pictures,
    concept_of,
    condition_of,
    draw_pairs,
    has_text,
    refuse_overlap,
    subset,
)
from .density_coverage import mean_pairwise_distance, nearest, nearest_distance
from .distribution import compare_distributions
from .features import Lite1, RandomConvolutions
from .modalities import audio_retrieval, image_retrieval
from .quality_checks import flags
from .retrieval import retrieve
from .shared_artifact import shared_artifact
from .sheet import draw_sheet
from .speech import held_out_speech
from .speed import measure_speed

SEEDS = 4  # pictures drawn for each held-out pair
SPOKEN = 120  # held-out pairs that are asked for by voice, too
STYLE_PROMPTS = ("red apple", "cat face", "rocket")
KEYWORDS = ("flag", "animal")


class NearestPair(NamedTuple):
    """A drawn picture of a held-out pair, and the training picture nearest to it."""

    pair: int
    train: int
    distance: float


@dataclass(frozen=True)
class Evidence:
    """The pictures behind the figures, for page.py."""

    test: InMemoryDataset
    train: InMemoryDataset
    drawn: Tensor  # [pairs, SEEDS, C, H, W] of the held-out pairs
    nearest: list[NearestPair]  # the nearest first
    prompts: list[str]
    sheet: Tensor  # picture i shows prompt i with seed i


def evaluate(
    model: Model, data: Path, *, html: Path | None = None, stage: OnStage = lambda text: None
) -> dict:
    """Measure `model` on the test split of `data` (made by `imagen data`); keys as documented in
    docs/evaluation.md. `html` is where a page with pictures goes.

    ValueError where the data has no usable test split, or where the model was trained on it.
    """
    figures, evidence = measure(model, data, stage=stage)
    if html is not None:
        from .html_report import write_page

        write_page(html, figures, evidence)
    return figures


def measure(
    model: Model, data: Path, *, stage: OnStage = lambda text: None
) -> tuple[dict, Evidence]:
    """The figures, and the pictures that they come from."""
    started = time.monotonic()
    stage("reading pictures")
    test = base_pictures(model, data, "test")
    train = base_pictures(model, data, "train")
    twins = refuse_overlap(test, train)
    speed = measure_speed(model)
    stage("features of real pictures")
    lite1 = Lite1()
    test_features = lite1(all_pixels(test))
    train_pooled = lite1.pooled(all_pixels(train))
    train_features = F.normalize(train_pooled, dim=1)
    train_random = RandomConvolutions().pooled(all_pixels(train))

    stage(f"drawing {len(test)} held-out pairs, {SEEDS} seeds each")
    drawn = _draw_seeds(model, test)
    queries = lite1(drawn.flatten(0, 1)).unflatten(0, (len(test), SEEDS))
    by_modality, more = {}, {}
    if has_text(model):
        names = [concept_of(s) for s in test.items]
        styles = [s.style for s in test.items]
        text = retrieve(queries, names, styles, test_features, names, styles).summary()
        text["ceiling"] = _ceiling(test.items, test, test_features, train, train_features)
        by_modality["text"] = text
        stage("pictures as prompts")
        image = image_retrieval(
            model, test, train, lite1, test_features, train_features, seeds=SEEDS
        )
        if image is not None:
            by_modality["image"] = image
        audio = _spoken(model, lite1, test, train, test_features, train_features, stage)
        if audio is not None:
            by_modality["audio"] = audio
        stage("trained pairs, for comparison")
        more["composition"] = _composition(model, lite1, test, train, train_features, text)
        stage("a second judge")
        judged = _second_judge(test, train, drawn)
        if judged is not None:
            more["retrieval_judge"] = judged
        stage("what seeds change")
        more["variety"] = _variety(model, lite1, test, train, test_features, train_features)
    stage("the discriminator's judgement")
    more["discriminator"] = _discriminator(model, test, drawn[:, 0])
    clouds = compare_distributions(model, lite1, train, train_pooled, train_random, stage=stage)
    stage("64 prompts")
    prompts, sheet = draw_sheet(model, train.items)

    distance, index = nearest(queries[:, 0], train_features)
    real_distance = nearest_distance(test_features, train_features).mean()
    order = distance.argsort().tolist()
    pairs = [NearestPair(i, int(index[i]), float(distance[i])) for i in order]
    figures = {
        "model": model.name,
        "extractor": lite1.name,
        "retrieval": by_modality,
        **more,
        **clouds.figures,
        "intervals": clouds.intervals,
        "memorisation_ratio": float(distance.mean() / real_distance),
        "memorisation_ratio_trained": float(clouds.to_training / real_distance),
        "identical_to_training": twins,
        "common_mark": shared_artifact(drawn[:, 0]),
        "common_mark_real": shared_artifact(all_pixels(test)),
        "diversity": clouds.diversity | {"among_seeds": mean_pairwise_distance(queries)},
        "sheet": {"prompts": prompts, "seeds": [0, len(prompts) - 1]},
        "speed": speed,
        "samples": int(drawn.shape[0] * drawn.shape[1]),
        "seconds": round(time.monotonic() - started, 1),
    }
    figures["flags"] = flags(figures)
    return figures, Evidence(test, train, drawn, pairs, prompts, sheet)


def _draw_seeds(model: Model, pictures: InMemoryDataset) -> Tensor:
    """[N, SEEDS, C, H, W]"""
    return torch.stack([draw_pairs(model, pictures, seed) for seed in range(SEEDS)], dim=1)


def _ceiling(
    asked: Sequence[Item],
    gallery: InMemoryDataset,
    features: Tensor,
    train: InMemoryDataset,
    train_features: Tensor,
) -> float | None:
    """R@1 of real pictures of the asked concepts in other styles; None where there are none."""
    place: dict[str, list[int]] = {}
    for i, item in enumerate(train.items):
        place.setdefault(concept_of(item), []).append(i)
    shown, rows = [], []
    for item in asked:
        for i in place.get(concept_of(item), []):
            other = train.items[i]
            if other is not item and (other.style != item.style or not item.style):
                shown.append(item)
                rows.append(i)
    if not rows:
        return None
    queries = train_features[rows][:, None]
    return retrieve(
        queries,
        [concept_of(s) for s in shown],
        [s.style for s in shown],
        features,
        [concept_of(s) for s in gallery.items],
        [s.style for s in gallery.items],
    ).recall(1)


def _spoken(
    model: Model,
    lite1: Lite1,
    test: InMemoryDataset,
    train: InMemoryDataset,
    test_features: Tensor,
    train_features: Tensor,
    stage: OnStage,
) -> dict | None:
    """Retrieval of names said by voices that the recogniser was not trained on; None, and a line,
    where there is nothing to say them with."""
    asked = test.items[:: -(-len(test) // SPOKEN)]
    try:
        clips = held_out_speech([s.text for s in asked])
    except ValueError as error:
        stage(f"no spoken prompts: {error}")
        return None
    stage("spoken prompts")
    found = audio_retrieval(model, clips, asked, lite1, test, test_features, seeds=SEEDS)
    return found | {"ceiling": _ceiling(asked, test, test_features, train, train_features)}


def _composition(
    model: Model,
    lite1: Lite1,
    test: InMemoryDataset,
    train: InMemoryDataset,
    train_features: Tensor,
    held_out: dict,
) -> dict:
    """R@1 of pairs that training has seen, in galleries as large as those of the held-out pairs.

    A model that composes concept and style does as well on pairs that it has never seen.
    """
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0)).tolist()
    wanted = dict.fromkeys({s.style for s in test.items}, 0)
    for item in test.items:
        wanted[item.style] += 1
    taken, seen = [], set()
    for i in order:
        item = train.items[i]
        key = (concept_of(item), item.style)
        if wanted.get(item.style, 0) and key not in seen:
            wanted[item.style] -= 1
            seen.add(key)
            taken.append(i)
    index = torch.tensor(taken)
    trained = subset(train, index)
    queries = lite1(_draw_seeds(model, trained).flatten(0, 1)).unflatten(0, (len(taken), SEEDS))
    names, styles = [concept_of(s) for s in trained.items], [s.style for s in trained.items]
    gallery = train_features[index]
    result = retrieve(queries, names, styles, gallery, names, styles).summary()
    result["ceiling"] = _ceiling(trained.items, trained, gallery, train, train_features)
    ratio = held_out["r1"] / result["r1"] if result["r1"] else None
    return {"held_out_r1": held_out["r1"], "trained": result, "held_out_over_trained": ratio}


def _second_judge(test: InMemoryDataset, train: InMemoryDataset, drawn: Tensor) -> dict | None:
    """Retrieval as the concept judge sees it, among held-out concepts of the style; None where
    training shows none of them."""
    judge = ConceptClassifier(all_pixels(train), train.items)
    known = [i for i, s in enumerate(test.items) if concept_of(s) in judge]
    if not known:
        return None
    names = [concept_of(test.items[i]) for i in known]
    styles = [test.items[i].style for i in known]
    gallery = judge.concepts(names)

    def asked(pictures: Tensor):  # [N, S, C, H, W]
        repeated = [style for style in styles for _ in range(pictures.shape[1])]
        found = judge(pictures.flatten(0, 1), repeated).unflatten(0, pictures.shape[:2])
        return retrieve(found, names, styles, gallery, names, styles)

    result = asked(drawn[known]).summary()
    result["ceiling"] = asked(test.batch(torch.tensor(known))[:, None]).recall(1)
    return result


def auc(positive: Tensor, negative: Tensor) -> float:
    """Probability that a positive scores above a negative, ties half."""
    difference = positive[:, None] - negative[None, :]
    return float((difference > 0).float().mean() + 0.5 * (difference == 0).float().mean())


def _discriminator(model: Model, test: InMemoryDataset, drawn: Tensor) -> dict:
    condition = condition_of(model, test)
    real = model.score(all_pixels(test), condition)
    fake = model.score(drawn, condition)
    result = {"auc_real_over_generated": auc(real.realism, fake.realism)}
    if has_text(model):
        order = torch.arange(len(test)).roll(len(test) // 3)  # another concept, often another style
        shuffled = condition[order].with_style(condition.style)
        wrong = model.score(all_pixels(test), shuffled)
        assert real.match is not None and wrong.match is not None
        result["auc_right_over_shuffled_caption"] = auc(real.match, wrong.match)
    return result


def _variety(
    model: Model,
    lite1: Lite1,
    test: InMemoryDataset,
    train: InMemoryDataset,
    test_features: Tensor,
    train_features: Tensor,
) -> dict:
    """With no style given, how many styles 64 seeds of a prompt show; how many concepts 16 seeds of
    a keyword do. A picture's style and concept are those of the nearest real picture."""
    reals = torch.cat([test_features, train_features])
    items = test.items + train.items
    result: dict = {"styles_of_64_seeds": {}, "concepts_of_16_seeds": {}}
    for prompt in STYLE_PROMPTS if model.styles else ():
        found = (lite1(model.sample(prompt, seeds=range(64))) @ reals.t()).argmax(dim=1)
        shown, counts = np.unique([items[i].style for i in found], return_counts=True)
        result["styles_of_64_seeds"][prompt] = dict(
            zip(shown.tolist(), counts.tolist(), strict=True)
        )
    for keyword in KEYWORDS:
        found = (lite1(model.sample(keyword, seeds=range(16))) @ reals.t()).argmax(dim=1)
        result["concepts_of_16_seeds"][keyword] = len({concept_of(items[i]) for i in found})
    return result
