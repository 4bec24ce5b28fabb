"""Do ratings help? Simulated raters with a known taste; results on held-out prompts.

    .venv/bin/python benchmarks/feedback.py --json FILE [--raters blue large] [--ratings 15 50]

Raters: blue (likes blue pictures), large (likes large objects), style (likes one style), noisy
(likes blue, and 20 % of its ratings are wrong). Each rates pictures of training captions, half with
thumbs and half in pairs. The adapted model is then compared with the base on held-out captions with
the same seeds: `win_rate` is how often the rater's true taste prefers the adapted model;
`retrieval_change` (of R@1, with its standard error) and `coverage_change` are relative, by lite1
features, which the learning does not use. Rows that FILE already has are not computed again.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from common import arguments, captioned_items, read_json, write_json
from torch import Tensor

import imagen_model as im
from imagen_model.evaluation.dataset import all_pixels, base_pictures, condition_of
from imagen_model.evaluation.density_coverage import density_and_coverage
from imagen_model.evaluation.features import Lite1
from imagen_model.evaluation.retrieval import retrieve
from imagen_model.feedback.adapter import apply_adapter
from imagen_model.feedback.learn import METHODS, learn
from imagen_model.feedback.recipe import pictures_of
from imagen_model.feedback.store import Rating

WRONG_RATINGS = {"blue": 0.0, "large": 0.0, "style": 0.0, "noisy": 0.2}
LIKED_STYLE = "fluent-3d"
RATING_SEED, TEST_SEED = 10_000, 500_000  # the raters' pictures, and those that are compared
Taste = Callable[[Tensor], Tensor]  # pictures [N, C, H, W] -> [N]


def blue(pictures: Tensor) -> Tensor:
    """Blue over the mean of red and green, premultiplied: transparent parts count nothing."""
    unit = (pictures + 1) / 2
    return (unit[:, 2] - unit[:, :2].mean(dim=1)).mean(dim=(1, 2))


def large(pictures: Tensor) -> Tensor:
    """How much of the picture is filled."""
    return (pictures[:, 3].mean(dim=(1, 2)) + 1) / 2


def style_taste(lite1: Lite1, features: Tensor, styles: list[str]) -> Taste:
    """A ridge classifier of LIKED_STYLE on lite1's features of real held-out pictures."""
    target = torch.tensor([1.0 if s == LIKED_STYLE else -1.0 for s in styles])
    mean = features.mean(dim=0)
    x = features - mean
    weights = torch.linalg.solve(x.t() @ x + 1.0 * torch.eye(x.shape[1]), x.t() @ target)
    return lambda pictures: (lite1(pictures) - mean) @ weights


