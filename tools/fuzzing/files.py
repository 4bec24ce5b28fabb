"""Targets that read mutated files. Each makes its real files once, and returns what reads one case
of them in a folder of its own."""

from __future__ import annotations

import csv
import io
import json
import struct
import tarfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import safetensors.torch
from PIL import Image
from safetensors import SafetensorError

import imagen_model as im
from imagen_model.checkpoint import save_checkpoint, tensors_sha256
from imagen_model.conditioning.minilm import text_encoder
from imagen_model.data.dataset import load_pictures
from imagen_model.data.folder import read_items, read_notice
from imagen_model.data.image_reader import read_picture
from imagen_model.data.prepare.dicom import build_dicom
from imagen_model.data.prepare.folder import build_folder
from imagen_model.data.prepare.shards import build_shards
from imagen_model.data.references import read_references
from imagen_model.data.sound import read_sound
from imagen_model.data.statistics import report
from imagen_model.feedback.adapter import apply_adapter, load_adapter
from imagen_model.storage.provenance import png_info, read_facts

from . import mutations as m

Case = Callable[[Random | None, Path], None]  # without a Random, the files stay as they are
ROOT = Path(__file__).resolve().parents[2]
SAVED = ROOT / "tests" / "fixtures" / "saved_0.1.0"
MODEL = SAVED / "run" / "latest.safetensors"
SIDE = 24


def picture(seed: int, mode: str = "RGBA") -> Image.Image:
    """Random pixels."""
    array = np.random.default_rng(seed).integers(256, size=(SIDE, SIDE, 4), dtype=np.uint8)
    return Image.fromarray(array).convert(mode)


def file_of(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


# -- models ---------------------------------------------------------------------------------------


def _resealed(data: bytes) -> bytes:
    """The file with the hash of its tensors in its card, so that what is behind the check of the
    hash is reached; the file itself where it is too damaged for that."""
    try:
        sha256 = tensors_sha256(safetensors.torch.load(data))
        header, body = m.parts_of(data)
        card = json.loads(header["__metadata__"]["imagen.card"])
        card["sha256"] = sha256
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError, RuntimeError):
        return data
    header["__metadata__"]["imagen.card"] = json.dumps(card)
    return m.joined(json.dumps(header), bytes(body))


def _model_file(data: bytes, rng: Random | None) -> bytes:
    if rng is None:
        return data
    data = m.changed_safetensors(data, rng)
    return _resealed(data) if rng.random() < 0.8 else data


def checkpoint(folder: Path) -> Case:
    model = im.load(MODEL)
    save_checkpoint(folder / "int8.safetensors", model.config, model.networks, {}, int8=True)
    sources = [MODEL.read_bytes(), (folder / "int8.safetensors").read_bytes()]

    def case(rng: Random | None, work: Path) -> None:
        path = work / "model.safetensors"
        path.write_bytes(_model_file(sources[0] if rng is None else rng.choice(sources), rng))
        read = im.load(path)
        read.summary()
        read.draw(read.encode_text(""), read.latent([0]))

    return case


def adapter(folder: Path) -> Case:
    model, source = im.load(MODEL), (SAVED / "adapter.safetensors").read_bytes()
    condition, latent = model.encode_text(""), model.latent([0])

    def case(rng: Random | None, work: Path) -> None:
        path = work / "adapter.safetensors"
        path.write_bytes(_model_file(source, rng))
        apply_adapter(model, load_adapter(path)).draw(condition, latent)

    return case


# -- pictures -------------------------------------------------------------------------------------


