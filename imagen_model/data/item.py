"""One item of a data set: a picture, and what is known of it."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from ..storage.files import brief, storable

SUFFIXES = {
    ".png", ".jpg", ".jpeg", ".jfif", ".webp", ".avif", ".bmp", ".gif", ".tif", ".tiff", ".jp2",
}  # fmt: skip
COLUMNS = ("text", "keywords", "style", "hexcode", "base", "weight")
REFERENCES = ("image_ref", "audio")
SOUND_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")  # beside a picture, and in shards


class Span(NamedTuple):
    """The place of a file's bytes inside a tar file."""

    shard: Path
    offset: int
    size: int


class File(NamedTuple):
    """A file on disk, or with `span` a shard's member, which `path` only names."""

    path: Path
    span: Span | None = None

    def opened(self) -> Path | io.BytesIO:
        """What Pillow and soundfile open."""
        return self.path if self.span is None else io.BytesIO(self.content())

    def content(self) -> bytes:
        if self.span is None:
            return self.path.read_bytes()
        with self.span.shard.open("rb") as shard:
            shard.seek(self.span.offset)
            return shard.read(self.span.size)

    def on_disk(self) -> Path:
        return self.span.shard if self.span else self.path


def stamp_of(path: Path) -> str:
    """Size and modification time of a file; "" if there is no file."""
    return f"{path.stat().st_size} {path.stat().st_mtime_ns}" if path.is_file() else ""


@dataclass(frozen=True, slots=True)
class Item:
    """One picture and what is known of it."""

    path: Path
    text: str = ""
    keywords: tuple[str, ...] = ()
    style: str = ""
    hexcode: str = ""  # emoji only: its code, and that of the emoji without skin tone
    base: str = ""
    weight: float = 1.0  # how often training samples it, relative to others
    span: Span | None = None  # of a picture in a shard, which `path` only names
    image_ref: File | None = None  # a reference picture
    audio: File | None = None  # a recording of the caption

    def metadata(self, root: Path) -> dict:
        """A row of metadata.jsonl in `root`."""
        files = {name: getattr(self, name) for name in REFERENCES}
        return {
            "file_name": self.path.relative_to(root).as_posix(),
            **self.facts(),
            **{n: f.path.relative_to(root).as_posix() for n, f in files.items() if f},
        }

    def facts(self) -> dict:
        """What is known of the picture, without its place."""
        return {name: getattr(self, name) for name in COLUMNS}

    @property
    def has_condition(self) -> bool:
        """Whether it has a caption, a reference picture or a recording."""
        return bool(self.text or self.image_ref or self.audio)

    def without_condition(self) -> Item:
        """The picture alone."""
        return replace(self, text="", keywords=(), style="", image_ref=None, audio=None)

    def file(self) -> File:
        return File(self.path, self.span)


def styles_of(items: list[Item]) -> tuple[str, ...]:
    return tuple(sorted({item.style for item in items} - {""}))


def _text(row: dict, name: str) -> str:
    """A text of a row; whole numbers count as text, null and NaN as none. ValueError for others."""
    value = row.get(name)
    if value is None or value != value:  # pandas writes NaN for what is missing
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(f"{name} is {brief(repr(value))}; expected text")
    return storable(str(value))


def item_of(path: Path, row: dict, span: Span | None = None) -> Item:
    """A picture with its row of metadata; TypeError or ValueError for bad values."""
    keywords = row.get("keywords") or ()
    if isinstance(keywords, str):
        keywords = [word.strip() for word in keywords.split(",") if word.strip()]
    try:
        weight = 1.0 if row.get("weight") is None else float(row["weight"])
    except OverflowError:  # JSON's integers have any length
        weight = float("inf")
    if not 0 < weight < float("inf"):
        raise ValueError(f"weight is {weight}; expected more than 0")
    return Item(
        path,
        text=_text(row, "text"),
        keywords=tuple(storable(str(word)) for word in keywords),
        style=_text(row, "style"),
        hexcode=str(row.get("hexcode") or ""),
        base=str(row.get("base") or row.get("hexcode") or ""),
        weight=weight,
        span=span,
    )
