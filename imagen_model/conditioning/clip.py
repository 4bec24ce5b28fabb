"""CLIP text models (2103.00020) as text encoders, for models that are trained on one.

A model is trained on a Hugging Face folder (`ClipFolder`). Later the same weights come from that
folder or from ComfyUI (nodes/hosted_clip.py). Both give word pieces and states (`ClipCore`), and
`ClipEncoder` makes the same condition from either.

Tokens are the states of the pieces and the end token after the final layer norm. The start token's
state is the same in every text (attention is causal), so it is left out. Pooled is the end token's
state at unit length, without CLIP's projection, which is missing from many files.

A checkpoint names a signature of the encoder's outputs (`identity`), not of its file, because CLIP
is distributed as fp32, fp16, bf16 and fp8 under many names. Each of up to 512 bits says whether one
number of the pooled vector rises from one of PROBE's texts to the next (a SimHash whose planes are
the axes). Rounding flips a few bits, other weights flip half of them (docs/multimodal.md).
"""

from __future__ import annotations

import json
import logging
import re
from functools import cached_property
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor

from ..storage.files import sha256_of, storable
from ..storage.tensor_file import TensorFile
from .encoder import MAX_CHARACTERS, Part
from .prompt_weights import weighted_spans

logger = logging.getLogger(__name__)

NEEDS_TRANSFORMERS = "a CLIP text encoder needs transformers: pip install 'imagen-gan[clip]'"
WEIGHTS = "model.safetensors"
PROBE = (
    "a red apple",
    "two blue cars at night",
    "portrait of an old woman",
    "a forest under snow",
    "the number seven",
)
AXES = 128  # numbers of each pooled vector that a signature uses
MAX_DISTANCE = 0.08  # share of bits that may differ between signatures of one encoder
_PREFIX = "clip"


class ClipCore(Protocol):
    """A CLIP text model and its tokenizer."""

    max_pieces: int  # of a text, without start and end tokens

    def pieces(self, text: str) -> list:
        """All word pieces of a text, without start and end tokens."""

    def states(self, rows: list[list]) -> Tensor:
        """Rows of at most max_pieces pieces -> [N, T, D] fp32 on the CPU: the last states of start
        token, pieces, end token and padding."""


