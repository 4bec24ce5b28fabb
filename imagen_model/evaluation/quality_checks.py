"""Warnings: what the figures of an evaluation say is wrong with a model."""

from __future__ import annotations

from .results import EvaluationResult

MIN_COVERAGE = 0.25  # of what real pictures reach
MIN_DENSITY = 0.25
MIN_VARIETY = 0.7
MIN_AMONG_SEEDS = 0.05
MIN_MEMORISATION = 0.9
MAX_ARTIFACT = 0.05  # of the fine detail, and twice what real pictures share
MAX_CHANCE = 0.5  # galleries of one or two pictures say nothing


def check_quality(result: EvaluationResult) -> dict[str, str]:
    """Name -> one line for each thing that is wrong; empty for a sound model.

    "alike": few kinds of pictures; "seeds": they change nothing; "copies": of training pictures;
    "mark": an artifact that all share; "prompt": it is ignored; "unreal": pictures are far from
    real ones.
    """
    found = {}
    of, spread = result.distribution, result.diversity
    variety = spread["among_pictures"] / spread["among_real_pictures"]
    is_unreal = of.density < MIN_DENSITY * of.density_real
    few_covered = of.coverage < MIN_COVERAGE * of.coverage_real
    if variety < MIN_VARIETY or (few_covered and not is_unreal):
        found["alike"] = (
            f"pictures look alike: coverage {of.coverage:.2f} (real pictures "
            f"{of.coverage_real:.2f}), {variety:.0%} of their variety"
        )
    if spread["among_seeds"] < MIN_AMONG_SEEDS:
        found["seeds"] = f"seeds change nothing: mean distance {spread['among_seeds']:.3f}"
    if result.memorisation_ratio < MIN_MEMORISATION:
        found["copies"] = (
            f"copies training pictures: ratio {result.memorisation_ratio:.2f}, "
            f"under {MIN_MEMORISATION:g}"
        )
    artifact, real_artifact = result.shared_artifact, result.shared_artifact_real
    if artifact > max(MAX_ARTIFACT, 2 * real_artifact):
        found["mark"] = (
            f"pictures carry the same mark: {artifact:.0%} of their fine detail is the same in all "
            f"of them (real pictures {real_artifact:.0%})"
        )
    for modality, r in (result.text.retrieval if result.text else {}).items():
        if r.chance < MAX_CHANCE and r.r1_interval[0] <= r.chance:
            found["prompt" if modality == "text" else f"prompt_{modality}"] = (
                f"ignores the prompt ({modality}): R@1 {r.r1:.1%} is at chance ({r.chance:.1%})"
            )
    if is_unreal:
        found["unreal"] = (
            f"pictures are far from real ones: density {of.density:.2f} (real pictures "
            f"{of.density_real:.2f}), FD-lite1 {of.fd_lite1:.0f} (floor {of.fd_lite1_floor:.0f})"
        )
    return found
