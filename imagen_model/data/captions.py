"""Sample the condition of a picture: its caption, one keyword, or nothing; or the item's reference
picture or the transcript of its recording (references.py).

A condition is *open* if it leaves the choice to the seed: a keyword that many pictures share, or no
text at all. Open conditions make seeds matter (see training/latent_codes.py).
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..condition import Condition, style_weights
from ..conditioning.encoder import Encoder
from ..conditioning.minilm import text_encoder
from ..device import sent
from ..progress import OnProgress, batches
from ..storage.files import write_atomically
from ..storage.tensor_file import read_cache, save_tensors
from .item import Item
from .references import read_references

P_NULL = 0.05
P_KEYWORD = 0.25
P_ARTICLE = 0.3  # "a red apple" for "red apple"
TEXT_SHARE = 2  # weight of an item's text; its reference picture and its recording weigh 1 each
OPEN_FROM = 16  # a keyword is open if at least so many pictures share it
CHUNK = 256  # texts encoded at a time
GPU_LENGTH = 16  # tokens
ENCODED = "captions.safetensors"
MAX_ENCODED = 100_000  # texts encoded beforehand: minutes, and 0.5 GB; of more, when a batch asks


@dataclass
class EncodedTexts:
    """Concatenated token embeddings of U texts: text i is flat[start[i] :][: length[i]]."""

    flat: Tensor  # fp16 [sum of lengths, D]
    start: Tensor  # [U]
    length: Tensor  # [U]
    pooled: Tensor  # fp32 [U, D]

    @classmethod
    def none(cls, width: int) -> EncodedTexts:
        index = torch.zeros(0, dtype=torch.long)
        return cls(torch.zeros(0, width).half(), index, index, torch.zeros(0, width))

    def rows(self, index: Tensor, style: Tensor) -> Condition:
        """The conditions of texts `index` [n] (on the CPU); index -1 is the null condition.

        On a GPU the tokens are padded to a multiple of GPU_LENGTH, so that there are few shapes.
        """
        device = self.flat.device
        null = index < 0
        index = index.clamp(min=0)
        length = self.length[index].masked_fill(null, 0)
        longest = max(1, int(length.max()))
        if device.type != "cpu":
            longest = math.ceil(longest / GPU_LENGTH) * GPU_LENGTH
        steps = torch.arange(longest)
        where = (self.start[index][:, None] + steps).clamp(max=len(self.flat) - 1)
        mask, where = sent(steps < length[:, None], device), sent(where, device)
        tokens = self.flat[where].float() * mask[:, :, None]
        pooled = self.pooled[sent(index, device)] * sent(~null[:, None], device)
        return Condition(tokens, mask, pooled, style)

    def to(self, device: torch.device) -> EncodedTexts:
        """Move the embeddings; where each text begins is looked up on the CPU."""
        return replace(self, flat=self.flat.to(device), pooled=self.pooled.to(device))

    def with_pictures(self, tokens: Tensor, pooled: Tensor) -> EncodedTexts:
        """Append rows with tokens [R, K, D] and pooled vectors [R, D]."""
        length = torch.full((len(tokens),), tokens.shape[1])
        return EncodedTexts(
            torch.cat([self.flat, tokens.flatten(0, 1)]),
            torch.cat([self.start, len(self.flat) + length.cumsum(0) - length]),
            torch.cat([self.length, length]),
            torch.cat([self.pooled, pooled]),
        )

    def first(self, count: int) -> EncodedTexts:
        length = self.length[:count]
        flat = self.flat[: int(length.sum())]
        return EncodedTexts(flat, self.start[:count], length, self.pooled[:count])

    def save(self, path: Path, texts: list[str], identity: str) -> None:
        """`identity` is the encoder's."""
        state = {name: t.cpu().contiguous() for name, t in vars(self).items()}
        key = {"texts": _key_of(texts, identity)}
        write_atomically(path, lambda new: save_tensors(state, new, key))

    @classmethod
    def cached(cls, path: Path, texts: list[str], identity: str) -> EncodedTexts | None:
        """The content of `path` if it is of these texts and this encoder, else None."""
        found = read_cache(path, _key_of(texts, identity), name="texts")
        return found and cls(**found[0])


