"""Ratings written down for a batch, by hand or by a program."""

import pytest

from imagen_model.feedback.rating_syntax import parse_ratings
from imagen_model.feedback.store import Picture

BATCH = [Picture("m", seed) for seed in range(4)]


def said(clicks: str) -> list[tuple]:
    """(kind, seed, value or the loser's seed) of each rating."""
    return [
        (r.kind, r.picture.seed, r.value if r.other is None else r.other.seed)
        for r in parse_ratings(clicks, BATCH)
    ]


def test_words_and_json_say_the_same():
    expected = [("thumb", 0, 1), ("thumb", 2, 1), ("thumb", 3, -1), ("pair", 2, 1)]
    assert said("+0 +2 -3 2>1") == expected
    assert said("+0,+2,-3,2>1\n") == expected
    assert said('{"up": [0, 2], "down": [3], "pairs": [[2, 1]]}') == expected
    assert said("") == said("  \n") == said("{}") == []


@pytest.mark.parametrize("clicks", ["*2", '{"best": 2}', '{"best": [2]}'])
def test_the_best_wins_against_every_other(clicks):
    assert said(clicks) == [("pair", 2, 0), ("pair", 2, 1), ("pair", 2, 3)]


@pytest.mark.parametrize(
    ("clicks", "words"),
    [
        ("like 0", "rating 'like'; expected"),
        ("+4", "no picture 4; this batch has 0 to 3"),
        ("1>1", "two different pictures"),
        ('{"up": 1}', "up is 1; expected a list"),
        ('{"up": ["0"]}', "a picture is '0'"),
        ('{"up": [true]}', "a picture is True"),
        ('{"pairs": [1]}', "better, worse"),
        ('{"love": [1]}', "expected an object of up, down"),
        ("[1]", "expected an object"),
        ("{", "are no JSON"),
        ("[" * 50_000, "are no JSON"),
        ('{"best": [[0]]}', "a picture is \\[0\\]"),
        ("+0 " * 5000, "5000 ratings of one batch; expected 4096 at most"),
        ("+0 " * 50_000, "150000 characters; expected 100000 at most"),
    ],
)
def test_what_can_not_be_read_is_named(clicks, words):
    with pytest.raises(ValueError, match=words):
        parse_ratings(clicks, BATCH)


def test_the_best_said_often_is_the_best_once():
    assert said('{"best": [2, 2, 2]}') == said("*2") == said("*2 *2")
