"""Parse prompts: weighted parts, translated into English, and the style that the prompt names.

Weights are parsed first (prompt_weights.py), then style names, then other languages (languages.py).
An English prompt without brackets and style names stays exactly as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from ..storage.files import storable
from .encoder import Part
from .languages import is_english, to_english, units_of
from .prompt_weights import parse_weights

MOST_CHARACTERS = 16_000  # that are parsed, with brackets; the encoder takes far fewer
MOST_NAMED = 10  # words or lines in a message


@dataclass(frozen=True)
class Prompt:
    """A parsed prompt. The joined `parts` are the text encoder's input."""

    parts: tuple[Part, ...]
    style: str | None = None  # given, or named in the prompt
    language: str = "en"
    unknown: tuple[str, ...] = ()  # words without a known translation

    @property
    def text(self) -> str:
        return "".join(text for text, _ in self.parts)

    @property
    def weighted(self) -> bool:
        return any(weight != 1 for text, weight in self.parts if text.strip())


def read_prompts(
    texts: Iterable[str], *, styles: tuple[str, ...], style: str | None = None
) -> list[Prompt]:
    """Parse prompts for a model that knows `styles`, all in `style` if it is given.

    ValueError for a weight that is not from 0 to 3.
    """
    style = None if style in ("", "any") else style
    return [_read(text, styles, style) for text in texts]


def unknown_words(prompts: Iterable[Prompt]) -> str:
    """One line that names the words without a known translation, or ""."""
    words = list(dict.fromkeys(word for prompt in prompts for word in prompt.unknown))
    if not words:
        return ""
    more = f" and {len(words) - MOST_NAMED} more" if len(words) > MOST_NAMED else ""
    return f"no English is known for: {', '.join(words[:MOST_NAMED])}{more}"


def how_read(prompts: Iterable[Prompt]) -> str:
    """The translations of prompts in other languages, a line each, and `unknown_words`; or ""."""
    prompts = list(prompts)
    lines = [f"read as: {' '.join(p.text.split())}" for p in prompts if p.language != "en"]
    return "\n".join(filter(None, [*lines[:MOST_NAMED], unknown_words(prompts)]))


def _read(text: str, styles: tuple[str, ...], style: str | None) -> Prompt:
    parts = parse_weights(storable(text[:MOST_CHARACTERS]))
    named, texts = _style_in([text for text, _ in parts], (style,) if style else styles)
    english = to_english(texts)
    if english.texts != tuple(texts):  # brackets may have separated words without a space
        texts = [f" {t}" for t in english.texts]
    weighted = tuple((text, weight) for text, (_, weight) in zip(texts, parts, strict=True))
    return Prompt(weighted, style or named, english.language, english.unknown)


def _style_in(texts: list[str], styles: Iterable[str]) -> tuple[str | None, list[str]]:
    """If one style is named, it and the texts without its name; else None and the texts."""
    named, without = set[str](), texts
    for style in sorted(styles, key=len, reverse=True):  # "fluent flat" before "flat"
        pattern = _mention(style)
        rest = [pattern.sub("", text) for text in without] if pattern else without
        if rest != without:
            named.add(style)
            without = rest
    return (named.pop(), without) if len(named) == 1 else (None, texts)


def _mention(style: str) -> re.Pattern[str] | None:
    """Matches a style's name in a prompt: "a cat, noto", "a cat in noto style" and "noto cat"; the
    last only if the name is not an English word, such as "red"."""
    words = [unit for unit in units_of(style) if unit[0].isalnum()]
    if not words:
        return None
    apart = r"[\W_]*".join(map(re.escape, words))
    name = rf"(?<!\w){apart}(?!\w)"
    lead = r"\s*[,;]?\s*(?:\bin\s+(?:the\s+)?)?"
    forms = [
        rf"\s*(?:[,;]|\bin\s(?:\s*the\s)?)\s*{name}\s*(?=[,;]|$)",
        rf"^\s*{name}\s*[,;:]",
        rf"{lead}{name}[\s-]+style\b",
    ]
    if len(words) > 1 or not is_english(words[0]):
        forms.append(f"{lead}{name}")
    return re.compile("|".join(forms), re.IGNORECASE)
