"""Training data that shows or says what is to be drawn: read once, drawn in its share, or told."""

import json
import math
import shutil
import tarfile
from pathlib import Path

import pytest
import torch
from conftest import tiny_model_config
from PIL import Image

from imagen_model.cli import main
from imagen_model.conditioning.audio import speech_recognizer_hash, transcribe
from imagen_model.conditioning.image import encode_image, image_encoder_hash
from imagen_model.conditioning.minilm import text_encoder
from imagen_model.data.captions import CaptionSampler
from imagen_model.data.dataset import load_pictures
from imagen_model.data.folder import read_items
from imagen_model.data.image_reader import premultiplied, read_picture
from imagen_model.data.item import File, Item
from imagen_model.data.prepare.folder import build_folder
from imagen_model.data.prepare.shards import build_shards
from imagen_model.data.references import ENCODED
from imagen_model.data.sound import read_sound
from imagen_model.training.config import RunConfig, TrainingConfig
from imagen_model.training.options import TrainOptions
from imagen_model.training.plan import describe
from imagen_model.training.setup import prepare, save_cache
from imagen_model.training.trainer import Trainer

pytest.importorskip("soundfile")
SPEECH = Path(__file__).parent / "fixtures" / "speech"
DRAWS = 6000


@pytest.fixture(scope="module")
def data(tmp_path_factory, emoji_folder) -> Path:
    """Six pictures: one with words, picture and voice; one each with two of them, one, none."""
    root = tmp_path_factory.mktemp("mixed") / "data"
    (root / "refs").mkdir(parents=True)
    apples = sorted((emoji_folder / "train").rglob("1F34E.png"))
    for i, path in enumerate(apples[:1] * 6):
        shutil.copy(path, root / f"{i}.png")
    shutil.copy(apples[1], root / "refs" / "apple.png")
    shutil.copy(SPEECH / "red_apple.wav", root / "refs" / "apple.wav")
    (root / "refs" / "broken.png").write_bytes(b"no picture")
    (root / "refs" / "broken.wav").write_bytes(b"no sound")
    rows = [
        {"text": "red apple", "image_ref": "refs/apple.png", "audio": "refs/apple.wav"},
        {"text": "red apple", "audio": "refs/apple.wav"},
        {"image_ref": "refs/apple.png"},
        {"audio": "refs/apple.wav"},
        {"text": "fruit", "image_ref": "refs/broken.png", "audio": "refs/missing.wav"},
        {"text": "fruit", "audio": "refs/broken.wav"},
    ]
    lines = [json.dumps({"file_name": f"{i}.png", **row}) for i, row in enumerate(rows)]
    (root / "metadata.jsonl").write_text("\n".join(lines))
    return root


@pytest.fixture(scope="module")
def sampler(data) -> CaptionSampler:
    return CaptionSampler(read_items(data), ())


def shares(sampler: CaptionSampler, sample: int, generator) -> dict[str, float]:
    """How often a sample's caption, reference picture, recording and nothing are drawn."""
    drawn = sampler.sample(torch.full((DRAWS,), sample), generator).text
    first_picture = len(sampler.texts)
    heard = sampler.texts.index(sampler.references.transcripts[0])
    counts = {
        "null": drawn < 0,
        "picture": drawn >= first_picture,
        "voice": drawn == heard,
        "text": (drawn >= 0) & (drawn < first_picture) & (drawn != heard),
    }
    return {name: float(rows.float().mean()) for name, rows in counts.items()}


@pytest.fixture
def silent_voice(monkeypatch):
    """A recogniser that answers what no caption says, so that draws tell voice from text."""
    monkeypatch.setattr("imagen_model.data.references.transcribe", lambda clips: ["a voice"])


def test_a_reference_picture_is_what_the_image_encoder_says(sampler, data):
    array = premultiplied(read_picture(data / "refs" / "apple.png", resolution=128, channels=4))
    picture = torch.from_numpy(array).permute(2, 0, 1)[None].float() / 127.5 - 1
    expected = encode_image(picture, styles=(), style=None)
    condition = sampler.captions(torch.tensor([2]))
    kept = condition.mask[0]
    torch.testing.assert_close(condition.tokens[:, kept], expected.tokens, atol=1e-2, rtol=1e-3)
    torch.testing.assert_close(condition.pooled, expected.pooled, atol=1e-5, rtol=1e-5)


def test_a_recording_is_the_words_that_are_heard_in_it(sampler):
    words = transcribe([read_sound(SPEECH / "red_apple.wav")])
    _, _, pooled = text_encoder().encode(words)
    condition = sampler.captions(torch.tensor([3]))
    torch.testing.assert_close(condition.pooled, pooled, atol=1e-5, rtol=1e-5)


