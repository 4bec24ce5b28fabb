"""Labelled data sets: appended to, read back and trained on."""

import json
import os

import pytest
import torch
from PIL import Image

from imagen_model.cli import main
from imagen_model.data.dataset import load_pictures
from imagen_model.data.folder import read_items
from imagen_model.data.prepare.labelled import append_labelled, chosen, folder_state, label_folder
from imagen_model.storage import files, images
from imagen_model.storage.files import sha256_of


def pictures_of(n: int, generator: torch.Generator, channels: int = 3) -> torch.Tensor:
    """Opaque pictures, and RGBA ones whose left half is transparent."""
    x = torch.randint(0, 256, (n, channels, 32, 32), generator=generator) / 127.5 - 1
    if channels == 4:
        x[:, 3] = 1
        x[..., :16] = -1
    return x


def rows_of(root) -> list[dict]:
    lines = (root / "train" / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_what_is_written_is_read_back_exactly(tmp_path, generator):
    pictures = pictures_of(3, generator, channels=4)
    written = append_labelled(tmp_path, pictures, ["Red apple", "snail", "Red apple"], style="noto")
    names = [path.relative_to(tmp_path / "train").as_posix() for path in written]
    assert names == ["red_apple/0000000.png", "snail/0000000.png", "red_apple/0000001.png"]
    samples = read_items(tmp_path)
    assert [s.path for s in samples] == written
    assert [s.text for s in samples] == ["Red apple", "snail", "Red apple"]
    assert {s.style for s in samples} == {"noto"}
    read = load_pictures(samples, resolution=32, channels=4)
    torch.testing.assert_close(read.batch(torch.arange(3)), pictures, atol=0.5 / 127.5, rtol=0)


def test_every_line_has_the_hash_of_its_file(tmp_path, generator):
    written = append_labelled(tmp_path, pictures_of(2, generator), ["a", "b"])
    assert [row["sha256"] for row in rows_of(tmp_path)] == [sha256_of(path) for path in written]


def test_batches_are_appended_and_nothing_is_overwritten(tmp_path, generator):
    first = append_labelled(tmp_path, pictures_of(2, generator), ["flag"])
    before = [path.read_bytes() for path in first]
    second = append_labelled(tmp_path, pictures_of(2, generator), ["flag"])
    assert [path.name for path in second] == ["0000002.png", "0000003.png"]
    assert [path.read_bytes() for path in first] == before
    assert [s.path for s in read_items(tmp_path)] == first + second


def test_a_deleted_picture_s_number_below_the_last_is_not_used_again(tmp_path, generator):
    first = append_labelled(tmp_path, pictures_of(3, generator), ["flag"])
    first[1].unlink()
    (again,) = append_labelled(tmp_path, pictures_of(1, generator), ["flag"])
    assert again.name == "0000003.png"


@pytest.mark.parametrize("fails", ["a picture", "the metadata"])
def test_a_batch_that_fails_leaves_nothing_behind(tmp_path, generator, monkeypatch, fails):
    append_labelled(tmp_path, pictures_of(1, generator), ["flag"])
    before = sorted(p for p in tmp_path.rglob("*") if p.is_file()), rows_of(tmp_path)
    real, calls = files.write_atomically, []

    def failing(path, write):
        calls.append(path)
        if (len(calls) == 2) if fails == "a picture" else path.suffix == ".jsonl":
            raise OSError("no space left")
        real(path, write)

    for module in (files, images):
        monkeypatch.setattr(module, "write_atomically", failing)
    with pytest.raises(OSError, match="no space left"):
        append_labelled(tmp_path, pictures_of(3, generator), ["flag"])
    assert (sorted(p for p in tmp_path.rglob("*") if p.is_file()), rows_of(tmp_path)) == before


@pytest.mark.parametrize(
    ("label", "folder"),
    [
        ("A red apple!", "a_red_apple"),
        ("../../etc/passwd", "etc_passwd"),
        ("C:\\x", "c_x"),
        ("红苹果", "红苹果"),
        ("train", "train"),
        (" ", "unlabelled"),
        ("...", "unlabelled"),
        ("word " * 40, ("word_" * 12).strip("_")),
    ],
)
def test_a_label_is_one_plain_folder(label, folder):
    assert label_folder(label) == folder and len(folder) <= 60


def test_a_label_called_train_is_a_label_like_others(tmp_path, generator):
    written = append_labelled(tmp_path, pictures_of(2, generator), ["train", "ship"])
    assert [s.path for s in read_items(tmp_path)] == written


def test_a_folder_of_other_pictures_is_left_alone(tmp_path, generator):
    Image.new("RGB", (4, 4)).save(tmp_path / "mine.PNG")
    with pytest.raises(ValueError, match=r"holds pictures that are in no train/metadata\.jsonl"):
        append_labelled(tmp_path, pictures_of(1, generator), ["x"])
    assert [p.name for p in tmp_path.iterdir()] == ["mine.PNG"]


def test_captions_that_do_not_fit_are_refused(tmp_path, generator):
    with pytest.raises(ValueError, match="2 captions do not fit 3 pictures; expected 1 or 3"):
        append_labelled(tmp_path, pictures_of(3, generator), ["a", "b"])
    assert not list(tmp_path.iterdir())


def test_a_model_trains_on_it(tmp_path, generator, capsys):
    captions = ["red apple", "snail", "flag", "rocket"]
    append_labelled(tmp_path / "set", pictures_of(4, generator, channels=4), captions)
    paths = ["train", str(tmp_path / "set"), "--out", str(tmp_path / "run")]
    assert main([*paths, "--dry-run", "--kimg", "1", "--batch", "4", "--resolution", "32"]) == 0
    assert "4, 4 with captions" in capsys.readouterr().out


def test_the_limit_takes_the_first_and_a_seed_shuffles(emoji_folder):
    samples = read_items(emoji_folder)
    assert chosen(samples, 5) == samples[:5]
    assert chosen(samples, 10_000) == samples
    shuffled = [chosen(samples, 5, shuffle_seed=seed) for seed in (0, 0, 1)]
    assert shuffled[0] == shuffled[1] != shuffled[2]
    everything = chosen(samples, 10_000, shuffle_seed=3)
    assert everything != samples and sorted(everything, key=samples.index) == samples
    with pytest.raises(ValueError, match="limit is 0; expected 1 or more"):
        chosen(samples, 0)


def test_a_folder_s_state_changes_with_its_files(tmp_path):
    states = [folder_state(tmp_path)]
    path = tmp_path / "deep" / "a.png"
    path.parent.mkdir()
    path.write_bytes(b"1")
    states.append(folder_state(tmp_path))
    assert folder_state(tmp_path) == states[-1]
    path.write_bytes(b"2")
    os.utime(path, ns=(1, 1))
    states.append(folder_state(tmp_path))
    path.rename(path.with_name("b.png"))
    states.append(folder_state(tmp_path))
    path.with_name("b.png").unlink()
    states.append(folder_state(tmp_path))
    assert states[0] == states[-1] and len(set(states)) == 4