class FeedbackBenchmark:
    """The base model, the held-out pictures, and what the base generates for them."""

    def __init__(self, model: im.Model, data: Path, *, prompts: int, seeds: int) -> None:
        self.model, self.lite1, self.seeds = model, Lite1(), seeds
        self.captions = sorted({item.text for item in captioned_items(data, "train")})
        self.test = base_pictures(model, data, "test")
        self.features = self.lite1(all_pixels(self.test))
        styles = [item.style for item in self.test.items]
        blueness = {"blue": blue, "noisy": blue}
        style = style_taste(self.lite1, self.features, styles)
        self.tastes: dict[str, Taste] = {"large": large, "style": style, **blueness}
        held_out = sorted({item.text for item in self.test.items})
        self.held_out = random.Random(0).sample(held_out, min(prompts, len(held_out)))
        self.base, self.base_hits = self.figures(model)
        self.base_pictures = self.generated(model)

    def generated(self, model: im.Model) -> Tensor:
        """A picture of each held-out caption; the seed chooses the style."""
        latent = model.latent(range(TEST_SEED, TEST_SEED + len(self.held_out)))
        return model.draw(self.model.encode_text(self.held_out), latent)

    def figures(self, model: im.Model) -> tuple[dict[str, float], np.ndarray]:
        """Retrieval and coverage over the held-out pairs, and each pair's share of hits."""
        items = self.test.items
        condition = condition_of(self.model, items)
        features = [
            self.lite1(
                model.draw(condition, model.latent([1000 * i + k for i in range(len(items))]))
            )
            for k in range(self.seeds)
        ]
        gallery = [item.base for item in items], [item.style for item in items]
        found = retrieve(torch.stack(features, dim=1), *gallery, self.features, *gallery)
        coverage = [density_and_coverage(self.features, part).coverage for part in features]
        figures = {
            "r1": found.recall(1),
            "r5": found.recall(5),
            "coverage": np.mean(coverage).item(),
        }
        return figures, (found.ranks < 1).mean(axis=1)

    def rate(self, name: str, count: int) -> list[Rating]:
        """What the rater says: thumbs and pairs in turn."""
        taste, chance = self.tastes[name], random.Random(count)
        texts = chance.sample(self.captions, count)
        condition = self.model.encode_text(texts)
        sides = []
        for offset in (0, 1):
            latent = self.model.latent([RATING_SEED + 2 * i + offset for i in range(count)])
            pictures = self.model.draw(condition, latent)
            recipes = pictures_of(self.model, condition, latent, pictures, texts=texts)
            sides.append((recipes, taste(pictures)))
        (first, liked), (second, liked_too) = sides
        median = float(torch.cat([liked, liked_too]).median())
        ratings = []
        for i in range(count):
            wrong = chance.random() < WRONG_RATINGS[name]
            if i % 2:
                up = (float(liked[i]) > median) != wrong
                ratings.append(Rating(first[i], 1 if up else -1, time=float(i)))
            else:
                pair = (first[i], second[i])
                won, lost = pair if (liked[i] > liked_too[i]) != wrong else pair[::-1]
                ratings.append(Rating(won, other=lost, time=float(i)))
        return ratings

    def measure(self, name: str, count: int, method: str) -> dict:
        """Rate, learn, compare."""
        ratings = self.rate(name, count)
        started = time.perf_counter()
        adapter = learn(self.model, ratings, method=method)
        seconds = time.perf_counter() - started
        adapted = apply_adapter(self.model, adapter)
        before, after = map(self.tastes[name], (self.base_pictures, self.generated(adapted)))
        wins = (after > before).float() + 0.5 * (after == before).float()
        now, hits = self.figures(adapted)
        gained = hits - self.base_hits  # of each pair, whose seeds are the same
        change = {key: now[key] / max(self.base[key], 1e-9) - 1 for key in now}
        error = float(gained.std() / len(gained) ** 0.5 / max(self.base["r1"], 1e-9))
        from_card = ("accuracy", "scale", "course", "ab", "complaints", "objections")
        return {
            "taste": name,
            "ratings": count,
            "asked": method,
            "method": adapter.card["method"],
            "win_rate": float(wins.mean()),
            "retrieval_change": change["r1"],
            "retrieval_change_error": error,
            "retrieval_r5_change": change["r5"],
            "coverage_change": change["coverage"],
            "seconds": round(seconds, 1),
            **{key: adapter.card[key] for key in from_card},
            "base": self.base,
            "adapted": now,
            "held_out_prompts": len(before),
        }


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--model", default="emoji")
    parser.add_argument("--data", type=Path, default=Path("data/emoji-64"))
    parser.add_argument("--raters", nargs="+", choices=WRONG_RATINGS, default=[*WRONG_RATINGS])
    parser.add_argument("--ratings", nargs="+", type=int, default=[15, 50])
    parser.add_argument("--method", choices=METHODS, default="auto")
    parser.add_argument("--prompts", type=int, default=256, help="held-out captions to compare on")
    parser.add_argument("--seeds", type=int, default=12, help="pictures for each held-out pair")
    args = parser.parse_args()
    model = im.load(args.model)
    result = {"model": model.name, "sha256": model.card["sha256"], "raters": []}
    earlier = read_json(args.json, result)
    if earlier["sha256"] == result["sha256"]:
        result = earlier
    done = {(row["taste"], row["ratings"], row["asked"]) for row in result["raters"]}
    wanted = [(name, count, args.method) for count in args.ratings for name in args.raters]
    wanted = [key for key in wanted if key not in done]
    if not wanted:
        return
    benchmark = FeedbackBenchmark(model, args.data, prompts=args.prompts, seeds=args.seeds)
    shown = (
        "win_rate", "retrieval_change", "retrieval_change_error", "coverage_change", "accuracy",
        "scale",
    )  # fmt: skip
    for key in wanted:
        row = benchmark.measure(*key)
        result["raters"].append(row)
        write_json(args.json, result)
        numbers = "  ".join(f"{name} {row[name]:+.3f}" for name in shown)
        print(f"{row['taste']:6} {row['ratings']:3} {row['method']:5}  {numbers}  "
              f"{row['seconds']:.0f} s", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
