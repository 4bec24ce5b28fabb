"""Text -> Condition by the frozen MiniLM sentence encoder (2002.10957), bundled, offline.

The file holds all-MiniLM-L6-v2 with its matrices as int8 rows and fp16 scales; its hash is checked
and named in every checkpoint. transformers is imported when a text is first encoded.
"""

from __future__ import annotations

import logging
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..files import WEIGHTS_DIR, checked_sha256, dequantized
from .condition import Condition, style_weights

logger = logging.getLogger(__name__)

TEXT_DIR = WEIGHTS_DIR / "minilm"
TEXT_FILE = TEXT_DIR / "minilm-int8.safetensors"
MAX_TOKENS = 32  # word pieces that the networks see, [CLS] and [SEP] included
MAX_CHARACTERS = 2000  # more can't change the first word pieces, and would only cost time


def text_encoder_hash() -> str:
    """sha256 of the bundled text encoder, as checkpoints name it."""
    return checked_sha256(TEXT_FILE)


class TextEncoder:
    """The frozen encoder. Rows come out alike whatever else is in the batch, to float rounding."""

    def __init__(self, directory: Path = TEXT_DIR) -> None:
        from safetensors.torch import load_file
        from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

        checked_sha256(directory / TEXT_FILE.name)
        # No global RNG: transformers draws initial weights that are overwritten at once.
        with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.no_grad():
            self.network = BertModel(
                BertConfig.from_pretrained(directory), add_pooling_layer=False
            ).eval()
            state = dequantized(load_file(directory / TEXT_FILE.name))
            self.network.load_state_dict(state)
            self.network.requires_grad_(False)
        self.tokenizer = PreTrainedTokenizerFast(
            tokenizer_file=str(directory / "tokenizer.json"),
            pad_token="[PAD]",
            model_max_length=MAX_TOKENS,
        )

    def encode(self, texts: list[str]) -> tuple[Tensor, Tensor, Tensor]:
        """texts -> tokens [N, T, 384], mask [N, T], pooled [N, 384] of unit length, on the CPU.

        An empty text gives a null row. A text over MAX_TOKENS word pieces is cut there, with one
        warning.
        """
        texts = [text[:MAX_CHARACTERS].strip() for text in texts]
        batch = self.tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        if batch.encodings is not None and any(e.overflowing for e in batch.encodings):
            logger.warning("a prompt is longer than %d word pieces; the rest is ignored", MAX_TOKENS)
        mask = batch["attention_mask"].bool()  # [N, T]
        with torch.no_grad():
            tokens = self.network(
                input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
            ).last_hidden_state
        mask = mask & torch.tensor([[bool(text)] for text in texts])
        tokens = tokens * mask[:, :, None]
        mean = tokens.sum(dim=1) / mask.sum(dim=1, keepdim=True).clamp(min=1)
        return tokens, mask, F.normalize(mean, dim=1)


@lru_cache(maxsize=1)
def text_encoder() -> TextEncoder:
    """The bundled encoder, loaded once a process."""
    return TextEncoder()


def encode_text(texts: list[str], *, styles: tuple[str, ...], style: str | None) -> Condition:
    """One condition row a text, all in `style` (None: the seed chooses one)."""
    tokens, mask, pooled = text_encoder().encode(texts)
    return Condition(tokens, mask, pooled, style_weights(styles, style, len(texts)))
