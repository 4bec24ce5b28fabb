"""What the stored ratings say of each picture of a batch, for the buttons below it."""

from __future__ import annotations

from collections.abc import Sequence

from .store import Picture, Store


def verdicts(store: Store, pictures: Sequence[Picture]) -> list[dict[str, list[str]]]:
    """For each picture the ids of the ratings by which it is "up", "down" or the "best"; no ids:
    it is not.

    The last thumb counts. The best has won its last comparison with every other picture.
    """
    thumbs: dict[str, list[tuple[str, int]]] = {}
    won: dict[tuple[str, str], list[str]] = {}
    last: dict[frozenset[str], str] = {}
    for id_, picture, other, value in store.of(pictures):
        if other is None:
            thumbs.setdefault(picture, []).append((id_, value))
        else:
            won.setdefault((picture, other), []).append(id_)
            last[frozenset((picture, other))] = picture
    every = {picture.id for picture in pictures}

    def of_one(own: str) -> dict[str, list[str]]:
        given = thumbs.get(own, [])
        value = given[-1][1] if given else 0
        others = every - {own}
        best = bool(others) and all(last.get(frozenset((own, other))) == own for other in others)
        return {
            "up": [id_ for id_, _ in given] if value > 0 else [],
            "down": [id_ for id_, _ in given] if value < 0 else [],
            "best": [id_ for other in others for id_ in won[own, other]] if best else [],
        }

    return [of_one(picture.id) for picture in pictures]
