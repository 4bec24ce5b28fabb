"""Translate prompts word by word into English, the language of the text encoder.

A bundled table (tools/make_word_table.py, git history) translates emojibase's names and keywords
from 25 languages, and the emoji themselves. The prompt's language is the one whose table covers
most of its foreign words by longest match. This is a dictionary, not a translator: it works for a
few words that name things. English prompts stay exactly as they are.
"""

from __future__ import annotations

import gzip
import json
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ..storage.files import WEIGHTS_DIR

ENGLISH = WEIGHTS_DIR / "words" / "english.json.gz"
LANGUAGES = WEIGHTS_DIR / "words" / "languages.json.gz"
EMOJI = "emoji"  # key of the emoji in the table of languages
MOST_UNITS = 300  # of a prompt that decide its language: far more than the encoder takes
LONGEST = 14  # units of a phrase
ENDING = 2  # letters at a word's end that may differ from the table's
STEM = 4  # letters that must match (in Korean 2 syllables)
SHORTEST_LOAN = 3  # letters of a foreign word in an English prompt that is translated
SCRIPTS = {"ko": ("\uac00", "\ud7a3"), "ru": ("\u0400", "\u04ff")}  # if only stems match
ARTICLES = {  # that are not common English words
    "fr": ("un", "une", "le", "la", "les", "des"),
    "es": ("un", "una", "el", "los", "las"),
    "de": ("der", "das", "ein", "eine"),
    "it": ("un", "una", "il", "lo", "gli"),
    "pt": ("um", "uma", "os"),
}
LAST_LATIN = "\u024f"
IGNORED = dict.fromkeys(map(ord, "\ufe0e\ufe0f"))  # variation selectors of emoji

Table = dict[str, str]


@dataclass(frozen=True)
class English:
    """The texts of a prompt, translated."""

    texts: tuple[str, ...]
    language: str = "en"  # from which they were translated
    unknown: tuple[str, ...] = ()  # words without a known translation


def to_english(texts: list[str]) -> English:
    """The texts of one prompt in English; English texts stay unchanged."""
    units = [units_of(text) for text in texts]
    all_units = [unit for part in units for unit in part]
    language, whole = _by_article(all_units), True
    if not language and all(map(is_english, all_units)):
        return English(tuple(texts))
    if not language:
        language, whole = _language_of(all_units[:MOST_UNITS])
    translator = _Translator(language, whole=whole)
    english = tuple(translator.translate(*pair) for pair in zip(units, texts, strict=True))
    if not any(map(units_of, english)):  # the encoder may know words that no table knows
        english = tuple(texts)
    unknown = translator.unknown
    in_latin = [word for word in unknown if word[0] <= LAST_LATIN]
    if not whole and 2 * len(in_latin) <= sum(unit[0].isalpha() for unit in all_units):
        # names and rare English words, which the encoder splits into word pieces
        unknown = [word for word in unknown if word not in in_latin]
    language = language or "en" if english != tuple(texts) else "en"
    return English(english, language, tuple(dict.fromkeys(unknown)))


def _language_of(units: list[str]) -> tuple[str, bool]:
    """The language that covers most foreign letters ("": none), and whether the whole prompt is in
    it; otherwise the prompt is English with a few foreign words."""
    tables = _tables()
    language = max(tables, key=lambda name: _coverage(units, tables[name]))
    own, others = _coverage(units, tables[language])
    if not own:
        scripts = (
            name for name, (a, z) in SCRIPTS.items() if any(a <= c <= z for c in "".join(units))
        )
        language = next(scripts, "")
        return language, bool(language)
    english = sum(len(unit) for unit in units if unit[0].isalpha() and is_english(unit))
    return language, own >= english - others


