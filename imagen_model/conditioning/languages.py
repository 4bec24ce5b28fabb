"""Prompts in other languages -> English, which is what the text encoder knows.

A bundled table (tools/make_word_table.py, git history) gives the English of emojibase's names and
keywords in 25 languages, and of the emoji themselves. A prompt is read as the language that covers
most of what is not English in it, by longest match: a dictionary and no translator, good for a few
words that name things. English prompts stay as they are, to the letter.
"""

from __future__ import annotations

import gzip
import json
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from ..storage.files import WEIGHTS_DIR

ENGLISH = WEIGHTS_DIR / "words" / "english.json.gz"
LANGUAGES = WEIGHTS_DIR / "words" / "languages.json.gz"
EMOJI = "emoji"  # in the table of languages
MOST_UNITS = 300  # of a prompt that decide its language: far more than the encoder takes
LONGEST = 14  # units of a phrase
ENDING = 2  # letters at a word's end that may differ from the table's
STEM = 4  # letters that may not; syllables of Korean: 2
LENT = 3  # letters of a word that an English prompt may have lent
SCRIPTS = {
    "ko": ("\uac00", "\ud7a3"),
    "ru": ("\u0400", "\u04ff"),
}  # for texts of inflected words alone
ARTICLES = {  # that are no common English words
    "fr": ("un", "une", "le", "la", "les", "des"),
    "es": ("un", "una", "el", "los", "las"),
    "de": ("der", "das", "ein", "eine"),
    "it": ("un", "una", "il", "lo", "gli"),
    "pt": ("um", "uma", "os"),
}
LAST_LATIN = "\u024f"
IGNORED = dict.fromkeys(map(ord, "\ufe0e\ufe0f"))  # how an emoji is to be shown

Table = dict[str, str]


@dataclass(frozen=True)
class English:
    """What the texts of a prompt say in English."""

    texts: tuple[str, ...]
    language: str = "en"  # what they were read as
    unknown: tuple[str, ...] = ()  # words that no English is known for


def to_english(texts: list[str]) -> English:
    """The texts of one prompt in English; what is English already comes back as it is."""
    units = [units_of(text) for text in texts]
    together = [unit for part in units for unit in part]
    language, whole = _by_article(together), True
    if not language and all(map(is_english, together)):
        return English(tuple(texts))
    if not language:
        language, whole = _language_of(together[:MOST_UNITS])
    reader = _Reader(language, whole=whole)
    read = tuple(reader.read(part, text) for part, text in zip(units, texts, strict=True))
    if not any(map(units_of, read)):  # the encoder may know a little of what no table knows
        read = tuple(texts)
    unknown = reader.unknown
    in_latin = [word for word in unknown if word[0] <= LAST_LATIN]
    if not whole and 2 * len(in_latin) <= sum(unit[0].isalpha() for unit in together):
        # names, and English that is rarer than the list: the encoder reads them piece by piece
        unknown = [word for word in unknown if word not in in_latin]
    language = language or "en" if read != tuple(texts) else "en"
    return English(read, language, tuple(dict.fromkeys(unknown)))


def _language_of(units: list[str]) -> tuple[str, bool]:
    """The language that covers most of what is foreign ("": none), and whether it is that of the
    whole prompt: else it has only lent words to an English one."""
    tables = _tables()
    language = max(tables, key=lambda name: _coverage(units, tables[name]))
    own, others = _coverage(units, tables[language])
    if not own:
        signs = "".join(units)
        language = next((name for name, (a, z) in SCRIPTS.items() if _between(signs, a, z)), "")
        return language, bool(language)
    english = sum(len(unit) for unit in units if unit[0].isalpha() and is_english(unit))
    return language, own >= english - others


def _by_article(units: list[str]) -> str:
    """The language all of whose words English happens to have, too, if its article comes first:
    "un chat rouge". Else nothing."""
    words = [unit for unit in units if unit[0].isalpha()][:MOST_UNITS]
    if len(words) < 2 or not all(map(is_english, words)):
        return ""
    languages = (name for name in ARTICLES if words[0] in ARTICLES[name])
    known = (name for name in languages if all(word in _tables()[name] for word in words))
    return next(known, "")


def _between(text: str, first: str, last: str) -> bool:
    return any(first <= c <= last for c in text)


def units_of(text: str) -> list[str]:
    """Words in small letters; single signs of punctuation, and of scripts without spaces."""
    units: list[str] = []
    in_word = False
    for c in unicodedata.normalize("NFKC", text.translate(IGNORED)).lower():
        kind = unicodedata.category(c)[0]
        if kind == "M" and units:
            units[-1] += c
            continue
        part = kind in "LN" and not _stands_alone(c)
        if part and in_word:
            units[-1] += c
        elif not c.isspace():
            units.append(c)
        in_word = part
    return units


