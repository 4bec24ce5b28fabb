"""The trainer: what a run writes, that it can stop anywhere, and that resuming changes nothing."""

import json
import math
import shutil
import time
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import tiny_model_config
from PIL import Image
from safetensors.torch import load_file

import imagen_model as im
from imagen_model import config as model_config
from imagen_model.condition import Condition
from imagen_model.conditioning.minilm import text_encoder, text_encoder_hash
from imagen_model.config import COND_DIM
from imagen_model.data.captions import CaptionSampler, EncodedTexts, encode_all
from imagen_model.data.dataset import InMemoryDataset
from imagen_model.data.item import Item
from imagen_model.networks.efficientnet import lite0_hash
from imagen_model.training import published_model
from imagen_model.training.config import PENALTIES, RunConfig, TrainingConfig
from imagen_model.training.losses import OBJECTIVES
from imagen_model.training.options import TrainOptions
from imagen_model.training.plan import describe, estimate
from imagen_model.training.progress import Progress
from imagen_model.training.published_model import PublishedModel
from imagen_model.training.report import write_timelapse
from imagen_model.training.schedule import EpochOrder
from imagen_model.training.setup import prepare
from imagen_model.training.state import load_state, save_state, saved_state
from imagen_model.training.trainer import Trainer

CPU = torch.device("cpu")
PRETRAIN = {
    "stage": "pretrain",
    "pairs_weight": 0.0,
    "info_nce_weight": 0.0,
    "adversarial_weight": 1.0,
}


def stop_after(images: int):
    def on_step(progress):
        if progress.cur_nimg >= images:
            raise KeyboardInterrupt

    return on_step


def stats(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "stats.jsonl").read_text().splitlines()]


# -- a run ----------------------------------------------------------------------------------------


def test_a_run_writes_stats_snapshots_samples_and_a_model(trainer):
    t = trainer(tick_kimg=0.016, snapshot_kimg=0.016)
    seen, speeds = [], []

    def on_step(progress):
        seen.append((progress.cur_nimg, progress.fraction))
        speeds.append(progress.img_per_sec)

    t.run(on_step)
    assert seen == [(8, 0.25), (16, 0.5), (24, 0.75), (32, 1.0)]
    assert all(speed > 0 for speed in speeds)  # from the first step, before any line of the log
    lines = stats(t.out)
    assert [line["kimg"] for line in lines] == [0.016, 0.032]
    for line in lines:
        assert all(math.isfinite(value) for value in line.values())
        assert {"seconds", "img_per_sec", "lr", "d_loss", "g_loss", "real_logits", "fake_logits",
                "d_info_nce", "g_info_nce", "feature_matching", "l1"} <= line.keys()  # fmt: skip
    with Image.open(t.out / "samples" / "000000.png") as sheet:
        assert (sheet.size, sheet.mode) == ((256, 256), "RGBA")
    assert (t.out / "samples" / "real.png").is_file()
    assert im.load(t.out / "snapshot-000000.safetensors").resolution == 32
    model = im.load(t.out / "latest.safetensors")
    assert model.sample("rocket", style="noto").shape == (1, 4, 32, 32)
    card = model.card
    assert (card["name"], card["stage"], card["kimg"]) == ("run", "text", 0.032)
    assert card["lite0"] == lite0_hash()
    assert card["training"]["batch"] == 8
    assert card["code_version"] == im.__version__


def test_training_changes_every_part_but_the_mixer(trainer):
    t = trainer()
    before = {name: p.clone() for name, p in t.networks.named_parameters()}
    for _ in range(12):  # null needs a row without words
        t.step()
        t.progress.cur_nimg = 4000  # past the warm-up
        t._set_lr()
    same = {n for n, p in t.networks.named_parameters() if torch.equal(p, before[n])}
    assert same == {f"discriminator.mixer.across.{i}.weight" for i in range(4)}


def test_a_short_training_comes_nearer_to_its_pictures(trainer):
    t = trainer(kimg=0.6, lr=4e-3, tick_kimg=0.08)
    t.run()
    lines = stats(t.out)
    # over five seeds the two end at 0.72-0.78 and 0.52-0.85 of where they began
    assert lines[-1]["feature_matching"] < 0.85 * lines[0]["feature_matching"]
    assert lines[-1]["l1"] < 0.95 * lines[0]["l1"]


def test_at_the_end_only_the_discriminator_learns(trainer):
    t = trainer(kimg=0.064, judge_fraction=0.5, tick_kimg=0.008)
    at = {}

    def on_step(progress):
        at[progress.cur_nimg] = {k: v.clone() for k, v in t.networks.state_dict().items()}
        at[progress.cur_nimg, "ema"] = t.ema.module.generator.grid.clone()

    t.run(on_step)
    middle, end = at[40], at[64]  # the step after 32 is the last with fraction 0.5
    changed = {k for k in end if not torch.equal(end[k], middle[k])}
    assert changed
    assert all(k.startswith("discriminator.") for k in changed)
    assert torch.equal(at[40, "ema"], at[64, "ema"])
    assert not torch.equal(at[32, "ema"], at[40, "ema"])
    lines = stats(t.out)
    assert ["g_loss" in line for line in lines] == [True] * 5 + [False] * 3
    rates = [line["lr"] for line in lines]
    assert rates[4] == pytest.approx(t.training.lr_end)  # the generator's cosine has ended
    assert rates[5] > rates[6] > rates[7] > rates[4]


