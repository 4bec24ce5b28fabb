"""From ratings to an adapter: recipes, reward, adapter files, tuning, and the ladder."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

import imagen_model as im
from imagen_model.checkpoint import save_checkpoint, tensors_sha256
from imagen_model.config import dcgan
from imagen_model.feedback import ab_test as trial
from imagen_model.feedback import finetune as tune
from imagen_model.feedback import learn as learn_module
from imagen_model.feedback.adapter import (
    Adapter,
    apply_adapter,
    base_of,
    linear_layers,
    load_adapter,
    save_merged,
    taste_of,
)
from imagen_model.feedback.learn import learn, report
from imagen_model.feedback.prompts import PROMPTS
from imagen_model.feedback.recipe import pictures_of, regenerated
from imagen_model.feedback.reward import (
    Reward,
    contradictions,
    enough_for,
    extract_features,
    feature_extractor,
    fit_logistic,
    fit_reward,
    newton,
)
from imagen_model.feedback.reward import _complaints as complaints_on
from imagen_model.feedback.store import Picture, Rating
from imagen_model.networks.efficientnet import lite0_hash
from imagen_model.networks.networks import Networks

CAPTIONS = ["red apple", "rocket", "cat face", "key", "house", "blue heart"]


@pytest.fixture(autouse=True)
def few_prompts(monkeypatch):
    """The tiny model learns in seconds: fewer prompts, fewer steps."""
    monkeypatch.setattr(tune, "PROMPTS", PROMPTS[:10])
    monkeypatch.setattr(trial, "PROMPTS", PROMPTS[10:20])
    monkeypatch.setattr(tune, "HELD_GROUPS", 3)
    monkeypatch.setattr(tune, "CHECK_EVERY", 3)
    monkeypatch.setattr(tune, "STEPS", {"shift": 9, "lora": 9})


def filled(pictures: Tensor) -> Tensor:
    """A taste: [N] how much of the picture is filled."""
    return pictures[:, 3].mean(dim=(1, 2))


def rated(model: im.Model, count: int, taste=filled, *, keep: bool = True) -> list[Rating]:
    """Thumbs and pairs of someone with this taste."""
    texts = [CAPTIONS[i % len(CAPTIONS)] for i in range(2 * count)]
    condition, latent = model.encode_text(texts), model.latent(range(500, 500 + 2 * count))
    drawn = model.draw(condition, latent)
    recipes = pictures_of(model, condition, latent, drawn if keep else None, texts=texts)
    liked = taste(drawn)
    middle = liked[1:count:2].median()  # of those that get a thumb
    ratings = []
    for i in range(count):
        a, b = i, count + i
        if i % 2:
            ratings.append(Rating(recipes[a], 1 if liked[a] > middle else -1, time=float(i)))
        else:
            won, lost = (a, b) if liked[a] > liked[b] else (b, a)
            ratings.append(Rating(recipes[won], other=recipes[lost], time=float(i)))
    return ratings


@pytest.fixture(scope="module")
def own(tiny_model) -> Tensor:
    """Views of pictures that the tiny model draws."""
    drawn = tiny_model.sample(CAPTIONS, seeds=range(12))
    return extract_features(drawn, feature_extractor(tiny_model))


@pytest.fixture(scope="module")
def reward(tiny_model, own) -> Reward:
    return fit_reward(tiny_model, rated(tiny_model, 24), own).reward


@pytest.fixture
def adapter(tiny_model, reward) -> Adapter:
    """One with everything in it."""
    random = torch.Generator().manual_seed(1)
    layers = linear_layers(tiny_model.networks.generator)
    lora = {
        name: (
            0.1 * torch.randn(layer.out_features, 2, generator=random),
            torch.randn(2, layer.in_features, generator=random),
        )
        for name, layer in layers.items()
    }
    shift = torch.randn(3, 32, generator=random)
    base = {"name": tiny_model.name, "sha256": tiny_model.card["sha256"]}
    return Adapter({"base": base}, reward, shift, lora, candidates=3).with_card()


def weights_of(model: im.Model) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.networks.state_dict().items()}


# Recipes


def test_a_recipe_draws_its_picture_again(tiny_model):
    condition = tiny_model.encode_text(["rocket", "key", ""])
    z = tiny_model.latent([1, 2, 2**64 - 1])
    w = tiny_model.into_w(condition, z)
    for latent, truncation in ((z, 0.6), (w, 1.0)):
        drawn = torch.cat(
            [
                tiny_model.draw(condition[i : i + 1], _row(latent, i), truncation=truncation)
                for i in range(3)
            ]
        )
        for texts in (["rocket", "key", ""], None):
            recipes = pictures_of(tiny_model, condition, latent, texts=texts, truncation=truncation)
            again = [Picture.from_dict(recipe.to_dict()) for recipe in recipes]
            pictures = torch.stack(regenerated(tiny_model, again))
            torch.testing.assert_close(pictures, drawn, atol=1e-5, rtol=0)  # batches round


def _row(latent, i):
    return im.Latent(latent.space, latent.values[i : i + 1], latent.seeds[i : i + 1])


def test_kept_pixels_serve_where_the_recipe_can_not(tiny_model):
    condition, latent = tiny_model.encode_text("key"), tiny_model.latent([3])
    drawn = tiny_model.draw(condition, latent)
    (picture,) = pictures_of(tiny_model, condition, latent, drawn)
    (kept,) = regenerated(tiny_model, [picture])
    assert (kept - drawn[0]).abs().max() < 1.01 / 255
    for other in ({"model": "another"}, {"adapter": {"sha256": "x", "strength": 1.0}}):
        assert regenerated(tiny_model, [replace(picture, png=None, **other)]) == [None]
        assert regenerated(tiny_model, [replace(picture, **other)])[0] is not None


def test_counts_that_do_not_fit_are_named(tiny_model):
    condition, latent = tiny_model.encode_text("key"), tiny_model.latent([3, 4])
    with pytest.raises(ValueError, match="1 pictures and 2 latents"):
        pictures_of(tiny_model, condition, latent, torch.zeros(1, 4, 32, 32))
    with pytest.raises(ValueError, match="1 texts do not fit 2"):
        pictures_of(tiny_model, condition, latent, texts=["key"])


# Reward


def test_newton_ends_where_the_gradient_is_zero_and_folds_ignore_what_they_leave_out(generator):
    rows = torch.randn(30, 5, generator=generator)
    kept = torch.ones(2, 30)
    kept[1, :10] = 0
    theta = newton(rows, kept, 1.0)
    for weights, solution in zip(kept, theta, strict=True):
        free = solution.clone().requires_grad_()
        loss = (weights * F.softplus(-(rows @ free))).sum() + 0.5 * free.square().sum()
        loss.backward()
        assert free.grad.abs().max() < 1e-4
    torch.testing.assert_close(newton(rows[10:], torch.ones(1, 20), 1.0)[0], theta[1])


def test_left_out_accuracy_is_high_for_a_taste_and_near_chance_for_dice(generator):
    rows = torch.randn(60, 6, generator=generator)
    taste = torch.randn(6, generator=generator)
    groups = torch.zeros(60)
    _, accuracy, train = fit_logistic(rows * (rows @ taste).sign()[:, None], groups)
    assert accuracy > 0.85 and train >= accuracy
    dice = torch.randint(2, (60, 1), generator=generator) * 2 - 1
    _, accuracy, _ = fit_logistic(rows * dice, groups)
    assert accuracy < 0.7


def test_a_reward_of_few_ratings_knows_new_pictures(tiny_model, own):
    fit = fit_reward(tiny_model, rated(tiny_model, 24), own)
    assert (fit.thumbs, fit.pairs) == (12, 12) and fit.accuracy > 0.6
    new = tiny_model.sample(["sun", "dog", "tree"], seeds=range(900, 920))
    liked = fit.reward(extract_features(new, feature_extractor(tiny_model)))
    assert torch.corrcoef(torch.stack([liked, filled(new)]))[0, 1] > 0.5
    torch.testing.assert_close(fit.reward(own).std(), torch.tensor(1.0))


def test_pictures_are_drawn_again_where_their_pixels_were_not_kept(tiny_model, own):
    kept = fit_reward(tiny_model, rated(tiny_model, 10), own).reward
    drawn = fit_reward(tiny_model, rated(tiny_model, 10, keep=False), own).reward
    a, b = kept(own), drawn(own)
    assert torch.corrcoef(torch.stack([a, b]))[0, 1] > 0.95  # PNG rounds


def test_ratings_that_teach_nothing_are_refused_in_plain_words(tiny_model, own):
    ratings = rated(tiny_model, 24)
    thumbs = [r for r in ratings if r.other is None]
    with pytest.raises(ValueError, match="there are 4 ratings; learning needs 5 or more"):
        fit_reward(tiny_model, ratings[:4], own)
    for value, words in ((1, "thumbs are up; rate some .* dislike"), (-1, "are down; .* like")):
        with pytest.raises(ValueError, match=words):
            fit_reward(tiny_model, [replace(r, value=value) for r in thumbs], own)
    lost = [replace(r, picture=replace(r.picture, model="gone", png=None)) for r in thumbs]
    with pytest.raises(ValueError, match=r"0 ratings \(12 more are of pictures that cannot"):
        fit_reward(tiny_model, lost, own)


def test_the_last_thumb_on_a_picture_counts(tiny_model, own):
    ratings = rated(tiny_model, 12)
    i = next(i for i, r in enumerate(ratings) if r.other is None)
    mistake = replace(ratings[i], value=-ratings[i].value, id="mistake", time=-1.0)
    torch.testing.assert_close(
        fit_reward(tiny_model, [mistake, *ratings], own).reward.theta,
        fit_reward(tiny_model, ratings, own).reward.theta,
    )


def test_contradictions_are_counted_and_complained_about():
    a, b, c = (Picture("m", seed) for seed in range(3))
    assert contradictions([Rating(a, other=b), Rating(b, other=c), Rating(a, other=c)]) == 0
    assert contradictions([Rating(a, other=b), Rating(b, other=a)]) == 1
    against_thumbs = [Rating(a, -1), Rating(b, 1), Rating(a, other=b)]
    assert contradictions(against_thumbs) == 1
    assert "1 ratings contradict" in complaints_on(against_thumbs, 3, 0.9, 0.9)[0]


@pytest.mark.parametrize(
    ("accuracy", "train_accuracy", "words"),
    [
        (0.5, 0.9, "do not predict each other"),
        (0.65, 1.0, "the reward overfits"),
        (0.9, 1.0, None),
    ],
)
def test_a_reward_that_can_not_be_trusted_says_so(accuracy, train_accuracy, words):
    said = complaints_on([Rating(Picture("m", i)) for i in range(40)], 40, accuracy, train_accuracy)
    assert (words is None and not said) or words in said[0]


def test_the_ladder_says_how_far_ratings_reach():
    assert "1 more" in enough_for(4)
    assert "15 more for LoRA" in enough_for(15) and "untouched" in enough_for(15)
    assert "enough for LoRA" in enough_for(30)


# Adapters


def test_an_adapter_is_the_same_after_saving_and_loading(adapter, tmp_path):
    adapter.save(tmp_path / "a.safetensors")
    loaded = load_adapter(tmp_path / "a.safetensors")
    assert loaded.card == adapter.card and loaded.candidates == 3
    for name, tensor in adapter.tensors().items():
        assert torch.equal(loaded.tensors()[name], tensor)


def test_applying_leaves_the_base_as_it_was_and_taking_off_gives_it_back(tiny_model, adapter):
    before = weights_of(tiny_model)
    picture = tiny_model.sample("key", seeds=[1])
    adapted = apply_adapter(tiny_model, adapter)
    assert (adapted.sample("key", seeds=[1]) != picture).any()
    assert all(torch.equal(before[n], t) for n, t in weights_of(tiny_model).items())
    assert base_of(adapted) is tiny_model
    assert apply_adapter(adapted, adapter, 0.0) is tiny_model
    assert torch.equal(tiny_model.sample("key", seeds=[1]), picture)


def test_a_second_adapter_replaces_the_first(tiny_model, adapter):
    once = apply_adapter(tiny_model, adapter, 0.5)
    twice = apply_adapter(apply_adapter(tiny_model, adapter), adapter, 0.5)
    assert all(torch.equal(a, weights_of(twice)[n]) for n, a in weights_of(once).items())


def test_a_shift_is_what_moving_every_w_would_be(tiny_model, adapter):
    condition = tiny_model.encode_text("key", style="noto")
    w = tiny_model.into_w(condition, tiny_model.latent([1, 2]))
    moved = im.Latent("w", w.values + 0.7 * adapter.shift, w.seeds)
    shifted = apply_adapter(tiny_model, replace(adapter, lora={}), 0.7)
    expected = tiny_model.draw(condition, moved)
    torch.testing.assert_close(shifted.draw(condition, w), expected, atol=1e-4, rtol=0)


def test_low_rank_updates_are_added_by_strength(tiny_model, adapter):
    adapted = apply_adapter(tiny_model, replace(adapter, shift=None), -0.5)
    layers, bases = (linear_layers(m.networks.generator) for m in (adapted, tiny_model))
    assert set(layers) == set(adapter.lora) and len(layers) == 3 * 8
    for name, (up, down) in adapter.lora.items():
        expected = bases[name].weight - 0.5 * up @ down
        torch.testing.assert_close(layers[name].weight, expected)


def test_the_best_of_the_candidates_is_drawn_whatever_the_batch(tiny_model, adapter):
    best = apply_adapter(tiny_model, replace(adapter, shift=None, lora={}))
    assert best.candidates == 3
    together = best.sample("key", seeds=[5, 6, 7])
    torch.testing.assert_close(best.sample("key", seeds=[6])[0], together[1], atol=1e-4, rtol=0)
    plain = tiny_model.sample("key", seeds=[5, 6, 7])
    assert (best.taste(together) >= best.taste(plain) - 1e-4).all()
    assert best.taste(together).mean() > best.taste(plain).mean()
    worst = apply_adapter(tiny_model, replace(adapter, shift=None, lora={}), -1.0)
    assert worst.taste(worst.sample("key", seeds=[5, 6, 7])).mean() < best.taste(plain).mean()


def test_walks_and_latents_in_w_are_drawn_once(tiny_model, adapter):
    best = apply_adapter(tiny_model, replace(adapter, shift=None, lora={}))
    condition = tiny_model.encode_text("key", style="noto")
    walk = im.walk(tiny_model.latent([1, 2]), 5)
    assert torch.equal(best.draw(condition, walk)[1:-1], tiny_model.draw(condition, walk)[1:-1])
    told = []
    best.draw(condition, tiny_model.latent([1, 2]), progress=lambda *t: told.append(t[:2]))
    assert told == [(2, 6), (4, 6), (6, 6), (6, 6)]  # drawn thrice, and judged


def test_a_merged_model_draws_what_the_adapter_drew(tiny_model, adapter, tmp_path):
    card = save_merged(tmp_path / "m.safetensors", tiny_model, adapter, 0.8)
    merged = im.load(tmp_path / "m.safetensors")
    adapted = apply_adapter(tiny_model, replace(adapter, candidates=1), 0.8)
    assert torch.equal(merged.sample("key", seeds=[1]), adapted.sample("key", seeds=[1]))
    assert card["sha256"] != tiny_model.card["sha256"] and card["merged"]["strength"] == 0.8


def test_an_adapter_of_another_model_is_refused(tiny_model, tiny_config, adapter, tmp_path):
    path = tmp_path / "other.safetensors"
    save_checkpoint(path, tiny_config, Networks.seeded(tiny_config, 1), {"lite0": lite0_hash()})
    with pytest.raises(ValueError, match=r"learned on tiny \(.*the model is other"):
        apply_adapter(im.load(path), adapter)


def test_what_is_no_adapter_is_one_line(adapter, tiny_checkpoint, tmp_path):
    path = tmp_path / "a.safetensors"
    adapter.save(path)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    (tmp_path / "tampered.safetensors").write_bytes(data)
    (tmp_path / "cut.safetensors").write_bytes(data[:-100])
    bad = replace(adapter, shift=torch.full((3, 32), torch.nan)).with_card()
    bad.save(tmp_path / "nan.safetensors")
    for name, words in (
        ("gone", "no adapter"),
        ("tampered", "is damaged"),
        ("cut", "not a readable safetensors file"),
        ("nan", "NaN or infinite"),
    ):
        with pytest.raises(ValueError, match=words):
            load_adapter(tmp_path / f"{name}.safetensors")
    with pytest.raises(ValueError, match="not an Imagen GAN adapter"):
        load_adapter(tiny_checkpoint)
    with pytest.raises(ValueError, match="not an Imagen GAN checkpoint"):
        im.load(path)


@pytest.mark.parametrize(
    ("name", "shape", "known"),
    [
        ("shift", (3,), True),
        ("reward.mean", (7,), True),
        ("reward.theta", (5,), True),
        ("reward.projection", (4,), True),
        ("lora.blocks.0.modulation.up", (32, 3), True),
        ("surplus", (1,), True),
        ("shift", (2, 32), False),
        ("shift", (3, 16), False),
        ("lora.blocks.0.modulation.up", (8, 2), False),
        ("lora.blocks.0.modulation.down", (2, 8), False),
    ],
)
def test_a_tensor_of_a_wrong_shape_is_named_with_its_file(
    tiny_model, adapter, tmp_path, name, shape, known
):
    """Where the shapes do not fit each other, when it is loaded; else when it meets the model."""
    path = tmp_path / "a.safetensors"
    tensors = adapter.tensors()
    assert name in tensors or name == "surplus"
    tensors[name] = torch.zeros(shape)
    card = adapter.card | {"sha256": tensors_sha256(tensors)}
    save_file(tensors, path, {"imagen.adapter": "1", "imagen.card": json.dumps(card)})
    use = partial(load_adapter, path)
    if not known:
        use = partial(apply_adapter, tiny_model, load_adapter(path))
    with pytest.raises(ValueError, match=r"a\.safetensors is damaged: its tensor ") as caught:
        use()
    part = name.removesuffix(".up").removesuffix(".down")
    assert part.partition(".")[0] in str(caught.value) and "\n" not in str(caught.value)


def test_features_of_another_number_are_named(tiny_model, adapter, tmp_path):
    reward = adapter.reward
    shorter = replace(reward, mean=reward.mean[:-1], projection=reward.projection[:-1])
    path = tmp_path / "a.safetensors"
    replace(adapter, reward=shorter).with_card().save(path)
    with pytest.raises(
        ValueError, match=r"a\.safetensors is damaged: its tensor reward\.projection"
    ):
        apply_adapter(tiny_model, load_adapter(path))


OVERWRITTEN = """
import os, sys
import imagen_model as im
from imagen_model.feedback.adapter import apply_adapter, load_adapter

