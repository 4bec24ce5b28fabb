"""Folders of pictures: what the trainer reads, and `imagen data folder` writes.

One convention on disk, Hugging Face's imagefolder: pictures beside a `metadata.jsonl` whose lines
have `file_name` and, where known, `text`, `keywords`, `style`, `hexcode`, `base` and `weight`, and
`image_ref` and `audio`, files that show and say what is to be drawn (references.py); a
`metadata.csv` with such columns does as well. Four others are read: captions in .txt files beside
the pictures, folders that name a class, bare pictures, and WebDataset shards (webdataset.py).
"""

from __future__ import annotations

import codecs
import csv
import hashlib
import io
import json
import logging
import shutil
import struct
import threading
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from ..files import write_atomically
from .survey import (
    Looks,
    LooksCollector,
    describe_captions,
    describe_duplicates,
    describe_sizes,
    near_duplicates,
)

logger = logging.getLogger(__name__)

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
METADATA = "metadata.jsonl"
MANIFEST = "manifest.json"
METADATA_CSV = "metadata.csv"
COLUMNS = ("text", "keywords", "style", "hexcode", "base", "weight")
REFERENCES = ("image_ref", "audio")
SOUND_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")  # beside a picture, and in shards
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
MAX_PIXELS = 89_000_000  # what is decoded at most: 350 MB as RGBA
LARGE_PIXELS = 8_000_000  # from here on one picture at a time is decoded
MOST_LISTED = 10  # unreadable files that are named, before a count
CHUNK = 1024
# What Pillow's decoders stumble over in damaged files.
DAMAGE = (
    OSError, SyntaxError, ValueError, TypeError, ArithmeticError, LookupError, EOFError,
    MemoryError, struct.error, zlib.error, Image.DecompressionBombError,
)  # fmt: skip
Progress = Callable[[int, int], object]

_opening = threading.Lock()
_decoding_large = threading.Lock()


class Span(NamedTuple):
    """Where a picture's bytes are inside a tar file."""

    shard: Path
    offset: int
    size: int


class File(NamedTuple):
    """A file by itself, or a shard's member, where `path` only names it."""

    path: Path
    span: Span | None = None

    def opened(self) -> Path | io.BytesIO:
        return self.path if self.span is None else io.BytesIO(self.content())

    def content(self) -> bytes:
        if self.span is None:
            return self.path.read_bytes()
        with self.span.shard.open("rb") as shard:
            shard.seek(self.span.offset)
            return shard.read(self.span.size)


@dataclass(frozen=True)
class Sample:
    """One picture and what is known of it."""

    path: Path
    text: str = ""
    keywords: tuple[str, ...] = ()
    style: str = ""
    hexcode: str = ""  # emoji only: its code, and that of the emoji without skin tone
    base: str = ""
    weight: float = 1.0  # how often training draws it, relative to others
    span: Span | None = None  # of a picture in a shard, where `path` only names it
    image_ref: File | None = None  # another picture that shows what is to be drawn
    audio: File | None = None  # a recording that says it

    def metadata(self, root: Path) -> dict:
        files = {name: getattr(self, name) for name in REFERENCES}
        return {
            "file_name": self.path.relative_to(root).as_posix(),
            **self.facts(),
            **{n: f.path.relative_to(root).as_posix() for n, f in files.items() if f},
        }

    def facts(self) -> dict:
        """What is known of it, without where it is."""
        return {name: getattr(self, name) for name in COLUMNS}

    def file(self) -> Path | io.BytesIO:
        """What Pillow opens."""
        return File(self.path, self.span).opened()


