"""Shards: written and read as the webdataset library does, and trained on like a folder."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest
import torch
import webdataset
from PIL import Image
from webdataset.tariterators import group_by_keys, tar_file_expander

from imagen_model.cli import main
from imagen_model.conditioning.minilm import text_encoder_hash
from imagen_model.data import captions
from imagen_model.data import streaming as stream
from imagen_model.data.dataset import InMemoryDataset, load_pictures
from imagen_model.data.folder import list_items, read_items
from imagen_model.data.streaming import StreamedDataset, Survey, open_pictures
from imagen_model.training.schedule import EpochOrder
from imagen_model.training.trainer import Trainer


def imagen(*words: object) -> int:
    return main([str(word) for word in words])


def last_line(capsys) -> str:
    return capsys.readouterr().err.replace("\r", "\n").splitlines()[-1]


@pytest.fixture(scope="module")
def shards(emoji_folder, tmp_path_factory) -> Path:
    """The 49 training emoji in several shards."""
    out = tmp_path_factory.mktemp("shards") / "emoji"
    assert imagen("data", "shards", emoji_folder, "--out", out, "--shard-size", 1) == 0
    split = out.parent / "small"
    small(out, split)
    return split


def small(source: Path, out: Path) -> None:
    """The library repacks shards into three of twenty samples."""
    out.mkdir()
    pattern = str(out / "part-%d.tar")
    with webdataset.ShardWriter(pattern, maxcount=20, verbose=0, encoder=False) as writer:
        for sample in library_reads(sorted(source.glob("*.tar"))):
            writer.write({k: v for k, v in sample.items() if k in ("__key__", "png", "json")})


def library_reads(files: list[Path]) -> list[dict]:
    """What webdataset's own reader makes of shards (WebDataset(...) leaves its files open)."""
    samples = []
    for path in files:
        with path.open("rb") as stream:
            samples += group_by_keys(tar_file_expander([{"url": str(path), "stream": stream}]))
    return samples


def no_memory(monkeypatch) -> None:
    monkeypatch.setattr(stream, "memory_for_pictures", lambda: 0)


# -- the format -----------------------------------------------------------------------------------


def test_the_library_reads_what_we_write(emoji_folder, tmp_path, capsys):
    assert imagen("data", "shards", emoji_folder, "--out", tmp_path / "out") == 0
    assert "49 pictures, 49 with captions, 1 shards" in capsys.readouterr().out
    samples = read_items(emoji_folder)
    read = library_reads([tmp_path / "out" / "shard-000000.tar"])
    assert len(read) == len(samples) == 49
    for sample, row in zip(samples, read, strict=True):
        assert row["png"] == sample.path.read_bytes()
        facts = json.loads(row["json"])
        assert facts["text"] == sample.text and facts["keywords"] == list(sample.keywords)
        assert facts["style"] == sample.style and facts["weight"] == sample.weight


def test_we_read_what_the_library_writes(emoji_folder, shards):
    assert len(list(shards.glob("*.tar"))) == 3
    ours, theirs = read_items(shards), read_items(emoji_folder)
    assert [s.facts() for s in ours] == [s.facts() for s in theirs]
    one, other = (load_pictures(s, resolution=32, channels=4) for s in (ours, theirs))
    assert torch.equal(one.pixels, other.pixels)
    assert one.content_hash() == other.content_hash()


def test_shards_of_other_tools_are_read_with_their_captions(tmp_path):
    picture = io.BytesIO()
    Image.new("RGB", (40, 40), (200, 0, 0)).save(picture, "JPEG")
    with webdataset.TarWriter(str(tmp_path / "0.tar"), encoder=False) as writer:
        jpg = picture.getvalue()
        writer.write(
            {"__key__": "a/0", "jpg": jpg, "txt": "甲骨文".encode(), "json": b'{"url": "x"}'}
        )
        writer.write({"__key__": "a/1", "JPEG": jpg, "json": b'{"caption": "a red square"}'})
        writer.write({"__key__": "a/2", "json": b'{"text": "no picture"}'})
        writer.write({"__key__": "a/3", "webp": jpg, "mask.png": b"something else"})
    samples = read_items(tmp_path)
    assert [s.text for s in samples] == ["甲骨文", "a red square", ""]
    assert len(load_pictures(samples, resolution=8, channels=3)) == 3


