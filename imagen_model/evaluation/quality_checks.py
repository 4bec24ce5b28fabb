"""What the figures say in words, where they say that something is wrong."""

from __future__ import annotations

LEAST_COVERAGE = 0.25  # of what real pictures reach
LEAST_DENSITY = 0.25
LEAST_VARIETY = 0.7
LEAST_AMONG_SEEDS = 0.05
LEAST_MEMORISATION = 0.9
MOST_MARK = 0.05  # of the fine detail, and twice what real pictures share
MOST_CHANCE = 0.5  # galleries of one or two pictures say nothing


def flags(figures: dict) -> dict[str, str]:
    """Name -> a plain line for each thing that is wrong; nothing for a sound model.

    "alike": few kinds of pictures; "seeds": they change nothing; "copies": training pictures come
    out; "mark": all carry the same; "prompt": it is ignored; "unreal": pictures are far from real
    ones.
    """
    found = {}
    coverage, density = figures["coverage"], figures["density"]
    real_coverage, real_density = figures["coverage_real"], figures["density_real"]
    spread = figures["diversity"]
    variety = spread["among_pictures"] / spread["among_real_pictures"]
    is_unreal = density < LEAST_DENSITY * real_density
    if variety < LEAST_VARIETY or (coverage < LEAST_COVERAGE * real_coverage and not is_unreal):
        found["alike"] = (
            f"pictures look alike: coverage {coverage:.2f} (real pictures {real_coverage:.2f}), "
            f"{variety:.0%} of their variety"
        )
    if spread["among_seeds"] < LEAST_AMONG_SEEDS:
        found["seeds"] = f"seeds change nothing: mean distance {spread['among_seeds']:.3f}"
    if figures["memorisation_ratio"] < LEAST_MEMORISATION:
        found["copies"] = (
            f"copies training pictures: ratio {figures['memorisation_ratio']:.2f}, "
            f"under {LEAST_MEMORISATION:g}"
        )
    mark, real_mark = figures["common_mark"], figures["common_mark_real"]
    if mark > max(MOST_MARK, 2 * real_mark):
        found["mark"] = (
            f"pictures carry the same mark: {mark:.0%} of their fine detail is the same in all of "
            f"them (real pictures {real_mark:.0%})"
        )
    for modality, r in figures["retrieval"].items():
        if r["chance"] < MOST_CHANCE and r.get("r1_interval", (1, 1))[0] <= r["chance"]:
            found["prompt" if modality == "text" else f"prompt_{modality}"] = (
                f"ignores the prompt ({modality}): R@1 {r['r1']:.1%} is at chance "
                f"({r['chance']:.1%})"
            )
    if is_unreal:
        found["unreal"] = (
            f"pictures are far from real ones: density {density:.2f} (real pictures "
            f"{real_density:.2f}), FD-lite1 {figures['fd_lite1']:.0f} "
            f"(floor {figures['fd_lite1_floor']:.0f})"
        )
    return found
