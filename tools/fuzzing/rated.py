"""Targets that read mutated ratings: stores, exports, and what the buttons send."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from random import Random
from typing import Any

import imagen_model as im
from imagen_model.feedback.rating_syntax import parse_ratings
from imagen_model.feedback.recipe import pictures_of, regenerated
from imagen_model.feedback.store import Rating, Store

from . import mutations as m
from .files import MODEL, SAVED, Case


def _use_store(path: Path, model: im.Model) -> None:
    """What the commands and the nodes do with a store."""
    with Store(path) as store:
        ratings = store.ratings()
        store.count(), store.stamp(), store.ratings(model.card["sha256"])
        regenerated(model, [rating.picture for rating in ratings[:2]])
        store.export_jsonl(path.with_suffix(".out"))
        if ratings:
            store.add([ratings[0]])
            store.delete(ratings[0].id)
        store.clear()


def ratings(folder: Path) -> Case:
    """A store of ratings: its pages, and the cells of its tables."""
    model, source = im.load(MODEL), SAVED / "ratings.sqlite"
    pages = source.read_bytes()
    with closing(sqlite3.connect(source)) as database:
        (recipe,) = database.execute("SELECT recipe FROM pictures").fetchone()

    def change_cells(path: Path, rng: Random) -> None:
        database = sqlite3.connect(path)
        database.execute("PRAGMA ignore_check_constraints = ON")
        for _ in range(rng.randint(1, 2)):
            table, column = rng.choice(
                (("pictures", "recipe"), ("pictures", "recipe"), ("pictures", "png"),
                 ("pictures", "model"), ("ratings", "value"), ("ratings", "time"),
                 ("ratings", "id"), ("ratings", "other"), ("ratings", "kind"))
            )  # fmt: skip
            if column == "recipe":
                new: Any = m.changed_json(json.loads(recipe), rng)
            else:
                new = rng.choice(
                    (m.encoded(m.text(rng)), m.number(rng), b"\x89PNG\r\n\x1a\n", None)
                )
            if isinstance(new, bytes) and rng.random() < 0.8:
                new = new.decode(errors="replace")
            with suppress(sqlite3.Error, OverflowError, UnicodeError):
                database.execute(f"UPDATE {table} SET {column} = ?", (new,))
        database.commit()
        database.close()

    def case(rng: Random | None, work: Path) -> None:
        path = work / "ratings.sqlite"
        if rng is not None and rng.random() < 0.5:
            path.write_bytes(m.mutated(pages, rng))
        else:
            shutil.copy(source, path)
            if rng is not None:
                change_cells(path, rng)
        _use_store(path, model)

    return case


def exports(folder: Path) -> Case:
    """An export of ratings (JSON lines), with pictures of every kind."""
    model = im.load(MODEL)
    condition, latent = model.encode_text("a cat"), model.latent([1, 2])
    w = model.into_w(condition, latent)
    made = pictures_of(model, condition, latent, model.draw(condition, latent), texts=["a"] * 2)
    made += pictures_of(model, condition, w, None)
    with Store(folder / "ratings.sqlite") as store:
        store.add([*map(Rating, made), Rating(made[0], other=made[2]), Rating(made[3], -1)])
        store.export_jsonl(folder / "export.jsonl")
    lines = (folder / "export.jsonl").read_text(encoding="utf-8").splitlines()

    def case(rng: Random | None, work: Path) -> None:
        data = "\n".join(lines).encode()
        if rng is not None and rng.random() < 0.8:
            i = rng.randrange(len(lines))
            changed = m.changed_json(json.loads(lines[i]), rng)
            data = b"\n".join(changed if j == i else line.encode() for j, line in enumerate(lines))
        elif rng is not None:
            data = m.mutated(data, rng)
        (work / "export.jsonl").write_bytes(data)
        with Store(work / "ratings.sqlite") as store:
            store.import_jsonl(work / "export.jsonl")
        _use_store(work / "ratings.sqlite", model)

    return case


def clicks(folder: Path) -> Case:
    """What the buttons of Imagen Rate send, and what is typed into its field."""
    model = im.load(MODEL)
    made = pictures_of(model, model.encode_text(""), model.latent(range(6)), texts=[""] * 6)
    sent = {"up": [0, 1], "down": [3], "pairs": [[2, 5], [0, 1]], "best": 4}
    typed = "+0 -3 2>5 *4"

    def case(rng: Random | None, work: Path) -> None:
        data = typed.encode() if rng is None else m.mutated(typed.encode(), rng)
        if rng is not None and rng.random() < 0.8:
            data = m.changed_json(sent, rng)
        with Store(work / "ratings.sqlite") as store:
            store.add(parse_ratings(data.decode(errors="surrogatepass" if rng else "strict"), made))
            store.count()

    return case


RATED = {"ratings": ratings, "exports": exports, "clicks": clicks}