def test_two_runs_of_a_seed_are_the_same_and_of_another_seed_are_not(trainer):
    logs = [trainer(seed=seed).step() for seed in (3, 3, 4)]
    assert {k: float(v) for k, v in logs[0].items()} == {k: float(v) for k, v in logs[1].items()}
    assert float(logs[0]["l1"]) != float(logs[2]["l1"])


def test_training_leaves_the_global_random_state_alone(trainer):
    before = torch.get_rng_state()
    trainer().step()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_trains_both_networks(trainer, objective):
    t = trainer(objective=objective, pairs_weight=0.0, info_nce_weight=0.0, tick_kimg=0.008)
    before = {name: p.clone() for name, p in t.networks.named_parameters()}
    t.run()
    for line in stats(t.out):
        assert all(math.isfinite(value) for value in line.values())
    assert ("lipschitz_penalty" in line) == (objective == "wgan-gp")
    after = dict(t.networks.named_parameters())
    for name in ("generator.tail.out.weight", "discriminator.trunk.stem.weight"):
        assert not torch.equal(before[name], after[name])


def test_the_probed_penalty_is_near_the_exact_one(trainer):
    """Same networks, same pictures; the mean over the batches of a few probes."""
    values = {}
    for penalty in ("exact", "finite-difference"):
        t = trainer(objective="rpgan", r1_gamma=1.0, r2_gamma=1.0, penalty=penalty, lr=1e-4)
        logs = [t.step() for _ in range(12)]
        values[penalty] = [
            torch.stack([log[name] for log in logs]).mean().item()
            for name in ("r1_penalty", "r2_penalty")
        ]
    # 96 probes each: one standard error is about 15 %
    assert values["finite-difference"] == pytest.approx(values["exact"], rel=0.45)


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("features", [True, False])
def test_rpgan_with_penalties_runs(trainer, features, penalty):
    t = trainer(
        model=tiny_model_config(features=features),
        objective="rpgan",
        r1_gamma=1.0,
        r2_gamma=1.0,
        penalty=penalty,
        pairs_weight=float(features),
        tick_kimg=0.032,
    )
    t.run()
    line = stats(t.out)[-1]
    assert line["r1_penalty"] > 0
    assert line["r2_penalty"] > 0
    assert all(math.isfinite(value) for value in line.values())


@pytest.mark.parametrize("features", [True, False])
def test_a_generator_that_looks_ahead_trains(trainer, features):
    t = trainer(
        model=tiny_model_config(features=features),
        unrolled_steps=2,
        pairs_weight=0.0,
        tick_kimg=0.008,
    )
    before = t.networks.generator.tail.out.weight.detach().clone()
    t.run()
    assert all(math.isfinite(value) for line in stats(t.out) for value in line.values())
    assert not torch.equal(before, t.networks.generator.tail.out.weight)


def test_saving_memory_changes_no_number(trainer):
    logs = []
    for saving in (False, True):
        t = trainer(recompute_blocks=saving)
        calls = []
        t.networks.generator.blocks[0].register_forward_pre_hook(lambda *_, c=calls: c.append(1))
        t.step()
        logs.append({name: float(value) for name, value in t.step().items()})
        assert len(calls) == (4 if saving else 2)
    assert logs[0] == logs[1]


def test_what_a_run_adapts_is_logged_and_goes_on(trainer):
    settings = {
        "objective": "rpgan", "r1_gamma": 1e-6, "r2_gamma": 1e-6, "auto_gamma": True,
        "augment_target": 0.6, "tick_kimg": 0.008,
    }  # fmt: skip
    t = trainer(**settings)
    t.run()
    lines = stats(t.out)
    assert [line["gamma"] for line in lines] == pytest.approx([1e-6 * 1.25**i for i in range(4)])
    steps = {round(a["augment_p"] - b["augment_p"], 9) for a, b in pairwise(lines)}
    assert steps <= {0.000016, -0.000016}
    again = trainer(**settings)
    assert again.resume()
    assert again.train_step.controls == t.train_step.controls
    assert again.train_step.controls.gamma_scale == pytest.approx(1.25**4)


def test_the_penalties_change_the_discriminator(trainer):
    heads = []
    for gamma in (0.0, 100.0):
        t = trainer(objective="rpgan", r1_gamma=gamma, r2_gamma=gamma)
        t.step()
        heads.append(t.optimizers["d"].state[t.networks.discriminator.trunk.stem.weight]["exp_avg"])
    assert not torch.allclose(heads[0], heads[1])


def test_pretraining_needs_no_words(emoji_pictures, tmp_path):
    samples = [Item(s.path) for s in emoji_pictures.items]
    pictures = InMemoryDataset(samples, emoji_pictures.pixels)
    model = tiny_model_config(styles=(), text_encoder="")
    training = TrainingConfig(batch=8, kimg=0.016, tick_kimg=0.016, **PRETRAIN)
    t = Trainer(
        RunConfig(model, training, tmp_path / "run", card={}),
        pictures,
        CaptionSampler(samples, ()),
        device=CPU,
    )
    t.run()
    line = stats(t.out)[-1]
    assert math.isfinite(line["g_loss"])
    assert "feature_matching" not in line
    assert (t.out / "samples" / "000000.png").is_file()
    assert im.load(t.out / "latest.safetensors").sample("", seeds=[0, 1]).shape == (2, 4, 32, 32)


