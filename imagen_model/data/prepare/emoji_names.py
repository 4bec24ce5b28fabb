"""Concepts of emoji by their code points, and which concept an icon's name means.

A concept's names are emojibase's label and short codes, Unicode's name of a single code point, and
the names that other icon sets list with their code points. A name counts only if all of these give
it to one concept.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

SKIN_WEIGHT = 0.5  # of all skin tones of an emoji together; the emoji itself has 1
SHORT_CODES = ("emojibase", "cldr", "github", "joypixels", "iamcal")  # emojibase's files


def hexcode_of(name: str) -> str:
    """The code of a file or of emojibase in upper case and without FE0F."""
    return "-".join(part for part in name.upper().split("-") if part != "FE0F")


@dataclass(frozen=True)
class Concept:
    """One emoji with its name and keywords."""

    hexcode: str
    base: str  # hexcode without skin tone
    text: str
    keywords: tuple[str, ...]
    weight: float


def read_concepts(data: list[dict]) -> dict[str, Concept]:
    """emojibase's `en/data.json` by hexcode, skin tones included."""
    concepts = {}
    for entry in data:
        base = hexcode_of(entry["hexcode"])
        keywords = tuple(entry.get("tags", ()))
        concepts[base] = Concept(base, base, entry["label"], keywords, 1.0)
        skins = entry.get("skins", [])
        for skin in skins:
            code, weight = hexcode_of(skin["hexcode"]), SKIN_WEIGHT / len(skins)
            concepts[code] = Concept(code, base, skin["label"], keywords, weight)
    return concepts


class EmojiNames:
    """Which concept a name means."""

    def __init__(
        self,
        concepts: Mapping[str, Concept],
        short_codes: Path,
        char_lists: Iterable[Mapping[str, str]],
    ) -> None:
        """`short_codes` is emojibase's folder of them; a missing file in it is left out.
        `char_lists` are {code points: name} of icon sets."""
        self._concepts = concepts
        of_sets: dict[str, set[str]] = {}
        for chars in char_lists:
            for char, name in chars.items():
                self._add(of_sets, name, hexcode_of(char))
        of_emojibase: dict[str, set[str]] = {}
        for concept in concepts.values():
            self._add(of_emojibase, letters_of(concept.text), concept.hexcode)
        for path in (short_codes / f"{file}.json" for file in SHORT_CODES):
            if not path.is_file():
                continue
            for char, names in json.loads(path.read_text(encoding="utf-8")).items():
                for name in [names] if isinstance(names, str) else names:
                    self._add(of_emojibase, letters_of(name), hexcode_of(char))
        of_unicode: dict[str, set[str]] = {}
        for code in concepts:
            if "-" not in code and (name := unicodedata.name(chr(int(code, 16)), "")):
                self._add(of_unicode, letters_of(name), code)
        self._tables = ((of_sets, str), (of_emojibase, letters_of), (of_unicode, letters_of))

    def _add(self, table: dict[str, set[str]], name: str, code: str) -> None:
        if code in self._concepts:
            table.setdefault(name, set()).add(code)

    def hexcode(self, names: Iterable[str]) -> str | None:
        """That of the concept which the first of an icon's names with a meaning has; None if none
        has one."""
        return next((code for name in names if (code := self._of_one(name))), None)

    def _of_one(self, name: str) -> str | None:
        forms = (
            name,
            name.replace("flag-for-flag-", "flag-").replace("flag-for-", "flag-"),
            name.replace("digit-", "keycap-"),
            re.sub(r"-\d$", "", name),  # a set's second drawing of the same
        )
        for form in forms:
            for table, key in self._tables:
                codes = table.get(key(form), set())
                if len(codes) == 1:
                    return next(iter(codes))
                if codes:
                    return None  # several concepts have this name
        return None


def letters_of(name: str) -> str:
    """A name's letters and digits in lower case, `&` as "and"."""
    return re.sub(r"[^a-z0-9]", "", name.lower().replace("&", "and"))
