"""The pictures that an evaluation asks for: (caption, style) pairs, real and drawn."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ..conditioning import Condition
from ..conditioning.condition import style_weights
from ..data.folder import PictureSet, Sample, load_pictures, read_samples
from ..model import Model
from .extractor import pixels_sha256

MOST_IDENTICAL = 0.05  # of the test pictures may be in the training split pixel by pixel


def concept_of(sample: Sample) -> str:
    """What a picture shows: its emoji, or where there are none its caption."""
    return sample.base or sample.text


def has_text(model: Model) -> bool:
    """Whether the model was trained with captions."""
    return bool(model.config.conditioning.text_encoder)


def base_pictures(model: Model, data: Path, split: str) -> PictureSet:
    """Emoji without skin tones; for other data all, or for a model with text what has a caption."""
    samples = [s for s in read_samples(data, split=split) if s.hexcode == s.base]
    if has_text(model):
        samples = [s for s in samples if s.text]
    if not samples:
        raise ValueError(f"{data} has no captioned pictures in its {split} split")
    config = model.config.generator
    return load_pictures(samples, resolution=config.resolution, channels=config.channels)


def refuse_overlap(test: PictureSet, train: PictureSet) -> int:
    """How many test pictures have a twin in training, which two concepts may share.

    ValueError where pairs are in both splits, or more than a few pictures are.
    """
    seen = {(s.base, s.style) for s in train.samples if s.base}
    both = [s.text for s in test.samples if (s.base, s.style) in seen]
    if both:
        raise ValueError(f"{len(both)} test pairs are in the training split too ({both[0]})")
    hashes = set(pixels_sha256(train.pixels))
    twins = sum(h in hashes for h in pixels_sha256(test.pixels))
    if twins > MOST_IDENTICAL * len(test):
        raise ValueError(
            f"{twins} of {len(test)} test pictures are in the training split too, pixel by pixel"
        )
    return twins


def all_pixels(pictures: PictureSet) -> Tensor:
    """[N, C, H, W] in [-1, 1]."""
    return pictures.batch(torch.arange(len(pictures)))


def subset(pictures: PictureSet, index: Tensor) -> PictureSet:
    return PictureSet([pictures.samples[i] for i in index.tolist()], pictures.pixels[index])


def condition_of(model: Model, pictures: PictureSet) -> Condition:
    """Caption and style of each picture, as far as the model knows such."""
    texts = [s.text if has_text(model) else "" for s in pictures.samples]
    known = [s.style if s.style in model.styles else None for s in pictures.samples]
    rows = [style_weights(model.styles, style, 1) for style in known]
    return model.encode_text(texts).with_style(torch.cat(rows))


def draw_pairs(model: Model, pictures: PictureSet, seed: int) -> Tensor:
    """One picture for each pair; pair i takes seed 1000 * i + seed."""
    seeds = [1000 * i + seed for i in range(len(pictures))]
    return model.draw(condition_of(model, pictures), model.latent(seeds))