def test_a_time_limit_ends_a_run(trainer):
    t = trainer(kimg=0.0, minutes=1e-5)
    t.run()
    assert t.progress.cur_nimg == 8
    assert t.progress.fraction >= 1


def test_the_learning_rate_warms_up_and_falls_to_its_end(trainer):
    t = trainer(
        kimg=10.0, lr=1e-3, lr_end=1e-4, warmup_kimg=1.0, mapping_lr_ratio=0.1, judge_fraction=0.0
    )

    def rates(images: int) -> list[float]:
        t.progress.cur_nimg = images
        t._update_fraction()
        t._set_lr()
        groups = t.optimizers["g"].param_groups + t.optimizers["d"].param_groups
        return [group["lr"] for group in groups]

    assert rates(0) == [0, 0, 0]
    rest, mapping, judge = rates(5000)
    assert rest == pytest.approx((1e-3 + 1e-4) / 2)
    assert mapping == pytest.approx(rest * 0.1)
    assert judge == pytest.approx(rest * 0.5)
    assert rates(500)[0] == pytest.approx(rates(1000)[0] / 2, rel=0.02)
    assert rates(10_000)[0] == pytest.approx(1e-4)


def test_figures_come_with_snapshots_and_at_the_end(trainer):
    t = trainer(kimg=0.04, tick_kimg=0.008, snapshot_kimg=0.016)
    asked = []

    def measure(networks):
        asked.append(networks is t.ema.module)
        return {"kid_lite1": float(len(asked))}

    t.metrics = measure
    t.run()
    found = {line["kimg"]: line["kid_lite1"] for line in stats(t.out) if "kid_lite1" in line}
    assert found == {0.016: 1.0, 0.032: 2.0, 0.04: 3.0}
    assert all(asked)


def test_figures_that_take_long_are_left_out(trainer):
    t = trainer(kimg=0.04, tick_kimg=0.008, snapshot_kimg=0.008)

    def measure(networks):
        time.sleep(1.0)  # a twentieth of the time would be twenty seconds
        return {"kid_lite1": 0.5}

    t.metrics = measure
    t.run()
    assert [line["kimg"] for line in stats(t.out) if "kid_lite1" in line] == [0.008, 0.04]


def test_the_shortest_run_has_two_points_to_plot(trainer):
    t = trainer(kimg=0.032, tick_kimg=2.0)
    t.run()
    assert [line["kimg"] for line in stats(t.out)] == [0.016, 0.032]


def test_the_end_of_a_run_is_logged_between_ticks_too(trainer):
    t = trainer(kimg=0.024, tick_kimg=0.016)
    t.run()
    assert [line["kimg"] for line in stats(t.out)] == [0.016, 0.024]


def test_the_newest_model_is_published(trainer, tmp_path):
    t, target = trainer(), tmp_path / "models" / "mine.safetensors"
    t.published = PublishedModel(t.out, target)
    with pytest.raises(KeyboardInterrupt):
        t.run(stop_after(16))
    assert im.load(target).card["kimg"] == 0.016


def test_only_what_the_run_published_is_replaced(trainer, tmp_path):
    target, run = tmp_path / "mine.safetensors", trainer(kimg=0.016)
    run.published = PublishedModel(run.out, target)
    run.run()
    first = target.read_bytes()
    (run.out / "latest.safetensors").write_bytes(b"a newer one, and a kill before it was copied")
    PublishedModel(run.out, target)  # what the record names is the run's
    target.write_bytes(b"downloaded")
    with pytest.raises(ValueError, match=r"is not a model of the run in .*choose another name"):
        PublishedModel(run.out, target)
    assert target.read_bytes() == b"downloaded"
    target.write_bytes(first)
    (run.out / "published.json").unlink()  # as version 0.1.0 left it
    (run.out / "latest.safetensors").write_bytes(first)
    PublishedModel(run.out, target)


def test_kills_between_record_and_copy_leave_the_model_the_run_s_own(tmp_path, monkeypatch):
    run, target = tmp_path / "run", tmp_path / "mine.safetensors"
    run.mkdir()
    model = run / "latest.safetensors"
    model.write_bytes(b"first")
    PublishedModel(run, target).replace(model)

    def killed(*args):
        raise KeyboardInterrupt

    for content in (b"second", b"third"):
        model.write_bytes(content)
        with monkeypatch.context() as patch:
            patch.setattr(published_model, "write_atomically", killed)
            with pytest.raises(KeyboardInterrupt):
                PublishedModel(run, target).replace(model)
    assert target.read_bytes() == b"first"
    PublishedModel(run, target).replace(model)
    assert target.read_bytes() == b"third"