def pictures(folder: Path) -> Case:
    info = png_info({"model": "emoji", "seed": 1}, {"1": {"class_type": "ImagenSample"}})
    grey16 = Image.fromarray(np.arange(SIDE * SIDE, dtype=np.uint16).reshape(SIDE, SIDE))
    exif = Image.Exif()
    exif[0x0112] = 6
    sources = {
        "a.png": file_of(picture(0), "PNG", pnginfo=info),
        "b.png": file_of(picture(1, "P"), "PNG"),
        "c.png": file_of(grey16, "PNG"),
        "d.png": file_of(picture(2), "PNG", save_all=True, append_images=[picture(3)]),
        "a.jpg": file_of(picture(4, "RGB"), "JPEG", exif=exif),
        "b.jpg": file_of(picture(5, "CMYK"), "JPEG", progressive=True),
        "a.webp": file_of(picture(6), "WEBP", lossless=True),
        "b.webp": file_of(picture(7), "WEBP", save_all=True, append_images=[picture(8)]),
        "a.bmp": file_of(picture(9, "RGB"), "BMP"),
        "b.bmp": file_of(picture(10, "P"), "BMP"),
        "a.gif": file_of(picture(11, "P"), "GIF", save_all=True, append_images=[picture(12, "P")]),
        "a.tif": file_of(picture(13, "RGB"), "TIFF", compression="tiff_lzw"),
        "b.tif": file_of(grey16, "TIFF"),
        "c.tif": file_of(picture(14), "TIFF", compression="tiff_adobe_deflate"),
        "d.tif": file_of(picture(15, "RGB"), "TIFF", compression="jpeg"),
    }  # fmt: skip
    names = list(sources)

    def case(rng: Random | None, work: Path) -> None:
        for name in names if rng is None else [rng.choice(names)]:
            data = sources[name]
            if rng is not None:
                data = m.mutated(data, rng, list(sources.values()))
                if name.endswith(".png") and rng.random() < 0.7:
                    data = _png_with_checksums(data)
            (work / name).write_bytes(data)
            read_picture(work / name, resolution=32, channels=4)
            if name == "a.png":
                read_facts(work / name)

    return case


def _png_with_checksums(data: bytes) -> bytes:
    """A PNG whose chunks have the checksums of what is in them."""
    import zlib

    result, at = bytearray(data[:8]), 8
    while at + 12 <= len(data):
        size = struct.unpack(">I", data[at : at + 4])[0]
        if at + 12 + size > len(data):
            break
        body = data[at + 4 : at + 8 + size]
        result += data[at : at + 4] + body + struct.pack(">I", zlib.crc32(body))
        at += 12 + size
    return bytes(result) + data[at:]


# -- folders and shards ---------------------------------------------------------------------------

ROWS: list[dict[str, Any]] = [
    {
        "file_name": f"{i}.png", "text": f"a cat {i}", "keywords": ["cat", "pet"], "style": "noto",
        "hexcode": "1F431", "base": "1F431", "weight": 1.5, "image_ref": "0.png", "audio": "0.wav",
    }
    for i in range(3)
]  # fmt: skip


def wave() -> bytes:
    """Half a second of a tone, 16 bits."""
    import soundfile

    buffer = io.BytesIO()
    tone = np.sin(np.arange(4000) * 0.3) * np.linspace(0, 0.5, 4000)
    soundfile.write(buffer, tone, 8000, format="WAV")
    return buffer.getvalue()


def _as_csv(rows: list[dict]) -> bytes:
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue().encode()


def _read_folder(root: Path, rng: Random | None) -> None:
    """As training reads it, or as `imagen data folder` does."""
    if rng is not None and rng.random() < 0.2:
        build_folder(root, root.parent / "built", resolution=32)
        return
    items = read_items(root)
    read_notice(root)
    report(load_pictures(items, resolution=32, channels=4))
    if rng is None or rng.random() < 0.02:
        read_references(items, text_encoder())


def images(folder: Path) -> Case:
    files = {f"{i}.png": file_of(picture(i), "PNG") for i in range(3)} | {"0.wav": wave()}
    texts = {f"{i}.txt": f"a cat {i}".encode() for i in range(3)}
    notice = {"manifest.json": b'{"notice": "for tests"}'}

    def case(rng: Random | None, work: Path) -> None:
        kind = "jsonl" if rng is None else rng.choice(("jsonl", "csv", "txt", "bytes"))
        content = files | notice | (texts if kind in ("txt", "bytes") else {})
        rows = [dict(row) for row in ROWS]
        if kind in ("jsonl", "csv"):
            data = _metadata(rows, kind, rng)
            content[f"metadata.{kind}"] = data
        elif rng is not None:
            name = rng.choice([n for n in content if kind == "bytes" or n.endswith(".txt")])
            content[name] = m.mutated(content[name], rng, list(content.values()))
            if kind == "txt" and rng.random() < 0.5:
                content[name] = m.encoded(m.text(rng))
        root = work / "data"
        for name, data in content.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(data)
        _read_folder(root, rng)

    return case


