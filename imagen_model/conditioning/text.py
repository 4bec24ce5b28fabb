"""Text -> Condition by the frozen MiniLM sentence encoder (2002.10957), bundled, offline.

The file holds all-MiniLM-L6-v2 with its matrices as int8 rows and fp16 scales; its hash is checked
and named in every checkpoint. It is read when a text is first encoded.
"""

from __future__ import annotations

import json
import logging
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from ..config import COND_DIM
from ..files import WEIGHTS_DIR, checked_sha256, dequantized, storable
from .condition import Condition, Progress, style_weights
from .prompt import Prompt, read_prompts, unknown_words
from .weighting import Part, encode_weighted

logger = logging.getLogger(__name__)

TEXT_DIR = WEIGHTS_DIR / "minilm"
TEXT_FILE = TEXT_DIR / "minilm-int8.safetensors"
MAX_TOKENS = 32  # word pieces that the networks see, [CLS] and [SEP] included
BATCH = 128  # prompts encoded at a time
MAX_CHARACTERS = 2000  # more can't change the first word pieces, and would only cost time


def text_encoder_hash() -> str:
    """sha256 of the bundled text encoder, as checkpoints name it."""
    return checked_sha256(TEXT_FILE)


class Encoder(Protocol):
    """Text -> Condition: the bundled TextEncoder, or clip.ClipEncoder."""

    @property
    def identity(self) -> str:
        """What a checkpoint names it by."""

    @property
    def width(self) -> int:
        """Numbers a token, D."""

    def encode(self, texts: list[str]) -> tuple[Tensor, Tensor, Tensor]:
        """texts -> tokens [N, T, D], mask [N, T], pooled [N, D] of unit length, on the CPU."""

    def weighted(self, parts: list[Part]) -> tuple[Tensor, Tensor, Tensor]:
        """The same of one prompt, some parts of which weigh more or less than 1."""


class MiniLM(nn.Module):
    """BERT's encoder (1810.04805) in torch's own layers: post-norm, GELU, learned positions.

    transformers would import for three seconds to run these six layers; tests compare with it.
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
    """The published state dict of a BERT in the names of `MiniLM`."""
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
    """The frozen encoder. Rows come out alike whatever else is in the batch, to float rounding.

    Its files are read when it first encodes: ValueError where they are damaged.
    """

    width = COND_DIM

    def __init__(self, directory: Path = TEXT_DIR) -> None:
        self.directory = directory

    @cached_property
    def network(self) -> MiniLM:
        weights = self.directory / TEXT_FILE.name
        checked_sha256(weights)
        config = json.loads((self.directory / "config.json").read_text(encoding="utf-8"))
        # Layers draw initial weights that are overwritten at once: leave the global state alone.
        with torch.random.fork_rng(devices=[]), torch.inference_mode(False):
            network = MiniLM(config).eval().requires_grad_(False)
            network.load_state_dict(from_bert_names(dequantized(load_file(weights))))
        return network

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
        """One prompt with weights; see weighting.py."""
        return encode_weighted(self, parts)

    def pieces(self, texts: list[str]) -> tuple[Tensor, Tensor, list[list[tuple[int, int]]]]:
        """Word pieces as ids [N, T], mask [N, T], and where in its text each of them is."""
        texts = [storable(text[:MAX_CHARACTERS]).rstrip() for text in texts]
        encodings = self.tokenizer.encode_batch(texts)
        if any(encoding.overflowing for encoding in encodings):
            logger.warning("a prompt is over %d word pieces; the rest is ignored", MAX_TOKENS)
        ids = torch.tensor([encoding.ids for encoding in encodings])  # [N, T]
        mask = torch.tensor([encoding.attention_mask for encoding in encodings]).bool()
        return ids, mask, [encoding.offsets for encoding in encodings]


@lru_cache(maxsize=1)
def text_encoder() -> TextEncoder:
    """The bundled encoder, one a process."""
    return TextEncoder()


def encode_text(
    texts: list[str],
    *,
    styles: tuple[str, ...],
    style: str | None,
    progress: Progress | None = None,
    encoder: Encoder | None = None,
) -> Condition:
    """One condition row a text, all in `style` (None: the one that a text names, or the seed's).

    Texts are read by prompt.py: weights in brackets, other languages, names of styles. One warning
    names the words that no English is known for. `progress` is called after each BATCH of them.
    `encoder` None is the bundled one. ValueError for a weight that is not from 0 to 3.
    """
    prompts = read_prompts(texts, styles=styles, style=style)
    unknown = unknown_words(prompts)
    if unknown:
        logger.warning(unknown)
    parts = []
    for begin in range(0, len(prompts), BATCH):
        parts.append(_encoded(prompts[begin : begin + BATCH], styles, encoder or text_encoder()))
        if progress is not None:
            progress(begin + len(parts[-1]), len(prompts))
    return Condition.cat(parts)


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