def test_a_finished_run_stays_as_it_is_and_says_so(trainer, tmp_path, caplog):
    first = trainer(kimg=0.016)
    first.run()
    before = {path.name: path.read_bytes() for path in first.out.glob("*.safetensors")}
    again = trainer(kimg=0.016, seed=5)
    again.card = {**again.card, "data": {"name": "others", "pictures": 3, "training_list": "x"}}
    again.published = PublishedModel(again.out, tmp_path / "mine.safetensors")
    assert again.resume()
    again.run()
    assert "nothing left to train: the run has 0.0 kimg" in caplog.text
    assert "goes on with other pictures" in caplog.text and "others has 3" in caplog.text
    after = {path.name: path.read_bytes() for path in first.out.glob("*.safetensors")}
    assert after == before
    assert (tmp_path / "mine.safetensors").read_bytes() == before["latest.safetensors"]


def test_a_preview_shows_the_same_captions_as_the_real_pictures(trainer):
    t = trainer()
    assert t.preview(columns=4).size == (4 * 32, 4 * 32)
    assert t.preview(columns=4).tobytes() == t.preview(columns=4).tobytes()
    assert t.preview(columns=4).tobytes() != t.preview(columns=4, real=True).tobytes()


def test_an_estimate_is_tried_out(trainer):
    t = trainer(kimg=10.0)
    plan = estimate(t)
    rate = float(plan["speed"].split()[0])
    assert rate > 0
    assert plan["time"].endswith("for 10.0 kimg, 1,250 steps")
    weights = [sample.weight for sample in t.dataset.items]
    assert plan["epochs"] == f"{10_000 * max(weights) / sum(weights):.1f}"
    assert not t.out.exists()
    by_time = estimate(trainer(kimg=0.0, minutes=2.0))
    assert by_time["time"].startswith("0:02:00 for")


# -- stopping and going on ------------------------------------------------------------------------


def test_resume_matches_an_uninterrupted_run(trainer):
    whole = trainer("whole", kimg=0.064)
    whole.run()
    with pytest.raises(KeyboardInterrupt):
        trainer("parts", kimg=0.064).run(stop_after(24))
    parts = trainer("parts", kimg=0.064)
    assert parts.resume()
    assert parts.progress.cur_nimg == 24
    parts.run()
    assert parts.progress.cur_nimg == whole.progress.cur_nimg == 64
    one, other = (load_file(t.out / "latest.safetensors") for t in (whole, parts))
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []
    trained = whole.networks.state_dict()
    for name, tensor in parts.networks.state_dict().items():
        assert torch.equal(tensor, trained[name]), name


