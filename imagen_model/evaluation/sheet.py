"""Sixty-four prompts that nobody chose, each with the seed of its number: an uncurated sheet.

The prompts are nouns from the keywords of the training pictures, none of them the name of a
picture. A word counts as a noun where a longer name ends in it ("hot dog": dog); class names that
many concepts share, and words that belong to a single one, are left out. Which of those are taken,
and in which order, a hash decides.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable

from torch import Tensor

from ..data.item import Item
from ..model import Model
from .dataset import concept_of, has_text

PROMPTS = 64
COLUMNS = 8
SHARED_BY = range(2, 13)  # concepts that have the word


def sheet_prompts(items: Iterable[Item]) -> list[str]:
    """64 words, or as many as there are; names where the pictures have no such keywords."""
    names, concepts = set(), defaultdict(set)
    for item in items:
        names.add(item.text.lower())
        for word in item.keywords:
            concepts[word].add(concept_of(item))
    heads = {words[-1] for words in map(str.split, names) if len(words) > 1}
    nouns = [
        word
        for word, sharing in concepts.items()
        if word in heads - names and word.isalpha() and len(sharing) in SHARED_BY
    ]
    return sorted(nouns or names - {""}, key=by_hash)[:PROMPTS]


def by_hash(word: str) -> str:
    """A key that orders words as if by chance, everywhere alike."""
    return hashlib.sha256(word.encode()).hexdigest()


def generate_sheet(model: Model, items: Iterable[Item]) -> tuple[list[str], Tensor]:
    """The prompts, and picture i of prompt i with seed i [N, C, H, W]; without text, 64 seeds."""
    prompts = sheet_prompts(items) if has_text(model) else [""] * PROMPTS
    condition = model.encode_text(prompts)
    return prompts, model.draw(condition, model.latent(range(len(prompts))))
