"""The syntax of ratings of one batch of pictures.

+0 -3 2>5 *4        thumbs up for 0, down for 3; 2 better than 5; 4 the best of all
{"up": [0], "down": [3], "pairs": [[2, 5]], "best": 4}        the same as JSON
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Sequence
from typing import Any

from ..storage.files import brief, json_of
from .store import Picture, Rating

WORD = re.compile(r"([+\-*])(\d+)|(\d+)>(\d+)")
KEYS = ("up", "down", "pairs", "best")
MAX_TEXT = 100_000  # characters
MAX_RATINGS = 4096  # of one batch: a "best" of 64 pictures is 63


def parse_ratings(clicks: str, pictures: Sequence[Picture]) -> list[Rating]:
    """The ratings that `clicks` gives to a batch; empty text gives none.

    "best" makes a pair with every other picture, and they count as one rating. ValueError for
    syntax errors, for pictures that the batch lacks, and for more than MAX_RATINGS.
    """
    if len(clicks) > MAX_TEXT:
        raise ValueError(f"the ratings have {len(clicks)} characters; expected {MAX_TEXT} at most")
    parsed = _read(clicks)

    def picture(index: Any) -> Picture:
        if isinstance(index, bool) or not isinstance(index, int):
            raise ValueError(f"a picture is {brief(repr(index))}; expected its number, from 0")
        if not 0 <= index < len(pictures):
            raise ValueError(
                f"there is no picture {index}; this batch has 0 to {len(pictures) - 1}"
            )
        return pictures[index]

    winners = {(winner := picture(best)).id: winner for best in parsed["best"]}
    count = sum(len(parsed[key]) for key in ("up", "down", "pairs"))
    count += len(winners) * (len(pictures) - 1)
    if count > MAX_RATINGS:
        raise ValueError(f"these are {count} ratings of one batch; expected {MAX_RATINGS} at most")
    ratings = [Rating(picture(i), 1) for i in parsed["up"]]
    ratings += [Rating(picture(i), -1) for i in parsed["down"]]
    ratings += [Rating(picture(a), other=picture(b)) for a, b in parsed["pairs"]]
    for winner in winners.values():
        star = uuid.uuid4().hex
        others = [p for p in pictures if p.id != winner.id]
        ratings += [Rating(winner, other=p, id=f"{star}-{i}") for i, p in enumerate(others)]
    return ratings


def _read(clicks: str) -> dict[str, list]:
    text = clicks.strip()
    parsed: dict[str, list] = {key: [] for key in KEYS}
    if text.startswith(("{", "[", '"')):
        return parsed | _from_json(text)
    for word in text.replace(",", " ").split():
        match = WORD.fullmatch(word)
        if match is None:
            raise ValueError(
                f"rating {brief(repr(word))}; expected +0 (up), -0 (down), 0>1 (better) or *0"
            )
        sign, index, winner, loser = match.groups()
        if sign is None:
            parsed["pairs"].append((int(winner), int(loser)))
        else:
            parsed[{"+": "up", "-": "down", "*": "best"}[sign]].append(int(index))
    return parsed


def _from_json(text: str) -> dict[str, list]:
    try:
        given = json_of(text)
    except ValueError as error:
        raise ValueError(f"the ratings are no JSON: {error}") from None
    if not isinstance(given, dict) or set(given) - set(KEYS):
        raise ValueError(f"the ratings are {text[:40]}; expected an object of {', '.join(KEYS)}")
    if isinstance(given.get("best"), int):
        given["best"] = [given["best"]]
    for key, value in given.items():
        if not isinstance(value, list):
            raise ValueError(f"{key} is {brief(value)}; expected a list")
        if key == "pairs" and not all(isinstance(p, list) and len(p) == 2 for p in value):
            raise ValueError(f"pairs is {brief(value)}; expected [[better, worse], ...]")
    return given