def test_an_interruption_saves_what_was_trained(trainer):
    t = trainer()
    with pytest.raises(KeyboardInterrupt):
        t.run(stop_after(16))
    again = trainer()
    assert again.resume()
    assert again.progress.cur_nimg == 16
    assert again.progress.seconds == t.progress.seconds
    for ours, theirs in zip(again.networks.parameters(), t.networks.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert im.load(t.out / "latest.safetensors").card["kimg"] == 0.016


def test_an_interruption_before_the_first_step_saves_nothing(trainer, monkeypatch):
    t = trainer()

    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(t, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        t.run()
    assert saved_state(t.out) is None
    assert not t.resume()


def test_resuming_a_finished_run_trains_no_further(trainer):
    trainer().run()
    again = trainer()
    assert again.resume()
    again.run(lambda progress: pytest.fail("a step too many"))
    assert again.progress.cur_nimg == 32


def module(value: float) -> torch.nn.Module:
    linear = torch.nn.Linear(2, 2)
    with torch.no_grad():
        linear.weight.fill_(value)
    return linear


def saved_value(run: Path) -> float:
    restored = module(0.0)
    load_state(saved_state(run), {"net": restored}, {})
    return restored.weight[0, 0].item()


@pytest.mark.parametrize("interrupted_rename", [0, 1])
def test_the_state_survives_an_interruption_between_renames(
    tmp_path, monkeypatch, interrupted_rename
):
    save_state(tmp_path, {"net": module(1.0)}, {}, {"cur_nimg": 1})
    rename, count = Path.rename, 0

    def failing(self, target):
        nonlocal count
        if count == interrupted_rename:
            raise KeyboardInterrupt
        count += 1
        return rename(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", failing)
        with pytest.raises(KeyboardInterrupt):
            save_state(tmp_path, {"net": module(2.0)}, {}, {"cur_nimg": 2})
    assert saved_value(tmp_path) in (1.0, 2.0)  # a complete one, old or new
    save_state(tmp_path, {"net": module(3.0)}, {}, {"cur_nimg": 3})
    assert saved_value(tmp_path) == 3.0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["state", "state.old"]


def test_a_half_written_state_is_not_resumed_from(tmp_path, monkeypatch):
    save_state(tmp_path, {"net": module(1.0)}, {}, {"cur_nimg": 1})

    def full(*args, **kwargs):
        raise OSError("disk full")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", full)
        with pytest.raises(OSError, match="disk full"):
            save_state(tmp_path, {"net": module(2.0)}, {}, {"cur_nimg": 2})
    assert saved_value(tmp_path) == 1.0


@pytest.mark.parametrize("name", ["net.safetensors", "progress.json"])
def test_a_damaged_state_is_named_with_what_goes_on_without_it(tmp_path, name):
    save_state(tmp_path, {"net": module(1.0)}, {}, {"cur_nimg": 1})
    file = tmp_path / "state" / name
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(ValueError, match=rf"{name} is damaged .* as init, .*latest.safetensors"):
        load_state(saved_state(tmp_path), {"net": module(0.0)}, {})


@pytest.mark.parametrize(
    "damage", [b"", b"{", bytes(100), bytes([8, 0, 0, 0, 0, 0, 0, 0]) + b"{}      "]
)
def test_a_damaged_cache_is_made_again(tmp_path, caplog, damage):
    texts, encoder = ["a key", "a red apple"], text_encoder()
    path = tmp_path / "texts.safetensors"
    encode_all(texts, encoder).save(path, texts, encoder.identity)
    assert EncodedTexts.cached(path, texts, encoder.identity) is not None
    path.write_bytes(damage)
    assert EncodedTexts.cached(path, texts, encoder.identity) is None
    assert "texts.safetensors is damaged and will be made again" in caplog.text


def test_the_optimisers_memory_is_restored(tmp_path):
    def trained(net):
        optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
        for _ in range(3):
            net(torch.ones(1, 2)).square().sum().backward()
            optimizer.step()
        return optimizer

    net = module(1.0)
    optimizer = trained(net)
    save_state(tmp_path, {"net": net}, {"g": optimizer}, {"cur_nimg": 7, "rng": [1, 2]})
    other = module(0.0)
    restored = torch.optim.Adam(other.parameters(), lr=0.1)
    progress = load_state(saved_state(tmp_path), {"net": other}, {"g": restored})
    assert progress == {"cur_nimg": 7, "rng": [1, 2]}
    for ours, theirs in zip(other.parameters(), net.parameters(), strict=True):
        state, expected = restored.state[ours], optimizer.state[theirs]
        assert state.keys() == expected.keys()
        assert all(torch.equal(state[key], expected[key]) for key in state)


# -- the order of pictures ------------------------------------------------------------------------


def test_an_epoch_shows_every_picture_once():
    order = EpochOrder(torch.ones(10), seed=0)
    first, second = order.next(10).tolist(), order.next(10).tolist()
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second


def test_a_batch_may_be_larger_than_the_set():
    assert Counter(EpochOrder(torch.ones(3), seed=0).next(9).tolist()) == {0: 3, 1: 3, 2: 3}


def test_a_weight_is_how_often_a_picture_comes():
    order = EpochOrder(torch.tensor([1.0, 0.25, 0.5]), seed=0)
    counts = order.next(7000).bincount(minlength=3)
    torch.testing.assert_close(
        counts / counts[0], torch.tensor([1.0, 0.25, 0.5]), atol=0.04, rtol=0
    )


def test_the_order_goes_on_where_it_was():
    one, other = (EpochOrder(torch.ones(10), seed=5) for _ in range(2))
    one.next(13)
    other.seek(one.epoch, one.cursor)
    assert torch.equal(one.next(20), other.next(20))
    assert not torch.equal(EpochOrder(torch.ones(10), seed=6).next(10), one.next(10))


def test_only_the_newest_snapshots_are_kept(trainer):
    t = trainer(kimg=0.032, snapshot_kimg=0.008, keep_snapshots=2)
    for number in range(1, 5):
        t._snapshot(f"snapshot-{number:06d}.safetensors")
        t._drop_old_snapshots()
    names = sorted(path.name for path in t.out.glob("snapshot-*"))
    assert names == ["snapshot-000003.safetensors", "snapshot-000004.safetensors"]


def test_a_report_shows_curves_and_pictures_and_needs_no_other_file(trainer):
    t = trainer(kimg=0.032, tick_kimg=0.008, snapshot_kimg=0.016)
    t.run()
    page = (t.out / "report.html").read_text()
    for words in ("Mean logits", "d_loss", "0.0 kimg", "data:image/png;base64,", "<polyline"):
        assert words in page
    assert "http" not in page and "<script" not in page


def test_the_timelapse_has_a_frame_a_grid(tmp_path):
    (tmp_path / "samples").mkdir()
    assert write_timelapse(tmp_path) is None
    for i, name in enumerate(("000001", "000002", "000003", "real")):
        Image.new("RGBA", (8, 8), (80 * i, 0, 0, 255)).save(tmp_path / "samples" / f"{name}.png")
    with Image.open(write_timelapse(tmp_path)) as film:
        assert film.n_frames == 3
        film.seek(2)
        assert film.convert("RGBA").getpixel((4, 4)) == (160, 0, 0, 255)


# -- beginning with a trained model ---------------------------------------------------------------


def parameters(networks) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in networks.named_parameters()}


def test_a_run_begins_with_the_weights_of_its_model(prepared, tiny_checkpoint, tiny_networks):
    t = prepared(init=str(tiny_checkpoint), preset=None, resolution=None)
    ours, theirs = parameters(t.networks), parameters(tiny_networks)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert all(torch.equal(p, theirs[n]) for n, p in t.ema.module.named_parameters())
    assert t.training.lr == pytest.approx(0.5 * 2e-4 * 768 / 32)
    assert t.card["lineage"][0]["name"] == "tiny"
    assert len(t.card["lineage"][0]["sha256"]) == 64
    assert describe(t)["begins with"] == "tiny"
    before = parameters(t.networks)
    t._set_lr()
    t.progress.cur_nimg = 4000
    t._set_lr()
    t.step()
    assert any(not torch.equal(p, before[n]) for n, p in t.networks.named_parameters())


def test_new_styles_join_those_that_the_model_knows(prepared, tiny_checkpoint, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    Image.new("RGB", (40, 40), (9, 9, 9)).save(folder / "a.png")
    line = {"file_name": "a.png", "text": "a stone", "style": "woodcut"}
    (folder / "metadata.jsonl").write_text(json.dumps(line))
    t = prepared(folder, init=str(tiny_checkpoint), preset=None, resolution=None)
    known = ("fluent-3d", "fluent-flat", "noto", "twemoji")
    assert t.model.conditioning.styles == (*known, "woodcut")
    assert t.model.generator.channels == 4  # the model's, though the picture is opaque
    embed = t.networks.conditioning.style_embed
    torch.testing.assert_close(embed[4], embed[:4].mean(dim=0))
    columns = t.networks.discriminator.style_in.weight
    torch.testing.assert_close(columns[:, 4], columns[:, :4].mean(dim=1))
    t.step()


def test_a_model_grows_to_more_pixels(prepared):
    """At first it draws what it drew, larger; then it trains as any other."""
    t = prepared(init="emoji", preset=None, resolution=256, batch=4)
    assert t.model.generator.resolution == t.model.discriminator.resolution == 256
    assert t.dataset.batch(torch.arange(2)).shape == (2, 4, 256, 256)
    z = torch.randn(8, t.model.generator.z_dim, generator=torch.Generator().manual_seed(0))
    asked = t.captions.captions(torch.arange(8))
    with torch.no_grad():
        larger = F.interpolate(im.load("emoji").networks.generate(z, asked), scale_factor=2)
        drawn = t.networks.generate(z, asked)
    another = (drawn - larger.roll(1, dims=0)).abs().mean()
    assert (drawn - larger).abs().mean() < 0.25 * another
    first = parameters(t.networks.generator.tail)
    t.progress.cur_nimg = 4000
    t._set_lr()
    t.step()
    changed = parameters(t.networks.generator.tail)
    assert all(not torch.equal(changed[name], p) for name, p in first.items())


def test_a_model_of_512_px_grows_in_small_batches_and_shows_few_pictures_a_grid(
    prepared, tiny_checkpoint
):
    t = prepared(init=str(tiny_checkpoint), preset=None, resolution=512, batch=None, kimg=0.004)
    assert t.training.batch == 4
    t.run()
    with Image.open(t.out / "samples" / "000000.png") as sheet:
        assert sheet.size == (1024, 1024)
    model = im.load(t.out / "latest.safetensors")
    assert model.sample("", seeds=[0]).shape == (1, 4, 512, 512)


def test_a_model_of_256_px_has_batches_of_eight_unless_told_otherwise(prepared):
    assert prepared(resolution=256, batch=None).training.batch == 8


def test_a_model_gets_fine_blocks(prepared, tmp_path):
    """At first it draws what it drew, exactly; then they are trained, saved and kept."""
    t = prepared(init="emoji", preset=None, resolution=None, fine_blocks=1, batch=4, kimg=0.008)
    z = torch.randn(2, t.model.generator.z_dim, generator=torch.Generator().manual_seed(0))
    asked = t.captions.captions(torch.arange(2))
    with torch.no_grad():
        before = im.load("emoji").networks.generate(z, asked)
        assert torch.equal(t.ema.module.generate(z, asked), before)  # both in eval
    t.run()
    saved = t.out / "latest.safetensors"
    model = im.load(saved)
    assert model.config.generator.num_fine_blocks == 1
    assert model.networks.generator.fine.leave.weight.any()
    again = prepared(init=None, preset=None, resolution=None, kimg=0.012, resume=True)
    assert again.model.generator.num_fine_blocks == 1 and again.progress.cur_nimg == 8
    for chosen in (0, 2):
        with pytest.raises(ValueError, match=f"fine-blocks {chosen} does not fit the run in .* 1$"):
            prepared(init=None, preset=None, resolution=None, fine_blocks=chosen, resume=True)
    shutil.move(t.out, tmp_path / "first")
    init = str(tmp_path / "first" / "latest.safetensors")
    with pytest.raises(ValueError, match=r"fine-blocks 0 does not fit init .*, which is 1"):
        prepared(init=init, preset=None, resolution=None, fine_blocks=0)
    with pytest.raises(ValueError, match="fine-blocks are for a trained model; name one by init"):
        prepared(init=None, fine_blocks=1)


def test_a_pretrained_model_learns_text(emoji_folder, prepared, tmp_path):
    t = prepared(stage="pretrain", kimg=0.008)
    t.run()
    shutil.move(t.out, tmp_path / "first")
    snapshot = tmp_path / "first" / "latest.safetensors"
    t = prepared(init=str(snapshot), preset=None, resolution=None, kimg=0.016)
    assert t.training.stage == "text" and len(t.model.conditioning.styles) == 4
    pretrained = parameters(im.load(snapshot).networks.generator)
    ours = parameters(t.networks.generator)
    changed = {name for name in pretrained if not torch.equal(ours[name], pretrained[name])}
    silenced = {
        f"{layer}.{part}"
        for layer in ("mapping.cond_in", "context_in")
        for part in ("weight", "bias")
    }
    assert changed == silenced | {"mapping.code_in.weight"}
    t.run()
    card = im.load(t.out / "latest.safetensors").card
    assert [(p["name"], p["stage"]) for p in card["lineage"]] == [("run", "pretrain")]
    assert im.load(t.out / "latest.safetensors").sample("rocket", style="noto").shape[0] == 1


def test_at_first_a_pretrained_model_draws_the_same_whatever_is_asked(prepared, tmp_path):
    """z brings no layout any more: the caption will."""
    t = prepared(stage="pretrain", kimg=0.1)
    t.run()
    shutil.move(t.out, tmp_path / "first")
    snapshot = tmp_path / "first" / "latest.safetensors"
    t = prepared(init=str(snapshot), preset=None, resolution=None)
    z = torch.randn(8, t.model.generator.z_dim, generator=torch.Generator().manual_seed(0))
    asked = t.captions.captions(torch.arange(8))
    with torch.no_grad():
        drawn = t.networks.generate(z, asked)
        other = t.networks.generate(z, t.captions.captions(torch.arange(8, 16)))
        before = im.load(snapshot).networks
        before.generator.mapping.code_in.weight.zero_()
        null = before.generate(z, Condition.null(8, before.conditioning.config))
    torch.testing.assert_close(drawn, other)
    torch.testing.assert_close(drawn, null, atol=1e-4, rtol=0)
    t.step()
    t.progress.cur_nimg = 4000
    t._set_lr()
    t.step()
    with torch.no_grad():
        changed = t.networks.generate(z, asked)
    assert (
        changed - t.networks.generate(z, t.captions.captions(torch.arange(8, 16)))
    ).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ({"preset": "large"}, "preset large does not fit init"),
        ({"resolution": 16}, "resolution 16 does not fit init .* which is 32"),
        ({"resolution": 48}, "resolution is 48; expected .*32, 64, 128"),
        ({"init": "nowhere.safetensors"}, "no checkpoint nowhere"),
    ],
)
def test_an_init_that_does_not_fit_is_refused(prepared, tiny_checkpoint, choice, words):
    choices = {"init": str(tiny_checkpoint), "preset": None, "resolution": None} | choice
    with pytest.raises(ValueError, match=words):
        prepared(**choices)


def test_a_run_goes_on_with_its_own_settings(prepared, tiny_checkpoint):
    choices = {"preset": None, "resolution": None, "init": str(tiny_checkpoint)}
    first = prepared(**choices, objective="rpgan", gamma=3.0, seed=5, kimg=0.016)
    first.run()
    t = prepared(resume=True)
    assert t.training == first.training
    assert t.model == first.model
    assert t.progress.cur_nimg == 16
    assert t.card["lineage"] == first.card["lineage"]
    assert t.order.seed == 5
    longer = prepared(resume=True, minutes=2.0, batch=4)
    assert longer.training == replace(first.training, kimg=0.0, minutes=2.0, batch=4)
    longer.step()


def test_where_nothing_is_saved_resuming_begins_a_run(prepared):
    t = prepared(resume=True, preset="nano", resolution=32, kimg=0.5)
    assert t.progress.cur_nimg == 0
    assert t.training.kimg == 0.5
    with pytest.raises(ValueError, match="when to stop"):
        prepared(resume=True)


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ({"preset": "large"}, "preset large does not fit the run in .*run, which is nano"),
        ({"resolution": 64}, "resolution 64 does not fit the run in .*run, which is 32"),
        ({"stage": "pretrain"}, "stage pretrain does not fit the run in .*run, which is text"),
    ],
)
def test_a_run_cannot_go_on_as_another(prepared, choice, words):
    t = prepared(kimg=0.008)
    t.run()
    with pytest.raises(ValueError, match=words):
        prepared(resume=True, **choice)


