"""`imagen data shards`: a folder that `imagen train` reads -> WebDataset tar files, written by the
webdataset library."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from ...progress import OnProgress, reported
from ...storage.files import brief, check_outside
from ...storage.images import open_image
from ..folder import list_items, read_notice
from ..image_reader import read_item
from ..item import Item
from ..webdataset import shards_in
from .output import new_folder, packed_references, write_manifest

WRITTEN_AS = {".png": "png", ".jpg": "jpg", ".jpeg": "jpg", ".jfif": "jpg"}  # others become PNG
SHARD_NAME = "shard-%06d.tar"


@contextmanager
def shard_writer(
    out: Path, *, shard_mb: int, start_shard: int = 0, closed: Callable[[], object] | None = None
) -> Iterator[Any]:
    """A webdataset.ShardWriter of bytes into `out`; `closed` is called after each shard."""
    try:
        from webdataset import ShardWriter
    except ImportError:
        raise ValueError("shards need webdataset; pip install 'imagen-gan[train]'") from None
    files: list[BinaryIO] = []

    def opened(name: str) -> BinaryIO:
        files.append(open(name, "wb"))  # noqa: SIM115 - `finished` closes it
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
        closed = None  # the open shard may be incomplete
        raise
    finally:
        writer.close()


def build_shards(
    source: Path, out: Path, *, shard_mb: int = 256, progress: OnProgress | None = None
) -> dict:
    """Pack a folder that `imagen train` reads into shards; returns the manifest.

    PNG and JPEG files are copied byte by byte, others become PNG.
    """
    check_outside(out, source)
    items, left_out = list_items(source)
    skipped: list[str] = []
    pictures = 0
    with new_folder(out):
        with shard_writer(out, shard_mb=shard_mb) as writer:
            for i, item in enumerate(reported(items, len(items), progress)):
                try:
                    extension, data = _packed(item)
                except ValueError as error:
                    skipped.append(str(error))
                else:
                    facts = json.dumps(item.facts(), ensure_ascii=False).encode()
                    files = dict(packed_references(item, skipped).values())
                    writer.write({"__key__": f"{i:09d}", **files, extension: data, "json": facts})
                    pictures += 1
        if not pictures:
            raise ValueError(f"no readable picture in {source}; the first: {brief(skipped[0])}")
    manifest = {
        "source": str(source),
        "pictures": pictures,
        "captioned": sum(bool(item.text) for item in items),
        "shards": len(shards_in(out)),
        "skipped": skipped,
        "left_out": left_out.lines(),
        **({"notice": notice} if (notice := read_notice(source)) else {}),
    }
    write_manifest(out, manifest)
    return manifest


def _packed(item: Item) -> tuple[str, bytes]:
    """The extension and bytes of a picture; ValueError if it is unreadable."""
    read_item(item, resolution=32, channels=1)
    extension = WRITTEN_AS.get(item.path.suffix.lower())
    if extension:
        return extension, item.file().content()
    with open_image(item.file().opened()) as image:
        buffer = io.BytesIO()
        image.convert("RGBA").save(buffer, "PNG")
    return "png", buffer.getvalue()
