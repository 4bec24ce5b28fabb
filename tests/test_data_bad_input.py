"""What people's folders hold, through the commands that read them: handled, or one clear line."""

from __future__ import annotations

import json
import logging
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from imagen_model.cli import main
from imagen_model.data.folder import read_items

ROOT = Path(__file__).resolve().parent.parent


def imagen(*words: object) -> int:
    return main([str(word) for word in words])


def plan(folder: Path, tmp_path: Path) -> int:
    """What `imagen train` says of a folder before it trains."""
    command = ("train", folder, "--out", f"{tmp_path}-run", "--kimg", 1, "--batch", 2)
    return imagen(*command, "--dry-run")


def scaled(folder: Path, out: Path, resolution: int = 16) -> dict[str, np.ndarray]:
    """The pictures that `imagen data folder` makes, by the caption that names each."""
    assert (
        imagen("data", "folder", "--source", folder, "--out", out, "--resolution", resolution) == 0
    )
    result = {}
    for sample in read_items(out):
        with Image.open(sample.path) as image:
            result[sample.text] = np.asarray(image.convert("RGBA")).astype(int)
    return result


def prepared(folder: Path, tmp_path: Path) -> int:
    return imagen("data", "folder", "--source", folder, "--out", tmp_path / "out")


def last_line(capsys) -> str:
    return capsys.readouterr().err.replace("\r", "\n").splitlines()[-1]


# -- unreadable files -----------------------------------------------------------------------------