# -- from a folder to a trainer -------------------------------------------------------------------


@pytest.fixture
def prepared(emoji_folder, tmp_path, monkeypatch):
    monkeypatch.setitem(model_config.PRESET_DIMS, "nano", 32)

    def build(data=emoji_folder, *, resume=False, **choices):
        defaults = {} if resume else {"preset": "nano", "resolution": 32, "kimg": 1.0, "batch": 8}
        return prepare(
            data,
            tmp_path / "run",
            TrainOptions(**defaults | choices),
            device=CPU,
            progress=lambda label: lambda done, total: None,
            resume=resume,
        )

    return build


def test_captions_make_the_stage_text(prepared, emoji_pictures):
    t = prepared()
    assert t.training.stage == "text"
    assert t.model.conditioning.text_encoder == text_encoder_hash()
    assert t.model.conditioning.styles == ("fluent-3d", "fluent-flat", "noto", "twemoji")
    assert t.card["data"]["pictures"] == 49
    assert t.card["data"]["training_list"] == emoji_pictures.content_hash()
    assert not t.out.exists()  # nothing is written yet
    assert describe(t)["pictures"] == "49, 49 with captions, 0 unreadable"


def test_pretraining_forgets_the_captions(prepared):
    t = prepared(stage="pretrain")
    assert t.training.info_nce_weight == 0
    assert (t.training.augment_p, t.training.augment_target) == (0.4, 0.6)
    assert t.model.conditioning.styles == ()
    assert t.model.conditioning.text_encoder == ""
    condition, _, is_open = t.captions.sample(torch.arange(8), t.rng)
    assert is_open.all()
    assert condition.pooled.shape == (8, COND_DIM)


