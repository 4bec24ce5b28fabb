"""An evaluation that cannot flatter: painters with one fault each, and the number that tells."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from imagen_model.condition import Condition, style_weights
from imagen_model.evaluation import evaluate as module
from imagen_model.evaluation import modalities
from imagen_model.evaluation.evaluate import evaluate
from imagen_model.inference.latent import random_latent
from imagen_model.inference.scoring import Scores

CONCEPTS, STYLES, SIDE = 72, ("a", "b", "c"), 16
NAMES = [f"thing {i}" for i in range(CONCEPTS)]
RNG = torch.Generator().manual_seed(0)
PATTERNS = torch.rand(CONCEPTS, 3, 4, 4, generator=RNG) * 1.4 - 0.7  # what a concept looks like
TINTS = torch.rand(len(STYLES), 3, 4, 4, generator=RNG) * 0.8 - 0.4  # what a style adds
WORDS = F.normalize(torch.randn(CONCEPTS, 384, generator=RNG), dim=1)


def picture(concept: int, style: int, seed: int, noise: float = 0.1) -> torch.Tensor:
    """[3, 16, 16]: another one every seed."""
    rng = torch.Generator().manual_seed(seed)
    clean = PATTERNS[concept] + TINTS[style]
    clean = clean + noise * torch.randn(clean.shape, generator=rng)
    return F.interpolate(clean[None], size=(SIDE, SIDE))[0].clamp(-1, 1)


def held_out_style(concept: int) -> int:
    return concept % len(STYLES)


class Thumbnails:
    """Stands for lite1: 4x4 pixels as features."""

    name = "thumbnails"

    def pooled(self, pictures: torch.Tensor) -> torch.Tensor:
        return F.adaptive_avg_pool2d(pictures, 4).flatten(1)

    def pooled_and_spatial(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.pooled(pictures), self.pooled(pictures)

    def __call__(self, pictures: torch.Tensor) -> torch.Tensor:
        return F.normalize(self.pooled(pictures), dim=1)


class Painter:
    """A model that generates what it should; its subclasses each have one fault."""

    name = "painter"
    styles = STYLES
    device = torch.device("cpu")
    config = SimpleNamespace(
        generator=SimpleNamespace(resolution=SIDE, channels=3),
        conditioning=SimpleNamespace(text_encoder="words"),
    )

    def encode_text(self, texts, *, style=None):
        rows = [WORDS[NAMES.index(t)] if t in NAMES else torch.zeros(384) for t in texts]
        n = len(rows)
        mask = torch.ones(n, 1, dtype=torch.bool)
        styles = style_weights(STYLES, style, n)
        return Condition(torch.zeros(n, 1, 384), mask, torch.stack(rows), styles)

    def encode_image(self, pictures):
        """The concept whose look, in one of the styles, is nearest."""
        looks = (PATTERNS[:, None] + TINTS).clamp(-1, 1).flatten(2)  # [72, 3, 48]
        seen = F.adaptive_avg_pool2d(pictures, 4).flatten(1)
        far = torch.cdist(seen[None], looks.transpose(0, 1)).amin(dim=0)  # [N, 72]
        return self.encode_text([NAMES[i] for i in far.argmin(dim=1)])

    def encode_audio(self, clips):
        return self.encode_text([text for text, _ in clips])

    def latent(self, seeds):
        return random_latent(list(seeds), 4)

    def draw(self, condition, latent):
        pictures = []
        for pooled, style, seed in zip(
            condition.pooled, condition.style, latent.seeds, strict=True
        ):
            concept = int((WORDS @ pooled).argmax()) if pooled.any() else seed % CONCEPTS
            chosen = int(style.argmax()) if style.any() else seed % len(STYLES)
            pictures.append(self.paint(concept, chosen, seed))
        return torch.stack(pictures)

    def paint(self, concept: int, style: int, seed: int) -> torch.Tensor:
        return picture(concept, style, 1_000_000 + seed)

    def sample(self, prompt, *, seeds):
        condition = self.encode_text([prompt] * len(seeds))
        return self.draw(condition, self.latent(seeds))

    def score(self, pictures, condition=None):
        brightness = pictures.mean(dim=(1, 2, 3))
        return Scores(brightness, brightness, pictures.mean(dim=1))


class Collapsed(Painter):
    def paint(self, concept, style, seed):
        return picture(0, 0, 0)


class Copyist(Painter):
    """Training pictures of what was asked for, where there is one in the style or in another."""

    def paint(self, concept, style, seed):
        if style == held_out_style(concept):
            style = (style + 1 + seed % 2) % len(STYLES)
        return picture(concept, style, concept * len(STYLES) + style)


class Deaf(Painter):
    """Generates good pictures, but not of what the prompt says."""

    def paint(self, concept, style, seed):
        return super().paint((concept + 1 + seed * 7) % CONCEPTS, style, seed)


class Unhearing(Painter):
    """Reads and sees, but takes every sound for the same word."""

    def encode_audio(self, clips):
        return self.encode_text([NAMES[0]] * len(clips))


class Blind(Painter):
    def encode_image(self, pictures):
        return self.encode_text([NAMES[0]] * len(pictures))


class Noisy(Painter):
    def paint(self, concept, style, seed):
        return picture(concept, style, 1_000_000 + seed, noise=1.5)


class Stamping(Painter):
    """What it should, and one stroke on top of it."""

    def paint(self, concept, style, seed):
        stroked = super().paint(concept, style, seed)
        stroked[:, 5:11, 7:9] = 1.0
        return stroked


class Rigid(Painter):
    """The same picture for every seed."""

    def paint(self, concept, style, seed):
        return picture(concept, style, 1_000_000 + concept * len(STYLES) + style)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """72 concepts in three styles, a third of the pairs held out."""
    root = tmp_path_factory.mktemp("things")
    rows = {"train": [], "test": []}
    for concept, name in enumerate(NAMES):
        for style, style_name in enumerate(STYLES):
            split = "test" if style == held_out_style(concept) else "train"
            (root / split).mkdir(exist_ok=True)
            array = picture(concept, style, concept * len(STYLES) + style).permute(1, 2, 0)
            file = f"{concept}-{style_name}.png"
            Image.fromarray(np.uint8((array.numpy() + 1) * 127.5 + 0.5)).save(root / split / file)
            rows[split].append(
                {"file_name": file, "text": name, "style": style_name, "hexcode": name}
            )
    for split, lines in rows.items():
        text = "\n".join(json.dumps(line) for line in lines)
        (root / split / "metadata.jsonl").write_text(text)
    return root


@pytest.fixture
def measured(data, monkeypatch):
    """Evaluates a painter: its JSON."""
    monkeypatch.setattr(module, "Lite1", Thumbnails)
    monkeypatch.setattr(modalities, "held_out_speech", lambda texts: [(text, 0) for text in texts])
    return lambda painter, **options: evaluate(painter, data, **options).to_dict()


def test_a_painter_without_fault_is_not_flagged(measured):
    found = measured(Painter())
    assert found["flags"] == {}
    assert found["retrieval"].keys() == {"text", "image", "audio"}
    for asked in found["retrieval"].values():
        assert asked["r1"] > 0.95 and asked["ceiling"] > 0.5 > asked["chance"]
    assert found["retrieval_judge"]["r1"] > 0.9
    assert 0.9 < found["memorisation_ratio"] < 1.15
    assert found["coverage"] > 0.8 * found["coverage_real"]


def test_a_collapsed_one_is_flagged_by_its_variety(measured):
    found = measured(Collapsed())
    assert {"alike", "seeds", "prompt", "prompt_image", "prompt_audio"} <= found["flags"].keys()
    assert found["flags"]["alike"].startswith("pictures look alike: coverage 0.")
    assert found["diversity"]["among_pictures"] < 0.01
    assert found["coverage"] < 0.3


def test_a_copyist_is_flagged_by_its_memorisation_alone(measured):
    found = measured(Copyist())
    assert found["memorisation_ratio"] < 0.1
    assert found["flags"].keys() == {"copies"}
    assert found["flags"]["copies"].startswith("copies training pictures: ratio 0.0")
    assert found["fd_lite1"] < 3 * found["fd_lite1_floor"]  # no distance would tell


def test_one_that_ignores_the_prompt_is_flagged_by_retrieval(measured):
    """It generates pairs that training saw, so the distance to training is small as well."""
    found = measured(Deaf())
    assert found["flags"].keys() == {"prompt", "prompt_image", "prompt_audio", "copies"}
    assert found["coverage"] > 0.8 * found["coverage_real"]
    text = found["retrieval"]["text"]
    assert text["r1_interval"][0] <= text["chance"] == pytest.approx(1 / 24)
    assert found["retrieval_judge"]["r1"] < 0.3  # the second evaluator agrees
    assert found["composition"]["trained"]["r1"] < 0.3


@pytest.mark.parametrize(("painter", "prompt"), [(Blind, "image"), (Unhearing, "audio")])
def test_one_that_ignores_another_modality_is_flagged_by_that_alone(measured, painter, prompt):
    found = measured(painter())
    assert found["flags"].keys() == {f"prompt_{prompt}"}
    assert found["retrieval"][prompt]["r1"] < 0.1 < 0.95 < found["retrieval"]["text"]["r1"]


def test_without_a_synthesiser_the_figure_is_left_out_and_the_line_says_why(measured, monkeypatch):
    def nothing(texts):
        raise ValueError("speech synthesis needs espeak-ng")

    monkeypatch.setattr(modalities, "held_out_speech", nothing)
    said = []
    found = measured(Painter(), stage=said.append)
    assert found["retrieval"].keys() == {"text", "image"}
    assert "no spoken prompts: speech synthesis needs espeak-ng" in said


def test_a_noisy_one_is_flagged_by_its_density_and_by_its_colours(measured):
    found = measured(Noisy())
    assert found["flags"].keys() == {"unreal", "rainbow"}
    sound = measured(Painter())
    assert found["density"] < 0.25 * found["density_real"] < sound["density"]
    for key in ("fd_lite1", "fd_random", "kid_lite1"):
        assert found[key] > 3 * sound[key]


def test_one_that_puts_the_same_stroke_everywhere_is_flagged_by_that_alone(measured):
    found = measured(Stamping())
    assert found["flags"].keys() == {"mark"}
    assert found["flags"]["mark"].startswith("pictures carry the same mark: ")
    sound = measured(Painter())
    assert sound["common_mark"] < 1.5 * sound["common_mark_real"] < found["common_mark"]


def test_one_whose_seeds_do_nothing_is_flagged_by_that(measured):
    found = measured(Rigid())
    assert found["flags"].keys() == {"seeds"}
    assert found["diversity"]["among_seeds"] < 0.01


def test_the_intervals_hold_the_means_and_a_floor_is_not_far(measured):
    found = measured(Painter())
    for key, (low, high) in found["intervals"].items():
        assert low <= found[key] <= high
    low, high = found["intervals"]["fd_lite1"]
    assert low < found["fd_lite1_floor"] * 2 and high > found["fd_lite1_floor"] / 2


def test_the_page_needs_nothing_else_and_shows_the_pictures(measured, tmp_path):
    page = tmp_path / "report.html"
    found = measured(Copyist(), html=page)
    text = page.read_text(encoding="utf-8")
    assert "http" not in text and "<script" not in text
    assert text.count("<img") == 64 + 2 * 24 + 2 * 12 + 4 * 6
    assert found["flags"]["copies"] in text
    for title in ("prompts that nobody chose", "Nearest to a training picture", "What the seed"):
        assert title in text
    assert f"{found['fd_lite1']:.0f} <small>" in text
    assert found["sheet"] == {"prompts": found["sheet"]["prompts"], "seeds": [0, 63]}
