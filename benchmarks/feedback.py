"""Do ratings help? Simulated raters with a known taste, judged on held-out prompts.

    .venv/bin/python benchmarks/feedback.py --json FILE [--raters blue large] [--ratings 15 50]

Raters: blue (likes blue pictures), large (likes large objects), style (likes one style), noisy
(likes blue, and 20 % of its clicks are wrong). Each rates pictures of training captions, half with
thumbs and half in pairs. Then, against the base and with the same seeds: `win_rate` is how often
its true taste prefers the adapted model on held-out captions; `retrieval_change` (of R@1, with its
standard error) and `coverage_change` are relative, by lite1 features, which nothing here learns
from. Rows that FILE has already are not made again, so a stopped run goes on.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import imagen_model as im
from imagen_model.condition import style_weights
from imagen_model.data.dataset import InMemoryDataset, load_pictures
from imagen_model.data.folder import read_items
from imagen_model.evaluation.density_coverage import density_and_coverage
from imagen_model.evaluation.features import Lite1
from imagen_model.evaluation.retrieval import retrieve
from imagen_model.feedback.adapter import apply_adapter
from imagen_model.feedback.learn import METHODS, learn
from imagen_model.feedback.recipe import pictures_of
from imagen_model.feedback.store import Rating

WRONG_CLICKS = {"blue": 0.0, "large": 0.0, "style": 0.0, "noisy": 0.2}
LIKED_STYLE = "fluent-3d"
RATING_SEED, TEST_SEED = 10_000, 500_000  # the raters' pictures, and those that are compared
Taste = Callable[[Tensor], Tensor]


def blue(pictures: Tensor) -> Tensor:
    """[N] blue over the mean of red and green, premultiplied: transparent parts count nothing."""
    unit = (pictures + 1) / 2
    return (unit[:, 2] - unit[:, :2].mean(dim=1)).mean(dim=(1, 2))


def large(pictures: Tensor) -> Tensor:
    """[N] how much of the picture is filled."""
    return (pictures[:, 3].mean(dim=(1, 2)) + 1) / 2


def style_taste(lite1: Lite1, features: Tensor, styles: list[str]) -> Taste:
    """A ridge classifier of LIKED_STYLE on lite1's features of real held-out pictures."""
    target = torch.tensor([1.0 if s == LIKED_STYLE else -1.0 for s in styles])
    mean = features.mean(dim=0)
    x = features - mean
    weights = torch.linalg.solve(x.t() @ x + 1.0 * torch.eye(x.shape[1]), x.t() @ target)
    return lambda pictures: (lite1(pictures) - mean) @ weights


