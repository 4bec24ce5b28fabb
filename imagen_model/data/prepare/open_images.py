"""The official Open Images V6 files with Localized Narratives -> WebDataset shards.

Nothing is downloaded. The source folder holds the files of the two projects under their published
names: class descriptions, image-level labels, narratives, voice recordings and pictures. An item
has jpg, json (text, keywords) and, if there is a voice recording, ogg. Labels and narratives go
through a temporary SQLite file, so memory does not grow with their number. If the command is
repeated, a stopped run continues after its last complete shard.
"""

from __future__ import annotations

import csv
import io
import json
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from ...progress import OnProgress, ProgressFor, reported
from ...storage.files import brief, json_of, write_json
from ..image_reader import DAMAGE, read_item
from ..item import Item
from .output import prepare_empty, write_manifest
from .shards import SHARD_NAME, shard_writer

CLASSES = "oidv6-class-descriptions.csv"
LABELS = "*imagelabels*.csv"
NARRATIVES = "open_images_*localized_narratives*.jsonl"
IMAGES = ("images", "train", "validation", "test")
VOICES = ("voice-recordings", "voice_recordings", "voices", "voice")
EXPECTED = (
    f"{CLASSES}, {LABELS} or {NARRATIVES}, a folder images (or train, validation, test) "
    "and, where wanted, a folder voice-recordings"
)
MIN_CONFIDENCE = 0.5  # of a label: 0 or 1 from people, in between from a model
MOST_LABELS = 5  # in the caption of a picture without a narrative
JPEG_QUALITY = 92
INDEX, PROGRESS = "index.sqlite", "progress.json"

TABLES = """
CREATE TABLE images (id TEXT PRIMARY KEY, path TEXT) WITHOUT ROWID;
CREATE TABLE labels (id TEXT, name TEXT);
CREATE TABLE narratives (id TEXT, annotator INTEGER, caption TEXT, voice TEXT);
"""


@dataclass(frozen=True)
class Files:
    """The paths of the official files."""

    classes: Path
    labels: list[Path]
    narratives: list[Path]
    images: list[Path]
    voices: list[Path]

    @classmethod
    def found(cls, source: Path) -> Files:
        """Those in `source`; ValueError names what is missing and what is expected."""
        if not source.is_dir():
            raise ValueError(f"no folder {source}; expected one with {EXPECTED}")
        files = cls(
            source / CLASSES,
            sorted(source.glob(LABELS)),
            sorted(source.glob(NARRATIVES)),
            [source / name for name in IMAGES if (source / name).is_dir()],
            [source / name for name in VOICES if (source / name).is_dir()],
        )
        for missing, name in (
            (not files.classes.is_file(), CLASSES),
            (not files.labels and not files.narratives, f"{LABELS} and {NARRATIVES}"),
            (not files.images, "folder of pictures"),
        ):
            if missing:
                raise ValueError(f"{source} has no {name}; expected {EXPECTED}")
        return files


def build_open_images(
    source: Path,
    out: Path,
    *,
    resolution: int | None = None,
    shard_mb: int = 256,
    progress: ProgressFor | None = None,
) -> dict:
    """Write shards into `out`, or continue an earlier call; returns the manifest.

    With `resolution`, pictures whose smaller side is longer are scaled down to it.
    """
    files = Files.found(source)
    if not (out / PROGRESS).is_file():
        prepare_empty(out)
    state = _State.read(out)
    index = _index(files, out, progress)
    try:
        _drop_unfinished(out, state.shards)
        _write_shards(index, files, out, state, resolution, shard_mb, progress)
    finally:
        index.close()
    if not state.pictures:
        raise ValueError(f"no readable picture in {', '.join(map(str, files.images))}")
    manifest = {"source": str(source), "resolution": resolution, **vars(state)}
    write_manifest(out, manifest)
    (out / INDEX).unlink()
    (out / PROGRESS).unlink()
    return manifest


