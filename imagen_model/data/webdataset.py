"""WebDataset shards -> items. In a shard the members 000.jpg, 000.json, 000.ogg ... are one item.

Shards are indexed and not read end to end: one walk over the headers finds where each picture's
bytes are, and reads the captions on the way. Training then reads pictures from there
(streaming.py). Any shards of that convention will do, img2dataset's among them: the picture is the
member with a picture's suffix; its caption is in .json (text, keywords, style; or caption) or .txt;
a recording that says it (as Open Images has) is in .wav, .flac, .ogg or .mp3; a reference picture
is in .ref.png. Compressed tars have no random access, and are refused.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from .item import SOUND_SUFFIXES, SUFFIXES, File, Item, Span, item_of

COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
# A member's key is all up to the first dot of its file name, as in the webdataset library.
KEY = re.compile(r"^((?:.*/|)[^.]+)[.]([^/]*)$")


class Member(NamedTuple):
    name: str
    offset: int
    size: int


# -- reading --------------------------------------------------------------------------------------


def shards_in(folder: Path) -> list[Path]:
    """The tar files of a folder, in order; ValueError where they are compressed."""
    files = sorted(p for p in folder.iterdir() if p.is_file())
    for path in files:
        if path.name.lower().endswith(COMPRESSED):
            raise ValueError(f"{path} is compressed; unpack it to .tar, which can be read anywhere")
    return [path for path in files if path.suffix.lower() == ".tar"]


def items_of_shards(shards: list[Path]) -> Iterator[Item]:
    """One walk over the headers. Samples without a picture are passed over."""
    for shard in shards:
        with shard.open("rb") as file:
            for key, members in _grouped(shard, file):
                picture = next((m for ext, m in members.items() if f".{ext}" in SUFFIXES), None)
                if picture is None:
                    continue
                span = Span(shard, picture.offset, picture.size)
                try:
                    row = _words(file, members)
                    yield replace(
                        item_of(shard / picture.name, row, span), **_references(shard, members)
                    )
                except (TypeError, ValueError) as error:
                    raise ValueError(f"{shard}: {key}.json holds no facts ({error})") from None


def _references(shard: Path, members: dict[str, Member]) -> dict[str, Any]:
    """000.ref.png shows and 000.wav (or .flac, .ogg, .mp3) says what 000.png is to be."""
    pictures = (m for e, m in members.items() if e.startswith("ref.") and e[3:] in SUFFIXES)
    recordings = (m for e, m in members.items() if f".{e}" in SOUND_SUFFIXES)
    found = {"image_ref": next(pictures, None), "audio": next(recordings, None)}
    return {
        name: File(shard / member.name, Span(shard, member.offset, member.size))
        for name, member in found.items()
        if member is not None
    }


def _grouped(shard: Path, file: BinaryIO) -> Iterator[tuple[str, dict[str, Member]]]:
    """(key, {extension: member}) of consecutive members with one key."""
    key, members = "", dict[str, Member]()
    for member in _members(shard, file):
        match = KEY.match(member.name)
        if match is None:
            continue
        if match[1] != key and members:
            yield key, members
            members = {}
        key = match[1]
        members[match[2].lower()] = member
    if members:
        yield key, members


def _members(shard: Path, file: BinaryIO) -> Iterator[Member]:
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                if member.isfile():
                    yield Member(member.name, member.offset_data, member.size)
                tar.members = []  # type: ignore[attr-defined] # else the tar remembers every header
            if 0 < shard.stat().st_size - tar.offset < tarfile.BLOCKSIZE:
                raise tarfile.ReadError("unexpected end of data")
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(f"{shard} is no whole tar file ({error}); replace or remove it") from None


def _words(file: BinaryIO, members: dict[str, Member]) -> dict[str, Any]:
    """What .json and .txt say; the walk goes on from where it was."""

    def content(extension: str) -> str:
        member = members.get(extension)
        if member is None:
            return ""
        file.seek(member.offset)
        return file.read(member.size).decode("utf-8-sig")

    where = file.tell()
    try:
        row = json.loads(content("json") or "{}")
        if not isinstance(row, dict):
            raise ValueError("expected a JSON object")
        text = row.get("text") or content("txt").strip() or row.get("caption")
        return {**row, "text": text}
    finally:
        file.seek(where)
