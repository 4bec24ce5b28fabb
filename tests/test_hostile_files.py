"""Files of strangers: nothing in them is run, nothing outside is read, and nothing takes over the
machine's memory; what can be read is."""

from __future__ import annotations

import io
import shutil
import struct
import subprocess
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imagen_model.cli import main
from imagen_model.data.folder import list_items, read_items
from imagen_model.data.image_reader import MAX_PIXELS, read_picture
from imagen_model.data.prepare.folder import build_folder
from imagen_model.storage.provenance import read_facts

POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n{ } loop\n%%EOF\n"


def picture(side: int = 40, seed: int = 0) -> Image.Image:
    array = np.random.default_rng(seed).integers(256, size=(side, side, 3), dtype=np.uint8)
    return Image.fromarray(array)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_with(*chunks: bytes) -> bytes:
    """A PNG with more chunks behind its header."""
    buffer = io.BytesIO()
    picture().save(buffer, "PNG")
    png = buffer.getvalue()
    return png[:33] + b"".join(chunks) + png[33:]


def jpeg_of_size(side: int, *, progressive: bool) -> bytes:
    """A small JPEG whose header says that it is large."""
    buffer = io.BytesIO()
    picture().save(buffer, "JPEG", progressive=progressive)
    data = bytearray(buffer.getvalue())
    frame = data.index(b"\xff\xc2" if progressive else b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", side, side)
    return bytes(data)


def refuse_programs(*args, **options):
    raise AssertionError(f"a program was started: {args}")


@pytest.mark.parametrize("name", ["cat.png", "cat.jpg", "cat.gif", "cat.tif"])
def test_postscript_in_a_picture_s_name_is_not_run(name, tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", refuse_programs)
    (tmp_path / name).write_bytes(POSTSCRIPT)
    with pytest.raises(ValueError, match=rf"{name}: not a readable picture"):
        read_picture(tmp_path / name, resolution=32, channels=4)
    with pytest.raises(ValueError, match="is not a readable picture"):
        read_facts(tmp_path / name)


def test_a_damaged_file_of_any_kind_is_skipped_and_the_others_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", refuse_programs)
    source = tmp_path / "source"
    source.mkdir()
    picture().save(source / "good.png")
    for number, data in enumerate((POSTSCRIPT, b"DDS |" + b"\0" * 200, b"\0" * 400, b"", b"II*\0")):
        (source / f"bad{number}.png").write_bytes(data)
    manifest = build_folder(source, tmp_path / "out", resolution=32)
    assert manifest["pictures"] == 1
    assert len(manifest["skipped"]) == 5
    assert all("not a readable picture" in line for line in manifest["skipped"])


@pytest.mark.parametrize(
    "extra",
    [
        chunk(b"iCCP", b"profile\0\0" + zlib.compress(b"\0" * 3_000_000)),
        chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"text" * 12_000_000)),
        chunk(b"tEXt", b"Comment\0" + b"text" * 500_000),
        chunk(b"iTXt", b"prompt\0\1\0\0\0" + zlib.compress(b"text" * 12_000_000)),
    ],
    ids=["profile", "compressed text", "text", "international text"],
)
def test_a_png_with_a_large_profile_or_text_is_a_good_picture(extra, tmp_path):
    path = tmp_path / "cat.png"
    path.write_bytes(png_with(extra))
    array = read_picture(path, resolution=40, channels=3)
    assert (array == np.asarray(picture())).all()


def test_a_progressive_jpeg_counts_at_its_full_size_and_a_plain_one_at_the_size_it_is_decoded(
    tmp_path,
):
    side = 12_000
    assert side**2 > MAX_PIXELS
    (tmp_path / "progressive.jpg").write_bytes(jpeg_of_size(side, progressive=True))
    with pytest.raises(ValueError, match="12000 x 12000 pixels are too many"):
        read_picture(tmp_path / "progressive.jpg", resolution=32, channels=3)
    (tmp_path / "plain.jpg").write_bytes(jpeg_of_size(side, progressive=False))
    assert read_picture(tmp_path / "plain.jpg", resolution=32, channels=3).shape == (32, 32, 3)