def _stands_alone(c: str) -> bool:
    """Scripts without spaces: Han, kana, Thai."""
    return "\u0e00" <= c <= "\u0e7f" or "\u3040" <= c <= "\u30ff" or "\u3400" <= c <= "\u9fff"


def is_english(unit: str) -> bool:
    """Words of emojibase's English names and of a list of common ones; signs and numbers."""
    if unit[0].isalpha():
        return unit in _english_words() or (len(unit) == 1 and unit.isascii())
    return unicodedata.category(unit[0]) not in ("So", "Mn") or unit in _english_words()


def _coverage(units: list[str], table: Table) -> tuple[int, int]:
    """How many letters of foreign and of English words a table knows; none for little words alone,
    which are in English names, too: "Los Angeles"."""
    foreign = english = 0
    content = False
    for begin, end, target in _matches(units, table):
        for unit in units[begin:end] if target is not None else ():
            if is_english(unit):
                english += len(unit) * unit[0].isalpha()
            else:
                foreign += len(unit)
                content |= bool(target)
    return (foreign, english) if content else (0, english)


def _matches(units: list[str], *tables: Table) -> Iterator[tuple[int, int, str | None]]:
    """The units from left to right: the longest phrases of a table, and single ones of none."""
    begin = 0
    while begin < len(units):
        end, target = begin + 1, None
        for stop in range(min(len(units), begin + LONGEST), begin, -1):
            key = " ".join(units[begin:stop])
            found = next((table[key] for table in tables if key in table), None)
            if found is not None:
                end, target = stop, found
                break
        yield begin, end, target
        begin = end


class _Reader:
    """Reads texts as one language, and remembers what it did not know."""

    def __init__(self, language: str, *, whole: bool) -> None:
        self.language, self.whole = language, whole
        self.unknown: list[str] = []

    def read(self, units: list[str], text: str) -> str:
        """English for the units of `text`; the text itself where nothing is translated."""
        tables, words, changed, after = _tables(), list[str](), False, -1
        for begin, end, target in _matches(units, tables.get(self.language, {}), tables[EMOJI]):
            unit, known = units[begin], all(map(is_english, units[begin:end]))
            if target is None and not known and self.language:
                target = _by_stem(unit, self.language)
            lent = target and not known and (unit[0] > LAST_LATIN or len(unit) >= LENT)
            if target is not None and (self.whole or lent):
                words += [target] * bool(target)
                changed = True
            elif known:
                words += units[begin:end]
            else:
                if unit[0] <= LAST_LATIN:
                    words.append(unit)
                else:  # nothing to the encoder
                    changed = True
                if after == begin and _stands_alone(unit[0]):
                    self.unknown[-1] += unit
                else:
                    self.unknown.append(unit)
                after = end
        return " ".join(words) if changed else text


def _by_stem(word: str, language: str) -> str | None:
    """The English of a word that differs from the table's in its ending alone."""
    shortest = STEM // 2 if "\uac00" <= word[0] <= "\ud7a3" else STEM
    stems = _stems(language)
    for length in range(len(word), max(shortest, len(word) - ENDING) - 1, -1):
        if word[:length] in stems:
            return stems[word[:length]]
    return None


# -- the tables -----------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _english_words() -> frozenset[str]:
    return frozenset(_content(ENGLISH)["words"].split("\n"))


def english_phrases() -> list[str]:
    """emojibase's English names and keywords: what the bundled model was trained on, and more."""
    return _content(ENGLISH)["phrases"].split("\n")


@lru_cache(maxsize=1)
def _tables() -> dict[str, Table]:
    """{language: {phrase, its units joined by spaces: English, or nothing for a little word}}."""
    content = _content(LANGUAGES)
    targets = content["targets"]
    tables = {}
    for language, columns in content["languages"].items():
        english = (targets[i] for i in columns["targets"])
        tables[language] = dict(zip(columns["phrases"].split("\n"), english, strict=True))
    return tables


@lru_cache(maxsize=4)
def _stems(language: str) -> Table:
    """Beginnings of a language's words; of equal ones that of the shortest word."""
    stems: Table = {}
    for phrase, target in sorted(_tables()[language].items(), key=lambda item: len(item[0])):
        if " " not in phrase and not _stands_alone(phrase[0]):
            for length in range(len(phrase), len(phrase) - ENDING - 1, -1):
                if length >= STEM // 2:
                    stems.setdefault(phrase[:length], target)
    return stems


def _content(path) -> dict:
    return json.loads(gzip.decompress(path.read_bytes()))