def test_without_captions_z_says_which_picture_is_to_be_matched(prepared):
    t = prepared(stage="pretrain")
    assert t.training.pairs_weight > 0
    index = torch.arange(8)
    z = torch.zeros(8, t.model.generator.z_dim)
    coded = t.layout_codes.write(z, t.dataset.batch(index))
    assert torch.cdist(coded, coded)[~torch.eye(8, dtype=torch.bool)].min() > 0.5


@pytest.mark.slow
def test_pretrained_pictures_differ_though_nothing_is_said(prepared):
    """The game alone, without the codes in z, ends in one picture (docs/log/experiments.md)."""
    t = prepared(stage="pretrain", kimg=3.2, batch=16)
    t.run()
    last = json.loads((t.out / "stats.jsonl").read_text().splitlines()[-1])
    assert last["diversity"] > 0.2


def test_a_folder_without_captions_is_pretrained_and_never_a_text_stage(prepared, tmp_path):
    folder = tmp_path / "bare"
    folder.mkdir()
    Image.new("RGB", (40, 40), (200, 9, 9)).save(folder / "a.png")
    t = prepared(folder)
    assert t.training.stage == "pretrain"
    assert t.model.generator.channels == 3  # opaque pictures need no alpha
    with pytest.raises(ValueError, match="needs captions"):
        prepared(folder, stage="text")


