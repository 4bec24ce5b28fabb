"""WebDataset shards -> items. In a shard the members 000.jpg, 000.json, 000.ogg ... are one item,
wherever they are in it.

Shards are indexed: one pass over the headers finds the bytes of each picture and reads the
captions. Training then reads pictures from there (streaming.py). All shards of the convention work,
also img2dataset's: the picture is the member with a picture's suffix; its caption is in .json
(text, keywords, style; or caption) or .txt; a recording of it is in .wav, .flac, .ogg or .mp3; a
reference picture is in .ref.png. What else is there is counted. Compressed tars have no random
access and are refused.
"""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from ..storage.files import brief, json_of
from .item import REFERENCES, SOUND_SUFFIXES, SUFFIXES, File, Item, Span, item_of
from .reading import HIDDEN, LeftOut, decoded, is_hidden, kind_of, refuse

COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
TAR = ".tar"
# As in the webdataset library, a member's key ends at the first dot of its file name.
KEY = re.compile(r"^((?:.*/|)[^./]+)[.]([^/]*)$")
ROLES: dict[str, Collection[str]] = {  # what a member is for, by its suffix
    "picture": SUFFIXES,
    "json": {".json"},
    "txt": {".txt"},
    "image_ref": {f".ref{suffix}" for suffix in SUFFIXES},
    "audio": SOUND_SUFFIXES,
}
ROLE_OF = {suffix: role for role, suffixes in ROLES.items() for suffix in suffixes}


HARMLESS = {b"mtime", b"atime", b"ctime", b"uid", b"gid", b"uname", b"gname", b"comment"}


class Member(NamedTuple):
    name: str
    offset: int
    size: int

    def in_shard(self, shard: Path) -> File:
        return File(shard / self.name, Span(shard, self.offset, self.size))


def shards_in(folder: Path) -> list[Path]:
    """The sorted tar files of a folder; ValueError if any is compressed."""
    files = sorted(p for p in folder.iterdir() if p.is_file() and not is_hidden(p.name))
    for path in files:
        if path.name.lower().endswith(COMPRESSED):
            raise ValueError(f"{path} is compressed; unpack it to .tar, which can be read anywhere")
    return [path for path in files if path.suffix.lower() == TAR]


def items_of_shards(shards: list[Path], left_out: LeftOut) -> Iterator[Item]:
    """One pass over the headers of each shard, and one over its captions."""
    problems: list[str] = []
    for shard in shards:
        with shard.open("rb") as file:
            for members in _grouped(shard, file, left_out):
                used = _used(members)
                where = "beside the picture" if used else "no picture"
                for extension, member in members.items():
                    if member not in used.values():
                        reason = f"{kind_of('.' + extension)} ({where} of its key)"
                        left_out.add(reason, member.name)
                if used:
                    try:
                        item = _item(shard, file, used)
                    except ValueError as error:
                        problems.append(str(error))
                    else:
                        yield item
    refuse(problems)


def _used(members: dict[str, Member]) -> dict[str, Member]:
    """The members of an item by their role, each the first one; none without a picture."""
    first: dict[str, Member] = {}
    for extension, member in members.items():
        if role := ROLE_OF.get(f".{extension}"):
            first.setdefault(role, member)
    return first if "picture" in first else {}


def _item(shard: Path, file: BinaryIO, used: dict[str, Member]) -> Item:
    """ValueError for a caption or metadata that can't be read."""
    picture, texts = used["picture"].in_shard(shard), {"json": "", "txt": ""}
    for role in texts.keys() & used.keys():
        file.seek(used[role].offset)
        texts[role] = decoded(file.read(used[role].size), f"{shard}: {used[role].name}")
    try:
        row = json_of(texts["json"] or "{}")
        if not isinstance(row, dict):
            raise ValueError("expected a JSON object")
        row["text"] = row.get("text") or texts["txt"].strip() or row.get("caption")
        item = item_of(picture.path, row, picture.span)
    except (TypeError, ValueError) as error:
        name = used.get("json", used["picture"]).name
        raise ValueError(f"{shard}: {name} holds no valid metadata ({brief(error)})") from None
    found = [name for name in REFERENCES if name in used]
    references: dict[str, Any] = {name: used[name].in_shard(shard) for name in found}
    return replace(item, **references) if found else item


