"""The bundled text encoder: all-MiniLM-L6-v2 (2002.10957), frozen and offline.

Its matrices are int8 (storage/int8.py). The file's hash is checked, and checkpoints name it. The
file is read when a text is first encoded.
"""

from __future__ import annotations

import json
import logging
from functools import cached_property, lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn

from ..config import COND_DIM
from ..storage.files import WEIGHTS_DIR, checked_sha256, storable
from ..storage.int8 import dequantized, frozen
from ..storage.tensor_file import read_tensors
from .encoder import MAX_CHARACTERS, Part
from .prompt_weights import weighted_spans

logger = logging.getLogger(__name__)
TEXT_DIR = WEIGHTS_DIR / "minilm"
TEXT_FILE = TEXT_DIR / "minilm-int8.safetensors"
MAX_TOKENS = 32  # word pieces, [CLS] and [SEP] included


def text_encoder_hash() -> str:
    """sha256 of the bundled text encoder, as checkpoints name it."""
    return checked_sha256(TEXT_FILE)


class MiniLM(nn.Module):
    """BERT's encoder (1810.04805) in torch's own layers: post-norm, GELU, learned positions.

    Importing transformers for these six layers would take three seconds; tests compare with it.
    """

    def __init__(self, config: dict) -> None:
        super().__init__()
        dim, eps = config["hidden_size"], config["layer_norm_eps"]
        self.word = nn.Embedding(config["vocab_size"], dim)
        self.position = nn.Embedding(config["max_position_embeddings"], dim)
        self.segment = nn.Embedding(config["type_vocab_size"], dim)
        self.norm = nn.LayerNorm(dim, eps=eps)
        layer = nn.TransformerEncoderLayer(
            dim,
            config["num_attention_heads"],
            config["intermediate_size"],
            activation=config["hidden_act"],
            layer_norm_eps=eps,
            batch_first=True,
        )
        self.layers = nn.TransformerEncoder(
            layer, config["num_hidden_layers"], enable_nested_tensor=False
        )

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """ids [N, T], mask [N, T] True where there is a token -> [N, T, D]."""
        x = self.word(ids) + self.position.weight[: ids.shape[1]] + self.segment.weight[0]
        return self.layers(self.norm(x), src_key_padding_mask=~mask)


def from_bert_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The published state dict of a BERT under the names of `MiniLM`."""
    plain = {
        "embeddings.word_embeddings": "word",
        "embeddings.position_embeddings": "position",
        "embeddings.token_type_embeddings": "segment",
        "embeddings.LayerNorm": "norm",
        "attention.output.dense": "self_attn.out_proj",
        "attention.output.LayerNorm": "norm1",
        "intermediate.dense": "linear1",
        "output.dense": "linear2",
        "output.LayerNorm": "norm2",
    }
    result = {}
    for name, tensor in state.items():
        stem, kind = name.rsplit(".", 1)  # kind: weight or bias
        if not stem.startswith("encoder.layer."):
            result[f"{plain[stem]}.{kind}"] = tensor
            continue
        number, part = stem.removeprefix("encoder.layer.").split(".", 1)
        layer = f"layers.layers.{number}"
        if part == "attention.self.query":
            qkv = [state[f"{stem[: -len('query')]}{x}.{kind}"] for x in ("query", "key", "value")]
            result[f"{layer}.self_attn.in_proj_{kind}"] = torch.cat(qkv)
        elif not part.startswith("attention.self."):
            result[f"{layer}.{plain[part]}.{kind}"] = tensor
    return result


class TextEncoder:
    """The frozen encoder. Up to rounding, rows don't depend on the rest of the batch.

    Its files are read when it first encodes; ValueError if they are damaged.
    """

    width = COND_DIM

    def __init__(self, directory: Path = TEXT_DIR) -> None:
        self.directory = directory

    @cached_property
    def network(self) -> MiniLM:
        weights = self.directory / TEXT_FILE.name
        checked_sha256(weights)
        config = json.loads((self.directory / "config.json").read_text(encoding="utf-8"))
        state = from_bert_names(dequantized(read_tensors(weights)[0]))
        return frozen(lambda: MiniLM(config), state)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        tokenizer = Tokenizer.from_file(str(self.directory / "tokenizer.json"))
        tokenizer.enable_truncation(MAX_TOKENS)
        tokenizer.enable_padding(pad_token="[PAD]")
        return tokenizer

    @property
    def identity(self) -> str:
        return text_encoder_hash()

    @torch.no_grad()
    def encode(self, texts: list[str]) -> tuple[Tensor, Tensor, Tensor]:
        """texts -> tokens [N, T, 384], mask [N, T], pooled [N, 384] of unit length, on the CPU.

        An empty text gives a null row. A text over MAX_TOKENS word pieces is cut there, with one
        warning.
        """
        ids, mask, _ = self.pieces(texts)
        tokens = self.network(ids, mask)
        mask = mask & torch.tensor([[bool(text.strip())] for text in texts])
        tokens = tokens * mask[:, :, None]
        mean = tokens.sum(dim=1) / mask.sum(dim=1, keepdim=True).clamp(min=1)
        return tokens, mask, F.normalize(mean, dim=1)

    def weighted(self, parts: list[Part]) -> tuple[Tensor, Tensor, Tensor]:
        """One prompt with weights (prompt_weights.py)."""
        return encode_weighted(self, parts)

    def pieces(self, texts: list[str]) -> tuple[Tensor, Tensor, list[list[tuple[int, int]]]]:
        """Word pieces as ids [N, T], mask [N, T], and the span of each in its text."""
        texts = [storable(text[:MAX_CHARACTERS]).rstrip() for text in texts]
        encodings = self.tokenizer.encode_batch(texts)
        if any(e.overflowing for e in encodings):
            logger.warning("a prompt is over %d word pieces; the rest is ignored", MAX_TOKENS)
        ids = torch.tensor([e.ids for e in encodings])
        mask = torch.tensor([e.attention_mask for e in encodings]).bool()
        return ids, mask, [e.offsets for e in encodings]


@lru_cache(maxsize=1)
def text_encoder() -> TextEncoder:
    """The bundled encoder, loaded once a process."""
    return TextEncoder()


@torch.no_grad()
def encode_weighted(encoder: TextEncoder, parts: list[Part]) -> tuple[Tensor, Tensor, Tensor]:
    """One prompt's tokens [1, T, D], mask [1, T] and pooled vector [1, D] of unit length.

    token + sum over spans of (weight - 1) * (token - the token without the span). For the span's
    own tokens, "without" is the mean of the other tokens. Pooled is the mean of the results.
    """
    ids, mask, offsets = encoder.pieces(["".join(text for text, _ in parts)])
    by_character = [weight for text, weight in parts for _ in text]
    by_token = [by_character[begin] if begin < end else 1.0 for begin, end in offsets[0]]
    spans = weighted_spans(by_token)
    hidden = torch.zeros(1 + len(spans), len(by_token), dtype=torch.bool)  # row 0 hides nothing
    for row, (begin, end, _) in zip(hidden[1:], spans, strict=True):
        row[begin:end] = True
    whole, *others = encoder.network(ids.expand(len(hidden), -1), mask & ~hidden)  # [T, D] each
    tokens = whole
    for without, span, (_, _, weight) in zip(others, hidden[1:], spans, strict=True):
        without = torch.where(span[:, None], without[~span].mean(dim=0), without)
        tokens = tokens + (weight - 1) * (whole - without)
    return tokens[None], mask, F.normalize(tokens.mean(dim=0), dim=0)[None]