def shard_of(path: Path, *members: tuple[str, bytes]) -> Path:
    """A tar file of these members in this order."""
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def jpeg(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 40), (shade, 0, 0)).save(buffer, "JPEG")
    return buffer.getvalue()


def test_members_of_one_key_belong_together_wherever_they_are(tmp_path):
    pictures = [(f"{i}.jpg", jpeg(50 * i)) for i in range(4)]
    captions = [(f"{i}.txt", f"shade {i}".encode()) for i in range(4)]
    shard_of(tmp_path / "0.tar", *pictures, *reversed(captions))
    items, left_out = list_items(tmp_path)
    assert [item.text for item in items] == [f"shade {i}" for i in range(4)]
    assert not left_out.lines()
    reds = load_pictures(items, resolution=8, channels=3).pixels[:, 0].float().mean((1, 2))
    assert reds.tolist() == pytest.approx([0, 50, 100, 150], abs=2)


@pytest.mark.parametrize(
    "form",
    [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT],
    ids=["ustar", "gnu", "pax"],
)
@pytest.mark.parametrize("mtime", [0, 1700000000.25])
def test_every_way_to_write_a_header_is_read(form, mtime, tmp_path):
    """Plain headers, those with the time in a pax header, long names and names beyond ASCII."""
    picture = io.BytesIO()
    Image.new("RGB", (4, 4)).save(picture, "PNG")
    keys = ["a", "b" * 40, "folder/" * 15 + "c", "ü", "d" * 90, "e"]
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w", format=form) as tar:
        for key in keys:
            for suffix, data in ((".png", picture.getvalue()), (".txt", key[-9:].encode())):
                header = tarfile.TarInfo(key + suffix)
                header.size, header.mtime = len(data), mtime
                tar.addfile(header, io.BytesIO(data))
    items, left_out = list_items(tmp_path)
    assert [item.path for item in items] == [path / f"{key}.png" for key in keys]
    assert [item.text for item in items] == [key[-9:] for key in keys]
    assert {item.file().content() for item in items} == {picture.getvalue()}
    assert not left_out.counts


def test_keys_with_dots_are_items_of_their_own(tmp_path):
    shard_of(
        tmp_path / "0.tar",
        *((f"d.1/a.{i}.jpg", jpeg(50 * i)) for i in range(3)),
        *((f"d.1/a.{i}.txt", f"shade {i}".encode()) for i in range(3)),
        ("d.1/a.0.ref.jpg", jpeg(9)),
        ("b.jpg", jpeg(1)), ("b.txt", b"plain"),
        ("b.2.jpg", jpeg(2)), ("b.2.json", b'{"text": "two"}'),
    )  # fmt: skip
    items, left_out = list_items(tmp_path)
    assert [item.text for item in items] == ["shade 0", "shade 1", "shade 2", "plain", "two"]
    assert [bool(item.image_ref) for item in items] == [True, False, False, False, False]
    assert len(load_pictures(items, resolution=8, channels=3)) == 5 and not left_out.lines()


def test_members_that_are_not_used_are_counted_and_named(tmp_path, capsys):
    shard_of(
        tmp_path / "0.tar",
        ("0.jpg", jpeg(1)), ("0.png", jpeg(2)), ("0.mask.png", jpeg(3)), ("0.cls", b"7"),
        ("1.txt", b"no picture"), ("README", b"x"), ("._0.jpg", b"x"), ("__MACOSX/0.jpg", b"x"),
        ("0.jpg", jpeg(4)),
    )  # fmt: skip
    assert imagen("data", "folder", "--source", tmp_path, "--out", f"{tmp_path}-out") == 0
    line = capsys.readouterr().out.splitlines()[0]
    for words in (
        "1 pictures, 0 with captions", "1 .png (beside the picture of its key) such as 0.png",
        "1 .mask.png (beside", "1 .cls (beside", "1 .txt (no picture of its key) such as 1.txt",
        "1 files without a suffix such as README", "2 hidden",
        "1 replaced by a later member of their name such as 0.jpg",
    ):  # fmt: skip
        assert words in line