def test_words_keep_the_largest_share(data, generator, silent_voice):
    sampler = CaptionSampler(read_items(data), ())
    expected = {
        0: {"null": 0.05, "text": 0.95 / 2, "picture": 0.95 / 4, "voice": 0.95 / 4},
        1: {"null": 0.05, "text": 0.95 * 2 / 3, "picture": 0, "voice": 0.95 / 3},
        2: {"null": 0.05, "text": 0, "picture": 0.95, "voice": 0},
        3: {"null": 0.05, "text": 0, "picture": 0, "voice": 0.95},
        4: {"null": 0.05, "text": 0.95, "picture": 0, "voice": 0},
    }
    for sample, wanted in expected.items():
        for name, share in shares(sampler, sample, generator).items():
            assert share == pytest.approx(wanted[name], abs=0.025), (sample, name)


def test_missing_and_unreadable_files_are_told_and_the_rest_stays(data, caplog):
    sampler = CaptionSampler(read_items(data), ())
    assert len(sampler.references.skipped) == 3
    assert len([r for r in caplog.records if r.message.startswith("skipped ")]) == 3
    line = sampler.references.report()["references"]
    assert line.startswith("2 with pictures, 3 with recordings; 3 unreadable, the first: ")
    assert "broken.png" in line
    assert "\n" not in line
    condition = sampler.captions(torch.tensor([4, 5]))
    assert condition.mask.any(dim=1).all()


def test_samples_without_references_draw_as_they_always_did(emoji_captions):
    """The random numbers of a set with words alone are those of before there were references."""
    index, generator = torch.arange(40), torch.Generator().manual_seed(3)
    emoji_captions.sample(index, generator)
    plain = torch.Generator().manual_seed(3)
    torch.rand(3, len(index), generator=plain)
    assert torch.equal(torch.rand(4, generator=generator), torch.rand(4, generator=plain))
    assert emoji_captions.references.report() == {}
    assert emoji_captions.references.card() == {}


def test_what_was_encoded_is_kept_until_a_file_changes(data, tmp_path, monkeypatch):
    samples = read_items(data)
    first = CaptionSampler(samples, ())
    first.save(tmp_path)
    assert (tmp_path / ENCODED).is_file()

    def fail(*_):
        raise AssertionError("read again")

    with monkeypatch.context() as patch:
        patch.setattr("imagen_model.data.references._encode_pictures", fail)
        patch.setattr("imagen_model.data.references._transcript", fail)
        again = CaptionSampler(samples, (), cache=tmp_path)
        assert again.references.transcripts == first.references.transcripts
        assert again.references.skipped == first.references.skipped
        assert torch.equal(again.encoded.flat, first.encoded.flat)
        changed = Item(samples[0].path, audio=File(SPEECH / "rocket.wav"))
        with pytest.raises(AssertionError, match="read again"):
            CaptionSampler([changed], (), cache=tmp_path)


def test_without_soundfile_one_line_says_so_and_pictures_still_count(data, monkeypatch):
    monkeypatch.setattr("imagen_model.data.references.find_spec", lambda name: None)
    references = CaptionSampler(read_items(data), ()).references
    told = [line for line in references.skipped if "imagen-gan[audio]" in line]
    assert [line.split(":")[0] for line in told] == ["all 3 recordings"]
    assert references.transcripts == [""] * 6
    assert references.image.tolist() == [0, -1, 0, -1, -1, -1]


def test_a_recording_beside_a_picture_is_found(tmp_path):
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    Image.new("RGB", (32, 32)).save(tmp_path / "b.png")
    shutil.copy(SPEECH / "rocket.wav", tmp_path / "a.wav")
    with_voice, without = read_items(tmp_path)
    assert with_voice.audio == File(tmp_path / "a.wav")
    assert without.audio is None