class TextsOnDemand:
    """In place of EncodedTexts, for more texts than are worth encoding beforehand: those of a batch
    are encoded for it."""

    def __init__(self, texts: list[str], encoder: Encoder) -> None:
        self.texts, self.encoder = texts, encoder
        width = encoder.width  # of the reference pictures, after one row of nothing
        nothing = torch.zeros(1, dtype=torch.long)
        self.pictures = EncodedTexts(
            torch.zeros(1, width).half(), nothing, nothing, torch.zeros(1, width)
        )

    def rows(self, index: Tensor, style: Tensor) -> Condition:
        """As EncodedTexts.rows, on the device of `style`."""
        index, count = index.cpu(), len(self.texts)
        is_text = (index >= 0) & (index < count)
        shown = (index - count + 1)[~is_text].clamp(min=0)
        parts = []
        if len(shown):
            parts.append(self.pictures.rows(shown, torch.zeros(len(shown), 0)))
        if len(shown) < len(index):
            wanted, place = index[is_text].unique(return_inverse=True)
            encoded = encode_all([self.texts[i] for i in wanted.tolist()], self.encoder)
            parts.append(encoded.rows(place, torch.zeros(len(place), 0)))
        order = torch.cat([(~is_text).nonzero(), is_text.nonzero()]).squeeze(1).argsort()
        return Condition.cat(parts)[order].to(style.device).with_style(style)

    def to(self, device: torch.device) -> TextsOnDemand:
        """Texts are encoded on the CPU."""
        return self

    def with_pictures(self, tokens: Tensor, pooled: Tensor) -> TextsOnDemand:
        self.pictures = self.pictures.with_pictures(tokens, pooled)
        return self


def _key_of(texts: list[str], identity: str) -> str:
    return hashlib.sha256("\0".join([identity, *texts]).encode()).hexdigest()


def encode_all(
    texts: list[str], encoder: Encoder, progress: OnProgress | None = None
) -> EncodedTexts:
    """Encode distinct texts in chunks of similar length."""
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    rows: list[Tensor] = [torch.empty(0)] * len(texts)
    pooled = torch.zeros(len(texts), encoder.width)
    for part in batches(len(order), CHUNK, progress):
        chunk = order[part]
        tokens, mask, mean = encoder.encode([texts[i] for i in chunk])
        pooled[chunk] = mean
        for i, row, keep in zip(chunk, tokens, mask, strict=True):
            rows[i] = row[keep].half()
    length = torch.tensor([len(row) for row in rows])
    return EncodedTexts(torch.cat(rows), length.cumsum(0) - length, length, pooled)