@pytest.mark.parametrize(
    "folder",
    [".thumbnails", "@eaDir", ".git", ".ipynb_checkpoints", "__MACOSX", "$RECYCLE.BIN", "a/.cache"],
)
def test_hidden_and_system_folders_do_not_train(folder, tmp_path):
    (tmp_path / folder).mkdir(parents=True)
    picture(seed=1).save(tmp_path / folder / "x.png")
    picture().save(tmp_path / "x.png")
    (tmp_path / "._x.png").write_bytes(b"resource fork")
    (tmp_path / "._x.txt").write_bytes(b"\x00\x05\x16\x07\xff")
    assert [item.path.relative_to(tmp_path).as_posix() for item in read_items(tmp_path)] == [
        "x.png"
    ]


@pytest.mark.parametrize("name", ["a.txt", "a.wav", "b.png"])
def test_a_link_out_of_the_folder_is_refused_by_its_name(name, tmp_path):
    folder, secret = tmp_path / "data", tmp_path / "secret"
    folder.mkdir()
    picture().save(folder / "a.png")
    picture().save(secret, "PNG")
    (folder / name).symlink_to(secret)
    with pytest.raises(ValueError, match=rf"{name} is a link that leads out of"):
        read_items(folder)


def test_a_linked_folder_is_followed_inside_and_refused_by_its_name_outside(tmp_path):
    folder = tmp_path / "data"
    (folder / "pets" / "cats").mkdir(parents=True)
    picture().save(folder / "pets" / "cats" / "1.png")
    (folder / "red_cats").symlink_to(folder / "pets" / "cats")
    (folder / "pets" / "again").symlink_to(folder)  # without an end
    (folder / "pets" / "self").symlink_to("self")
    items, left_out = list_items(folder)
    assert [item.text for item in items] == ["cats", "red cats"]
    assert sorted(left_out.lines()) == [
        "1 broken links such as self",
        "1 links to folders in a loop or in a linked folder such as again",
    ]
    (tmp_path / "elsewhere").mkdir()
    picture().save(tmp_path / "elsewhere" / "2.png")
    (folder / "dogs").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=r"dogs is a link that leads out of"):
        read_items(folder)


def test_a_link_inside_the_folder_and_a_linked_folder_are_read(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    picture().save(folder / "a.png")
    (folder / "a.txt").write_text("a cat")
    (folder / "b.png").symlink_to(folder / "a.png")
    linked = tmp_path / "linked"
    linked.symlink_to(folder)
    assert [item.text for item in read_items(linked)] == ["a cat", ""]
    shutil.rmtree(folder)
    with pytest.raises(ValueError, match="no folder"):
        read_items(linked)


def test_the_reader_needs_no_file_on_disk(tmp_path):
    """What a shard's member is."""
    path = Path(tmp_path / "x.png")
    path.write_bytes(png_with(chunk(b"tEXt", b"a\0b")))
    assert read_picture(path, resolution=40, channels=3).shape == (40, 40, 3)


# -- what is written does not join what is read ----------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        ("train", "{}", "--out", "{}/run", "--kimg", "1"),
        ("train", "{}", "--out", "{}", "--kimg", "1", "--resume"),
        ("data", "folder", "--source", "{}", "--out", "{}/../set/built"),
        ("data", "shards", "{}", "--out", "{}/shards"),
        ("data", "dicom", "--source", "{}", "--out", "{}/scans"),
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_nothing_is_written_into_the_folder_that_is_read(tmp_path, capsys, command):
    source = tmp_path / "set"
    source.mkdir()
    for i in range(3):
        picture().save(source / f"{i}.png")
    before = sorted(tmp_path.rglob("*"))
    assert main([word.format(source) for word in command]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "lies in" in error and "choose a folder outside" in error
    assert sorted(tmp_path.rglob("*")) == before