@dataclass
class PictureSet:
    """Pictures in memory: uint8 [N, C, H, W], RGBA premultiplied, with their samples."""

    samples: list[Sample]
    pixels: Tensor
    skipped: list[str] = field(default_factory=list)  # "file: why"
    sides: Tensor | None = None  # [N] the smaller side of each file in pixels

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def channels(self) -> int:
        return self.pixels.shape[1]

    def batch(self, index: Tensor, device: torch.device | str = "cpu") -> Tensor:
        """float [n, C, H, W] in [-1, 1] on `device`, which gets them as bytes."""
        return self.pixels[index].to(device).float() / 127.5 - 1

    @property
    def styles(self) -> tuple[str, ...]:
        return styles_of(self.samples)

    def with_fewest_channels(self) -> PictureSet:
        """RGB where all of an RGBA set are opaque, grey where all are grey, else itself."""
        channels = fewest_channels(self.pixels)
        if channels == self.channels:
            return self
        return replace(self, pixels=self.pixels[:, :channels].contiguous())

    def miniatures(self) -> Tensor:
        """float [N, C * 64] every picture at 8 x 8, in [0, 1]."""
        parts = [F.adaptive_avg_pool2d(p.float() / 255, 8) for p in self.pixels.split(CHUNK)]
        return torch.cat(parts).flatten(1)

    def save(self, folder: Path) -> None:
        """A set in memory keeps nothing for later."""

    def looks(self) -> Looks:
        return Looks.of(self.pixels)

    def prefetch(self, index: Tensor) -> None:
        """Samples `index` come next: nothing to do, they are in memory."""

    def fingerprint(self) -> str:
        """sha256 over the sorted hashes of the pictures: names the training list."""
        hashes = sorted(hashlib.sha256(p.numpy().tobytes()).hexdigest() for p in self.pixels)
        return hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def styles_of(samples: list[Sample]) -> tuple[str, ...]:
    return tuple(sorted({s.style for s in samples if s.style}))


def fewest_channels(pixels: Tensor) -> int:
    """How many of the channels of uint8 [N, C, H, W] carry something."""
    channels = pixels.shape[1]
    if channels == 4 and bool((pixels[:, 3] == 255).all()):
        channels = 3
    if channels == 3 and all(torch.equal(pixels[:, 0], pixels[:, c]) for c in (1, 2)):
        channels = 1
    return channels


def read_samples(root: Path, *, split: str = "train") -> list[Sample]:
    """The samples of a folder, or of its `split` subfolder where it has one.

    Raises ValueError with one line where there is nothing to read.
    """
    root = Path(root)
    if not root.is_dir():
        raise ValueError(f"no folder {root}; expected a folder of pictures")
    if (root / split).is_dir():
        root = root / split
    elif split != "train":
        raise ValueError(f"{root} has no split {split!r}")
    if (root / METADATA).is_file():
        samples = list(_from_rows(root, root / METADATA, _json_rows(root / METADATA)))
    elif (root / METADATA_CSV).is_file():
        samples = list(_from_rows(root, root / METADATA_CSV, _csv_rows(root / METADATA_CSV)))
    else:
        from .webdataset import samples_of_shards, shards_in

        shards = shards_in(root)
        samples = list(samples_of_shards(shards) if shards else _from_files(root))
    if not samples:
        raise ValueError(f"no pictures in {root}; expected {', '.join(sorted(SUFFIXES))}")
    return samples


def _json_rows(path: Path) -> Iterator[tuple[int, dict]]:
    # not splitlines(): captions may hold the other characters that it takes for line ends
    for number, line in enumerate(_text_of(path).split("\n"), start=1):
        if line.strip():
            try:
                row = json.loads(line)
                row["file_name"]
            except (json.JSONDecodeError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{path} line {number}: expected a JSON object with file_name ({error})"
                ) from None
            yield number, row


def _csv_rows(path: Path) -> Iterator[tuple[int, dict]]:
    reader = csv.DictReader(io.StringIO(_text_of(path), newline=""))
    if "file_name" not in (reader.fieldnames or ()):
        raise ValueError(
            f"{path} has the columns {', '.join(reader.fieldnames or ['none'])}; "
            "expected file_name and text"
        )
    for row in reader:
        # a row may have too many values, which have no name, or an empty weight
        yield reader.line_num, {k: v for k, v in row.items() if k and (v or k != "weight")}


def _text_of(path: Path) -> str:
    """A text file in UTF-8, or in UTF-16 as some editors write it."""
    data = path.read_bytes()
    utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return data.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8 text; save it as UTF-8") from None