def _grouped(shard: Path, file: BinaryIO, left_out: LeftOut) -> Iterator[dict[str, Member]]:
    """{extension: member} of each key, in the order in which the keys appear."""
    groups: dict[str, list[Member]] = {}
    for member in _members(shard, file):
        match = KEY.match(member.name)
        if any(is_hidden(part) for part in member.name.split("/") if part != "."):
            left_out.add(HIDDEN)
        elif match is None:
            left_out.add("files without a suffix", member.name)
        else:
            groups.setdefault(match[1], []).append(member)
    for key, members in groups.items():
        yield from _with_dotted_keys(key, members, left_out)


def _with_dotted_keys(
    key: str, members: list[Member], left_out: LeftOut
) -> Iterable[dict[str, Member]]:
    """The members of a key, and apart from them those of longer keys with dots, such as photo.1 in
    photo.1.png. A longer key needs a picture, and beside the picture of the shorter one a caption,
    because the convention has masks and other pictures there."""
    simple = {m.name[len(key) + 1 :].lower(): m for m in members}
    if len(simple) == len(members) and not any("." in extension for extension in simple):
        return [simple]
    longer: dict[str, dict[str, Member]] = {}
    for member in members:
        long_key, extension = _split_at_last_dot(member.name)
        group = longer.setdefault(long_key, {})
        if extension in group:
            left_out.add("replaced by a later member of their name", member.name)
        group[extension] = member
    beside_picture = bool(_used(longer.get(key, {})))
    groups: dict[str, dict[str, Member]] = {}
    for long_key, group in longer.items():
        used = _used(group)
        is_item = bool(used) and (not beside_picture or bool({"json", "txt"} & used.keys()))
        own_key = long_key if is_item else key
        for member in group.values():
            groups.setdefault(own_key, {})[member.name[len(own_key) + 1 :].lower()] = member
    return groups.values()


def _split_at_last_dot(name: str) -> tuple[str, str]:
    """A member's name as key and extension, in lower case."""
    key, _, extension = name.rpartition(".")
    if key.lower().endswith(".ref"):
        key, extension = key[: -len(".ref")], f"ref.{extension}"
    return key, extension.lower()


def _members(shard: Path, file: BinaryIO) -> Iterator[Member]:
    """The files in a shard. Plain headers are read here, in less time than tarfile's: with small
    pictures one comes with every kilobyte. From the first other one on, tarfile reads."""
    size = shard.stat().st_size
    try:
        yield from _plain_members(file)
        if file.tell() > size:
            raise tarfile.ReadError("unexpected end of data")
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                if member.isfile():
                    yield Member(member.name, member.offset_data, member.size)
                tar.members = []  # type: ignore[attr-defined] # else it keeps every header
            if 0 < size - tar.offset < tarfile.BLOCKSIZE:
                raise tarfile.ReadError("unexpected end of data")
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(
            f"{shard} is not a complete tar file ({brief(error)}); replace or remove it"
        ) from None


def _plain_members(file: BinaryIO) -> Iterator[Member]:
    """The first files of a tar, as long as headers are plain; then the file is at the next one.

    A header is plain with a name of at most 100 characters and a size in octal digits; before it a
    pax header may tell times and owners, as the library webdataset writes them.
    """
    block, start = tarfile.BLOCKSIZE, file.tell()
    while True:
        header = file.read(block)
        try:
            size, checksum = int(header[124:135], 8), int(header[148:154], 8)
        except ValueError:
            break
        # the sum of all bytes, with spaces in the place of the sum itself
        if checksum != sum(header) - sum(header[148:156]) + 8 * ord(" ") or header[345]:
            break
        if header[156:157] == tarfile.REGTYPE:
            name = header[:100].partition(b"\0")[0]
            if not name.isascii():
                break
            yield Member(name.decode(), file.tell(), size)
            start = file.tell() + -(-size // block) * block
            file.seek(start)
        elif header[156:157] != tarfile.XHDTYPE or not _is_harmless(file.read(size)):
            break
        else:
            file.seek(
                -size % block, io.SEEK_CUR
            )  # to the header of the file, whose `start` this is
    file.seek(start)


def _is_harmless(records: bytes) -> bool:
    """Whether the records of a pax header ("27 mtime=1700000000.25\\n" ...) change neither the name
    nor the size of a file."""
    while records:
        length, _, rest = records.partition(b" ")
        if not length.isdigit() or rest.partition(b"=")[0] not in HARMLESS or int(length) < 1:
            return False
        records = records[int(length) :]
    return True
