"""What version 0.1.0 wrote still opens, and gives what it gave."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

import imagen_model as im
from imagen_model.data.captions import CaptionSampler
from imagen_model.feedback.adapter import apply_adapter, load_adapter
from imagen_model.feedback.recipe import regenerated
from imagen_model.feedback.store import Store
from imagen_model.training.options import TrainOptions
from imagen_model.training.setup import CACHE, prepare

SAVED = Path(__file__).parent / "fixtures" / "saved_0.1.0"
GOLDEN = json.loads((SAVED / "golden.json").read_text(encoding="utf-8"))


@pytest.fixture
def run(tmp_path) -> Path:
    """A copy of the run, stopped after 16 of its 32 images."""
    return shutil.copytree(SAVED / "run", tmp_path / "run")


@pytest.fixture(scope="module")
def model() -> im.Model:
    return im.load(SAVED / "run" / "latest.safetensors")


def quiet(label: str):
    return lambda done, total: None


def test_a_run_goes_on_as_it_would_have_then(run):
    trainer = prepare(
        SAVED / "pictures",
        run,
        TrainOptions(),
        device=torch.device("cpu"),
        progress=quiet,
        resume=True,
    )
    assert trainer.progress.cur_nimg == 16
    trainer.run()
    lines = [json.loads(line) for line in (run / "stats.jsonl").read_text().splitlines()]
    assert len(lines) == len(GOLDEN["stats"]) == 4
    for line, golden in zip(lines, GOLDEN["stats"], strict=True):
        assert {k: v for k, v in line.items() if k in golden} == pytest.approx(golden, rel=5e-3)
        assert line.keys() - golden.keys() == {"seconds", "img_per_sec"}


def test_its_cache_of_encoded_captions_is_used(run, monkeypatch):
    def refuse(*args):
        raise AssertionError("captions were encoded again")

    monkeypatch.setattr("imagen_model.data.captions.encode_all", refuse)
    trainer = prepare(
        SAVED / "pictures",
        run,
        TrainOptions(),
        device=torch.device("cpu"),
        progress=quiet,
        resume=True,
    )
    assert isinstance(trainer.captions, CaptionSampler)
    assert (run / CACHE).is_dir()


def test_a_checkpoint_generates_the_same_pictures(model):
    golden = GOLDEN["pictures"]
    pictures = model.sample(golden["prompts"], seeds=golden["seeds"], style=golden["style"])
    means, corner = torch.tensor(golden["means"]), torch.tensor(golden["corner"])
    torch.testing.assert_close(pictures.mean(dim=(2, 3)), means, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(pictures[:, :, 8, 8], corner, atol=1e-5, rtol=1e-4)


def test_an_adapter_fits_its_model_and_changes_it_alike(model):
    golden = GOLDEN["adapted"]
    adapted = apply_adapter(model, load_adapter(SAVED / "adapter.safetensors"))
    condition = model.encode_text(golden["prompt"], style=golden["style"])
    pictures = adapted.draw(condition, model.latent(golden["seeds"]))
    means = torch.tensor(golden["means"])
    torch.testing.assert_close(pictures.mean(dim=(2, 3)), means, atol=1e-5, rtol=1e-4)


def test_a_store_of_ratings_has_its_ratings_and_their_pictures(model, tmp_path):
    shutil.copy(SAVED / "ratings.sqlite", tmp_path)
    with Store(tmp_path / "ratings.sqlite") as store:
        ratings = store.ratings()
    assert [(r.id, r.kind, r.value) for r in ratings] == [
        ("a", "thumb", 1),
        ("b", "thumb", -1),
        ("c", "pair", 1),
    ]
    kept = ratings[0].picture
    assert (kept.text, kept.style, kept.seed) == ("red apple", "noto", 5)
    (picture,) = regenerated(model, [kept])
    assert picture is not None
    again = model.sample("red apple", seeds=[5], style="noto")[0]
    torch.testing.assert_close(picture, again, atol=1 / 127, rtol=0)