@pytest.mark.parametrize("column", ["image_ref", "audio"])
@pytest.mark.parametrize("value", ["../secret.wav", "/etc/hostname", 7, ["x"]])
def test_references_outside_the_folder_are_refused(tmp_path, column, value):
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    (tmp_path / "metadata.jsonl").write_text(json.dumps({"file_name": "a.png", column: value}))
    with pytest.raises(ValueError, match=r"line 1: ") as caught:
        read_items(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("build", ["folder", "shards"])
def test_copies_and_shards_keep_references(data, tmp_path, build, sampler):
    out = tmp_path / "out"
    if build == "folder":
        manifest = build_folder(data, out, resolution=32)
    else:
        manifest = build_shards(data, out)
    assert manifest["pictures"] == 6
    assert len(manifest["skipped"]) == 1
    assert "missing.wav" in manifest["skipped"][0]
    copied = CaptionSampler(read_items(out), ())
    assert copied.references.transcripts == sampler.references.transcripts
    everyone = torch.arange(6)
    assert torch.equal(copied.references.image >= 0, sampler.references.image >= 0)
    ours, theirs = (s.captions(everyone).pooled for s in (copied, sampler))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
    assert len(copied.references.skipped) == 2  # broken ones are broken there, too


def test_a_reference_of_another_kind_does_not_replace_what_is_copied(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    Image.new("RGB", (32, 32), "red").save(source / "a.png")
    Image.new("RGB", (32, 32), "blue").save(source / "b.png")
    (source / "metadata.jsonl").write_text(json.dumps({"file_name": "a.png", "audio": "b.png"}))
    manifest = build_folder(source, tmp_path / "out", resolution=32)
    assert [line.split("; ")[0].split(": ")[1] for line in manifest["skipped"]] == [
        "audio ends in '.png'"
    ]
    (copied,) = read_items(tmp_path / "out")
    assert copied.audio is None
    assert Image.open(copied.path).convert("RGB").getpixel((0, 0)) == (255, 0, 0)


def test_the_voice_of_open_images_shards_is_heard(tmp_path, emoji_folder):
    """`imagen data open-images` writes 000.jpg, 000.json and 000.ogg."""
    soundfile = pytest.importorskip("soundfile")
    wave, rate = read_sound(SPEECH / "red_apple.wav")
    soundfile.write(tmp_path / "voice.ogg", wave.t().numpy(), rate, format="OGG")
    Image.new("RGB", (32, 32), "red").save(tmp_path / "picture.jpg")
    (tmp_path / "facts.json").write_text(json.dumps({"text": "an apple"}))
    (tmp_path / "set").mkdir()
    with tarfile.open(tmp_path / "set" / "shard-000000.tar", "w") as tar:
        for name, extension in (
            ("picture.jpg", "jpg"),
            ("facts.json", "json"),
            ("voice.ogg", "ogg"),
        ):
            tar.add(tmp_path / name, f"0001.{extension}")
    sampler = CaptionSampler(read_items(tmp_path / "set"), ())
    assert "apple" in sampler.references.transcripts[0]
    assert sampler.references.image.tolist() == [-1]


def test_a_model_trains_on_any_mix_and_its_card_names_the_encoders(data, tmp_path):
    def bar(_label):
        return lambda _done, _total: None

    choices = TrainOptions(preset="nano", resolution=32, batch=4, kimg=0.008)
    trainer = prepare(data, tmp_path / "run", choices, device=torch.device("cpu"), progress=bar)
    assert trainer.training.stage == "text"
    assert describe(trainer)["references"].startswith("2 with pictures, 3 with recordings")
    assert trainer.card["references"] == {
        "image_ref": {"samples": 2, "encoder": image_encoder_hash()},
        "audio": {"samples": 3, "encoder": speech_recognizer_hash()},
    }
    save_cache(trainer)
    assert (tmp_path / "run" / "found" / ENCODED).is_file()


def test_pretraining_reads_no_references(data, tmp_path):
    choices = TrainOptions(preset="nano", resolution=32, batch=4, kimg=0.008, stage="pretrain")
    trainer = prepare(
        data,
        tmp_path / "run",
        choices,
        device=torch.device("cpu"),
        progress=lambda _: lambda _done, _total: None,
    )
    assert trainer.captions.references.report() == {}
    assert "references" not in trainer.card


def test_a_tiny_model_learns_from_any_mix_and_from_the_same_one_again(data, tmp_path):
    pictures = load_pictures(read_items(data), resolution=32, channels=4)

    def losses(name: str) -> list[dict[str, float]]:
        training = TrainingConfig(batch=6, kimg=0.024, lr=2e-3, warmup_kimg=0.012)
        trainer = Trainer(
            RunConfig(tiny_model_config(styles=()), training, tmp_path / name, {"name": name}),
            pictures,
            CaptionSampler(pictures.items, ()),
            device=torch.device("cpu"),
        )
        return [{k: float(v) for k, v in trainer.step().items()} for _ in range(4)]

    first = losses("a")
    assert all(math.isfinite(value) for step in first for value in step.values())
    assert losses("b") == first


def test_imagen_train_says_what_it_will_draw_from(data, tmp_path, capsys):
    main(
        [
            "train", str(data), "--out", str(tmp_path / "run"), "--preset", "nano",
            "--resolution", "32", "--batch", "2", "--kimg", "1", "--dry-run",
        ]
    )  # fmt: skip
    assert "2 with pictures, 3 with recordings; 3 unreadable" in capsys.readouterr().out