def _from_rows(root: Path, path: Path, rows: Iterable[tuple[int, dict]]) -> Iterator[Sample]:
    """Samples of a metadata file's rows (line number, values)."""
    seen: set[str] = set()
    inside = root.resolve()
    for number, row in rows:
        seen |= row.keys()
        try:
            files: dict[str, Any] = {
                name: File(root / row[name]) for name in REFERENCES if row.get(name)
            }
            sample = replace(sample_of(root / row["file_name"], row), **files)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{path} line {number}: expected a JSON object with file_name ({error})"
            ) from None
        for name in filter(None, (row["file_name"], *map(row.get, REFERENCES))):
            if inside not in (root / name).resolve().parents:
                raise ValueError(f"{path} line {number}: {name} is outside")
        yield sample
    others = sorted(seen - {"file_name"})
    if others and not seen & {*COLUMNS, *REFERENCES}:
        raise ValueError(
            f"{path} has the columns file_name, {', '.join(others)}; "
            "expected file_name and text (and where known keywords, style, weight)"
        )


def sample_of(path: Path, row: dict, span: Span | None = None) -> Sample:
    """A picture with what a row of metadata says of it; TypeError or ValueError for bad values."""
    keywords = row.get("keywords") or ()
    if isinstance(keywords, str):
        keywords = [word.strip() for word in keywords.split(",") if word.strip()]
    weight = float(row.get("weight", 1.0))
    if not 0 < weight < float("inf"):
        raise ValueError(f"weight is {weight}; expected more than 0")
    return Sample(
        path,
        text=str(row.get("text") or ""),
        keywords=tuple(map(str, keywords)),
        style=str(row.get("style") or ""),
        hexcode=str(row.get("hexcode") or ""),
        base=str(row.get("base") or row.get("hexcode") or ""),
        weight=weight,
        span=span,
    )