def test_bad_captions_in_a_shard_are_named_by_their_member(tmp_path, capsys):
    latin = "Äpfel".encode("latin-1")
    shard_of(
        tmp_path / "0.tar",
        ("0.jpg", jpeg(1)), ("0.txt", latin), ("1.jpg", jpeg(1)), ("1.json", b'{"weight": 0}'),
        ("2.jpg", jpeg(1)), ("2.json", latin), ("3.jpg", jpeg(1)), ("3.txt", b"fine"),
    )  # fmt: skip
    assert imagen("train", tmp_path, "--out", f"{tmp_path}-run", "--kimg", 1) == 1
    line = last_line(capsys)
    assert "0.tar: 0.txt is not UTF-8 text" in line and "0.json" not in line
    assert "0.tar: 1.json holds no valid metadata (weight is 0.0" in line
    assert "0.tar: 2.json is not UTF-8 text" in line and "3." not in line


def test_two_packings_are_the_same_bytes(emoji_folder, tmp_path):
    digests = set()
    for name in ("a", "b"):
        assert imagen("data", "shards", emoji_folder, "--out", tmp_path / name) == 0
        content = (tmp_path / name / "shard-000000.tar").read_bytes()
        digests.add(hashlib.sha256(content).hexdigest())
    assert len(digests) == 1


def test_other_pictures_are_packed_as_png_and_unreadable_ones_are_named(tmp_path, capsys):
    source = tmp_path / "source"
    source.mkdir()
    Image.new("RGBA", (9, 9), (1, 2, 3, 128)).save(source / "a.webp", lossless=True)
    Image.new("P", (9, 9)).save(source / "b.gif")
    (source / "c.png").write_text("broken")
    assert imagen("data", "shards", source, "--out", tmp_path / "out") == 0
    out = capsys.readouterr().out
    assert "2 pictures" in out and "c.png: not a readable picture" in out
    first, second = library_reads([tmp_path / "out" / "shard-000000.tar"])
    assert "png" in second
    with Image.open(io.BytesIO(first["png"])) as image:
        assert image.mode == "RGBA" and image.getpixel((4, 4)) == (1, 2, 3, 128)


# -- training on them -----------------------------------------------------------------------------


@pytest.fixture
def seen(monkeypatch) -> list[tuple[list[int], str]]:
    """(samples, sha256 of the pictures) of every batch of eight that a training looks at."""
    batches: list[tuple[list[int], str]] = []

    def recorded(batch):
        def record(pictures, index, *device):
            result = batch(pictures, index, *device)
            if len(index) == 8:
                content = result.cpu().numpy().tobytes()
                batches.append((index.tolist(), hashlib.sha256(content).hexdigest()))
            return result

        return record

    for kind in (InMemoryDataset, StreamedDataset):
        monkeypatch.setattr(kind, "batch", recorded(kind.batch))
    return batches


