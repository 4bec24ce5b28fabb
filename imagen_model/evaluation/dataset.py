"""The pictures that an evaluation asks for: (caption, style) pairs, real and drawn."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ..condition import Condition, style_weights
from ..data.dataset import InMemoryDataset, load_pictures
from ..data.folder import read_items
from ..data.item import Item
from ..model import Model
from .features import pixels_sha256

MOST_IDENTICAL = 0.05  # of the test pictures may be in the training split pixel by pixel


def concept_of(item: Item) -> str:
    """What a picture shows: its emoji, or where there are none its caption."""
    return item.base or item.text


def has_text(model: Model) -> bool:
    """Whether the model was trained with captions."""
    return bool(model.config.conditioning.text_encoder)


def base_pictures(model: Model, data: Path, split: str) -> InMemoryDataset:
    """Emoji without skin tones; for other data all, or for a model with text what has a caption."""
    items = [s for s in read_items(data, split=split) if s.hexcode == s.base]
    if has_text(model):
        items = [s for s in items if s.text]
    if not items:
        raise ValueError(f"{data} has no captioned pictures in its {split} split")
    config = model.config.generator
    return load_pictures(items, resolution=config.resolution, channels=config.channels)


def refuse_overlap(test: InMemoryDataset, train: InMemoryDataset) -> int:
    """How many test pictures have a twin in training, which two concepts may share.

    ValueError where pairs are in both splits, or more than a few pictures are.
    """
    seen = {(s.base, s.style) for s in train.items if s.base}
    both = [s.text for s in test.items if (s.base, s.style) in seen]
    if both:
        raise ValueError(f"{len(both)} test pairs are in the training split too ({both[0]})")
    hashes = set(pixels_sha256(train.pixels))
    twins = sum(h in hashes for h in pixels_sha256(test.pixels))
    if twins > MOST_IDENTICAL * len(test):
        raise ValueError(
            f"{twins} of {len(test)} test pictures are in the training split too, pixel by pixel"
        )
    return twins


def all_pixels(pictures: InMemoryDataset) -> Tensor:
    """[N, C, H, W] in [-1, 1]."""
    return pictures.batch(torch.arange(len(pictures)))


def subset(pictures: InMemoryDataset, index: Tensor) -> InMemoryDataset:
    return InMemoryDataset([pictures.items[i] for i in index.tolist()], pictures.pixels[index])


def condition_of(model: Model, pictures: InMemoryDataset) -> Condition:
    """Caption and style of each picture, as far as the model knows such."""
    texts = [s.text if has_text(model) else "" for s in pictures.items]
    known = [s.style if s.style in model.styles else None for s in pictures.items]
    rows = [style_weights(model.styles, style, 1) for style in known]
    return model.encode_text(texts).with_style(torch.cat(rows))


def draw_pairs(model: Model, pictures: InMemoryDataset, seed: int) -> Tensor:
    """One picture for each pair; pair i takes seed 1000 * i + seed."""
    seeds = [1000 * i + seed for i in range(len(pictures))]
    return model.draw(condition_of(model, pictures), model.latent(seeds))
