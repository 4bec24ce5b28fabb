"""`imagen evaluate`: the figures of one model on one prepared data set.

Every picture has a fixed seed, so two runs on one machine print the same figures, except `speed`
and `seconds`.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from ..model import Model
from ..progress import OnStage
from .composition import measure_composition
from .concept_classifier import classifier_retrieval
from .dataset import (
    SEEDS,
    EvaluationSet,
    all_pixels,
    base_pictures,
    generate_seeds,
    has_text,
    refuse_overlap,
    seed_features,
)
from .density_coverage import (
    mean_pairwise_distance,
    memorisation_ratio,
    nearest,
    nearest_distance,
)
from .detail import measure_detail
from .discriminator_auc import measure_discriminator
from .distribution import compare_distributions
from .features import Lite1
from .html_report import write_page
from .modalities import audio_retrieval, image_retrieval
from .quality_checks import check_quality
from .results import EvaluationResult, Evidence, NearestPair, TextResult
from .retrieval import text_retrieval
from .shared_artifact import shared_artifact
from .sheet import generate_sheet
from .speed import measure_speed
from .variety import measure_variety


def evaluate(
    model: Model, data: Path, *, html: Path | None = None, stage: OnStage = lambda text: None
) -> EvaluationResult:
    """Measure `model` on the test split of `data` (made by `imagen data`). `html` is where a page
    with pictures goes.

    ValueError where the data has no usable test split, or where the model was trained on it.
    """
    result, evidence = measure(model, data, stage)
    if html is not None:
        write_page(html, result, evidence)
    return result


def measure(model: Model, data: Path, stage: OnStage) -> tuple[EvaluationResult, Evidence]:
    """The figures, and the pictures behind them."""
    started = time.monotonic()
    stage("reading pictures")
    test, train = (base_pictures(model, data, split) for split in ("test", "train"))
    styles = ", ".join(dict.fromkeys(item.style for item in test.items if item.style))
    of_styles = f" in the styles {styles}" if styles else ""
    stage(f"{len(test)} held-out pictures{of_styles}, {len(train)} of training")
    twins = refuse_overlap(test, train)
    speed = measure_speed(model)
    stage("features of real pictures")
    evaluated = EvaluationSet(model, Lite1(), test, train)
    real_distance = nearest_distance(evaluated.test_features, evaluated.train_features).mean()
    stage(f"generating {len(test)} held-out pairs, {SEEDS} seeds each")
    generated = generate_seeds(model, test.items)
    queries = seed_features(evaluated.lite1, generated)
    text = _measure_text(evaluated, generated, queries, stage) if has_text(model) else None
    stage("the discriminator's scores")
    discriminator = measure_discriminator(evaluated, generated[:, 0])
    comparison = compare_distributions(evaluated, stage)
    stage("64 prompts")
    prompts, sheet = generate_sheet(model, train.items)

    real = all_pixels(test)
    distance, index = nearest(queries[:, 0], evaluated.train_features)
    order = distance.argsort().tolist()
    pairs = [NearestPair(i, int(index[i]), float(distance[i])) for i in order]
    result = EvaluationResult(
        model=model.name,
        extractor=evaluated.lite1.name,
        text=text,
        discriminator=discriminator,
        distribution=comparison.means,
        pictures_per_set=comparison.pictures_per_set,
        intervals=comparison.intervals,
        memorisation_ratio=memorisation_ratio(
            queries[:, 0], evaluated.test_features, evaluated.train_features
        ),
        memorisation_ratio_trained=float(comparison.distance_to_training / real_distance),
        identical_to_training=twins,
        shared_artifact=shared_artifact(generated[:, 0]),
        shared_artifact_real=shared_artifact(real),
        detail=measure_detail(real, generated[:, 0]),
        diversity=comparison.diversity | {"among_seeds": mean_pairwise_distance(queries)},
        prompts=prompts,
        speed=speed,
        samples=int(generated.shape[0] * generated.shape[1]),
        seconds=round(time.monotonic() - started, 1),
    )
    result = replace(result, flags=check_quality(result))
    return result, Evidence(test, train, generated, pairs, sheet)


def _measure_text(
    evaluated: EvaluationSet, generated: Tensor, queries: Tensor, stage: OnStage
) -> TextResult:
    retrieval = {"text": text_retrieval(evaluated, queries)}
    stage("pictures as prompts")
    if image := image_retrieval(evaluated):
        retrieval["image"] = image
    if audio := audio_retrieval(evaluated, stage):
        retrieval["audio"] = audio
    stage("trained pairs, for comparison")
    composition = measure_composition(evaluated, retrieval["text"].r1)
    stage("a second evaluator")
    classifier = classifier_retrieval(evaluated, generated)
    stage("what seeds change")
    return TextResult(retrieval, composition, classifier, measure_variety(evaluated))