def test_a_streamed_run_stopped_and_resumed_sees_what_an_uninterrupted_one_in_memory_sees(
    emoji_folder, shards, seen, tmp_path, monkeypatch, capsys
):
    options = ("--batch", 8, "--kimg", 0.032, "--resolution", 32)  # four steps
    assert imagen("train", emoji_folder, "--out", tmp_path / "whole", *options) == 0
    whole = seen.copy()
    assert len(whole) == 4
    seen.clear()

    no_memory(monkeypatch)
    step = Trainer.step

    def stopping(trainer):
        assert isinstance(trainer.dataset, StreamedDataset)
        if trainer.progress.cur_nimg == 16:
            raise KeyboardInterrupt
        return step(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", stopping)
        assert imagen("train", shards, "--out", tmp_path / "parts", *options) == 0
    assert len(seen) == 2

    def refuse(*args, **options):
        raise AssertionError("found a second time")

    monkeypatch.setattr(captions, "encode_all", refuse)
    monkeypatch.setattr(Survey, "of", refuse)
    assert imagen("train", shards, "--out", tmp_path / "parts", *options, "--resume") == 0
    assert seen == whole


def test_what_was_found_is_not_used_for_other_captions_or_other_files(
    shards, emoji_folder, tmp_path, monkeypatch
):
    samples = read_items(shards)
    options = {"resolution": 32, "channels": 4}
    no_memory(monkeypatch)
    first = open_pictures(samples, **options)
    first.save(tmp_path)
    assert Survey.cached(tmp_path / stream.SURVEY, samples, **options) is not None
    assert Survey.cached(tmp_path / stream.SURVEY, samples[1:], **options) is None
    assert Survey.cached(tmp_path / stream.SURVEY, samples, resolution=64, channels=4) is None
    assert Survey.cached(tmp_path / stream.SURVEY, read_items(emoji_folder), **options) is None
    sampler = captions.CaptionSampler(first.items, first.styles)
    sampler.save(tmp_path)
    path = tmp_path / captions.ENCODED
    kept = captions.EncodedTexts.cached(path, sampler.texts, text_encoder_hash())
    assert torch.equal(kept.flat, sampler.encoded.flat)
    assert torch.equal(kept.pooled, sampler.encoded.pooled)
    assert captions.EncodedTexts.cached(path, sampler.texts, "another") is None
    more = [*sampler.texts, "more"]
    assert captions.EncodedTexts.cached(path, more, text_encoder_hash()) is None


def test_a_streamed_set_is_told_of_like_one_in_memory(tmp_path, monkeypatch):
    """Grey pictures, a broken one and a copy: one channel, the same report and fingerprint."""
    source = tmp_path / "source" / "digits"
    source.mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)
    for i in range(9):
        pixels = torch.randint(0, 256, (30 + i, 30, 1), generator=generator, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()[..., 0]).save(source / f"{i}.png")
    (source / "9.png").write_bytes((source / "0.png").read_bytes())
    (source / "broken.png").write_text("no")
    options = {"resolution": 32, "channels": 4}
    samples = read_items(tmp_path / "source")
    memory = open_pictures(samples, **options).with_fewest_channels()
    train = ("train", tmp_path / "source", "--out", tmp_path / "run", "--kimg", 1, "--batch", 2)

    def plan() -> dict:
        facts = tmp_path / "facts.json"
        assert imagen(*train, "--dry-run", "--json", facts) == 0
        return json.loads(facts.read_text())

    told = plan()
    no_memory(monkeypatch)
    streamed = open_pictures(samples, **options).with_fewest_channels()
    assert isinstance(memory, InMemoryDataset) and isinstance(streamed, StreamedDataset)
    assert memory.channels == streamed.channels == 1
    assert memory.content_hash() == streamed.content_hash()
    assert memory.skipped == streamed.skipped and len(streamed) == 10
    assert memory.sides.tolist() == streamed.sides.tolist()
    index = torch.tensor([3, 3, 0])
    assert torch.equal(memory.batch(index), streamed.batch(index))
    assert (memory.miniatures() - streamed.miniatures()).abs().max() <= 0.5 / 255 + 1e-6
    names = ("pictures", "captions", "source sizes", "duplicates", "picture")
    again = plan()
    assert [again[name] for name in names] == [told[name] for name in names]
    assert told["picture"] == "32 px, grey"
    assert told["duplicates"] == "1, such as 9.png like 0.png"


def test_prefetching_the_next_batch_changes_nothing():
    for start in (0, 5, 9):
        order = EpochOrder(torch.ones(10), seed=3)
        order.seek(0, start)
        ahead = order.peek(8)
        assert order.peek(8).tolist() == ahead.tolist()
        assert order.next(8).tolist() == ahead.tolist()


# -- mistakes -------------------------------------------------------------------------------------


def test_a_compressed_shard_is_one_line(shards, tmp_path, capsys):
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
        tar.add(next(shards.glob("*.tar")), "a.tar")
    assert imagen("train", tmp_path, "--out", f"{tmp_path}-run", "--kimg", 1) == 1
    assert "a.tar.gz is compressed; unpack it to .tar" in last_line(capsys)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda data: data[: len(data) // 2 + 100], "is not a complete tar file"),
        (lambda data: b"nothing of the kind" * 100, "is not a complete tar file"),
        (lambda data: data.replace(b'{"text"', b'["text"', 1), "holds no valid metadata"),
    ],
)
def test_a_damaged_shard_is_one_line(shards, tmp_path, capsys, spoil, words):
    data = next(shards.glob("*.tar")).read_bytes()
    (tmp_path / "bad.tar").write_bytes(spoil(data))
    assert imagen("train", tmp_path, "--out", f"{tmp_path}-run", "--kimg", 1) == 1
    line = last_line(capsys)
    assert line.startswith("error: ") and "bad.tar" in line and words in line


def test_a_folder_of_nothing_to_pack_leaves_nothing(tmp_path, capsys):
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "a.png").write_text("broken")
    assert imagen("data", "shards", tmp_path / "source", "--out", tmp_path / "out") == 1
    assert "no readable picture" in last_line(capsys) and not (tmp_path / "out").exists()
