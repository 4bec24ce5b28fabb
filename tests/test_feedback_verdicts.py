"""What the stored ratings say of the pictures of a batch, and how many there are."""

from __future__ import annotations

from pathlib import Path

import pytest

from imagen_model.feedback.rating_syntax import parse_ratings
from imagen_model.feedback.reward import check_ratings, enough_for, num_given
from imagen_model.feedback.store import Picture, Store
from imagen_model.feedback.verdicts import verdicts

BATCH = [Picture("m", seed) for seed in range(8)]


@pytest.fixture
def store(tmp_path: Path):
    with Store(tmp_path / "ratings.sqlite") as store:
        yield store


def lit(store: Store) -> list[str]:
    """What is lit below the pictures: "3 best"."""
    said = verdicts(store, BATCH)
    return [f"{i} {name}" for i, each in enumerate(said) for name, ids in each.items() if ids]


def give(store: Store, clicks: str, *, instead_of: tuple[str, ...] = ()) -> list[str]:
    return store.add(parse_ratings(clicks, BATCH), instead_of=instead_of)


def test_a_batch_without_ratings_has_no_verdicts(store):
    assert lit(store) == []


def test_the_last_thumb_on_a_picture_counts(store):
    give(store, "+0 -1")
    give(store, "-0")
    assert lit(store) == ["0 down", "1 down"]


def test_a_batch_has_one_best_picture(store):
    give(store, "*2")
    give(store, "*5")
    assert lit(store) == ["5 best"]


def test_a_lost_comparison_makes_a_picture_not_the_best(store):
    give(store, "*2")
    give(store, "3>2")
    assert lit(store) == []


def test_the_best_of_eight_counts_as_one_rating(store):
    give(store, "+0 -1")
    given = give(store, "*2")
    assert len(given) == 7 and store.count() == 3
    assert num_given(store.ratings()) == 3
    with pytest.raises(ValueError, match="there are 3 ratings; learning needs 5"):
        check_ratings(store.ratings())


def test_what_verdicts_names_takes_a_rating_back(store):
    give(store, "+0 *2")
    for each in verdicts(store, BATCH):
        store.add([], instead_of=[id_ for ids in each.values() for id_ in ids])
    assert lit(store) == [] and store.count() == 0


def test_a_rating_replaces_others_in_one_step(store):
    (old,) = give(store, "+0")
    give(store, "-0", instead_of=(old, "gone already"))
    assert lit(store) == ["0 down"] and store.count() == 1


def test_an_imported_best_counts_as_one_and_every_line_is_told(store, tmp_path):
    give(store, "*2")
    assert store.export_jsonl(tmp_path / "ratings.jsonl") == 7
    with Store(tmp_path / "other.sqlite") as other:
        assert other.import_jsonl(tmp_path / "ratings.jsonl") == 7
        assert other.count() == 1


def test_one_rating_is_one(store):
    assert enough_for(1).startswith("1 rating: 4 more")
    assert enough_for(0).startswith("0 ratings: 5 more")
