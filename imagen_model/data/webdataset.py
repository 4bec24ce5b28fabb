"""WebDataset shards -> items. In a shard the members 000.jpg, 000.json, 000.ogg ... are one item.

Shards are indexed: one pass over the headers finds the bytes of each picture and reads the
captions. Training then reads pictures from there (streaming.py). All shards of the convention work,
also img2dataset's: the picture is the member with a picture's suffix; its caption is in .json
(text, keywords, style; or caption) or .txt; a recording of it is in .wav, .flac, .ogg or .mp3; a
reference picture is in .ref.png. Compressed tars have no random access and are refused.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from ..storage.files import json_of
from .item import SOUND_SUFFIXES, SUFFIXES, File, Item, Span, item_of

COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
# As in the webdataset library, a member's key ends at the first dot of its file name.
KEY = re.compile(r"^((?:.*/|)[^.]+)[.]([^/]*)$")


class Member(NamedTuple):
    name: str
    offset: int
    size: int

    def in_shard(self, shard: Path) -> File:
        return File(shard / self.name, Span(shard, self.offset, self.size))


def shards_in(folder: Path) -> list[Path]:
    """The sorted tar files of a folder; ValueError if any is compressed."""
    files = sorted(p for p in folder.iterdir() if p.is_file())
    for path in files:
        if path.name.lower().endswith(COMPRESSED):
            raise ValueError(f"{path} is compressed; unpack it to .tar, which can be read anywhere")
    return [path for path in files if path.suffix.lower() == ".tar"]


def items_of_shards(shards: list[Path]) -> Iterator[Item]:
    """One pass over the headers. Groups of members without a picture are skipped."""
    for shard in shards:
        with shard.open("rb") as file:
            for key, members in _grouped(shard, file):
                picture = next((m for ext, m in members.items() if f".{ext}" in SUFFIXES), None)
                if picture is None:
                    continue
                try:
                    row, image = _facts(file, members), picture.in_shard(shard)
                    yield replace(
                        item_of(image.path, row, image.span), **_references(shard, members)
                    )
                except (TypeError, ValueError) as error:
                    raise ValueError(
                        f"{shard}: {key}.json holds no valid metadata ({error})"
                    ) from None


def _references(shard: Path, members: dict[str, Member]) -> dict[str, Any]:
    """The reference picture 000.ref.png and the recording 000.wav (.flac, .ogg, .mp3)."""
    pictures = (m for e, m in members.items() if e.startswith("ref.") and e[3:] in SUFFIXES)
    recordings = (m for e, m in members.items() if f".{e}" in SOUND_SUFFIXES)
    found = {"image_ref": next(pictures, None), "audio": next(recordings, None)}
    return {name: member.in_shard(shard) for name, member in found.items() if member}


def _grouped(shard: Path, file: BinaryIO) -> Iterator[tuple[str, dict[str, Member]]]:
    """(key, {extension: member}) of consecutive members with one key."""
    matches = ((KEY.match(member.name), member) for member in _members(shard, file))
    named = ((match[1], match[2].lower(), member) for match, member in matches if match)
    for key, group in groupby(named, key=itemgetter(0)):
        yield key, {extension: member for _, extension, member in group}


def _members(shard: Path, file: BinaryIO) -> Iterator[Member]:
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                if member.isfile():
                    yield Member(member.name, member.offset_data, member.size)
                tar.members = []  # type: ignore[attr-defined] # else it keeps every header
            if 0 < shard.stat().st_size - tar.offset < tarfile.BLOCKSIZE:
                raise tarfile.ReadError("unexpected end of data")
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(
            f"{shard} is not a complete tar file ({error}); replace or remove it"
        ) from None


def _facts(file: BinaryIO, members: dict[str, Member]) -> dict[str, Any]:
    """The content of .json and .txt; the position in `file` is restored."""

    def content(extension: str) -> str:
        if extension not in members:
            return ""
        file.seek(members[extension].offset)
        return file.read(members[extension].size).decode("utf-8-sig")

    position = file.tell()
    try:
        row = json_of(content("json") or "{}")
        if not isinstance(row, dict):
            raise ValueError("expected a JSON object")
        return row | {"text": row.get("text") or content("txt").strip() or row.get("caption")}
    finally:
        file.seek(position)
