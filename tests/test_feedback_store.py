"""The store of ratings: what it keeps, for whom, and through what."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from imagen_model.feedback import store as store_module
from imagen_model.feedback.store import MIGRATIONS, Picture, Rating, Store

# A child that rates and prints each id once it is acknowledged; without torch it starts fast.
WRITER = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("store", sys.argv[1])
store = importlib.util.module_from_spec(spec)
sys.modules["store"] = store
spec.loader.exec_module(store)
assert "torch" not in sys.modules
kept = store.Store(sys.argv[2])
for i in range(int(sys.argv[4])):
    picture = store.Picture("m", int(sys.argv[3]) + i)
    (id_,) = kept.add([store.Rating(picture, 1 if i % 2 else -1)])
    print(id_, flush=True)
"""


def writer(path: Path, first_seed: int, count: int) -> subprocess.Popen:
    command = [sys.executable, "-S", "-c", WRITER, store_module.__file__, path]
    return subprocess.Popen(
        [*map(str, command), str(first_seed), str(count)], stdout=subprocess.PIPE, text=True
    )


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "ratings.sqlite") as opened:
        yield opened


def picture(seed: int = 0, **recipe) -> Picture:
    return Picture(**({"model": "m", "seed": seed} | recipe))


FULL = Picture(
    model="0123abcd",
    seed=2**64 - 1,
    text="a red 苹果",
    style="noto",
    truncation=0.7,
    space="w",
    values={"shape": [1, 2], "float32": "AACAPwAAAEA="},
    condition={"pooled": {"shape": [1], "float32": "AACAPw=="}},
    adapter={"sha256": "ff", "strength": 0.5},
    code_version="0.1.0",
    png=b"\x89PNG...",
)


def test_a_rating_comes_back_with_its_whole_recipe(store):
    thumb, pair = Rating(FULL, -1), Rating(FULL, other=picture(3))
    assert store.add([thumb, pair]) == [thumb.id, pair.id]
    store.close()
    with Store(store.path) as again:
        back = again.ratings()
    assert back == [thumb, pair]
    assert [r.kind for r in back] == ["thumb", "pair"]
    assert back[0].picture.png == FULL.png and back[1].other == picture(3)


def test_ratings_are_told_apart_by_model(store):
    store.add([Rating(picture(1)), Rating(picture(1, model="other")), Rating(picture(2))])
    assert store.count() == 3 and store.count("m") == 2
    assert [r.picture.seed for r in store.ratings("m")] == [1, 2]
    assert store.ratings("unknown") == []


def test_a_repeated_word_is_kept_once_and_a_change_of_mind_is_kept(store):
    (first,) = store.add([Rating(picture(1), 1)])
    assert store.add([Rating(picture(1), 1)]) == [first]
    assert store.add([Rating(picture(1), -1)]) != [first]
    assert store.add([Rating(picture(1), 1)]) != [first]
    assert [r.value for r in store.ratings()] == [1, -1, 1]
    (won,) = store.add([Rating(picture(1), other=picture(2))])
    assert store.add([Rating(picture(1), other=picture(2))]) == [won]
    assert store.add([Rating(picture(2), other=picture(1))]) != [won]


def test_the_stamp_changes_with_the_ratings(store):
    stamps = [store.stamp()]
    for seed in (1, 2):
        (last,) = store.add([Rating(picture(seed))])
        stamps.append(store.stamp())
    store.delete(last)
    store.add([Rating(picture(3))])
    stamps.append(store.stamp())
    assert len(set(stamps)) == 4
    store.add([Rating(picture(3))])  # says nothing new
    assert store.stamp() == stamps[-1]


def test_delete_forgets_one_and_its_picture_and_clear_forgets_all(store):
    kept = Rating(picture(1), other=picture(2))
    gone = Rating(picture(3, text="a secret wish"), -1)
    store.add([kept, gone])
    store.delete(gone.id)
    assert store.ratings() == [kept]
    with pytest.raises(ValueError, match=f"no rating {gone.id}"):
        store.delete(gone.id)
    assert store.clear() == 1 and store.count() == 0
    store.close()
    files = list(store.path.parent.iterdir())
    assert all(b"a secret wish" not in file.read_bytes() for file in files)