def _by_article(units: list[str]) -> str:
    """The language of a prompt whose words are all English words too, but which starts with a
    foreign article ("un chat rouge"); else ""."""
    words = [unit for unit in units if unit[0].isalpha()][:MOST_UNITS]
    if len(words) < 2 or not all(map(is_english, words)):
        return ""
    languages = (name for name in ARTICLES if words[0] in ARTICLES[name])
    known = (name for name in languages if all(word in _tables()[name] for word in words))
    return next(known, "")


def units_of(text: str) -> list[str]:
    """Words in lower case; single characters of punctuation and of scripts without spaces."""
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
    """Whether it is in emojibase's English names or a list of common words, or a sign or number."""
    if unit[0].isalpha():
        return unit in _english_words() or (len(unit) == 1 and unit.isascii())
    return unicodedata.category(unit[0]) not in ("So", "Mn") or unit in _english_words()


def _coverage(units: list[str], table: Table) -> tuple[int, int]:
    """How many letters of foreign and of English words a table covers. Function words alone don't
    count as foreign, because English names have them too: "Los Angeles"."""
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
    """(begin, end, English) from left to right: the longest phrases of a table, or a single unit
    with None."""
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


class _Translator:
    """Translates texts from one language, and collects unknown words."""

    def __init__(self, language: str, *, whole: bool) -> None:
        self.language, self.whole = language, whole
        self.unknown: list[str] = []

    def translate(self, units: list[str], text: str) -> str:
        """English for the units of `text`; the text itself if nothing is translated."""
        tables, words, changed, after = _tables(), list[str](), False, -1
        for begin, end, target in _matches(units, tables.get(self.language, {}), tables[EMOJI]):
            unit, known = units[begin], all(map(is_english, units[begin:end]))
            if target is None and not known and self.language:
                target = _by_stem(unit, self.language)
            is_loan = not known and (unit[0] > LAST_LATIN or len(unit) >= SHORTEST_LOAN)
            if target is not None and (self.whole or (target and is_loan)):
                words += [target] * bool(target)
                changed = True
            elif known:
                words += units[begin:end]
            else:
                if unit[0] <= LAST_LATIN:
                    words.append(unit)
                else:  # the encoder can't use it
                    changed = True
                if after == begin and _stands_alone(unit[0]):
                    self.unknown[-1] += unit
                else:
                    self.unknown.append(unit)
                after = end
        return " ".join(words) if changed else text


def _by_stem(word: str, language: str) -> str | None:
    """The English of a word of which only the ending differs from the table's."""
    shortest = STEM // 2 if "\uac00" <= word[0] <= "\ud7a3" else STEM
    stems = _stems(language)
    lengths = range(len(word), max(shortest, len(word) - ENDING) - 1, -1)
    return next((stems[word[:n]] for n in lengths if word[:n] in stems), None)


# -- the tables -----------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _english_words() -> frozenset[str]:
    return frozenset(_content(ENGLISH)["words"].split("\n"))


def english_phrases() -> list[str]:
    """emojibase's English names and keywords, among them the bundled model's training captions."""
    return _content(ENGLISH)["phrases"].split("\n")


@lru_cache(maxsize=1)
def _tables() -> dict[str, Table]:
    """{language: {phrase, its units joined by spaces: English, or "" for a function word}}."""
    content = _content(LANGUAGES)
    targets, tables = content["targets"], {}
    for language, columns in content["languages"].items():
        english = (targets[i] for i in columns["targets"])
        tables[language] = dict(zip(columns["phrases"].split("\n"), english, strict=True))
    return tables


@lru_cache(maxsize=4)
def _stems(language: str) -> Table:
    """{stem of a word: English}; a stem of several words has the shortest word's."""
    stems: Table = {}
    for phrase, target in sorted(_tables()[language].items(), key=lambda pair: len(pair[0])):
        if " " not in phrase and not _stands_alone(phrase[0]):
            for length in range(len(phrase), len(phrase) - ENDING - 1, -1):
                if length >= STEM // 2:
                    stems.setdefault(phrase[:length], target)
    return stems


def _content(path: Path) -> dict:
    return json.loads(gzip.decompress(path.read_bytes()))
