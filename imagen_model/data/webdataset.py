"""WebDataset shards: tar files whose members 000.jpg, 000.json, 000.ogg ... are one sample.

The webdataset library writes them. They are read by an index and not end to end: one walk over the
headers says where each picture's bytes are (training reads them from there, stream.py), and takes
the words on the way. Any shards of that convention will do, img2dataset's among them: the picture
is the member with a picture's suffix, its words are in .json (text, keywords, style; or caption) or
.txt; a recording that says them (as Open Images has) is in .wav, .flac, .ogg or .mp3, and another
picture that shows what is wanted in .ref.png. Compressed tars have no random access, and are
refused.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from PIL import Image

from .folder import (
    SOUND_SUFFIXES,
    SUFFIXES,
    File,
    Progress,
    Sample,
    Span,
    packed_references,
    prepare_empty,
    read_notice,
    read_sample,
    read_samples,
    sample_of,
    write_manifest,
)

COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
WRITTEN_AS = {".png": "png", ".jpg": "jpg", ".jpeg": "jpg"}  # others become PNG
SHARD_NAME = "shard-%06d.tar"
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


def samples_of_shards(shards: list[Path]) -> Iterator[Sample]:
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
                        sample_of(shard / picture.name, row, span), **_references(shard, members)
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


# -- writing --------------------------------------------------------------------------------------


@contextmanager
def shard_writer(
    out: Path, *, shard_mb: int, start_shard: int = 0, closed: Callable[[], object] | None = None
) -> Iterator[Any]:
    """A webdataset.ShardWriter of byte strings into `out`; `closed` is called after each shard."""
    try:
        from webdataset import ShardWriter
    except ImportError:
        raise ValueError("shards need webdataset; pip install 'imagen-gan[train]'") from None
    files: list[BinaryIO] = []

    def opened(name: str) -> BinaryIO:
        files.append(open(name, "wb"))  # noqa: SIM115 - closed when the shard is finished
        return files[-1]

    def finished(name: str) -> None:
        files.pop().close()
        if closed is not None:
            closed()

    writer = ShardWriter(
        str(out).replace("%", "%%") + "/" + SHARD_NAME,
        maxcount=1 << 30,
        maxsize=shard_mb * 1_000_000,
        start_shard=start_shard,
        verbose=0,
        opener=opened,
        post=finished,
        encoder=False,
        user="imagen",
        group="imagen",
        mtime=0,
    )
    try:
        yield writer
    except BaseException:
        closed = None  # the shard that is open may end in half a member
        raise
    finally:
        writer.close()


def build_shards(
    source: Path, out: Path, *, shard_mb: int = 256, progress: Progress | None = None
) -> dict:
    """Pack a folder that `imagen train` reads into shards; returns the manifest.

    PNG and JPEG files go in byte by byte, others as PNG.
    """
    samples = read_samples(source)
    prepare_empty(out)
    skipped: list[str] = []
    pictures = 0
    try:
        with shard_writer(out, shard_mb=shard_mb) as writer:
            for i, sample in enumerate(samples):
                try:
                    extension, data = _packed(sample)
                except ValueError as error:
                    skipped.append(str(error))
                else:
                    facts = json.dumps(sample.facts(), ensure_ascii=False).encode()
                    files = dict(packed_references(sample, skipped).values())
                    writer.write({"__key__": f"{i:09d}", **files, extension: data, "json": facts})
                    pictures += 1
                if progress is not None:
                    progress(i + 1, len(samples))
        if not pictures:
            raise ValueError(f"no readable picture in {source}; the first: {skipped[0]}")
    except BaseException:
        shutil.rmtree(out)
        raise
    manifest = {
        "source": str(source),
        "pictures": pictures,
        "captioned": sum(bool(s.text) for s in samples),
        "shards": len(shards_in(out)),
        "skipped": skipped,
        **({"notice": notice} if (notice := read_notice(source)) else {}),
    }
    write_manifest(out, manifest)
    return manifest


def _packed(sample: Sample) -> tuple[str, bytes]:
    """The extension and bytes of a picture that can be read; ValueError for another."""
    read_sample(sample, resolution=32, channels=1)
    file = sample.file()
    extension = WRITTEN_AS.get(sample.path.suffix.lower())
    if extension:
        data = file.read_bytes() if isinstance(file, Path) else file.getvalue()
        return extension, data
    with Image.open(file) as image:
        buffer = io.BytesIO()
        image.convert("RGBA").save(buffer, "PNG")
    return "png", buffer.getvalue()