def _from_files(root: Path) -> Iterable[Sample]:
    paths = sorted(p for p in root.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    for path in paths:
        sidecar = path.with_suffix(".txt")
        if sidecar.is_file():
            text = _text_of(sidecar).strip()
        elif path.parent != root:  # a class folder: its name is the caption
            text = path.parent.name.replace("_", " ").replace("-", " ").strip()
        else:
            text = ""
        recordings = [File(path.with_suffix(suffix)) for suffix in SOUND_SUFFIXES]
        audio = next((file for file in recordings if file.path.is_file()), None)
        yield Sample(path, text=text, audio=audio)


def read_picture(path: Path, *, resolution: int, channels: int) -> np.ndarray:
    """One picture as uint8 [resolution, resolution, channels], straight alpha (see fit_picture).

    Raises ValueError where the file is no picture.
    """
    return read_sample(Sample(path), resolution=resolution, channels=channels)[0]


def read_sample(sample: Sample, *, resolution: int, channels: int) -> tuple[np.ndarray, int]:
    """read_picture's array, and the smaller side of the file's picture in pixels."""
    try:
        with _opened(sample.file()) as image:
            side = min(image.size)
            image.draft(None, (2 * resolution, 2 * resolution))  # a JPEG is decoded smaller
            pixels = image.width * image.height
            if pixels > MAX_PIXELS:
                raise ValueError(f"{image.width} x {image.height} pixels are too many; scale it")
            with _decoding_large if pixels > LARGE_PIXELS else nullcontext():
                upright = ImageOps.exif_transpose(_in_eight_bits(image)).convert("RGBA")
                return fit_picture(upright, resolution=resolution, channels=channels), side
    except DAMAGE as error:
        raise ValueError(f"{sample.path}: not a readable picture ({error})") from None


def _opened(file: Path | io.BytesIO) -> Image.Image:
    """Image.open without its limit on pixels: a JPEG over it can still be decoded smaller."""
    with _opening:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(file)
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _in_eight_bits(image: Image.Image) -> Image.Image:
    """A picture of deep grey (16 bits, floats) in eight bits; others as they are."""
    if image.mode not in ("I", "F") and not image.mode.startswith("I;"):
        return image
    values = np.asarray(image, np.float32)
    tops = (1.0, 255.0, 65535.0) if image.mode == "F" else (65535.0,)
    top = next((top for top in tops if values.max() <= top), values.max())
    grey = Image.fromarray((values / top * 255).clip(0, 255).round().astype(np.uint8))
    grey.info = image.info  # where the camera's orientation is
    return grey


def fit_picture(image: Image.Image, *, resolution: int, channels: int) -> np.ndarray:
    """An RGBA picture as a square uint8 [resolution, resolution, channels], straight alpha.

    A picture with transparency is scaled to fit and padded with more of it; an opaque one is cut to
    its central square. Fewer channels than four are composited over white.
    """
    size = (resolution, resolution)
    if image.getchannel("A").getextrema() != (255, 255):
        image = ImageOps.contain(image, size, Image.Resampling.LANCZOS)
        canvas = Image.new("RGBA", size, (255, 255, 255, 0))
        left, top = (resolution - image.width) // 2, (resolution - image.height) // 2
        canvas.paste(image, (left, top))
        image = canvas
    else:
        image = ImageOps.fit(image, size, Image.Resampling.LANCZOS)
    if channels != 4:
        paper = Image.new("RGBA", size, (255, 255, 255, 255))
        paper.alpha_composite(image)
        image = paper.convert(MODES[channels])
    return np.array(image).reshape(resolution, resolution, channels)  # its own, to be written on


def premultiplied(array: np.ndarray) -> np.ndarray:
    """uint8 [..., 4] straight alpha -> premultiplied; other channel counts unchanged."""
    if array.shape[-1] != 4:
        return array
    rgb = (array[..., :3].astype(np.uint16) * array[..., 3:] + 127) // 255
    return np.concatenate([rgb.astype(np.uint8), array[..., 3:]], axis=-1)


def load_pictures(
    samples: list[Sample], *, resolution: int, channels: int, progress: Progress | None = None
) -> PictureSet:
    """Read all pictures into memory; unreadable ones are skipped and listed."""
    kept: list[Sample] = []
    skipped, sides = [], []
    pixels = torch.empty(len(samples), channels, resolution, resolution, dtype=torch.uint8)
    results = read_all(samples, resolution=resolution, channels=channels, progress=progress)
    for sample, result in zip(samples, results, strict=True):
        if isinstance(result, str):
            skipped.append(result)
        else:
            pixels[len(kept)] = torch.from_numpy(result[0])
            kept.append(sample)
            sides.append(result[1])
    refuse_or_tell(skipped, len(kept))
    return PictureSet(kept, pixels[: len(kept)], skipped, torch.tensor(sides))


def read_all(
    samples: list[Sample], *, resolution: int, channels: int, progress: Progress | None = None
) -> Iterator[tuple[np.ndarray, int] | str]:
    """(uint8 [C, H, W] premultiplied, smaller side) of each sample in order, or why there is none.

    Several threads decode; few results wait at a time, however many samples there are.
    """

    def read(sample: Sample) -> tuple[np.ndarray, int] | str:
        try:
            array, side = read_sample(sample, resolution=resolution, channels=channels)
        except ValueError as error:
            return str(error)
        return premultiplied(array).transpose(2, 0, 1), side

    done = 0
    with ThreadPoolExecutor() as pool:
        for begin in range(0, len(samples), CHUNK):
            for result in pool.map(read, samples[begin : begin + CHUNK]):
                yield result
                done += 1
                if progress is not None:
                    progress(done, len(samples))


def refuse_or_tell(skipped: list[str], num_kept: int) -> None:
    """Warn of unreadable pictures, the first by name; ValueError where there are no others."""
    if not num_kept:
        raise ValueError(f"none of {len(skipped)} pictures could be read; the first: {skipped[0]}")
    warn_of_skipped(skipped)


def warn_of_skipped(skipped: list[str]) -> None:
    for reason in skipped[:MOST_LISTED]:
        logger.warning("skipped %s", reason)
    if len(skipped) > MOST_LISTED:
        logger.warning("skipped %d more unreadable files", len(skipped) - MOST_LISTED)


def write_metadata(root: Path, samples: list[Sample]) -> None:
    """Write `metadata.jsonl` for samples under root."""
    lines = [json.dumps(s.metadata(root), ensure_ascii=False) for s in samples]
    text = "".join(line + "\n" for line in lines)
    write_atomically(root / METADATA, lambda p: p.write_text(text, encoding="utf-8"))


def prepare_empty(out: Path) -> None:
    """Make `out`; ValueError where it already holds something."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} already exists and is not empty; choose another --out")
    out.mkdir(parents=True, exist_ok=True)


def build_folder(
    source: Path,
    out: Path,
    *,
    resolution: int,
    channels: int = 4,
    progress: Progress | None = None,
) -> dict:
    """Copy a user's folder into the imagefolder convention, scaled; returns the manifest."""
    samples = read_samples(source)
    prepare_empty(out)
    try:
        train = out / "train"
        train.mkdir()
        kept, kept_files, skipped, sides = [], [], [], []
        collector = LooksCollector()
        for i, sample in enumerate(samples):
            try:
                array, side = read_sample(sample, resolution=resolution, channels=channels)
            except ValueError as error:
                skipped.append(str(error))
                continue
            finally:
                if progress is not None:
                    progress(i + 1, len(samples))
            path = train / f"{i:07d}.png"
            Image.fromarray(array.squeeze()).save(path)
            kept.append(
                replace(sample, path=path, span=None, **_copied_files(sample, path, skipped))
            )
            kept_files.append(sample.path)
            sides.append(side)
            collector.add(premultiplied(array).transpose(2, 0, 1))
        if not kept:
            raise ValueError(f"no readable picture in {source}; the first: {skipped[0]}")
        write_metadata(train, kept)
    except BaseException:
        shutil.rmtree(out)
        raise
    duplicates = near_duplicates(collector.looks())
    manifest = {
        "source": str(source),
        "resolution": resolution,
        "channels": channels,
        "pictures": len(kept),
        "captioned": sum(bool(s.text) for s in kept),
        "captions": describe_captions([s.text for s in kept]),
        "source_sizes": describe_sizes(torch.tensor(sides)),
        "near_duplicates": describe_duplicates(duplicates, kept_files),
        "skipped": skipped,
        "styles": dict(Counter(s.style for s in kept if s.style)),
        **({"notice": notice} if (notice := read_notice(source)) else {}),
    }
    write_manifest(out, manifest)
    return manifest


def _copied_files(sample: Sample, beside: Path, skipped: list[str]) -> dict:
    """A sample's references, copied beside its new picture; what is missing is in `skipped`."""
    copies: dict[str, File | None] = dict.fromkeys(REFERENCES)
    for name, (extension, content) in packed_references(sample, skipped).items():
        path = beside.with_suffix(f".{extension}")
        path.write_bytes(content)
        copies[name] = File(path)
    return copies


def packed_references(sample: Sample, skipped: list[str]) -> dict[str, tuple[str, bytes]]:
    """{"image_ref": ("ref.png", its bytes), "audio": ("wav", its bytes)} as far as they are there;
    what is missing is told in `skipped`."""
    packed = {}
    for name in REFERENCES:
        file = getattr(sample, name)
        if file is None:
            continue
        suffix = file.path.suffix.lower()
        expected = sorted(SUFFIXES) if name == "image_ref" else SOUND_SUFFIXES
        if suffix not in expected:
            skipped.append(
                f"{file.path}: {name} ends in {suffix!r}; expected {', '.join(expected)}"
            )
            continue
        try:
            packed[name] = ("ref" * (name == "image_ref") + suffix).lstrip("."), file.content()
        except OSError as error:
            skipped.append(f"{file.path}: {error.strerror or error}")
    return packed


def read_notice(data: Path) -> str:
    """What the maker of a data set wants to be said of all that comes of it; mostly nothing."""
    for folder in (data, data.parent):  # a set, or its split
        try:
            notice = json.loads((folder / MANIFEST).read_text(encoding="utf-8")).get("notice", "")
        except (OSError, ValueError, AttributeError):  # none, or another program's
            continue
        return notice if isinstance(notice, str) else ""
    return ""


def write_manifest(out: Path, manifest: dict) -> None:
    text = json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"
    write_atomically(out / MANIFEST, lambda p: p.write_text(text, encoding="utf-8"))
