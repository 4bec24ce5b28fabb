"""Warnings: what the figures of an evaluation say is wrong with a model."""

from __future__ import annotations

from .results import DetailResult, EvaluationResult

MIN_COVERAGE = 0.25  # of what real pictures reach
MIN_DENSITY = 0.25
MIN_VARIETY = 0.7
MIN_AMONG_SEEDS = 0.05
MIN_MEMORISATION = 0.9
MAX_ARTIFACT = 0.05  # of the fine detail, and twice what real pictures share
MIN_SHARPNESS = 0.6  # of that of real pictures
MAX_EDGE_WIDTH = 1.5  # times that of real pictures
MAX_CHROMA_NOISE = 1.5
MAX_CHANCE = 0.5  # galleries of one or two pictures say nothing


def check_quality(result: EvaluationResult) -> dict[str, str]:
    """Name -> one line for each thing that is wrong; empty for a sound model.

    "alike": few kinds of pictures; "seeds": they change nothing; "copies": of training pictures;
    "mark": an artifact that all share; "smear": insides or outlines are blurred; "rainbow": thin
    lines of wrong colours; "prompt": it is ignored; "unreal": pictures are far from real ones.
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
    found |= check_detail(result.detail)
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


def check_detail(of: DetailResult) -> dict[str, str]:
    """The warnings "smear" and "rainbow"."""
    found, smeared = {}, []
    if of.sharpness < MIN_SHARPNESS * of.sharpness_real:
        smeared.append(
            f"insides have {of.sharpness / of.sharpness_real:.0%} of the sharpness of real ones"
        )
    if of.edge_width and of.edge_width_real:
        times = of.edge_width / of.edge_width_real
        if times > MAX_EDGE_WIDTH:
            smeared.append(f"outlines are {times:.1f} times as wide as those of real ones")
    if smeared:
        found["smear"] = f"pictures are smeared: {' and '.join(smeared)}"
    if of.chroma_noise > MAX_CHROMA_NOISE * of.chroma_noise_real:
        found["rainbow"] = (
            f"pictures have thin lines of wrong colours: {of.chroma_noise:.4f} of chroma noise, "
            f"real ones {of.chroma_noise_real:.4f}"
        )
    return found
