"""The target that calls what the nodes call, with what a graph can send: whole numbers of any size,
floats with NaN and infinity, any text, and tensors of any shape, type and content."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor

import imagen_model as im
from imagen_model.condition import Condition
from imagen_model.data.folder import read_items
from imagen_model.data.prepare.labelled import append_labelled, chosen
from imagen_model.inference.audio_reactive import Reactions
from imagen_model.inference.sound_analysis import SOURCES

from . import mutations as m
from .files import MODEL, Case

INTS = [n for n in m.NUMBERS if isinstance(n, int)]
FLOATS = [n for n in m.NUMBERS if isinstance(n, float)] + [0.0, 0.3, 0.7, 1.0, -1.0]
TYPES = (torch.float16, torch.bfloat16, torch.float64, torch.uint8, torch.int64, torch.bool)
CONTENTS = (0.0, 1.0, float("nan"), float("inf"), -1e30, 1e38)


class Inputs:
    """Random inputs of nodes. Without a Random, good ones."""

    def __init__(self, model: im.Model, rng: Random | None) -> None:
        self.model, self.rng = model, rng

    def one(self, good: Any, *others: Any) -> Any:
        """Often `good`, so that a call gets beyond its first check."""
        if self.rng is None or self.rng.random() < 0.5:
            return good
        return self.rng.choice(others)

    def integer(self, good: int) -> int:
        return self.one(good, *INTS)

    def real(self, good: float) -> float:
        return self.one(good, *FLOATS)

    def text(self, good: str) -> str:
        return self.one(good, *m.TEXTS)

    def tensor(self, *sizes: int) -> Tensor:
        """Mostly of these sizes, and mostly of floats in [-1, 1]."""
        shape = [self.one(size, size, 0, 1, 2, 5, 33) for size in sizes]
        shape = self.one(shape, shape, shape, shape, shape[1:], [1, *shape])
        values = torch.linspace(-1, 1, max(1, torch.Size(shape).numel()))[
            : torch.Size(shape).numel()
        ]
        values = values.view(shape)
        if self.one(False, True) and values.numel():
            values.view(-1)[:: self.one(1, 3)] = self.one(float("nan"), *CONTENTS)
        return values.to(self.one(torch.float32, torch.float32, *TYPES))

    def pictures(self) -> Tensor:
        return self.tensor(self.one(1, 2, 3), self.one(4, 1, 3), 16, 16)

    def clip(self) -> tuple[Tensor, int]:
        return self.tensor(2, 6000), self.integer(8000)

    def latent(self, space: str = "z") -> im.Latent:
        g, n = self.model.config.generator, self.one(2, 1, 3)
        shape = (g.z_dim,) if self.one(space, "z", "w") == "z" else (g.num_blocks, g.dim)
        seeds = tuple(self.integer(i) for i in range(self.one(n, 0, n + 1)))
        return im.Latent(self.one(space, "z", "w", ""), self.tensor(n, *shape), seeds)

    def condition(self) -> Condition:
        config, n = self.model.config.conditioning, self.one(1, 2, 3)
        if self.one(True, False):
            return self.model.encode_text([self.text("a cat")] * n, style=self.one(None, "noto"))
        t, d = self.one(1, 5), self.one(config.dim, 7)
        mask = torch.full((n, t), self.one(True, False))
        style = self.tensor(n, len(config.styles))
        if style.ndim != 2 or len(style) != n:  # no node makes such a condition
            style = torch.zeros(n, 0)
        return Condition(
            torch.zeros(n, t, d), mask, torch.full((n, d), self.one(0.0, *CONTENTS)), style
        )


def _edit(x: Inputs, work: Path) -> None:
    ways = [(x.model.direction(x.integer(0)), x.real(1.0)) for _ in range(x.one(1, 0, 2))]
    im.moved_along(x.latent("w"), ways)


def _audio_walk(x: Inputs, work: Path) -> None:
    sound = im.analyze_audio(*x.clip(), frame_rate=x.real(12.0))
    names = ("coarse", "middle", "fine", "attack", "release", "smoothing")
    options: dict[str, Any] = {name: x.real(0.5) for name in names}
    options |= {f"{name}_from": x.one(x.text("bass"), *SOURCES) for name in names[:3]}
    reactions = Reactions(**options, loop=x.one(True, False))
    frames = x.model.audio_walk(x.condition(), x.latent(), sound, reactions, truncation=x.real(1.0))
    next(iter(frames), None)


def _save(x: Inputs, work: Path) -> None:
    pictures = list(x.pictures()) or [torch.zeros(4, 8, 8)]
    captions = [x.text("a cat") for _ in range(x.one(1, 2))]
    append_labelled(work / "set", pictures, captions, style=x.text(""), facts=x.one([], [{"a": 1}]))
    chosen(read_items(work / "set"), x.integer(3), shuffle_seed=x.one(None, x.integer(0)))


CALLS: tuple[Callable[[Inputs, Path], object], ...] = (
    lambda x, _: x.model.encode_text(x.text("a cat"), style=x.text("noto")),
    lambda x, _: x.model.how_read(x.text("ein Apfel")),
    lambda x, _: x.model.encode_image(x.pictures(), style=x.one(None, "noto", "x")),
    lambda x, _: im.transcribe([x.clip()] * x.one(1, 0)) if x.one(False, False, True) else None,
    lambda x, _: im.analyze_audio(*x.clip(), frame_rate=x.real(24.0)),
    lambda x, _: x.model.latent([x.integer(0)] * x.one(1, 0, 3)),
    lambda x, _: x.model.draw(
        x.condition(), x.latent(), truncation=x.real(1.0), tile=x.one("none", "x", "both", "?")
    ),
    lambda x, _: x.model.into_w(x.condition(), x.latent(), truncation=x.real(0.7)),
    lambda x, _: im.walk(
        x.latent(), x.integer(8), loop=x.one(True, False), curve=x.one("slerp", "linear", "")
    ),
    lambda x, _: im.mixed(x.latent("w"), x.latent("w"), from_block=x.integer(1)),
    _edit,
    lambda x, _: im.combined(x.condition(), x.condition(), x.real(0.5)),
    lambda x, _: x.model.score(x.pictures(), x.one(None, x.condition())),
    lambda x, _: x.model.invert(x.pictures(), x.condition(), steps=x.one(1, 0, -1, 10**9)),
    lambda x, _: im.contact_sheet(
        x.pictures(), columns=x.integer(2), scale=x.integer(1), gap=x.integer(0),
        captions=[x.text("a")] * x.one(0, 1, 9),
    ),
    lambda x, _: im.upscale(x.pictures(), tile=x.one("none", "both", "?")),
    lambda x, _: im.crisp(
        x.pictures(), alpha=x.one("soft", "hard", "?"), colours=x.one(0, 1, 16, 255, 256, -1)
    ),
    _audio_walk,
    _save,
    lambda x, work: read_items(work / x.text("none")),
)  # fmt: skip


def nodes(folder: Path) -> Case:
    model = im.load(MODEL)

    def case(rng: Random | None, work: Path) -> None:
        inputs = Inputs(model, rng)
        if rng is not None:
            rng.choice(CALLS)(inputs, work)
            return
        for call in CALLS[3:-1]:
            call(inputs, work)

    return case