class Bench:
    """The model, the held-out pictures, and what the base draws for them."""

    def __init__(self, model: im.Model, data: Path, *, prompts: int, seeds: int) -> None:
        self.model, self.lite1, self.seeds = model, Lite1(), seeds
        self.captions = sorted({s.text for s in self._samples(data, "train")})
        test = self._samples(data, "test")
        config = model.config.generator
        self.test: InMemoryDataset = load_pictures(
            test, resolution=config.resolution, channels=config.channels
        )
        self.features = self.lite1(self.test.batch(torch.arange(len(self.test))))
        held = sorted({s.text for s in test})
        self.held = random.Random(0).sample(held, min(prompts, len(held)))
        self.base, self.base_hits = self.figures(model)
        self.base_pictures = self.drawn(model)

    @staticmethod
    def _samples(data: Path, split: str) -> list:
        return [s for s in read_items(data, split=split) if s.hexcode == s.base and s.text]

    def taste(self, name: str) -> Taste:
        if name == "style":
            return style_taste(self.lite1, self.features, [s.style for s in self.test.items])
        return large if name == "large" else blue

    def drawn(self, model: im.Model) -> Tensor:
        """Held-out captions, style open."""
        condition = self.model.encode_text(self.held)
        return model.draw(condition, model.latent(range(TEST_SEED, TEST_SEED + len(self.held))))

    def figures(self, model: im.Model) -> tuple[dict[str, float], np.ndarray]:
        """Retrieval and coverage over the held-out pairs, each in its own style; and each pair's
        share of hits."""
        samples = self.test.items
        condition = self.model.encode_text([s.text for s in samples])
        style = torch.cat([style_weights(self.model.styles, s.style, 1) for s in samples])
        condition = condition.with_style(style)
        drawn = [
            self.lite1(
                model.draw(condition, model.latent([1000 * i + k for i in range(len(style))]))
            )
            for k in range(self.seeds)
        ]
        queries = torch.stack(drawn, dim=1)
        names, styles = [s.base for s in samples], [s.style for s in samples]
        found = retrieve(queries, names, styles, self.features, names, styles)
        near = [density_and_coverage(self.features, part).coverage for part in drawn]
        figures = {
            "r1": found.recall(1),
            "r5": found.recall(5),
            "coverage": sum(near) / len(near),
        }
        return figures, (found.ranks < 1).mean(axis=1)

    def rated(self, name: str, count: int) -> list[Rating]:
        """What the rater clicks: thumbs and pairs, one after the other."""
        taste, chance = self.taste(name), random.Random(count)
        texts = chance.sample(self.captions, count)
        seeds = [RATING_SEED + 2 * i for i in range(count)]
        sides = []
        for offset in (0, 1):
            condition = self.model.encode_text(texts)
            latent = self.model.latent([seed + offset for seed in seeds])
            pictures = self.model.draw(condition, latent)
            recipes = pictures_of(self.model, condition, latent, pictures, texts=texts)
            sides.append((recipes, taste(pictures)))
        (first, liked), (second, liked_too) = sides
        median = float(torch.cat([liked, liked_too]).median())
        ratings = []
        for i in range(count):
            wrong = chance.random() < WRONG_CLICKS[name]
            if i % 2:
                up = (float(liked[i]) > median) != wrong
                ratings.append(Rating(first[i], 1 if up else -1, time=float(i)))
            else:
                pair = (first[i], second[i])
                won, lost = pair if (liked[i] > liked_too[i]) != wrong else pair[::-1]
                ratings.append(Rating(won, other=lost, time=float(i)))
        return ratings

    def row(self, name: str, count: int, method: str) -> dict:
        """Rate, learn, compare."""
        ratings = self.rated(name, count)
        started = time.perf_counter()
        adapter = learn(self.model, ratings, method=method)
        seconds = time.perf_counter() - started
        adapted = apply_adapter(self.model, adapter)
        taste = self.taste(name)
        before, after = taste(self.base_pictures), taste(self.drawn(adapted))
        wins = (after > before).float() + 0.5 * (after == before).float()
        now, hits = self.figures(adapted)
        gained = hits - self.base_hits  # of each pair, whose seeds are the same
        change = {key: now[key] / max(self.base[key], 1e-9) - 1 for key in now}
        card = adapter.card
        return {
            "taste": name,
            "ratings": count,
            "method": card["method"],
            "win_rate": float(wins.mean()),
            "retrieval_change": change["r1"],
            "retrieval_change_error": float(gained.std() / len(gained) ** 0.5 / self.base["r1"]),
            "retrieval_r5_change": change["r5"],
            "coverage_change": change["coverage"],
            "seconds": round(seconds, 1),
            "accuracy": card["accuracy"],
            "scale": card["scale"],
            "course": card["course"],
            "ab": card["ab"],
            "complaints": card["complaints"],
            "objections": card["objections"],
            "base": self.base,
            "adapted": now,
            "held_out_prompts": len(before),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="emoji")
    parser.add_argument("--data", type=Path, default=Path("data/emoji-64"))
    parser.add_argument("--raters", nargs="+", choices=list(WRONG_CLICKS), default=[*WRONG_CLICKS])
    parser.add_argument("--ratings", nargs="+", type=int, default=[15, 50])
    parser.add_argument("--method", choices=METHODS, default="auto")
    parser.add_argument("--prompts", type=int, default=256, help="held-out captions to compare on")
    parser.add_argument("--seeds", type=int, default=12, help="pictures a held-out pair")
    parser.add_argument("--json", type=Path, required=True)
    args = parser.parse_args()
    model = im.load(args.model)
    result = {"model": model.name, "sha256": model.card["sha256"], "raters": []}
    if args.json.is_file():
        earlier = json.loads(args.json.read_text())
        if earlier["sha256"] == result["sha256"]:
            result = earlier
    done = {(row["taste"], row["ratings"], row["asked"]) for row in result["raters"]}
    wanted = [(n, c, args.method) for c in args.ratings for n in args.raters]
    wanted = [key for key in wanted if key not in done]
    bench = Bench(model, args.data, prompts=args.prompts, seeds=args.seeds) if wanted else None
    for key in wanted:
        assert bench is not None
        row = {"asked": args.method} | bench.row(*key)
        result["raters"].append(row)
        args.json.write_text(json.dumps(result, indent=1) + "\n")
        shown = (
            "win_rate", "retrieval_change", "retrieval_change_error", "coverage_change",
            "accuracy", "scale",
        )  # fmt: skip
        numbers = "  ".join(f"{k} {row[k]:+.3f}" for k in shown)
        print(f"{row['taste']:6} {row['ratings']:3} {row['method']:5}  {numbers}  "
              f"{row['seconds']:.0f} s", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