def _pairs(texts: Tensor, num_items: int) -> Tensor:
    """[2, P] distinct pairs (item, text) from texts [K * num_items]; -1 is no text."""
    known = texts >= 0
    if not bool(known.any()):
        return torch.zeros(2, 0, dtype=torch.long)
    count = int(texts.max()) + 1
    items = torch.arange(len(texts)) % num_items
    pairs = (items * count + texts)[known].unique()  # in one number: a sort of numbers is fast
    return torch.stack([pairs // count, pairs % count])


class SampledCaptions(NamedTuple):
    """The conditions of a batch, their texts (-1: null), and which are open."""

    condition: Condition
    text: Tensor  # [n]
    is_open: Tensor  # [n] bool


class CaptionSampler:
    """Samples the conditions of a batch of items."""

    def __init__(
        self,
        items: list[Item],
        styles: tuple[str, ...],
        progress: OnProgress | None = None,
        *,
        cache: Path | None = None,
        encoder: Encoder | None = None,
    ) -> None:
        """`cache` is a folder that may hold the encoded texts and references of an earlier run;
        `encoder` None is the bundled one."""
        self.encoder = encoder = encoder or text_encoder()
        ids: dict[str, int] = {}

        def id_of(text: str) -> int:
            return ids.setdefault(text, len(ids)) if text else -1

        self.text = torch.tensor([id_of(item.text) for item in items])
        self.article = torch.tensor([id_of(item.text and f"a {item.text}") for item in items])
        self.num_keywords = torch.tensor([len(item.keywords) for item in items])
        self.keywords = torch.full((len(items), max(1, int(self.num_keywords.max()))), -1)
        for row, item in zip(self.keywords, items, strict=True):
            if item.keywords:
                row[: len(item.keywords)] = torch.tensor([id_of(word) for word in item.keywords])
        self.references = references = read_references(
            items, encoder, cache=cache, progress=progress
        )
        spoken = torch.tensor([id_of(text) for text in references.transcripts])
        names = list(dict.fromkeys(item.style for item in items))
        weights = torch.cat([style_weights(styles, name, 1) for name in names])
        row_of = {name: i for i, name in enumerate(names)}
        self.style = weights[torch.tensor([row_of[item.style] for item in items])]
        self.texts = list(ids)
        # rows of reference pictures follow those of texts
        shown = torch.where(references.image < 0, -1, references.image + len(ids))
        self.others = torch.stack([shown, spoken])  # [2, N]
        self.plain = torch.where(self.text >= 0, self.text, torch.where(spoken >= 0, spoken, shown))
        texts = torch.cat([self.text, self.article, *self.keywords.t(), *self.others])
        self.words = _pairs(texts, len(items))
        # by text; the last, for index -1, is the null condition that all pictures share
        self.num_sharing = self.words[1].bincount(minlength=len(ids) + len(references.tokens) + 1)
        self.num_sharing[-1] = max(len(items), OPEN_FROM)
        self.encoded: EncodedTexts | TextsOnDemand | None = None
        if len(ids) > MAX_ENCODED:
            self.encoded = TextsOnDemand(self.texts, encoder)
        elif ids:
            cached = cache and EncodedTexts.cached(cache / ENCODED, self.texts, encoder.identity)
            self.encoded = cached or encode_all(self.texts, encoder, progress)
        if len(references.tokens):
            encoded = self.encoded or EncodedTexts.none(encoder.width)
            self.encoded = encoded.with_pictures(references.tokens, references.pooled)

    def save(self, folder: Path) -> None:
        """Save encoded texts and references to the folder `cache` of a later run."""
        if isinstance(self.encoded, EncodedTexts) and self.texts:
            texts = self.encoded.first(len(self.texts))
            texts.save(folder / ENCODED, self.texts, self.encoder.identity)
        self.references.save(folder)

    def to(self, device: torch.device) -> CaptionSampler:
        """Move the tensors from which batches are gathered."""
        self.encoded = self.encoded and self.encoded.to(device)
        self.style = self.style.to(device)
        return self

    def sample(self, index: Tensor, generator: torch.Generator) -> SampledCaptions:
        """Sample the conditions of items `index` [n] (on the CPU)."""
        u = torch.rand(3, len(index), generator=generator)
        text = torch.where(u[1] < P_ARTICLE, self.article[index], self.text[index])
        count = self.num_keywords[index]
        pick = (u[1] * count).long().clamp(max=self.keywords.shape[1] - 1)
        keyword = self.keywords[index].gather(1, pick[:, None]).squeeze(1)
        use_keyword = (u[0] < P_KEYWORD + P_NULL) & (count > 0)
        text = torch.where(use_keyword, keyword, text)
        if bool((self.others >= 0).any()):
            text = self._text_or_other(text, index, generator)
        text = text.masked_fill(u[0] < P_NULL, -1)
        return SampledCaptions(self._rows(text, index), text, self.num_sharing[text] >= OPEN_FROM)

    def _text_or_other(self, text: Tensor, index: Tensor, generator: torch.Generator) -> Tensor:
        """`text` [n] of items `index`, their reference picture or transcript, by their shares."""
        has_text = (self.text[index] >= 0) | (self.num_keywords[index] > 0)
        choices = torch.stack([text, *self.others[:, index]])  # [3, n]
        shares = (choices >= 0).long()
        shares[0] = TEXT_SHARE * has_text
        upper = shares.cumsum(dim=0)
        u = torch.rand(len(index), generator=generator) * upper[-1]
        choice = (u >= upper).sum(dim=0).clamp(max=len(choices) - 1)
        return choices.gather(0, choice[None]).squeeze(0)

    def captions(self, index: Tensor) -> Condition:
        """The captions of items `index`, or else their transcripts or reference pictures."""
        return self._rows(self.plain[index], index)

    def _rows(self, text: Tensor, index: Tensor) -> Condition:
        """Conditions of texts `text` [n] in the styles of items `index` [n]."""
        style = self.style[sent(index, self.style.device)]
        if self.encoded is not None:
            return self.encoded.rows(text, style)
        return Condition(
            style.new_zeros(len(index), 1, self.encoder.width),
            torch.zeros(len(index), 1, dtype=torch.bool, device=style.device),
            style.new_zeros(len(index), self.encoder.width),
            style,
        )