def test_export_and_import_carry_everything_and_importing_twice_adds_nothing(store, tmp_path):
    ratings = [Rating(FULL), Rating(picture(1), -1), Rating(picture(2), other=FULL)]
    store.add(ratings)
    assert store.export_jsonl(tmp_path / "out.jsonl") == 3
    with Store(tmp_path / "second.sqlite") as second:
        assert second.import_jsonl(tmp_path / "out.jsonl") == 3
        assert second.import_jsonl(tmp_path / "out.jsonl") == 0
        assert second.ratings() == ratings
        assert second.ratings()[2].other.png == FULL.png
    assert store.import_jsonl(tmp_path / "out.jsonl") == 0


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("not json", "line 2 is no rating"),
        ("[]", "line 2 is no rating"),
        ('{"id": "a", "value": 1, "time": 0}', "'picture'"),
        ('{"id": "a", "value": 1, "time": 0, "picture": {"seed": 1}}', "lacks its model"),
        (
            '{"id": "a", "value": 1, "time": 0, "picture": {"model": "m", "seed": 1, "x": 1}}',
            "no 'x'",
        ),
        ('{"id": "a", "value": 2, "time": 0, "picture": {"model": "m", "seed": 1}}', "rating is 2"),
    ],
)
def test_an_import_is_all_or_nothing_and_names_the_line(store, tmp_path, line, words):
    good = json.dumps(Rating(picture(1)).to_dict())
    (tmp_path / "in.jsonl").write_text(f"{good}\n{line}\n")
    with pytest.raises(ValueError, match=words):
        store.import_jsonl(tmp_path / "in.jsonl")
    assert store.count() == 0


@pytest.mark.parametrize("prompt", ["a\u2028b", "a\x85b", "a\x0cb\x1ec"])
def test_every_prompt_is_exported_and_imported(store, tmp_path, prompt):
    store.add([Rating(picture(text=prompt))])
    assert store.export_jsonl(tmp_path / "all.jsonl") == 1
    with Store(tmp_path / "other.sqlite") as other:
        assert other.import_jsonl(tmp_path / "all.jsonl") == 1
        assert other.ratings()[0].picture.text == prompt


def test_a_locked_store_says_so_and_not_that_it_is_none(store, monkeypatch):
    monkeypatch.setattr(store_module, "BUSY_SEC", 0.1)
    store._db.execute("BEGIN EXCLUSIVE")
    with pytest.raises(OSError, match=r"cannot write to the ratings in .*locked"):
        Store(store.path)
    store._db.execute("ROLLBACK")


def test_a_full_disk_says_so_and_keeps_what_was_there(store):
    store.add([Rating(picture(seed)) for seed in range(3)])
    (pages,) = store._db.execute("PRAGMA page_count").fetchone()
    store._db.execute(f"PRAGMA max_page_count = {pages}")
    large = [Rating(picture(seed, text="word " * 2000)) for seed in range(10, 20)]
    with pytest.raises(OSError, match=r"cannot write to the ratings in .*full"):
        store.add(large)
    assert store.count() == 3


def test_what_is_no_rating_is_refused():
    with pytest.raises(ValueError, match="two different pictures"):
        Rating(picture(1), other=picture(1))
    with pytest.raises(ValueError, match="rating is 0"):
        Rating(picture(1), 0)
    with pytest.raises(ValueError, match="1 for a pair"):
        Rating(picture(1), -1, picture(2))
    with pytest.raises(ValueError, match="needs its values"):
        picture(1, space="w")
    with pytest.raises(ValueError, match=r"seed is 1\.5"):
        picture(1.5)


def test_add_is_all_or_nothing(store, monkeypatch):
    insert = Store._insert

    def failing(self, rating):
        if rating.picture.seed == 2:
            raise KeyboardInterrupt
        return insert(self, rating)

    monkeypatch.setattr(Store, "_insert", failing)
    with pytest.raises(KeyboardInterrupt):
        store.add([Rating(picture(1)), Rating(picture(2))])
    assert store.count() == 0
    monkeypatch.undo()
    store.add([Rating(picture(2))])
    assert store.count() == 1