def _metadata(rows: list[dict], kind: str, rng: Random | None) -> bytes:
    """metadata.jsonl or metadata.csv, with other values, columns or bytes."""
    if kind == "csv":
        data = _as_csv([row | {"keywords": "cat, pet"} for row in rows])
        if rng is None:
            return data
        if rng.random() < 0.5:
            cells = [line.split(b",") for line in data.split(b"\r\n")]
            line = rng.choice(cells)
            line[rng.randrange(len(line))] = m.encoded(
                rng.choice((m.text(rng), str(m.number(rng))))
            )
            return b"\r\n".join(b",".join(line) for line in cells)
        return m.mutated(data, rng)
    if rng is None:
        return "".join(json.dumps(row) + "\n" for row in rows).encode()
    if rng.random() < 0.7:
        row = rng.randrange(len(rows))
        lines = [json.dumps(r).encode() for r in rows]
        lines[row] = m.changed_json(rows[row], rng)
        return b"\n".join(lines)
    return m.mutated("".join(json.dumps(row) + "\n" for row in rows).encode(), rng)


def webdataset(folder: Path) -> Case:
    source = folder / "source"
    source.mkdir()
    for i, row in enumerate(ROWS):
        (source / row["file_name"]).write_bytes(file_of(picture(i), "PNG"))
    (source / "0.wav").write_bytes(wave())
    (source / "metadata.jsonl").write_bytes(_metadata(ROWS, "jsonl", None))
    build_shards(source, folder / "shards")
    shard = (folder / "shards" / "shard-000000.tar").read_bytes()

    def case(rng: Random | None, work: Path) -> None:
        root, data = work / "data", shard
        root.mkdir()
        if rng is not None:
            data = m.mutated(shard, rng) if rng.random() < 0.4 else _changed_tar(shard, rng)
        (root / "shard-000000.tar").write_bytes(data)
        _read_folder(root, rng)

    return case