@dataclass
class _State:
    """Progress and counts up to the last complete shard."""

    shards: int = 0
    after: str = ""  # the last picture that was written
    pictures: int = 0
    narrated: int = 0
    spoken: int = 0
    skipped: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, out: Path) -> _State:
        path = out / PROGRESS
        return cls(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else cls()

    def save(self, out: Path) -> None:
        write_json(out / PROGRESS, vars(self))


def _drop_unfinished(out: Path, shards: int) -> None:
    for path in out.glob("shard-*.tar"):
        if path.name >= SHARD_NAME % shards:
            path.unlink()


# -- the index ------------------------------------------------------------------------------------


def _index(files: Files, out: Path, progress: ProgressFor | None) -> Any:
    """A connection to the complete index of labels and narratives by picture."""
    path = out / INDEX
    if not path.is_file():
        unfinished = path.with_suffix(".unfinished")
        unfinished.unlink(missing_ok=True)
        _State().save(out)  # from here on a repeated command continues
        index = sqlite3.connect(unfinished)
        try:
            index.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;" + TABLES)
            _fill(index, files, progress("reading labels and narratives") if progress else None)
            index.commit()
        finally:
            index.close()
        unfinished.rename(path)
    return sqlite3.connect(path)


def _fill(index: sqlite3.Connection, files: Files, progress: OnProgress | None) -> None:
    index.executemany("INSERT OR IGNORE INTO images VALUES (?, ?)", _pictures(files.images))
    names = dict(_class_names(files.classes))
    texts = [*files.labels, *files.narratives]
    total, done = sum(path.stat().st_size for path in texts), 0
    known = "WHERE id IN (SELECT id FROM images)"
    for path in texts:
        if path.suffix == ".csv":
            rows: Iterator[tuple] = _labels(path, names)
            insert = f"INSERT INTO labels SELECT * FROM (SELECT ? AS id, ?) {known}"
        else:
            rows = _narratives(path)
            insert = f"INSERT INTO narratives SELECT * FROM (SELECT ? AS id, ?, ?, ?) {known}"
        index.executemany(insert, rows)
        done += path.stat().st_size
        if progress is not None:
            progress(done, total)
    index.executescript(
        "CREATE INDEX labels_id ON labels (id); CREATE INDEX narratives_id ON narratives (id);"
    )


def _pictures(folders: list[Path]) -> Iterator[tuple[str, str]]:
    for folder in folders:
        for where, _, names in os.walk(folder):
            for name in names:
                stem, suffix = os.path.splitext(name)
                if suffix.lower() in (".jpg", ".jpeg"):
                    yield stem, os.path.join(where, name)


def _class_names(path: Path) -> Iterator[tuple[str, str]]:
    """(label, name in lower case) from the class descriptions."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        for number, row in enumerate(csv.reader(file), start=1):
            if len(row) != 2:
                raise ValueError(
                    f"{path} line {number}: expected the columns LabelName,DisplayName"
                )
            if row[0] != "LabelName":
                yield row[0], row[1].lower()


def _labels(path: Path, names: dict[str, str]) -> Iterator[tuple[str, str]]:
    """(picture, name) of the labels with at least MIN_CONFIDENCE."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        wanted = ("ImageID", "LabelName", "Confidence")
        if not set(wanted) <= set(reader.fieldnames or ()):
            raise ValueError(
                f"{path} has the columns {brief(', '.join(reader.fieldnames or ['none']))}; "
                f"expected {', '.join(wanted)}"
            )
        for row in reader:
            try:
                sure = float(row["Confidence"]) >= MIN_CONFIDENCE
            except (TypeError, ValueError):
                raise ValueError(
                    f"{path} line {reader.line_num}: Confidence is {row['Confidence']!r}"
                ) from None
            if sure and row["LabelName"] in names:
                yield row["ImageID"], names[row["LabelName"]]


def _narratives(path: Path) -> Iterator[tuple[str, int, str, str]]:
    """(picture, annotator, caption, recording) from a file of Localized Narratives."""
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json_of(line)
                caption, voice = str(row["caption"]).strip(), str(row.get("voice_recording") or "")
                yield str(row["image_id"]), int(row["annotator_id"]), caption, voice
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(
                    f"{path} line {number}: expected a JSON object with image_id, annotator_id and "
                    f"caption ({brief(error)})"
                ) from None


# -- the shards -----------------------------------------------------------------------------------


def _write_shards(
    index: sqlite3.Connection,
    files: Files,
    out: Path,
    state: _State,
    resolution: int | None,
    shard_mb: int,
    progress: ProgressFor | None,
) -> None:
    (total,) = index.execute("SELECT COUNT(*) FROM images").fetchone()
    (done,) = index.execute("SELECT COUNT(*) FROM images WHERE id <= ?", [state.after]).fetchone()
    on_progress = progress("packing") if progress else None

    def closed() -> None:
        state.shards += 1
        state.save(out)

    if done == total:
        return
    rows = index.execute("SELECT id, path FROM images WHERE id > ? ORDER BY id", [state.after])
    with shard_writer(out, shard_mb=shard_mb, start_shard=state.shards, closed=closed) as writer:
        for picture, path in reported(rows, total, on_progress, done=done):
            try:
                data = _jpeg(Path(path), resolution)
            except ValueError as error:
                state.skipped.append(str(error))
            else:
                item = _item(index, files, picture) | {"jpg": data}
                facts = item.pop("facts")
                encoded = json.dumps(facts, ensure_ascii=False).encode()
                writer.write({"__key__": picture, "json": encoded, **item})
                state.pictures += 1
                state.narrated += "annotator_id" in facts
                state.spoken += "ogg" in item
            state.after = picture


def _jpeg(path: Path, resolution: int | None) -> bytes:
    """The file's bytes, or a smaller JPEG; ValueError if it can't be read."""
    read_item(Item(path), resolution=32, channels=1)
    if resolution is not None:
        with Image.open(path, formats=("JPEG",)) as image:
            if min(image.size) > resolution:
                image.draft("RGB", (2 * resolution, 2 * resolution))
                try:
                    upright = ImageOps.exif_transpose(image).convert("RGB")
                except DAMAGE as error:
                    raise ValueError(f"{path}: not a readable picture ({brief(error)})") from None
                ratio = resolution / min(upright.size)
                width, height = (max(resolution, round(side * ratio)) for side in upright.size)
                smaller = upright.resize((width, height), Image.Resampling.LANCZOS)
                buffer = io.BytesIO()
                smaller.save(buffer, "JPEG", quality=JPEG_QUALITY)
                return buffer.getvalue()
    return path.read_bytes()


def _item(index: sqlite3.Connection, files: Files, picture: str) -> dict[str, Any]:
    """{"facts": for .json, "ogg": the recording if there is one}."""
    labels = index.execute("SELECT DISTINCT name FROM labels WHERE id = ?", [picture])
    names = [name for (name,) in labels]
    facts: dict[str, Any] = {"text": ", ".join(names[:MOST_LABELS]), "keywords": names}
    query = "SELECT annotator, caption, voice FROM narratives WHERE id = ? ORDER BY annotator"
    narratives = index.execute(query, [picture]).fetchall()
    item: dict[str, Any] = {"facts": facts}
    if narratives:
        # the first narrative with a recording, else the first
        voices = [_recording(files.voices, voice) for _, _, voice in narratives]
        chosen = next((i for i, voice in enumerate(voices) if voice), 0)
        annotator, caption, _ = narratives.pop(chosen)
        facts |= {"text": caption, "annotator_id": annotator}
        if narratives:
            facts["other_texts"] = [text for _, text, _ in narratives]
        if voice := voices[chosen]:
            item["ogg"] = voice.read_bytes()
    return item


def _recording(folders: list[Path], name: str) -> Path | None:
    """A recording by its file name alone, or by its path in the narratives."""
    if not name:
        return None
    parts = name.split("/")
    paths = ((folder, folder.joinpath(*p)) for folder in folders for p in (parts[-1:], parts))
    inside = (path for folder, path in paths if folder.resolve() in path.resolve().parents)
    return next((path for path in inside if path.is_file()), None)
