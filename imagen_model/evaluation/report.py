"""`imagen evaluate`: the figures of one model on one prepared data set, as a dictionary.

Everything is drawn from fixed seeds, so two runs on one machine print the same figures.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.folder import PictureSet, load_pictures, read_samples
from ..model import Model
from .distances import frechet_distance, kernel_distance
from .extractor import Lite1
from .neighbours import density_and_coverage, mean_pairwise_distance, memorisation_ratio
from .retrieval import retrieve

SEEDS = 4  # pictures drawn for each held-out pair
STYLE_PROMPTS = ("red apple", "cat face", "rocket")
KEYWORDS = ("flag", "animal")
MAX_CLOUD = 4000  # pictures a side where two clouds of features are compared
Stage = Callable[[str], object]


def evaluate(model: Model, data: Path, *, stage: Stage = lambda text: None) -> dict:
    """Measure `model` on the test split of `data` (made by `imagen data`); keys as documented.

    ValueError where the data has no usable test split, or where the model was trained on it.
    """
    started = time.monotonic()
    stage("reading pictures")
    test = _base_pictures(model, data, "test")
    train = _base_pictures(model, data, "train")
    _refuse_overlap(test, train)
    stage("features of real pictures")
    lite1 = Lite1()
    test_features = lite1(_pixels(test))
    train_pooled = lite1.pooled(_pixels(train))
    train_features = F.normalize(train_pooled, dim=1)
    concepts = {s.base for s in test.samples}
    kin = [i for i, s in enumerate(train.samples) if s.base in concepts]

    stage(f"drawing {len(test)} held-out pairs, {SEEDS} seeds each")
    drawn = torch.stack([_draw_pairs(model, test, seed) for seed in range(SEEDS)], dim=1)
    queries = lite1(drawn.flatten(0, 1)).unflatten(0, (len(test), SEEDS))
    names = [s.base for s in test.samples]
    styles = [s.style for s in test.samples]
    text = retrieve(queries, names, styles, test_features, names, styles).summary()
    text["ceiling"] = _ceiling(test, train, kin, train_features[kin], test_features)

    stage("the discriminator's judgement")
    judged = _judge(model, test, drawn[:, 0])
    stage("what seeds change")
    variety = _variety(model, lite1, test, train, test_features, train_features)
    stage("distance from the real pictures")
    clouds = _clouds(model, lite1, train, train_pooled)
    return {
        "model": model.name,
        "extractor": lite1.name,
        "retrieval": {"text": text},
        "discriminator": judged,
        "variety": variety,
        **clouds,
        "memorisation_ratio": memorisation_ratio(queries[:, 0], test_features, train_features),
        "diversity": clouds["diversity"] | {"among_seeds": mean_pairwise_distance(queries)},
        "samples": int(drawn.shape[0] * drawn.shape[1]),
        "seconds": round(time.monotonic() - started, 1),
    }


def _base_pictures(model: Model, data: Path, split: str) -> PictureSet:
    """Emoji without skin tones; for other data everything that has a caption."""
    samples = [s for s in read_samples(data, split=split) if s.hexcode == s.base and s.text]
    if not samples:
        raise ValueError(f"{data} has no captioned pictures in its {split} split")
    config = model.config.generator
    return load_pictures(samples, resolution=config.resolution, channels=config.channels)


def _refuse_overlap(test: PictureSet, train: PictureSet) -> None:
    seen = {(s.base, s.style) for s in train.samples if s.base}
    both = [s.text for s in test.samples if (s.base, s.style) in seen]
    if both:
        raise ValueError(f"{len(both)} test pairs are in the training split too ({both[0]})")


def _pixels(pictures: PictureSet) -> Tensor:
    return pictures.batch(torch.arange(len(pictures)))


def _condition(model: Model, pictures: PictureSet):
    """Caption and style of each picture."""
    condition = model.encode_text([s.text for s in pictures.samples])
    style = torch.zeros(len(pictures), len(model.styles))
    for row, sample in zip(style, pictures.samples, strict=True):
        if sample.style in model.styles:
            row[model.styles.index(sample.style)] = 1
    return condition.with_style(style)


def _draw_pairs(model: Model, pictures: PictureSet, seed: int) -> Tensor:
    """One picture for each held-out pair; pair i takes seed 1000 * i + seed."""
    seeds = [1000 * i + seed for i in range(len(pictures))]
    return model.draw(_condition(model, pictures), model.latent(seeds))


def _ceiling(
    test: PictureSet, train: PictureSet, kin: list[int], kin_features: Tensor, test_features: Tensor
) -> float:
    """R@1 of real pictures of the same concept in other styles."""
    place: dict[str, list[int]] = {}
    for row, i in enumerate(kin):
        place.setdefault(train.samples[i].base, []).append(row)
    queries, names, styles = [], [], []
    for sample in test.samples:
        for row in place.get(sample.base, []):
            queries.append(kin_features[row])
            names.append(sample.base)
            styles.append(sample.style)
    if not queries:
        return float("nan")
    gallery_names = [s.base for s in test.samples]
    gallery_styles = [s.style for s in test.samples]
    stacked = torch.stack(queries)[:, None]
    return retrieve(stacked, names, styles, test_features, gallery_names, gallery_styles).recall(1)


def auc(positive: Tensor, negative: Tensor) -> float:
    """Probability that a positive scores above a negative, ties half."""
    difference = positive[:, None] - negative[None, :]
    return float((difference > 0).float().mean() + 0.5 * (difference == 0).float().mean())


def _judge(model: Model, test: PictureSet, drawn: Tensor) -> dict:
    condition = _condition(model, test)
    real = model.score(_pixels(test), condition)
    fake = model.score(drawn, condition)
    order = torch.arange(len(test)).roll(len(test) // 3)  # another concept, often another style
    shuffled = condition[order].with_style(condition.style)
    wrong = model.score(_pixels(test), shuffled)
    assert real.match is not None and wrong.match is not None
    return {
        "auc_real_over_generated": auc(real.realism, fake.realism),
        "auc_right_over_shuffled_caption": auc(real.match, wrong.match),
    }


def _variety(
    model: Model,
    lite1: Lite1,
    test: PictureSet,
    train: PictureSet,
    test_features: Tensor,
    train_features: Tensor,
) -> dict:
    """With no style given, how many styles 64 seeds of a prompt show; how many concepts 16 seeds of
    a keyword do. A picture's style and concept are those of the nearest real picture."""
    reals = torch.cat([test_features, train_features])
    samples = test.samples + train.samples
    result: dict = {"styles_of_64_seeds": {}, "concepts_of_16_seeds": {}}
    for prompt in STYLE_PROMPTS if model.styles else ():
        nearest = (lite1(model.sample(prompt, seeds=range(64))) @ reals.t()).argmax(dim=1)
        found, counts = np.unique([samples[i].style for i in nearest], return_counts=True)
        result["styles_of_64_seeds"][prompt] = dict(
            zip(found.tolist(), counts.tolist(), strict=True)
        )
    for keyword in KEYWORDS:
        nearest = (lite1(model.sample(keyword, seeds=range(16))) @ reals.t()).argmax(dim=1)
        result["concepts_of_16_seeds"][keyword] = len({samples[i].base for i in nearest})
    return result