def _changed_tar(data: bytes, rng: Random) -> bytes:
    """A whole tar file in which one member has another name, type, size field or content."""
    buffer = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(data)) as old,
        tarfile.open(fileobj=buffer, mode="w") as new,
    ):
        members = old.getmembers()
        chosen, kind = rng.choice(members), rng.randrange(4)
        for member in members:
            file = old.extractfile(member)
            content = file.read() if file else b""
            if member is chosen and kind == 0:
                member.name = rng.choice(
                    ("../../x.png", "/etc/x.png", "a.json", ".png", "x" * 200, "a")
                )
            elif member is chosen and kind == 1:
                member.type = rng.choice((tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, b"Z"))
                member.linkname = "/etc/hostname"
            elif member is chosen:
                is_json = member.name.endswith(".json")
                content = (
                    m.changed_json(json.loads(content), rng) if is_json else m.mutated(content, rng)
                )
            member.size = len(content)
            new.addfile(member, io.BytesIO(content))
    result = bytearray(buffer.getvalue())
    if rng.random() < 0.3:  # a header with a wrong number and a right checksum
        at = 512 * rng.randrange(len(result) // 512)
        field = rng.choice(((100, 8), (124, 12), (136, 12), (345, 155)))
        junk = rng.choice((b"77777777777", b"-1", b"\x80" + b"\xff" * 11, b"\xff" * 12, b"9"))
        result[at + field[0] : at + field[0] + field[1]] = junk.ljust(field[1], b"\0")[: field[1]]
        result[at + 148 : at + 156] = b" " * 8
        result[at + 148 : at + 156] = b"%06o\0 " % sum(result[at : at + 512])
    return bytes(result)


# -- DICOM and sound ------------------------------------------------------------------------------

DICOM_FILES = (
    "CT_small.dcm", "MR_small.dcm", "MR_small_RLE.dcm", "MR_small_bigendian.dcm",
    "MR_small_implicit.dcm", "MR_small_jp2klossless.dcm", "JPGExtended.dcm", "rtdose_1frame.dcm",
    "no_meta.dcm", "liver_1frame.dcm",
)  # fmt: skip
ELEMENTS = (
    "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
    "SamplesPerPixel", "NumberOfFrames", "WindowCenter", "WindowWidth", "RescaleSlope",
    "RescaleIntercept", "PixelPaddingValue", "PhotometricInterpretation", "Modality",
    "BodyPartExamined", "BurnedInAnnotation", "VOILUTFunction", "PixelData",
)  # fmt: skip


def dicom(folder: Path) -> Case:
    import pydicom
    from pydicom.data import get_testdata_file

    paths = [Path(str(get_testdata_file(name, download=False))) for name in DICOM_FILES]
    sources = [path.read_bytes() for path in paths]

    def changed(data: bytes, rng: Random) -> bytes:
        """Other elements, or other bytes."""
        if rng.random() < 0.5:
            return m.mutated(data, rng, sources)
        dataset = pydicom.dcmread(io.BytesIO(data), force=True)
        for _ in range(rng.randint(1, 3)):
            name = rng.choice(ELEMENTS)
            with suppress(Exception):  # pydicom does not take every value
                if rng.random() < 0.2:
                    delattr(dataset, name)
                else:
                    number = rng.choice(
                        (0, 1, 7, 16, 255, 65535, "-1", "nan", "1e300", [1, 2], None)
                    )
                    setattr(dataset, name, b"\1\2" if name == "PixelData" else number)
        buffer = io.BytesIO()
        try:
            dataset.save_as(buffer)
        except Exception:  # nor does it write every value
            return m.mutated(data, rng)
        return buffer.getvalue()

    def case(rng: Random | None, work: Path) -> None:
        data = sources[0] if rng is None else changed(rng.choice(sources), rng)
        (work / "a.dcm").write_bytes(data)
        build_dicom([work / "a.dcm"], work / "built", resolution=32)

    return case


def audio(folder: Path) -> Case:
    import soundfile

    tone = (np.sin(np.arange(8000) * 0.2) * 0.5)[:, None].repeat(2, axis=1)
    formats = {
        "a.wav": ("WAV", "PCM_16"), "b.wav": ("WAV", "FLOAT"), "c.wav": ("WAV", "IMA_ADPCM"),
        "a.flac": ("FLAC", "PCM_16"), "a.ogg": ("OGG", "VORBIS"), "b.ogg": ("OGG", "OPUS"),
        "a.mp3": ("MP3", "MPEG_LAYER_III"), "a.aiff": ("AIFF", "PCM_24"), "a.au": ("AU", "ULAW"),
    }  # fmt: skip
    sources = {}
    for name, (kind, subtype) in formats.items():
        buffer = io.BytesIO()
        soundfile.write(buffer, tone, 16000, format=kind, subtype=subtype)
        sources[name] = buffer.getvalue()
    names = list(sources)

    def case(rng: Random | None, work: Path) -> None:
        name = "a.wav" if rng is None else rng.choice(names)
        data = sources[name]
        (work / name).write_bytes(
            data if rng is None else m.mutated(data, rng, list(sources.values()))
        )
        wave, rate = read_sound(work / name)
        if rng is None or rng.random() < 0.05:
            with suppress(ValueError):  # a tone has no words
                im.transcribe([(wave[:, :rate], rate)])
        if rng is None or rng.random() < 0.2:
            im.analyze_audio(wave, rate)

    return case


FILES: dict[str, Callable[[Path], Case]] = {
    "checkpoint": checkpoint, "adapter": adapter, "pictures": pictures, "images": images,
    "webdataset": webdataset, "dicom": dicom, "audio": audio,
}  # fmt: skip
