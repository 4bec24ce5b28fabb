"""Ratings in one SQLite file, each with the recipe of its picture.

When a call returns, its ratings are on the disk (write-ahead log, synchronous FULL), so that a kill
or a power cut loses no acknowledged rating. Several processes may write at once. This module uses
the standard library only: recipes are plain data, which recipe.py turns into tensors.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import math
import sqlite3
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

UNWRITABLE = ("locked", "readonly", "is full", "disk I/O", "unable to open")  # SQLite's words
APPLICATION_ID = 0x494D4752  # "IMGR", in the file's header
# The types of a recipe's facts besides model, seed and space.
RECIPE_TYPES: dict[str, tuple[type, ...]] = {
    "text": (str,),
    "style": (str, type(None)),
    "truncation": (int, float),
    "values": (dict, type(None)),
    "condition": (dict, type(None)),
    "adapter": (dict, type(None)),
    "code_version": (str,),
    "png": (bytes, type(None)),
}
DAMAGE = (ValueError, TypeError, LookupError, ArithmeticError, RecursionError)  # of JSON in a file
MAX_SHOWN = 100  # characters
BUSY_SEC = 30.0  # how long one process waits for another
ID_LENGTH = 32  # of a rating; all ratings that one "best" gave begin alike and go on after it
# The statements from schema version i to i + 1; a release only appends.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE pictures (
            id TEXT PRIMARY KEY, model TEXT NOT NULL, recipe TEXT NOT NULL, png BLOB
        )""",
        """CREATE TABLE ratings (
            id TEXT PRIMARY KEY,
            kind TEXT NOT NULL CHECK (kind IN ('thumb', 'pair')),
            picture TEXT NOT NULL REFERENCES pictures (id),
            other TEXT REFERENCES pictures (id),
            value INTEGER NOT NULL CHECK (value IN (-1, 1)),
            time REAL NOT NULL,
            CHECK ((kind = 'pair') = (other IS NOT NULL))
        )""",
        "CREATE INDEX ratings_picture ON ratings (picture)",
        "CREATE INDEX ratings_other ON ratings (other)",
    ),
)