model, adapter = im.load(sys.argv[1]), load_adapter(sys.argv[2])
os.truncate(sys.argv[2], 100)
adapted = apply_adapter(model, adapter)
print(tuple(adapted.draw(adapted.encode_text(""), adapted.latent([1, 2])).shape))
"""


def test_an_adapter_that_is_overwritten_in_place_draws_on(adapter, tiny_checkpoint, tmp_path):
    adapter.save(tmp_path / "a.safetensors")
    command = [sys.executable, "-c", OVERWRITTEN, tiny_checkpoint, tmp_path / "a.safetensors"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "(2, 4, 32, 32)\n"), done.stderr


# Tuning


@pytest.mark.parametrize("kind", ["shift", "lora"])
def test_tuning_starts_at_the_frozen_generator_and_raises_the_reward(
    tiny_model, reward, kind, monkeypatch
):
    monkeypatch.setattr(tune, "MAX_DIVERSITY_LOSS", 1.0)  # an untrained model has hardly any
    pool = tune.generate_pool(tiny_model, lambda *_: None)
    tuner = tune.Tuner(tiny_model, pool, reward, None, kind)
    extractor = tuner.extractor
    rows = torch.arange(8)
    with torch.no_grad():
        generated, _ = tuner.generate(rows)
        torch.testing.assert_close(
            extract_features(generated, extractor), pool.features[rows], atol=1e-4, rtol=1e-4
        )
    course = tuner.run(lambda *_: None)
    assert course["after"]["reward"] > course["before"]["reward"] and course["steps"] > 0
    shift, lora = tuner.result()
    assert shift.abs().max() > 0
    assert set(lora) == (set(tuner.updates) if kind == "lora" else set())
    assert all(up.abs().max() > 0 for up, _ in lora.values())


def test_tuning_ends_where_diversity_falls_and_gives_back_the_frozen_generator(
    tiny_model, reward, monkeypatch
):
    monkeypatch.setattr(tune, "MAX_DIVERSITY_LOSS", -9.0)  # whatever happens is a loss
    tuner = tune.Tuner(
        tiny_model, tune.generate_pool(tiny_model, lambda *_: None), reward, None, "lora"
    )
    course = tuner.run(lambda *_: None)
    shift, lora = tuner.result()
    assert course["steps"] == 0 and "diversity fell" in course["ended"]
    assert not shift.any() and not any(up.any() for up, _ in lora.values())


def test_tuning_ends_where_held_out_ratings_disagree(tiny_model, reward, monkeypatch):
    monkeypatch.setattr(tune, "STEPS", {"shift": 60})
    opposite = Reward(reward.mean, reward.projection, -reward.theta)
    pool = tune.generate_pool(tiny_model, lambda *_: None)
    course = tune.Tuner(tiny_model, pool, reward, opposite, "shift").run(lambda *_: None)
    assert "stopped agreeing" in course["ended"] and course["steps"] < 60


# Learning


def test_a_few_ratings_give_an_adapter_that_is_liked_more(tiny_model):
    before = weights_of(tiny_model)
    told = []
    adapter = learn(tiny_model, rated(tiny_model, 28), progress=lambda *t: told.append(t[:2]))
    assert all(torch.equal(before[n], t) for n, t in weights_of(tiny_model).items())
    card = adapter.card
    assert card["method"] == "shift" and not adapter.lora and adapter.candidates == 4
    assert card["base"]["sha256"] == tiny_model.card["sha256"]
    assert card["ratings"] == {"thumbs": 14, "pairs": 14}
    for key in ("reward", "realism", "diversity", "agreement"):
        assert len(card["ab"][key]) == 2
    assert card["ab"]["win_rate"] > 0.55
    adapted = apply_adapter(tiny_model, adapter)
    prompts = ["sun", "dog", "tree"]
    liked = filled(adapted.sample(prompts, seeds=range(20)))
    assert liked.mean() > filled(tiny_model.sample(prompts, seeds=range(20))).mean()
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert told[-1] == (1000, 1000)
    assert "weights untouched" in report(adapter) and "chance 50 %" in report(adapter)


def test_many_ratings_give_low_rank_updates_too_also_in_inference_mode(tiny_checkpoint, tmp_path):
    with torch.inference_mode():
        model = im.load(tiny_checkpoint)
        adapter = learn(model, rated(model, 32))
        adapted = apply_adapter(model, adapter)
        assert adapted.sample("key", seeds=[1]).shape == (1, 4, 32, 32)
    assert adapter.card["method"] == "lora" and adapter.card["ratings"]["pairs"] == 16
    adapter.save(tmp_path / "a.safetensors")
    assert load_adapter(tmp_path / "a.safetensors").card == adapter.card


def test_learning_on_an_adapted_model_begins_at_its_base(tiny_model):
    ratings = rated(tiny_model, 8)
    first = learn(tiny_model, ratings, method="best")
    again = learn(apply_adapter(tiny_model, first), ratings, method="best")
    assert again.card["base"] == first.card["base"]
    assert torch.equal(again.reward.theta, first.reward.theta)


def test_what_was_learned_is_scaled_down_until_it_does_no_harm(tiny_model, monkeypatch):
    tried = []

    def objecting(ab):
        tried.append(ab)
        return ["worse"] if len(tried) < 4 else []

    monkeypatch.setattr(learn_module, "objections", objecting)
    adapter = learn(tiny_model, rated(tiny_model, 24))
    assert len(tried) == 4 and adapter.card["scale"] == 0.0 and adapter.shift is None
    assert adapter.card["objections"] == []


def test_what_held_out_ratings_do_not_confirm_is_followed_less_far(tiny_model, monkeypatch):
    """Held-out ratings that like the opposite of the others."""
    split = learn_module._split

    def opposed(*args):
        reward, judge = split(*args)
        return reward, Reward(judge.mean, judge.projection, -reward.theta)

    monkeypatch.setattr(learn_module, "_split", opposed)
    adapter = learn(tiny_model, rated(tiny_model, 32))
    assert adapter.candidates == 2 and adapter.card["scale"] < 1
    assert "held-out ratings do not confirm" in report(adapter)


def test_an_adapter_that_is_worse_says_why(tiny_model, monkeypatch):
    monkeypatch.setattr(learn_module, "objections", lambda ab: ["diversity falls by 9 %"])
    adapter = learn(tiny_model, rated(tiny_model, 24), method="best")
    assert adapter.card["objections"] == ["diversity falls by 9 %"]
    assert report(adapter).endswith("better not used: diversity falls by 9 %")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"win_rate": 0.5}, "hardly liked more than the base"),
        ({"diversity_change": -0.06}, "diversity falls by 6.0%"),
        ({"agreement_change": -0.1}, "agreement with the prompts falls by 10.0%"),
        ({"realism_change": -0.3}, "realism falls by 0.30 standard deviations"),
    ],
)
def test_objections_name_what_got_worse(change, words):
    good = {"win_rate": 0.8, "diversity_change": -0.04, "agreement_change": 0.1}
    good["realism_change"] = -0.1
    assert trial.objections(good) == []
    (said,) = trial.objections(good | change)
    assert words in said


def test_learning_can_be_cancelled(tiny_model):
    def cancel(done, total, pictures):
        if done > 300:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        learn(tiny_model, rated(tiny_model, 8), progress=cancel)


def test_a_model_without_w_learns_by_best_of_n_only(tiny_model):
    config = dcgan(channels=4, width=2, discriminator_width=2)
    networks = Networks.seeded(config, 0).eval().requires_grad_(False)
    model = im.Model("old", config, networks, {"sha256": "0"})
    ratings = [copy.copy(r) for r in rated(tiny_model, 12)]
    with pytest.raises(ValueError, match="only method 'best' suits it"):
        learn(model, ratings, method="shift")
    adapter = learn(model, ratings)
    assert adapter.card["method"] == "best" and adapter.shift is None
    with pytest.raises(ValueError, match="method is 'magic'"):
        learn(model, ratings, method="magic")


def test_taste_is_a_number_beside_realism_for_pictures_of_any_size(tiny_model, adapter):
    adapted = apply_adapter(tiny_model, adapter)
    drawn = tiny_model.sample("key", seeds=range(4))
    large = F.interpolate(drawn, scale_factor=2.0, mode="nearest")
    assert taste_of(adapted, large).shape == (4,)
    assert torch.equal(taste_of(adapted, drawn), adapted.taste(drawn))
    assert adapted.taste(drawn).std() > 0
    assert not taste_of(tiny_model, drawn).any()
    torch.testing.assert_close(adapted.score(drawn).realism, tiny_model.score(drawn).realism)
