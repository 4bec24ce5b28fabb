"""Open Images V6 with Localized Narratives, in exactly the official formats, into shards."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import pytest
from PIL import Image
from webdataset.tariterators import group_by_keys, tar_file_expander

from imagen_model.cli import main
from imagen_model.data.folder import read_items
from imagen_model.data.prepare import open_images

IDS = [f"{i:016x}" for i in range(0xA0, 0xA6)]
OGG = b"OggS\x00\x02 not really a voice"
VOICE = "open_images_train_v6/open_images_train_{}_{}.ogg"


def narrative(image: str, annotator: int, caption: str) -> dict:
    words = caption.split()
    return {
        "dataset_id": "open_images_train_v6",
        "image_id": image,
        "annotator_id": annotator,
        "caption": caption,
        "timed_caption": [
            {"utterance": word, "start_time": i / 2, "end_time": i / 2 + 0.4}
            for i, word in enumerate(words)
        ],
        "traces": [[{"x": 0.25, "y": 0.5, "t": 0.016}, {"x": -0.01, "y": 1.02, "t": 0.03}]],
        "voice_recording": VOICE.format(image, annotator),
    }


@pytest.fixture
def source(tmp_path) -> Path:
    """Six pictures: two narrated (one of them twice, with a recording), one without any label."""
    root = tmp_path / "open-images"
    images = root / "images" / "train"
    images.mkdir(parents=True)
    for i, name in enumerate(IDS):
        Image.new("RGB", (96 + 32 * i, 64), (40 * i, 90, 200)).save(images / f"{name}.jpg")
    (root / "oidv6-class-descriptions.csv").write_text(
        'LabelName,DisplayName\n/m/01yrx,Cat\n/m/02crq1,Couch\n/m/0k4j,Car\n/g/11x,"Sofa, red"\n',
        encoding="utf-8",
    )
    (root / "oidv6-train-annotations-human-imagelabels.csv").write_text(
        "ImageID,Source,LabelName,Confidence\n"
        f"{IDS[0]},verification,/m/01yrx,1\n"
        f"{IDS[0]},verification,/m/0k4j,0\n"
        f"{IDS[0]},crowdsource-verification,/m/02crq1,1\n"
        f"{IDS[2]},verification,/m/0k4j,1\n"
        f"{IDS[2]},verification,/m/unknown,1\n"
        "ffffffffffffffff,verification,/m/01yrx,1\n"
    )
    (root / "train-annotations-machine-imagelabels.csv").write_text(
        "ImageID,Source,LabelName,Confidence\n"
        f"{IDS[2]},machine,/g/11x,0.7\n{IDS[3]},machine,/m/01yrx,0.3\n"
        f"{IDS[4]},machine,/m/0k4j,0.9\n"
    )
    rows = [
        narrative(IDS[1], 12, "In this picture there is a dog. ■"),
        narrative(IDS[1], 7, "A dog sits on grass."),
        narrative(IDS[4], 3, "This is a red car."),
        narrative("eeeeeeeeeeeeeeee", 1, "Nobody has this picture."),
    ]
    for i in range(2):
        path = root / f"open_images_train_v6_localized_narratives-{i:05d}-of-00002.jsonl"
        text = "".join(json.dumps(row) + "\n" for row in rows[2 * i : 2 * i + 2])
        path.write_text(text, encoding="utf-8")
    recording = root / "voice-recordings" / VOICE.format(IDS[1], 12)
    recording.parent.mkdir(parents=True)
    recording.write_bytes(OGG)
    return root


def imagen(source: Path, out: Path, *more: object) -> int:
    words = ("data", "open-images", "--source", source, "--out", out, *more)
    return main([str(word) for word in words])


def packed(out: Path) -> dict[str, dict]:
    """The samples by key, as webdataset's own reader finds them."""
    samples = {}
    for path in sorted(out.glob("*.tar")):
        with path.open("rb") as stream:
            for sample in group_by_keys(tar_file_expander([{"url": "", "stream": stream}])):
                samples[sample["__key__"]] = sample
    return samples