@dataclass(frozen=True)
class Picture:
    """The recipe to generate one picture again and, where kept, its pixels.

    `values` and `condition` hold numbers (recipe.packed); where they are None, the seed gives the
    latent, and text and style give the condition.
    """

    model: str  # sha256 of the model's tensors
    seed: int
    text: str = ""
    style: str | None = None  # None: the seed chose
    truncation: float = 1.0
    space: Literal["z", "w"] = "z"
    values: dict | None = None
    condition: dict | None = None
    adapter: dict | None = None  # {"sha256": ..., "strength": ...}
    code_version: str = ""
    png: bytes | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.model, str) or not self.model:
            raise ValueError("a picture's recipe names no model")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise ValueError(f"a picture's seed is {_shown(self.seed)}; expected a whole number")
        if self.space not in ("z", "w") or (self.space == "w" and self.values is None):
            raise ValueError(f"a latent in {_shown(self.space)} needs its values; only z has seeds")
        for name, kinds in RECIPE_TYPES.items():
            if not isinstance(value := getattr(self, name), kinds):
                raise ValueError(f"a picture's {name} is {_shown(value)}")

    def recipe(self) -> dict[str, Any]:
        """Everything but the pixels, as plain data."""
        return {key: value for key, value in asdict(self).items() if key != "png"}

    @property
    def id(self) -> str:
        """The hash of the recipe."""
        return hashlib.sha256(_canonical(self.recipe()).encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        png = None if self.png is None else base64.b64encode(self.png).decode()
        return {**self.recipe(), "png": png}

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Picture:
        """ValueError for anything but what `to_dict` gives."""
        if not isinstance(plain, dict):
            raise ValueError(f"a picture is {_shown(plain)}; expected an object")
        if unknown := set(plain) - {f.name for f in fields(cls)}:
            raise ValueError(f"a recipe has no {_shown(min(unknown))}")
        if missing := {"model", "seed"} - set(plain):
            raise ValueError(f"a recipe lacks its {min(missing)}")
        png = plain.get("png")
        if isinstance(png, str):
            png = base64.b64decode(png)
        return cls(**{**plain, "png": png})


@dataclass(frozen=True)
class Rating:
    """A thumb up (value 1) or down (-1) for `picture`, or a pair that `picture` won."""

    picture: Picture
    value: int = 1
    other: Picture | None = None
    time: float = field(default_factory=time.time)  # seconds since 1970
    id: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __post_init__(self) -> None:
        if self.value not in (1, -1) or (self.other is not None and self.value != 1):
            raise ValueError(
                f"a rating is {_shown(self.value)}; expected 1 or -1, and 1 for a pair"
            )
        if not isinstance(self.id, str) or not math.isfinite(self.time):
            raise ValueError(f"a rating has the id {_shown(self.id)} and the time {self.time}")
        if self.other is not None and self.other.id == self.picture.id:
            raise ValueError("a pair needs two different pictures")

    @property
    def kind(self) -> str:
        return "thumb" if self.other is None else "pair"

    def to_dict(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "kind": self.kind,
            "value": self.value,
            "time": self.time,
            "picture": self.picture.to_dict(),
            "other": None if self.other is None else self.other.to_dict(),
        }

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Rating:
        """ValueError for anything but what `to_dict` gives."""
        if not isinstance(plain, dict):
            raise ValueError(f"{_shown(plain)}; expected an object")
        if missing := {"picture", "value", "time", "id"} - plain.keys():
            raise ValueError(f"it lacks {min(missing)!r}")
        other = plain.get("other")
        rating = cls(
            Picture.from_dict(plain["picture"]),
            plain["value"],
            None if other is None else Picture.from_dict(other),
            float(plain["time"]),
            str(plain["id"]),
        )
        if plain.get("kind", rating.kind) != rating.kind:
            raise ValueError(
                f"a {_shown(plain['kind'])} with {'one picture' if other is None else 'two'}"
            )
        return rating


class Store:
    """One file of ratings. Use it in the thread that opened it, and close it (or use `with`)."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._db = sqlite3.connect(self.path, timeout=BUSY_SEC, isolation_level=None)
        except sqlite3.OperationalError as error:
            raise ValueError(f"cannot open the store {self.path}: {error}") from None
        try:
            self._set_up()
        except sqlite3.DatabaseError as error:
            self._db.close()
            self._check_writable(error)
            raise ValueError(f"{self.path} is not a store of ratings: {error}") from None
        except (ValueError, OSError):
            self._db.close()
            raise

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._db.close()

    def add(self, ratings: Sequence[Rating], *, instead_of: Sequence[str] = ()) -> list[str]:
        """Add all of them, or none; returns their ids once they are on the disk.

        The ratings with the ids `instead_of` are deleted, if they are there. A rating that repeats
        the last one of its picture or pair is not added; its id is that of the earlier one.
        Otherwise it becomes the last one, even if the clock was set back.
        """
        with self._writing():
            self._db.execute(
                "DELETE FROM ratings WHERE id IN (SELECT value FROM json_each(?))",
                (json.dumps(list(instead_of)),),
            )
            ids = [self._add(rating) for rating in ratings]
            self._delete_pictures()
            return ids

    def ratings(self, model: str | None = None) -> list[Rating]:
        """All ratings, or those of one model (by its hash), in order of time."""
        rows = self._read(
            """SELECT r.id, r.kind, r.value, r.time, a.recipe, a.png, b.recipe, b.png
            FROM ratings r LEFT JOIN pictures a ON a.id = r.picture
            LEFT JOIN pictures b ON b.id = r.other
            WHERE :model IS NULL OR a.model = :model ORDER BY r.time, r.rowid""",
            {"model": model},
        )
        return [self._rating(*row) for row in rows]

    def count(self, model: str | None = None) -> int:
        """How many ratings were given: the pairs of one "best" count as one."""
        ((count,),) = self._read(
            f"""SELECT count(DISTINCT substr(r.id, 1, {ID_LENGTH}))
            FROM ratings r LEFT JOIN pictures a ON a.id = r.picture
            WHERE :model IS NULL OR a.model = :model""",
            {"model": model},
        )
        return count

    def of(self, pictures: Sequence[Picture]) -> list[tuple[str, str, str | None, int]]:
        """The ratings of these pictures, in order of time: (id, picture, other, value)."""
        ids = json.dumps([picture.id for picture in pictures])
        return self._read(
            """SELECT id, picture, other, value FROM ratings
            WHERE picture IN (SELECT value FROM json_each(:ids)) ORDER BY time, rowid""",
            {"ids": ids},
        )

    def stamp(self) -> str:
        """A string that changes whenever the ratings change."""
        return str(self._read("SELECT count(*), total(rowid), max(time) FROM ratings")[0])

    def delete(self, rating_id: str) -> None:
        """Delete one rating, and pictures without ratings; ValueError for an unknown id."""
        with self._writing():
            if not self._db.execute("DELETE FROM ratings WHERE id = ?", (rating_id,)).rowcount:
                raise ValueError(f"no rating {rating_id} in {self.path}")
            self._delete_pictures()

    def clear(self) -> int:
        """Delete and overwrite everything; returns how many ratings there were."""
        with self._writing():
            count = self._db.execute("DELETE FROM ratings").rowcount
            self._delete_pictures()
        self._read("PRAGMA wal_checkpoint(TRUNCATE)")
        return count

    def export_jsonl(self, path: Path | str) -> int:
        """Write one rating per line, with its pictures; returns how many."""
        ratings = self.ratings()
        lines = [json.dumps(r.to_dict(), ensure_ascii=False) + "\n" for r in ratings]
        Path(path).write_text("".join(lines), encoding="utf-8")
        return len(ratings)

    def import_jsonl(self, path: Path | str) -> int:
        """Add the new ratings of an exported file, all or none; returns how many.

        ValueError names the first line that is no rating.
        """
        ratings = []
        # not splitlines(): prompts may hold other characters at which it splits
        lines = Path(path).read_text(encoding="utf-8").split("\n")
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                ratings.append(Rating.from_dict(json.loads(line)))
            except DAMAGE as error:
                raise ValueError(f"{path}, line {number} is no rating: {_shown(error)}") from None
        with self._writing():
            before = self._rows()
            for rating in ratings:
                self._insert(rating)
            return self._rows() - before

    # -- inside ------------------------------------------------------------------------------------

    def _set_up(self) -> None:
        deadline = time.monotonic() + BUSY_SEC
        while True:  # sqlite does not wait for other processes when it changes to WAL
            try:
                self._db.execute("PRAGMA journal_mode = WAL")
                break
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.execute("PRAGMA foreign_keys = ON")
        self._db.execute("PRAGMA secure_delete = ON")
        with self._writing():
            self._migrate()

    def _migrate(self) -> None:
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        (application,) = self._db.execute("PRAGMA application_id").fetchone()
        (tables,) = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if application != APPLICATION_ID and (version or application or tables):
            raise ValueError(f"{self.path} is the database of another program")
        if version > len(MIGRATIONS):
            raise ValueError(
                f"{self.path} has version {version}; this program reads up to {len(MIGRATIONS)}"
            )
        for statements in MIGRATIONS[version:]:
            for statement in statements:
                self._db.execute(statement)
        if version < len(MIGRATIONS):
            self._db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            self._db.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """One transaction; other processes wait until it ends. OSError if it cannot be written."""
        with self._explained():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # a full disk ends it already
                    self._db.execute("ROLLBACK")
                raise

    def _read(self, query: str, values: dict[str, Any] | None = None) -> list[tuple]:
        """All rows of a query."""
        with self._explained():
            return self._db.execute(query, values or {}).fetchall()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """OSError if the disk or another process refused; ValueError for a damaged file."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            self._check_writable(error)
            raise ValueError(f"the ratings in {self.path} are damaged: {error}") from None

    def _rating(
        self, id_: str, kind: str, value: int, when: float, recipe: str, png: bytes, *other: Any
    ) -> Rating:
        """The rating of a row of the two tables; ValueError if it is damaged."""
        try:
            picture, than = (
                None if text is None else Picture.from_dict(json.loads(text) | {"png": pixels})
                for text, pixels in ((recipe, png), other)
            )
            if picture is None or (kind == "pair" and than is None):
                raise ValueError("a picture of it is missing")
            return Rating(picture, value, than, when, id_)
        except DAMAGE as error:
            raise ValueError(
                f"the rating {_shown(id_)} in {self.path} is damaged: {_shown(error)}"
            ) from None

    def _check_writable(self, error: sqlite3.DatabaseError) -> None:
        """OSError if the disk or another process refused, and not the file's content."""
        if any(words in str(error) for words in UNWRITABLE):
            raise OSError(f"cannot write to the ratings in {self.path}: {error}") from None

    def _add(self, rating: Rating) -> str:
        """Add one, unless the last rating of its picture or pair says the same; returns its id."""
        a, b = rating.picture.id, None if rating.other is None else rating.other.id
        last = self._db.execute(
            """SELECT id, picture, value, time FROM ratings WHERE kind = :kind AND
            (picture = :a AND other IS :b OR picture = :b AND other = :a)
            ORDER BY time DESC, rowid DESC LIMIT 1""",
            {"kind": rating.kind, "a": a, "b": b},
        ).fetchone()
        if last is None:
            return self._insert(rating)
        id_, winner, value, when = last
        if (winner, value) == (a, rating.value):
            return id_
        return self._insert(replace(rating, time=max(rating.time, when)))

    def _rows(self) -> int:
        ((rows,),) = self._read("SELECT count(*) FROM ratings")
        return rows

    def _insert(self, rating: Rating) -> str:
        other = None if rating.other is None else self._keep(rating.other)
        self._db.execute(
            "INSERT OR IGNORE INTO ratings VALUES (?, ?, ?, ?, ?, ?)",
            (rating.id, rating.kind, self._keep(rating.picture), other, rating.value, rating.time),
        )
        return rating.id

    def _keep(self, picture: Picture) -> str:
        self._db.execute(
            """INSERT INTO pictures VALUES (?, ?, ?, ?)
            ON CONFLICT (id) DO UPDATE SET png = coalesce(png, excluded.png)""",
            (picture.id, picture.model, _canonical(picture.recipe()), picture.png),
        )
        return picture.id

    def _delete_pictures(self) -> None:
        """Those that no rating needs."""
        self._db.execute(
            """DELETE FROM pictures WHERE id NOT IN (SELECT picture FROM ratings)
            AND id NOT IN (SELECT other FROM ratings WHERE other IS NOT NULL)"""
        )


def _shown(value: object) -> str:
    """A value for a message, which may quote little of a file."""
    text = str(value) if isinstance(value, Exception) else repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]} ..."


def _canonical(plain: dict[str, Any]) -> str:
    return json.dumps(plain, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def batch_id(pictures: Sequence[Picture]) -> str:
    """A hash that identifies these pictures in this order."""
    return hashlib.sha256("".join(picture.id for picture in pictures).encode()).hexdigest()