def test_an_older_version_is_brought_up_to_date_with_its_ratings(store, monkeypatch):
    kept = Rating(picture(1))
    store.add([kept])
    store.close()
    later = (*MIGRATIONS, ("ALTER TABLE ratings ADD COLUMN note TEXT",))
    monkeypatch.setattr(store_module, "MIGRATIONS", later)
    with Store(store.path) as migrated:
        assert migrated.ratings() == [kept]
    monkeypatch.undo()
    with pytest.raises(ValueError, match="has version 2; this program reads up to 1"):
        Store(store.path)


def test_a_migration_that_fails_leaves_the_file_as_it_was(store, monkeypatch):
    kept = Rating(picture(1))
    store.add([kept])
    store.close()
    broken = (*MIGRATIONS, ("DROP TABLE ratings", "SELECT nonsense"))
    monkeypatch.setattr(store_module, "MIGRATIONS", broken)
    with pytest.raises(ValueError, match="nonsense"):
        Store(store.path)
    monkeypatch.undo()
    with Store(store.path) as same:
        assert same.ratings() == [kept]


def test_other_files_are_named_and_left_alone(tmp_path):
    text = tmp_path / "text"
    text.write_text("this is a text and not a database, long enough to have a header" * 20)
    before = text.read_bytes()
    with pytest.raises(ValueError, match="is not a store of ratings"):
        Store(text)
    assert text.read_bytes() == before
    foreign = sqlite3.connect(tmp_path / "foreign")
    foreign.execute("CREATE TABLE bookmarks (url TEXT)")
    foreign.close()
    with pytest.raises(ValueError, match="the database of another program"):
        Store(tmp_path / "foreign")
    with pytest.raises(ValueError, match="cannot open the store"):
        Store(tmp_path)


def test_two_processes_write_at_once_and_nothing_is_lost(tmp_path):
    path = tmp_path / "ratings.sqlite"
    children = [writer(path, first, 60) for first in (0, 1000)]
    acknowledged = [child.communicate()[0].split() for child in children]
    assert [child.returncode for child in children] == [0, 0]
    with Store(path) as store:
        kept = {r.id for r in store.ratings()}
    assert len(kept) == 120 and kept == set(acknowledged[0]) | set(acknowledged[1])


def test_a_writer_killed_fifty_times_loses_nothing_that_it_acknowledged(tmp_path):
    path = tmp_path / "ratings.sqlite"
    acknowledged: list[str] = []
    for i in range(50):
        child = writer(path, i * 10_000, 10_000)
        assert child.stdout is not None
        for _ in range(1 + i % 3):  # let it be anywhere in a write when it dies
            acknowledged.append(child.stdout.readline().strip())
        timer = threading.Timer(0.0007 * (i % 7), child.kill)
        timer.start()
        rest = child.stdout.read().splitlines(keepends=True)
        acknowledged += [line.strip() for line in rest if line.endswith("\n")]
        timer.join()
        child.stdout.close()
        assert child.wait() == -signal.SIGKILL
    with Store(path) as store:
        kept = {r.id for r in store.ratings()}
        assert store._db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert len(acknowledged) >= 100 and set(acknowledged) <= kept
    assert len(kept) <= len(acknowledged) + 50  # at most one a kill was written and not yet said


def test_the_last_thumb_counts_even_if_the_clock_was_set_back(store, monkeypatch):
    def thumb(value: int, hours: float) -> Rating:
        monkeypatch.setattr(store_module.time, "time", lambda: 1.8e9 + 3600 * hours)
        return Rating(picture(), value, time=store_module.time.time())

    for value, hours in ((1, 0.0), (-1, -2.0), (1, -1.0), (-1, -3.0)):
        store.add([thumb(value, hours)])
    assert [rating.value for rating in store.ratings()] == [1, -1, 1, -1]
    store.add([thumb(1, 5.0)])
    assert store.ratings()[-1].time == 1.8e9 + 3600 * 5