def _clouds(model: Model, lite1: Lite1, train: PictureSet, train_pooled: Tensor) -> dict:
    """Generated pictures against real ones of the same kind, as clouds of features.

    One random half of the real pictures lends its captions and styles, the other half is what the
    drawn ones are compared with; the floor is the distance between the two halves.
    """
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
    count = min(len(train) // 2, MAX_CLOUD)
    asked, real = order[:count], order[count : 2 * count]
    lenders = PictureSet([train.samples[i] for i in asked.tolist()], train.pixels[asked])
    drawn = lite1.pooled(_draw_pairs(model, lenders, 0))
    floor, reference = train_pooled[asked], train_pooled[real]
    near = density_and_coverage(F.normalize(reference, dim=1), F.normalize(drawn, dim=1))
    spread = mean_pairwise_distance(F.normalize(drawn, dim=1))
    return {
        "fd_lite1": frechet_distance(reference, drawn),
        "fd_lite1_floor": frechet_distance(reference, floor),
        "kid_lite1": kernel_distance(reference, drawn),
        "density": near.density,
        "coverage": near.coverage,
        "diversity": {
            "among_pictures": spread,
            "among_real_pictures": mean_pairwise_distance(F.normalize(floor, dim=1)),
        },
        "cloud": count,
    }