class ClipEncoder:
    """The frozen encoder. Up to rounding, rows don't depend on the rest of the batch."""

    def __init__(self, core: ClipCore) -> None:
        self.core = core

    @cached_property
    def identity(self) -> str:
        """clip-WIDTH-SIGNATURE, its name in checkpoints. ValueError if the outputs are NaN."""
        pooled = self.encode(list(PROBE))[2]  # [K, D]
        if not pooled.isfinite().all():
            raise ValueError("the CLIP text encoder answers with NaN; load it in another precision")
        rises = (pooled.diff(dim=0) > 0)[:, :: max(1, pooled.shape[1] // AXES)][:, :AXES]
        bits = "".join(str(int(bit)) for bit in rises.flatten().tolist())
        return f"{_PREFIX}-{pooled.shape[1]}-{int(bits, 2):0{-(-len(bits) // 4)}x}"

    @property
    def width(self) -> int:
        return width_of(self.identity)

    @torch.no_grad()
    def encode(self, texts: list[str]) -> tuple[Tensor, Tensor, Tensor]:
        """texts -> tokens [N, T, D], mask [N, T], pooled [N, D] of unit length, on the CPU.

        An empty text gives a null row. A text over the encoder's length is cut there, with one
        warning.
        """
        rows = [self.core.pieces(storable(text[:MAX_CHARACTERS])) for text in texts]
        tokens, mask, pooled = self._encoded(self._cut(rows))
        has_text = torch.tensor([bool(text.strip()) for text in texts])[:, None]
        return tokens * has_text[:, :, None], mask & has_text, pooled * has_text

    @torch.no_grad()
    def weighted(self, parts: list[Part]) -> tuple[Tensor, Tensor, Tensor]:
        """One prompt's tokens [1, T, D], mask [1, T] and pooled vector [1, D] of unit length.

        As minilm.encode_weighted, but the span is left out instead of hidden: earlier tokens don't
        depend on it, and later ones move to the left.
        """
        pieces, weights, characters = [], [], 0
        for text, weight in parts:
            new = self.core.pieces(storable(text[: max(0, MAX_CHARACTERS - characters)]))
            characters += len(text)
            pieces += new
            weights += [weight] * len(new)
        (pieces,) = self._cut([pieces])
        spans = weighted_spans(weights[: len(pieces)])
        shorter = [pieces[:begin] + pieces[end:] for begin, end, _ in spans]
        states, mask, _ = self._encoded([pieces, *shorter])
        whole, *others = (row[keep] for row, keep in zip(states, mask, strict=True))  # [T, D] each
        tokens = whole
        for other, (begin, end, weight) in zip(others, spans, strict=True):
            mean = other.mean(dim=0).expand(end - begin, -1)
            without = torch.cat([other[:begin], mean, other[begin:]])
            tokens = tokens + (weight - 1) * (whole - without)
        return tokens[None], mask[:1, : len(tokens)], F.normalize(tokens[-1], dim=0)[None]

    def _cut(self, rows: list[list]) -> list[list]:
        most = self.core.max_pieces
        if any(len(row) > most for row in rows):
            logger.warning("a prompt is over %d word pieces; the rest is ignored", most)
        return [row[:most] for row in rows]

    def _encoded(self, rows: list[list]) -> tuple[Tensor, Tensor, Tensor]:
        count = torch.tensor([len(row) + 1 for row in rows])  # with the end token
        longest = int(count.max())
        states = self.core.states(rows)[:, 1 : 1 + longest]
        mask = torch.arange(longest) < count[:, None]
        pooled = F.normalize(states[torch.arange(len(rows)), count - 1], dim=1)
        return states * mask[:, :, None], mask, pooled


def is_clip(text_encoder: str) -> bool:
    """Whether a checkpoint's name of its text encoder is that of a CLIP."""
    return bool(re.fullmatch(rf"{_PREFIX}-\d+-[0-9a-f]+", text_encoder))


def width_of(identity: str) -> int:
    """The number of values a token."""
    return int(identity.split("-")[1])


def refuse_another(encoder: ClipEncoder, trained_on: str, model: str) -> None:
    """ValueError unless `model` was trained on `encoder`: `trained_on` is the identity it names."""
    ours, theirs = encoder.width, width_of(trained_on)
    if ours != theirs:
        raise ValueError(
            f"{model} was trained on another CLIP text encoder (of width {theirs}; this is {ours})"
        )
    distance = signature_distance(encoder.identity, trained_on)
    if distance > MAX_DISTANCE:
        raise ValueError(
            f"{model} was trained on another CLIP text encoder, or another layer of it "
            f"({distance:.0%} of their signatures differ; expected {MAX_DISTANCE:.0%} at most)"
        )


def signature_distance(a: str, b: str) -> float:
    """The share of bits in which two identities of the same width differ, 0 to 1."""
    ours, theirs = (identity.split("-")[2] for identity in (a, b))
    return (int(ours, 16) ^ int(theirs, 16)).bit_count() / (4 * len(theirs))


def clip_card(folder: Path) -> dict[str, str]:
    """The checkpoint card's entry about the folder that the model was trained on."""
    return {"name": folder.resolve().name, "sha256": sha256_of(folder / WEIGHTS)}


class ClipFolder:
    """A CLIP text model in transformers' format, on `device` in fp32, read offline.

    The folder has config.json, model.safetensors and the tokenizer's files (or a folder `tokenizer`
    beside it has those); a whole CLIP works too. ValueError with one line for anything else.
    """

    def __init__(self, folder: Path, device: torch.device | str = "cpu") -> None:
        try:
            from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
        except ImportError:
            raise ValueError(NEEDS_TRANSFORMERS) from None
        self.folder = Path(folder)
        config = self._config()
        weights = self.folder / WEIGHTS
        if not weights.is_file():
            raise ValueError(f"{folder} has no model.safetensors (pickled weights are not read)")
        # Initial weights, which are overwritten at once, must not use the global generator.
        with torch.random.fork_rng(devices=[]), torch.inference_mode(False):
            self.network = CLIPTextModel(CLIPTextConfig.from_dict(config))
            self._load(weights)
            self.network = self.network.float().eval().requires_grad_(False).to(device)
        self.tokenizer = CLIPTokenizer.from_pretrained(self._tokenizer(), local_files_only=True)
        ends = self.tokenizer("")["input_ids"]
        if len(ends) != 2:
            raise ValueError(f"{folder} has a tokenizer that is not CLIP's")
        self.start, self.end = ends
        self.max_pieces = self.network.config.max_position_embeddings - 2

    def pieces(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

    @torch.no_grad()
    def states(self, rows: list[list[int]]) -> Tensor:
        longest = max(map(len, rows))
        ids = [[self.start, *row, *[self.end] * (1 + longest - len(row))] for row in rows]
        # attention is causal: padding at the end affects nothing before it
        inputs = torch.tensor(ids, device=self.network.device)
        return self.network(input_ids=inputs).last_hidden_state.cpu()

    def _config(self) -> dict:
        try:
            config = json.loads((self.folder / "config.json").read_text(encoding="utf-8"))
            kind = config["model_type"]
            config = config["text_config"] if kind == "clip" else config
        except (OSError, ValueError, KeyError, TypeError):
            raise ValueError(
                f"{self.folder} is not the folder of a CLIP text encoder (no readable config.json)"
            ) from None
        if kind not in ("clip", "clip_text_model"):
            raise ValueError(f"{self.folder} holds a {kind}; expected a CLIP text encoder")
        return config

    def _load(self, weights: Path) -> None:
        """Load weights whose names may lack a prefix, depending on the version of transformers."""
        prefix = "text_model."
        try:
            with TensorFile(weights) as file:
                kept = file.tensors(lambda name: not name.startswith("vision_model."))
            stored = {name.removeprefix(prefix): tensor for name, tensor in kept.items()}
            names = self.network.state_dict()
            self.network.load_state_dict(
                {name: stored[name.removeprefix(prefix)] for name in names}
            )
        except (SafetensorError, RuntimeError, KeyError) as error:
            reason = str(error).split("\n")[-1].strip()
            raise ValueError(f"{weights} does not fit its config.json: {reason}") from None

    def _tokenizer(self) -> Path:
        for folder in (self.folder, self.folder.resolve().parent / "tokenizer"):
            names = {path.name for path in folder.glob("*") if path.is_file()}
            if "tokenizer.json" in names or names >= {"vocab.json", "merges.txt"}:
                return folder
        raise ValueError(f"{self.folder} has no tokenizer (vocab.json and merges.txt)")