def test_ten_thousand_unreadable_files_are_one_summary(tmp_path, caplog, capsys):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(10_000):
        (folder / f"{i:05d}.png").write_bytes(b"not a picture")
    started = time.perf_counter()
    assert plan(folder, tmp_path) == 1
    assert "none of 10000 pictures could be read; the first: " in last_line(capsys)
    Image.new("RGB", (40, 40), (9, 99, 200)).save(folder / "good.png")
    with caplog.at_level(logging.WARNING):
        assert plan(folder, tmp_path) == 0
    assert time.perf_counter() - started < 60
    assert "1, 0 with captions, 10000 unreadable" in capsys.readouterr().out
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 11 and lines[-1] == "skipped 9990 more unreadable files"
    assert "00000.png" in lines[0] and "00009.png" in lines[9]


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of what it mends by itself
@pytest.mark.parametrize(
    "suffix", ["png", "jpg", "gif", "webp", "tif", "bmp", "avif", "jp2", "jfif"]
)
def test_files_damaged_anywhere_are_skipped_or_read(tmp_path, suffix):
    rng = np.random.default_rng(0)
    folder = tmp_path / "pictures"
    folder.mkdir()
    whole = folder / f"whole.{suffix}"
    noise = rng.integers(0, 256, (24, 24, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    without_exif = ("gif", "bmp", "jp2")
    Image.fromarray(noise).save(whole, **({} if suffix in without_exif else {"exif": exif}))
    for i in range(60):
        data = np.frombuffer(whole.read_bytes(), np.uint8).copy()
        where = rng.integers(0, min(len(data), 300), 8)
        data[where] = rng.integers(0, 256, 8)
        (folder / f"{i}.{suffix}").write_bytes(data[: rng.integers(10, len(data))].tobytes())
    (folder / f"{whole.stem}.txt").write_text("whole")
    assert "whole" in scaled(folder, tmp_path / "out")


# -- kinds of pictures ----------------------------------------------------------------------------


def test_pictures_of_every_kind_look_as_they_should(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()

    def save(image: Image.Image, name: str, **options) -> None:
        image.save(folder / name, **options)
        (folder / name).with_suffix(".txt").write_text(Path(name).stem)

    half = Image.new("RGB", (40, 40), (250, 20, 30))
    half.paste((20, 30, 250), (20, 0, 40, 40))  # red on the left, blue on the right
    palette = half.quantize(4)
    save(palette, "palette.png")
    clear = palette.getpixel((30, 5))
    save(palette, "holes.png", transparency=clear)
    save(half.convert("CMYK"), "cmyk.jpg", quality=95)
    ramp = np.repeat(np.linspace(0, 65535, 40).astype(np.uint16)[None], 40, axis=0)
    save(Image.fromarray(ramp), "deep.png")
    save(Image.fromarray(ramp), "deep-tiff.tif")
    save(Image.fromarray(ramp.astype(np.float32) / 65535), "float.tif")
    blue = Image.new("RGB", (40, 40), (20, 30, 250))
    save(half, "animated.gif", save_all=True, append_images=[blue], duration=100)
    save(half, "animated-webp.webp", save_all=True, append_images=[blue], lossless=True)
    exif = Image.Exif()
    exif[0x0112] = 3  # the camera was upside down
    save(half, "turned.jpg", exif=exif, quality=95)
    save(half.convert("L"), "grey.png")
    save(half.convert("LA"), "grey-alpha.png")
    bits = Image.new("1", (40, 40))
    bits.paste(1, (20, 0, 40, 40))
    save(bits, "bits.png")

    pictures = scaled(folder, tmp_path / "out")
    assert len(pictures) == 12
    for name in ("palette", "cmyk", "animated", "animated-webp"):
        left, right = pictures[name][8, 3], pictures[name][8, 12]
        assert left[0] > 200 > 60 > left[2] and right[2] > 200 > 60 > right[0], name
    assert pictures["turned"][8, 3, 2] > 200 and pictures["turned"][8, 12, 0] > 200
    assert pictures["holes"][8, 3, 3] == 255 and pictures["holes"][8, 12, 3] == 0
    for name in ("deep", "deep-tiff", "float"):
        values = pictures[name][8, :, 0]
        assert values[0] < 15 and values[-1] > 240 and abs(values[8] - 135) < 8, name
    assert (pictures["grey"][..., :3] == pictures["grey-alpha"][..., :3]).all()
    assert pictures["bits"][8, [3, 12], 0].tolist() == [0, 255]


def header_only_png(side: int) -> bytes:
    """A PNG that says how large it is, and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + crc

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    data = zlib.compress(b"\0" * 1000)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


def test_a_picture_of_30000_pixels_takes_little_memory_or_is_named(tmp_path):
    pytest.importorskip("resource", reason="Windows counts memory elsewhere")
    folder = tmp_path / "pictures"
    folder.mkdir()
    wide = Image.new("L", (30_000, 7_000), 200)  # over Pillow's limit; 840 MB as RGBA
    wide.paste(20, (15_000, 0, 30_000, 7_000))
    wide.save(folder / "wide.jpg")
    del wide
    Image.new("RGB", (30_000, 20), (9, 99, 200)).save(folder / "strip.png")
    (folder / "bomb.png").write_bytes(header_only_png(30_000))
    code = (
        "import resource, sys; from imagen_model.cli import main; import torch; "
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; "
        "code = main(sys.argv[1:]); "
        "print('grew', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before); sys.exit(code)"
    )
    words = ["data", "folder", "--source", folder, "--out", tmp_path / "out", "--resolution", 32]
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0 and "DecompressionBomb" not in done.stderr, done.stderr
    assert "2 pictures" in done.stdout and "source sizes: 20 to 7000 px" in done.stdout
    assert "bomb.png: not a readable picture (30000 x 30000 pixels are too many" in done.stdout
    kilobytes = int(done.stdout.split("grew ")[1].split()[0])
    assert kilobytes < 200_000
    arrays = []
    for sample in read_items(tmp_path / "out"):
        with Image.open(sample.path) as image:
            arrays.append(np.asarray(image).astype(int))
    assert abs(arrays[1][5, 5, 0] - 200) < 5 and abs(arrays[1][5, 28, 0] - 20) < 5


# -- captions -------------------------------------------------------------------------------------

CAPTIONS = [
    "赤いりんご",
    "تفاحة حمراء",
    "लाल सेब",
    "красное яблоко",
    "🍎",
    "a\u2028b\x85c",
    "Æble, rød",
]


def pictures_in(folder: Path, count: int) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{i}.png" for i in range(count)]
    for i, name in enumerate(names):
        Image.new("RGB", (32, 32), (30 * i, 255 - 30 * i, 90)).save(folder / name)
    return names


@pytest.mark.parametrize("kind", ["jsonl", "csv", "txt", "utf16"])
def test_captions_in_every_script_arrive_whole(tmp_path, capsys, kind):
    folder = tmp_path / "pictures"
    names = pictures_in(folder, len(CAPTIONS))
    rows = list(zip(names, CAPTIONS, strict=True))
    if kind == "jsonl":
        lines = [json.dumps({"file_name": n, "text": t}, ensure_ascii=False) for n, t in rows]
        (folder / "metadata.jsonl").write_bytes("\r\n".join(lines).encode("utf-8-sig"))
    elif kind == "csv":
        text = "file_name,text\r\n" + "".join(f'{n},"{t}"\r\n' for n, t in rows)
        (folder / "metadata.csv").write_bytes(text.encode("utf-8-sig"))
    else:
        for name, text in rows:
            encoding = "utf-16" if kind == "utf16" else "utf-8"
            (folder / name).with_suffix(".txt").write_bytes(text.encode(encoding))
    assert [s.text for s in read_items(folder)] == CAPTIONS
    assert prepared(folder, tmp_path) == 0
    assert [s.text for s in read_items(tmp_path / "out")] == CAPTIONS
    out = capsys.readouterr().out
    assert "7 with captions" in out and "all there, 4 in scripts of which" in out


def test_captions_that_are_no_utf8_are_one_line(tmp_path, capsys):
    pictures_in(tmp_path / "a", 1)
    (tmp_path / "a" / "0.txt").write_bytes("Äpfel".encode("latin-1"))
    assert prepared(tmp_path / "a", tmp_path) == 1
    assert "0.txt is not UTF-8 text; save it as UTF-8" in last_line(capsys)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        (
            "metadata.jsonl",
            '{"file_name": "0.png", "caption": "x"}',
            "file_name, caption; expected",
        ),
        (
            "metadata.jsonl",
            '{"image": "0.png", "text": "x"}',
            "line 1: expected a JSON object with",
        ),
        ("metadata.jsonl", '{"file_name": "0.png", "weight": 0}', "weight is 0.0; expected more"),
        ("metadata.csv", "file,text\n0.png,x\n", "has the columns file, text; expected file_name"),
        (
            "metadata.csv",
            "file_name;text\n0.png;x\n",
            "file_name;text; expected file_name and text",
        ),
        ("metadata.csv", "file_name,label\n0.png,x\n", "file_name, label; expected file_name and"),
        ("metadata.csv", "", "has the columns none; expected file_name and text"),
    ],
)
def test_wrong_columns_are_one_line(tmp_path, capsys, name, text, words):
    pictures_in(tmp_path / "a", 1)
    (tmp_path / "a" / name).write_text(text)
    assert prepared(tmp_path / "a", tmp_path) == 1
    line = last_line(capsys)
    assert line.startswith("error: ") and name in line and words in line


@pytest.mark.parametrize(
    ("row", "line"),
    [
        ('{"file_name": "a.png", "text": ["a", "b"]}', "text is ['a', 'b']; expected text"),
        ('{"file_name": "a.png", "text": {"en": "key"}}', "text is {'en': 'key'}; expected text"),
        ('{"file_name": "a.png", "text": 0.5}', "text is 0.5; expected text"),
        ('{"file_name": "a.png", "text": true}', "text is True; expected text"),
        ('{"file_name": "a.png", "text": "k", "style": ["x"]}', "style is ['x']; expected text"),
    ],
)
def test_what_is_no_caption_is_one_line(tmp_path, capsys, row, line):
    Image.new("RGB", (32, 32), "red").save(tmp_path / "a.png")
    (tmp_path / "metadata.jsonl").write_text(row + "\n", encoding="utf-8")
    assert plan(tmp_path, tmp_path) == 1
    error = capsys.readouterr().err
    assert "metadata.jsonl line 1" in error and line in error and "Traceback" not in error


def test_missing_values_are_no_captions_and_whole_numbers_are(tmp_path):
    rows = ['"text": NaN', '"text": null, "weight": null', '"text": 7', '"text": "nan"']
    for i in range(len(rows)):
        Image.new("RGB", (32, 32), (i, 0, 0)).save(tmp_path / f"{i}.png")
    lines = [f'{{"file_name": "{i}.png", {row}}}\n' for i, row in enumerate(rows)]
    (tmp_path / "metadata.jsonl").write_text("".join(lines), encoding="utf-8")
    items = read_items(tmp_path)
    assert [item.text for item in items] == ["", "", "7", "nan"]
    assert [item.weight for item in items] == [1.0] * 4


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_without_its_mark_is_one_line(tmp_path, capsys, encoding):
    Image.new("RGB", (32, 32), "red").save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_bytes("a red key".encode(encoding))
    assert plan(tmp_path, tmp_path) == 1
    error = capsys.readouterr().err
    assert "a.txt is not UTF-8 text; save it as UTF-8" in error


def test_keywords_may_be_a_list_or_a_line(tmp_path):
    pictures_in(tmp_path / "a", 2)
    text = 'file_name,text,keywords,weight\n0.png,an apple,"fruit, red",\n1.png,,,2\n'
    (tmp_path / "a" / "metadata.csv").write_text(text)
    first, second = read_items(tmp_path / "a")
    assert first.keywords == ("fruit", "red") and first.weight == 1
    assert (second.text, second.keywords, second.weight) == ("", (), 2)


@pytest.mark.parametrize(("count", "code"), [(0, 1), (1, 0)])
def test_a_folder_of_one_picture_is_enough_and_of_none_is_not(tmp_path, capsys, count, code):
    pictures_in(tmp_path / "a", count)
    assert plan(tmp_path / "a", tmp_path) == code
    assert count or "no pictures in" in last_line(capsys)


# -- every file is counted ------------------------------------------------------------------------


def told(folder: Path, tmp_path: Path, capsys) -> list[str]:
    """The first lines of `imagen data folder` and `imagen data shards`."""
    capsys.readouterr()
    lines = []
    for kind, words in {"folder": ["--source", folder], "shards": [folder]}.items():
        out = tmp_path / f"{folder.name}-{kind}"
        assert imagen("data", kind, *words, "--out", out) == 0
        lines.append(capsys.readouterr().out.splitlines()[0])
    return lines


def test_what_a_folder_holds_besides_is_counted_with_its_reason(tmp_path, capsys):
    folder = tmp_path / "a"
    pictures_in(folder, 3)
    (folder / "0.TXT").write_text("a caption")
    for name in ("1.heic", "2.HEIC", "notes.md", "table.parquet", "5.txt", "6.m4a", "7.wav"):
        (folder / name).write_text("x")
    (folder / "broken.png").symlink_to(folder / "gone")
    (folder / ".git").mkdir()
    (folder / ".git" / "x.png").write_bytes(b"x")
    (folder / "cats").mkdir()
    (folder / "cats" / "metadata.jsonl").write_text("{}")
    lines = told(folder, tmp_path, capsys)
    assert plan(folder, tmp_path) == 0
    lines.append(capsys.readouterr().out.splitlines()[0])
    for line in lines:
        for words in (
            "1 with captions", "left out: 2 .heic (not a format that is read)",
            "1 .md (not", "1 .parquet (not", "1 .m4a (not a format",
            "1 broken links such as broken.png", "1 hidden", "1 .wav (no picture",
            "1 .txt (no picture of this name) such as 5.txt",
            "1 metadata.jsonl (read only at the top of the folder)",
        ):  # fmt: skip
            assert words in line
    assert [item.text for item in read_items(folder)] == ["a caption", "", ""]


def test_what_metadata_does_not_name_is_counted(tmp_path, capsys):
    folder = tmp_path / "a"
    pictures_in(folder, 4)
    (folder / "1.txt").write_text("a caption")
    (folder / "metadata.csv").write_text("file_name,text\n0.png,b\n")
    rows = [{"file_name": name, "text": "a"} for name in ("0.png", "./sub/../1.png")]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for line in told(folder, tmp_path, capsys):
        assert "2 not named in metadata.jsonl such as " in line
        assert "1 .txt (not named in metadata.jsonl)" in line
        assert "1 metadata.csv (not named in metadata.jsonl)" in line


def test_what_lies_outside_the_split_or_beside_shards_is_counted(tmp_path, capsys):
    source, folder = tmp_path / "source", tmp_path / "a"
    pictures_in(source, 2)
    assert imagen("data", "shards", source, "--out", folder / "train") == 0
    pictures_in(folder / "train", 3)
    pictures_in(folder / "dogs", 4)
    pictures_in(folder / "test", 5)
    for line in told(folder, tmp_path, capsys):
        assert "4 outside train/ such as " in line and "3 beside shards" in line
        assert "manifest" not in line and "5 " not in line


def test_a_folder_of_nothing_that_is_read_says_what_it_holds(tmp_path, capsys):
    for i in range(3):
        (tmp_path / f"{i}.heic").write_bytes(b"x")
    assert plan(tmp_path, tmp_path) == 1
    assert "left out: 3 .heic (not a format that is read)" in last_line(capsys)


@pytest.mark.parametrize("suffix", ["jfif", "avif", "jp2"])
def test_rarer_formats_are_read(tmp_path, suffix):
    if suffix == "avif" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    (tmp_path / "a").mkdir()
    Image.new("RGB", (40, 40), (200, 20, 30)).save(tmp_path / "a" / f"0.{suffix}")
    (tmp_path / "a" / "0.txt").write_text("red")
    assert abs(scaled(tmp_path / "a", tmp_path / "out")["red"][8, 8] - [200, 20, 30, 255]).max() < 9


# -- several mistakes -----------------------------------------------------------------------------


def test_all_bad_captions_are_named_in_one_line(tmp_path, capsys):
    pictures_in(tmp_path / "a", 3)
    for name in ("0.txt", "2.txt"):
        (tmp_path / "a" / name).write_bytes("Äpfel".encode("latin-1"))
    assert plan(tmp_path / "a", tmp_path) == 1
    line = last_line(capsys)
    assert "0.txt is not UTF-8 text" in line and "2.txt is not UTF-8 text" in line
    rows = ["{broken", '{"file_name": "0.png"}', '{"file_name": "1.png", "weight": 0}']
    rows += ['{"file_name": "../x.png"}'] + ["[]"] * 20
    (tmp_path / "a" / "metadata.jsonl").write_text("\n".join(rows))
    assert plan(tmp_path / "a", tmp_path) == 1
    line = last_line(capsys)
    for words in ("line 1: ", "line 3: ", "weight is 0.0", "line 4: ", "line 11: ", "13 more like"):
        assert words in line
    assert "line 12: " not in line