def test_pictures_words_and_voices_come_together(source, tmp_path, capsys):
    out = tmp_path / "shards"
    assert imagen(source, out) == 0
    assert "6 pictures in 1 shards, 2 with a narrative, 1 with its recording" in (
        capsys.readouterr().out
    )
    samples = packed(out)
    assert list(samples) == IDS
    facts = {key: json.loads(sample["json"]) for key, sample in samples.items()}
    assert facts[IDS[0]] == {"text": "cat, couch", "keywords": ["cat", "couch"]}
    assert facts[IDS[1]] == {
        "text": "In this picture there is a dog. ■",  # its recording is there; the other's is not
        "keywords": [],
        "annotator_id": 12,
        "other_texts": ["A dog sits on grass."],
    }
    assert samples[IDS[1]]["ogg"] == OGG and "ogg" not in samples[IDS[4]]
    assert facts[IDS[2]]["keywords"] == ["car", "sofa, red"]
    assert facts[IDS[3]] == {"text": "", "keywords": []}
    assert facts[IDS[4]]["text"] == "This is a red car." and facts[IDS[4]]["keywords"] == ["car"]
    for key, sample in samples.items():
        assert sample["jpg"] == (source / "images" / "train" / f"{key}.jpg").read_bytes()
    assert sorted(path.name for path in out.iterdir()) == ["manifest.json", "shard-000000.tar"]
    assert [s.text for s in read_items(out)] == [facts[key]["text"] for key in IDS]
    run = ("train", out, "--out", tmp_path / "run", "--kimg", 1, "--batch", 2, "--dry-run")
    assert main([str(word) for word in run]) == 0
    assert "6, 4 with captions" in capsys.readouterr().out


def test_pictures_are_scaled_down_where_that_is_asked_for(source, tmp_path):
    assert imagen(source, tmp_path / "out", "--resolution", 32) == 0
    sizes = []
    for sample in packed(tmp_path / "out").values():
        with Image.open(io.BytesIO(sample["jpg"])) as image:
            sizes.append(image.size)
    assert sizes[:3] == [(48, 32), (64, 32), (80, 32)]


def test_a_stopped_run_goes_on_and_the_shards_are_the_same(source, tmp_path, monkeypatch, capsys):
    # shards of one picture: the smallest size that the command takes is a megabyte
    monkeypatch.setattr(open_images, "shard_writer", tiny_shards(open_images.shard_writer))
    assert imagen(source, tmp_path / "whole") == 0
    whole = {path.name: path.read_bytes() for path in (tmp_path / "whole").glob("*.tar")}
    assert len(whole) == 6
    read, sample = [], open_images._item

    def stopping(index, files, picture):
        read.append(picture)
        if len(read) == 4:
            raise KeyboardInterrupt
        return sample(index, files, picture)

    out = tmp_path / "parts"
    with monkeypatch.context() as patch:
        patch.setattr(open_images, "_item", stopping)
        assert imagen(source, out) == 1
    assert not (out / "manifest.json").exists()
    (out / "shard-000005.tar").write_bytes(b"what a killed process has left")
    monkeypatch.setattr(open_images, "_fill", None)  # the index is not built again
    assert imagen(source, out) == 0
    assert {path.name: path.read_bytes() for path in out.glob("*.tar")} == whole
    one, other = (
        json.loads((tmp_path / n / "manifest.json").read_text()) for n in ("whole", "parts")
    )
    assert one == other
    assert imagen(source, out) == 1
    assert "already exists" in capsys.readouterr().err


def tiny_shards(shard_writer):
    return lambda out, *, shard_mb, **options: shard_writer(out, shard_mb=1e-6, **options)


def test_unreadable_pictures_are_named(source, tmp_path, capsys):
    broken = source / "images" / "train" / f"{IDS[0]}.jpg"
    broken.write_bytes(broken.read_bytes()[:80])
    assert imagen(source, tmp_path / "out") == 0
    out = capsys.readouterr().out
    assert "5 pictures" in out and f"{IDS[0]}.jpg: not a readable picture" in out


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ("oidv6-class-descriptions.csv", "has no oidv6-class-descriptions.csv"),
        ("*.jsonl *imagelabels*", "has no *imagelabels*.csv and open_images_*"),
        ("images", "has no folder of pictures"),
    ],
)
def test_missing_files_are_named_with_what_is_expected(source, tmp_path, capsys, missing, words):
    for pattern in missing.split():
        for path in source.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert imagen(source, tmp_path / "out") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line and "expected oidv6-class-descriptions.csv, " in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        (
            "x-imagelabels.csv",
            "Image,Label\na,b\n",
            "has the columns Image, Label; expected ImageID",
        ),
        ("x-imagelabels.csv", "ImageID,LabelName,Confidence\na,b,sure\n", "line 2: Confidence"),
        (
            "open_images_x_localized_narratives.jsonl",
            '{"caption": "x"}\n',
            "line 1: expected a JSON",
        ),
        ("oidv6-class-descriptions.csv", "/m/1,a,b\n", "line 1: expected the columns LabelName"),
    ],
)
def test_wrong_columns_are_one_line_and_the_mended_file_goes_on(
    source, tmp_path, capsys, name, text, words
):
    good = (source / name).read_bytes() if (source / name).exists() else None
    (source / name).write_text(text)
    assert imagen(source, tmp_path / "out") == 1
    line = capsys.readouterr().err.replace("\r", "\n").splitlines()[-1]
    assert line.startswith("error: ") and words in line
    (source / name).write_bytes(good) if good else (source / name).unlink()
    assert imagen(source, tmp_path / "out") == 0
