"""Folders of pictures: what the trainer reads, and `imagen data folder` writes.

One convention on disk, Hugging Face's imagefolder: pictures beside a `metadata.jsonl` whose lines
have `file_name` and, where known, `text`, `keywords`, `style`, `hexcode`, `base` and `weight`. Three
others are read as well: captions in .txt files beside the pictures, folders that name a class, and
bare pictures.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ..files import write_atomically

logger = logging.getLogger(__name__)

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
METADATA = "metadata.jsonl"
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
Progress = Callable[[int, int], object]


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

    def metadata(self, root: Path) -> dict:
        values = asdict(self)
        path = values.pop("path")
        return {"file_name": path.relative_to(root).as_posix(), **values}


@dataclass
class PictureSet:
    """Pictures in memory: uint8 [N, C, H, W], RGBA premultiplied, with their samples."""

    samples: list[Sample]
    pixels: Tensor
    skipped: list[str] = field(default_factory=list)  # "file: why"

    def __len__(self) -> int:
        return len(self.samples)

    def batch(self, index: Tensor) -> Tensor:
        """float [n, C, H, W] in [-1, 1]."""
        return self.pixels[index].float() / 127.5 - 1

    @property
    def styles(self) -> tuple[str, ...]:
        return tuple(sorted({s.style for s in self.samples if s.style}))

    def without_empty_alpha(self) -> PictureSet:
        """RGB where every picture of an RGBA set is opaque, else itself."""
        if self.pixels.shape[1] == 4 and bool((self.pixels[:, 3] == 255).all()):
            return PictureSet(self.samples, self.pixels[:, :3].contiguous(), self.skipped)
        return self

    def fingerprint(self) -> str:
        """sha256 over the sorted hashes of the pictures: names the training list."""
        hashes = sorted(hashlib.sha256(p.numpy().tobytes()).hexdigest() for p in self.pixels)
        return hashlib.sha256("\n".join(hashes).encode()).hexdigest()


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
        samples = list(_from_metadata(root))
    else:
        samples = list(_from_files(root))
    if not samples:
        raise ValueError(f"no pictures in {root}; expected {', '.join(sorted(SUFFIXES))}")
    return samples


def _from_metadata(root: Path) -> Iterable[Sample]:
    lines = (root / METADATA).read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            path = root / row["file_name"]
            sample = Sample(
                path,
                text=str(row.get("text") or ""),
                keywords=tuple(map(str, row.get("keywords") or ())),
                style=str(row.get("style") or ""),
                hexcode=str(row.get("hexcode") or ""),
                base=str(row.get("base") or row.get("hexcode") or ""),
                weight=float(row.get("weight", 1.0)),
            )
        except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{root / METADATA} line {number}: expected a JSON object with file_name ({error})"
            ) from None
        if root.resolve() not in path.resolve().parents:
            raise ValueError(f"{root / METADATA} line {number}: {row['file_name']} is outside")
        yield sample


def _from_files(root: Path) -> Iterable[Sample]:
    paths = sorted(p for p in root.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    for path in paths:
        sidecar = path.with_suffix(".txt")
        if sidecar.is_file():
            text = sidecar.read_text(encoding="utf-8", errors="replace").strip()
        elif path.parent != root:  # a class folder: its name is the caption
            text = path.parent.name.replace("_", " ").replace("-", " ").strip()
        else:
            text = ""
        yield Sample(path, text=text)


def read_picture(path: Path, *, resolution: int, channels: int) -> np.ndarray:
    """One picture as uint8 [resolution, resolution, channels], straight alpha (see fit_picture).

    Raises ValueError where the file is no picture.
    """
    try:
        with Image.open(path) as image:
            image = ImageOps.exif_transpose(image)
            image = image.convert("RGBA")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: not a readable picture ({error})") from None
    return fit_picture(image, resolution=resolution, channels=channels)


def fit_picture(image: Image.Image, *, resolution: int, channels: int) -> np.ndarray:
    """An RGBA picture as a square uint8 [resolution, resolution, channels], straight alpha.

    A picture with transparency is scaled to fit and padded with more of it; an opaque one is cut to
    its central square. Fewer channels than four are composited over white.
    """
    size = (resolution, resolution)
    if np.asarray(image)[..., 3].min() < 255:
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
    return np.asarray(image).reshape(resolution, resolution, channels)


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

    def read(sample: Sample) -> np.ndarray | str:
        try:
            return read_picture(sample.path, resolution=resolution, channels=channels)
        except ValueError as error:
            return str(error)

    kept, arrays, skipped = [], [], []
    with ThreadPoolExecutor() as pool:
        for i, (sample, result) in enumerate(zip(samples, pool.map(read, samples), strict=True)):
            if isinstance(result, str):
                skipped.append(result)
                logger.warning("skipped %s", result)
            else:
                kept.append(sample)
                arrays.append(premultiplied(result).transpose(2, 0, 1))
            if progress is not None:
                progress(i + 1, len(samples))
    if not kept:
        raise ValueError(f"none of {len(samples)} pictures could be read; the first: {skipped[0]}")
    return PictureSet(kept, torch.from_numpy(np.stack(arrays)), skipped)


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
        kept, skipped = [], []
        for i, sample in enumerate(samples):
            try:
                array = read_picture(sample.path, resolution=resolution, channels=channels)
            except ValueError as error:
                skipped.append(str(error))
                continue
            finally:
                if progress is not None:
                    progress(i + 1, len(samples))
            path = train / f"{i:07d}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(array.squeeze()).save(path)
            values = asdict(sample) | {"path": path}
            kept.append(Sample(**values))
        if not kept:
            raise ValueError(f"no readable picture in {source}; the first: {skipped[0]}")
        write_metadata(train, kept)
    except BaseException:
        shutil.rmtree(out)
        raise
    manifest = {
        "source": str(source),
        "resolution": resolution,
        "channels": channels,
        "pictures": len(kept),
        "captioned": sum(bool(s.text) for s in kept),
        "skipped": skipped,
        "styles": dict(Counter(s.style for s in kept if s.style)),
    }
    write_manifest(out, manifest)
    return manifest


def write_manifest(out: Path, manifest: dict) -> None:
    text = json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"
    write_atomically(out / "manifest.json", lambda p: p.write_text(text, encoding="utf-8"))
