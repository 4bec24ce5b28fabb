"""What an evaluation found, typed. `to_dict` gives the JSON of `imagen evaluate`, whose keys are
permanent (docs/evaluation.md)."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from ..data.dataset import InMemoryDataset


@dataclass(frozen=True)
class RetrievalResult:
    """How often the right real picture is the nearest (R@1), or among the nearest five or ten."""

    r1: float
    r1_interval: list[float]  # 95 %
    r5: float
    r10: float
    chance: float
    pairs: int
    seeds: int
    ceiling: float | None  # R@1 of real pictures of the same concepts; None where there are none


@dataclass(frozen=True)
class CompositionResult:
    """R@1 of pairs that training never saw, beside that of pairs that it saw."""

    held_out_r1: float
    trained: RetrievalResult

    def to_dict(self) -> dict[str, Any]:
        r1 = self.trained.r1
        ratio = self.held_out_r1 / r1 if r1 else None
        return {**asdict(self), "held_out_over_trained": ratio}


@dataclass(frozen=True)
class VarietyResult:
    """What seeds change where a prompt leaves it open."""

    styles_of_64_seeds: dict[str, dict[str, int]]  # by prompt: style -> pictures
    concepts_of_16_seeds: dict[str, int]  # by keyword


@dataclass(frozen=True)
class TextResult:
    """What only a model with text has."""

    retrieval: dict[str, RetrievalResult]  # by modality
    composition: CompositionResult
    concept_classifier: RetrievalResult | None  # None where training shows no held-out concept
    variety: VarietyResult

    def to_dict(self) -> dict[str, Any]:
        classifier = self.concept_classifier
        return {
            "retrieval": {name: asdict(found) for name, found in self.retrieval.items()},
            "composition": self.composition.to_dict(),
            **({"retrieval_judge": asdict(classifier)} if classifier else {}),
            "variety": asdict(self.variety),
        }


@dataclass(frozen=True)
class DiscriminatorResult:
    """How well the model's own discriminator tells pictures and captions apart."""

    auc_real_over_generated: float
    auc_right_over_shuffled_caption: float | None  # None for a model without text

    def to_dict(self) -> dict[str, float]:
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class DistributionResult:
    """Generated pictures against real ones as two sets of features, means over several splits.

    `*_floor` and `*_real` are the same figures of two sets of real pictures.
    """

    fd_lite1: float
    fd_lite1_floor: float
    kid_lite1: float
    kid_lite1_floor: float
    fd_random: float
    fd_random_floor: float
    density: float
    density_real: float
    coverage: float
    coverage_real: float
    fd_spatial: float
    fd_spatial_floor: float
    precision: float
    precision_real: float
    recall: float
    recall_real: float


@dataclass(frozen=True)
class DetailResult:
    """How well pictures are drawn (detail.py); `*_real`: the real pictures of the same captions."""

    sharpness: float  # RMS of what a 3x3 mean removes from luma inside shapes; black to white is 1
    sharpness_real: float
    chroma_noise: float  # mean distance of chroma from its local median
    chroma_noise_real: float
    edge_width: float | None  # pixels of half-transparent outline; None without transparency
    edge_width_real: float | None
    asymmetry: float | None  # mean difference from the mirror image, where the real one is alike
    asymmetry_real: float | None  # None where no real picture is symmetric
    symmetric_pictures: int


@dataclass(frozen=True)
class SpeedResult:
    """Median milliseconds an image, and the machine."""

    ms_an_image_at_batch_1: float
    ms_an_image_at_batch_32: float
    device: str
    threads: int


@dataclass(frozen=True)
class EvaluationResult:
    """Every figure of one model on one data set."""

    model: str
    extractor: str
    text: TextResult | None  # None for a model without text
    discriminator: DiscriminatorResult
    distribution: DistributionResult
    pictures_per_set: int  # behind `distribution`
    intervals: dict[str, tuple[float, float]]  # 95 %, of each field of `distribution`
    memorisation_ratio: float  # of held-out pairs; 0 for copies of training pictures, about 1 else
    memorisation_ratio_trained: float  # of training captions
    identical_to_training: int  # held-out pictures with a twin in the training split
    shared_artifact: float
    shared_artifact_real: float
    detail: DetailResult  # of held-out pairs
    diversity: dict[str, float]  # mean distances among_pictures, among_real_pictures, among_seeds
    prompts: list[str]  # of the sheet; prompt i has seed i
    speed: SpeedResult
    samples: int  # generated for held-out pairs
    seconds: float
    flags: dict[str, str] = field(default_factory=dict)  # quality_checks.py

    def to_dict(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "extractor": self.extractor,
            **(self.text.to_dict() if self.text else {"retrieval": {}}),
            "discriminator": self.discriminator.to_dict(),
            **asdict(self.distribution),
            "cloud": self.pictures_per_set,
            "intervals": self.intervals,
            "memorisation_ratio": self.memorisation_ratio,
            "memorisation_ratio_trained": self.memorisation_ratio_trained,
            "identical_to_training": self.identical_to_training,
            "common_mark": self.shared_artifact,
            "common_mark_real": self.shared_artifact_real,
            "detail": asdict(self.detail),
            "diversity": self.diversity,
            "sheet": {"prompts": self.prompts, "seeds": [0, len(self.prompts) - 1]},
            "speed": asdict(self.speed),
            "samples": self.samples,
            "seconds": self.seconds,
            "flags": self.flags,
        }


class NearestPair(NamedTuple):
    """A generated picture of a held-out pair, and the training picture nearest to it."""

    pair: int
    train: int
    distance: float


@dataclass(frozen=True)
class Evidence:
    """The pictures behind the figures, for html_report.py."""

    test: InMemoryDataset
    train: InMemoryDataset
    generated: Tensor  # [pairs, seeds, C, H, W] of the held-out pairs
    nearest: list[NearestPair]  # the nearest first
    sheet: Tensor  # picture i shows prompt i with seed i
