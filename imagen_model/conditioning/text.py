"""Prompts -> Condition, by the text encoder that the model was trained with."""

from __future__ import annotations

import torch

from ..condition import Condition, style_weights
from ..progress import OnProgress, batches
from .encoder import Encoder
from .minilm import logger, text_encoder
from .prompt import Prompt, read_prompts, unknown_words

BATCH = 128  # prompts encoded at a time


def encode_text(
    texts: list[str],
    *,
    styles: tuple[str, ...],
    style: str | None,
    progress: OnProgress | None = None,
    encoder: Encoder | None = None,
) -> Condition:
    """One condition row a text, all in `style` (None: the one that a text names, or the seed's).

    prompt.py reads the texts: weights in brackets, other languages, names of styles. One warning
    names the words without a known translation. `progress` is called after each BATCH. `encoder`
    None is the bundled one. ValueError for a weight that is not from 0 to 3, and an unknown style.
    """
    style_weights(styles, style, 1)  # an unknown style is refused before the texts are read
    prompts = read_prompts(texts, styles=styles, style=style)
    unknown = unknown_words(prompts)
    if unknown:
        logger.warning(unknown)
    encoder = encoder or text_encoder()
    return Condition.cat(
        [_encoded(prompts[i], styles, encoder) for i in batches(len(prompts), BATCH, progress)]
    )


def _encoded(prompts: list[Prompt], styles: tuple[str, ...], encoder: Encoder) -> Condition:
    tokens, mask, pooled = encoder.encode([prompt.text for prompt in prompts])
    rows = [style_weights(styles, prompt.style, 1) for prompt in prompts]
    condition = Condition(tokens, mask, pooled, torch.cat(rows))
    if not any(prompt.weighted for prompt in prompts):
        return condition
    return Condition.cat(
        [
            Condition(*encoder.weighted(list(prompt.parts)), row)
            if prompt.weighted
            else condition[i : i + 1]
            for i, (prompt, row) in enumerate(zip(prompts, rows, strict=True))
        ]
    )