def test_rpgan_has_penalties_unless_told_otherwise(prepared):
    training = prepared(objective="rpgan").training
    assert (training.r1_gamma, training.r2_gamma, training.auto_gamma) == (1.0, 1.0, True)
    training = prepared(objective="rpgan", gamma=2.0).training
    assert (training.r1_gamma, training.r2_gamma, training.auto_gamma) == (2.0, 2.0, False)
    assert prepared(objective="rpgan", gamma=0.0).training.r2_gamma == 0.0
    training = prepared().training
    assert (training.r1_gamma, training.auto_gamma) == (0.0, False)
    prepared(kimg=0.008).run()  # hinge; what goes on as another game gets that game's
    training = prepared(resume=True, objective="rpgan").training
    assert (training.r1_gamma, training.auto_gamma) == (1.0, True)


def test_lr_and_snapshot_are_what_was_asked_for(prepared):
    usual = prepared().training
    assert usual.lr > 1e-3 and usual.snapshot_kimg == 20.0
    t = prepared(lr=2e-5, snapshot=0.008, kimg=0.016)
    assert (t.training.lr, t.training.lr_end, t.training.snapshot_kimg) == (2e-5, 2e-5, 0.008)
    t.run()
    assert len(list(t.out.glob("snapshot-*"))) == 1  # named by whole thousands: the newer stays
    assert len(list((t.out / "samples").glob("0*.png"))) == 1
    again = prepared(resume=True, lr=1e-3).training
    assert (again.lr, again.snapshot_kimg) == (1e-3, 0.008)


def test_preset_dcgan_is_the_article_s_loop(prepared):
    choices = {"preset": "dcgan", "resolution": None, "batch": None, "objective": None}
    t = prepared(kimg=0.0, **choices)
    training = t.training
    assert (training.objective, training.batch, training.lr) == ("non-saturating", 128, 2e-4)
    assert training.kimg == pytest.approx(100 * 49 / 1000)  # epochs
    assert training.snapshot_kimg == pytest.approx(49 / 1000)  # an epoch
    assert training.tick_kimg == pytest.approx(12.8)  # 100 batches
    t._set_lr()
    assert {g["lr"] for o in t.optimizers.values() for g in o.param_groups} == {2e-4}
    often = {**choices, "batch": 8, "snapshot": 0.016, "kimg": 0.008}
    prepared(**often).run()
    assert prepared(resume=True, kimg=0.016).training.snapshot_kimg == 0.016
    with pytest.raises(ValueError, match="preset dcgan takes no captions"):
        prepared(stage="text", **choices)


def test_preset_dcgan_trains(prepared):
    t = prepared(preset="dcgan", resolution=None, batch=8, objective=None, kimg=0.016, stage=None)
    before = t.networks.generator.layers[0].weight.detach().clone()
    t.run()
    assert not torch.equal(before, t.networks.generator.layers[0].weight)
    # no averaging: what is saved is the network itself, its running statistics too
    ema = t.ema.module.generator.state_dict()
    assert all(torch.equal(v, ema[k]) for k, v in t.networks.generator.state_dict().items())
    assert im.load(t.out / "latest.safetensors").sample("").shape == (1, 4, 64, 64)


def test_bad_choices_fail_before_any_picture_is_read(prepared, tmp_path):
    for choice in ({"kimg": 0.0}, {"preset": "huge"}, {"resolution": 50}, {"gamma": -1.0}):
        with pytest.raises(ValueError, match=r"expected|when to stop"):
            prepared(tmp_path / "missing", **choice)


def test_a_training_configuration_is_frozen():
    training = TrainingConfig(kimg=1.0)
    assert replace(training, batch=64).to_dict()["batch"] == 64
    with pytest.raises(AttributeError):
        training.batch = 3


def test_a_run_past_its_limit_has_no_time_left():
    assert Progress(seconds=100.0, fraction=0.8).eta_sec == pytest.approx(25)
    assert Progress(seconds=100.0, fraction=1.1).eta_sec == 0
