"""The pictures of an evaluation: (caption, style) pairs, real and generated."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..condition import Condition, style_weights
from ..data.dataset import InMemoryDataset, load_pictures
from ..data.folder import read_items
from ..data.item import Item
from ..model import Model
from .features import Lite1

SEEDS = 4  # pictures generated for each held-out pair
MAX_IDENTICAL = 0.05  # of the test pictures may be in the training split pixel by pixel


@dataclass(frozen=True)
class EvaluationSet:
    """A model, held-out and training pictures, and their lite1 features."""

    model: Model
    lite1: Lite1
    test: InMemoryDataset
    train: InMemoryDataset

    @cached_property
    def test_features(self) -> Tensor:
        """[N, F] of unit length."""
        return self.lite1(all_pixels(self.test))

    @property
    def train_pooled(self) -> Tensor:
        """[M, F] as the network gives them."""
        return self._train_features_of_both_kinds[0]

    @property
    def train_spatial(self) -> Tensor:
        """[M, SPATIAL_DIM]."""
        return self._train_features_of_both_kinds[1]

    @cached_property
    def _train_features_of_both_kinds(self) -> tuple[Tensor, Tensor]:
        return self.lite1.pooled_and_spatial(all_pixels(self.train))

    @cached_property
    def train_features(self) -> Tensor:
        """[M, F] of unit length."""
        return F.normalize(self.train_pooled, dim=1)


def concept_of(item: Item) -> str:
    """What a picture shows: its emoji, or where there are none its caption."""
    return item.base or item.text


def concepts_and_styles(items: Sequence[Item]) -> tuple[list[str], list[str]]:
    return [concept_of(item) for item in items], [item.style for item in items]


def has_text(model: Model) -> bool:
    """Whether the model was trained with captions."""
    return bool(model.config.conditioning.text_encoder)


def base_pictures(model: Model, data: Path, split: str) -> InMemoryDataset:
    """Emoji without skin tones; of other data all, or for a model with text those with captions.
    If the model knows any of the pictures' styles, only those of the styles that it knows.

    ValueError where there are none, and where training pictures are those of the test split.
    """
    items = read_items(data, split=split)
    held_out = Path(data) / "test"
    if split == "train" and any(held_out in item.file().on_disk().parents for item in items):
        raise ValueError(
            f"{data} has test/ and no train/; expected its training pictures in train/"
        )
    items = [item for item in items if item.hexcode == item.base]
    if has_text(model):
        items = [item for item in items if item.text]
    if any(item.style in model.styles for item in items):
        items = [item for item in items if item.style in model.styles]
    if not items:
        raise ValueError(f"{data} has no captioned pictures in its {split} split")
    config = model.config.generator
    return load_pictures(items, resolution=config.resolution, channels=config.channels)


def refuse_overlap(test: InMemoryDataset, train: InMemoryDataset) -> int:
    """How many test pictures have a twin in training, which two concepts may share.

    ValueError where pairs are in both splits, or more than a few pictures are.
    """
    trained = {(item.base, item.style) for item in train.items if item.base}
    both = [item.text for item in test.items if (item.base, item.style) in trained]
    if both:
        raise ValueError(f"{len(both)} test pairs are in the training split too ({both[0]})")
    hashes = set(pixels_sha256(train.pixels))
    twins = sum(h in hashes for h in pixels_sha256(test.pixels))
    if twins > MAX_IDENTICAL * len(test):
        raise ValueError(
            f"{twins} of {len(test)} test pictures are in the training split too, pixel by pixel"
        )
    return twins


def pixels_sha256(pictures: Tensor) -> list[str]:
    """One hash for each picture of uint8 [N, C, H, W]."""
    return [hashlib.sha256(p.numpy().tobytes()).hexdigest() for p in pictures]


def all_pixels(pictures: InMemoryDataset) -> Tensor:
    """[N, C, H, W] in [-1, 1]."""
    return pictures.batch(torch.arange(len(pictures)))


def subset(pictures: InMemoryDataset, index: Tensor) -> InMemoryDataset:
    return InMemoryDataset([pictures.items[i] for i in index.tolist()], pictures.pixels[index])


def style_rows(model: Model, items: Sequence[Item]) -> Tensor:
    """[N, S] style weights of each item's style; zero rows for styles that the model has not."""
    known = [item.style if item.style in model.styles else None for item in items]
    return torch.cat([style_weights(model.styles, style, 1) for style in known])


def condition_of(model: Model, items: Sequence[Item]) -> Condition:
    """Caption and style of each item, as far as the model knows such."""
    texts = [item.text if has_text(model) else "" for item in items]
    return model.encode_text(texts).with_style(style_rows(model, items))


def generate_pairs(model: Model, items: Sequence[Item], seed: int) -> Tensor:
    """[N, C, H, W] one picture for each pair; pair i has seed 1000 * i + seed."""
    seeds = [1000 * i + seed for i in range(len(items))]
    return model.draw(condition_of(model, items), model.latent(seeds))


def generate_seeds(model: Model, items: Sequence[Item]) -> Tensor:
    """[N, SEEDS, C, H, W]"""
    return torch.stack([generate_pairs(model, items, seed) for seed in range(SEEDS)], dim=1)


def seed_features(lite1: Lite1, generated: Tensor) -> Tensor:
    """[N, S, C, H, W] -> [N, S, F] of unit length."""
    return lite1(generated.flatten(0, 1)).unflatten(0, generated.shape[:2])
