"""Which words go with a picture this time: its caption, one keyword, or nothing; or, where the
item has them, what a reference picture shows or what is heard in a recording (references.py).

A keyword that many pictures share, or no text at all, leaves the picture *open*: the seed has to
choose. That is what makes seeds matter (see training/codes.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor

from ..condition import Condition, style_weights
from ..storage.files import save_tensors, write_atomically
from .item import Item
from .references import read_references

if TYPE_CHECKING:
    from ..conditioning.encoder import Encoder

P_NULL = 0.05
P_KEYWORD = 0.25
P_ARTICLE = 0.3  # "red apple" and "a red apple" are the same wish
TEXT_SHARE = 2  # of an item's draws, where a reference picture and a recording have 1 each
OPEN_FROM = 16  # pictures that share a keyword, for it to be open
CHUNK = 256
ENCODED = "captions.safetensors"


@dataclass
class EncodedTexts:
    """Token embeddings of many texts, end to end: row i is flat[start[i] :][: length[i]]."""

    flat: Tensor  # fp16 [sum of lengths, D]
    start: Tensor  # [U]
    length: Tensor  # [U]
    pooled: Tensor  # fp32 [U, D]

    @classmethod
    def none(cls, width: int) -> EncodedTexts:
        whole = torch.zeros(0, dtype=torch.long)
        return cls(torch.zeros(0, width).half(), whole, whole, torch.zeros(0, width))

    def rows(self, index: Tensor, style: Tensor) -> Condition:
        """The conditions of texts `index` [n]; index -1 is the null condition."""
        null = index < 0
        index = index.clamp(min=0)
        length = self.length[index].masked_fill(null, 0)
        steps = torch.arange(max(1, int(length.max())), device=index.device)
        mask = steps < length[:, None]
        where = (self.start[index][:, None] + steps).clamp(max=len(self.flat) - 1)
        tokens = self.flat[where].float() * mask[:, :, None]
        return Condition(tokens, mask, self.pooled[index] * ~null[:, None], style)

    def to(self, device: torch.device) -> EncodedTexts:
        return EncodedTexts(
            *(t.to(device) for t in (self.flat, self.start, self.length, self.pooled))
        )

    def with_pictures(self, tokens: Tensor, pooled: Tensor) -> EncodedTexts:
        """Further rows, tokens [R, K, D] and pooled [R, D]."""
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
        """Under the identity of the encoder."""
        state = {name: t.cpu().contiguous() for name, t in vars(self).items()}
        key = {"texts": _key_of(texts, identity)}
        write_atomically(path, lambda new: save_tensors(state, new, key))

    @classmethod
    def kept(cls, path: Path, texts: list[str], identity: str) -> EncodedTexts | None:
        """What `path` holds of these very texts by the encoder that is called so, or None."""
        if not path.is_file():
            return None
        with safe_open(path, "pt") as file:
            if file.metadata()["texts"] != _key_of(texts, identity):
                return None
            return cls(**{name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118


def _key_of(texts: list[str], identity: str) -> str:
    return hashlib.sha256("\0".join([identity, *texts]).encode()).hexdigest()


def encode_all(
    texts: list[str],
    encoder: Encoder,
    progress: Callable[[int, int], object] | None = None,
) -> EncodedTexts:
    """Encode distinct texts once, short ones together."""
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    rows: list[Tensor] = [torch.empty(0)] * len(texts)
    pooled = torch.zeros(len(texts), encoder.width)
    for begin in range(0, len(order), CHUNK):
        chunk = order[begin : begin + CHUNK]
        tokens, mask, mean = encoder.encode([texts[i] for i in chunk])
        pooled[chunk] = mean
        for i, row, keep in zip(chunk, tokens, mask, strict=True):
            rows[i] = row[keep].half()
        if progress is not None:
            progress(begin + len(chunk), len(order))
    length = torch.tensor([len(row) for row in rows])
    return EncodedTexts(torch.cat(rows), length.cumsum(0) - length, length, pooled)


def _pairs(texts: Tensor, num_items: int) -> Tensor:
    """[2, P] (sample, text), each once, from texts [K * num_items], -1 where there is none."""
    items = torch.arange(len(texts)) % num_items
    return torch.stack([items, texts])[:, texts >= 0].unique(dim=1)


class Draw(NamedTuple):
    """The words of a batch: conditions, the texts behind them (-1: null), and which are open."""

    condition: Condition
    text: Tensor  # [n]
    is_open: Tensor  # [n] bool


class CaptionSampler:
    """Draws the condition of a batch of items."""

    def __init__(
        self,
        items: list[Item],
        styles: tuple[str, ...],
        progress: Callable[[int, int], object] | None = None,
        *,
        cache: Path | None = None,
        encoder: Encoder | None = None,
    ) -> None:
        """`cache` is a folder in which an earlier run may have kept what it had encoded; `encoder`
        None is the bundled one."""
        from ..conditioning.minilm import text_encoder

        self.encoder = encoder = encoder or text_encoder()
        number: dict[str, int] = {}

        def known(text: str) -> int:
            return number.setdefault(text, len(number)) if text else -1

        self.text = torch.tensor([known(s.text) for s in items])
        self.article = torch.tensor([known(s.text and f"a {s.text}") for s in items])
        width = max([1, *(len(s.keywords) for s in items)])
        self.keywords = torch.full((len(items), width), -1)
        for row, item in zip(self.keywords, items, strict=True):
            ids = [known(word) for word in item.keywords]
            row[: len(ids)] = torch.tensor(ids, dtype=torch.long)
        self.num_keywords = torch.tensor([len(s.keywords) for s in items])
        self.references = read_references(items, encoder, cache=cache, progress=progress)
        heard = torch.tensor([known(words) for words in self.references.heard])
        self.style = torch.cat([style_weights(styles, s.style, 1) for s in items])
        self.texts = list(number)
        shown = self.references.image  # rows after those of the texts
        shown = torch.where(shown < 0, shown, shown + len(number))
        self.others = torch.stack([shown, heard])  # [2, N]
        self.plain = torch.where(self.text >= 0, self.text, torch.where(heard >= 0, heard, shown))
        # by text, and last, where index -1 finds it, the null condition that all pictures share
        words = torch.cat([self.text, self.article, *self.keywords.t(), *self.others])
        self.words = _pairs(words, len(items))
        rows = len(number) + len(self.references.tokens)
        self.num_sharing = self.words[1].bincount(minlength=rows + 1)
        self.num_sharing[-1] = max(len(items), OPEN_FROM)
        self.encoded = None
        if number:
            file = cache and cache / ENCODED
            kept = EncodedTexts.kept(file, self.texts, encoder.identity) if file else None
            self.encoded = kept or encode_all(self.texts, encoder, progress)
        if len(self.references.tokens):
            tokens, pooled = self.references.tokens, self.references.pooled
            encoded = self.encoded or EncodedTexts.none(encoder.width)
            self.encoded = encoded.with_pictures(tokens, pooled)

    def save(self, folder: Path) -> None:
        """Keep what has been encoded, for `cache`."""
        if self.encoded is not None and self.texts:
            texts = self.encoded.first(len(self.texts))
            texts.save(folder / ENCODED, self.texts, self.encoder.identity)
        self.references.save(folder)

    def to(self, device: torch.device) -> CaptionSampler:
        """The tensors that batches are gathered from go to `device`."""
        self.encoded = self.encoded and self.encoded.to(device)
        self.style = self.style.to(device)
        return self

    def draw(self, index: Tensor, generator: torch.Generator) -> Draw:
        """The words of items `index` [n] (on the CPU) this time."""
        u = torch.rand(3, len(index), generator=generator)
        text = torch.where(u[1] < P_ARTICLE, self.article[index], self.text[index])
        count = self.num_keywords[index]
        pick = (u[1] * count).long().clamp(max=self.keywords.shape[1] - 1)
        keyword = self.keywords[index].gather(1, pick[:, None]).squeeze(1)
        use_keyword = (u[0] < P_KEYWORD + P_NULL) & (count > 0)
        text = torch.where(use_keyword, keyword, text)
        if bool((self.others >= 0).any()):
            text = self._one_of(text, index, generator)
        text = text.masked_fill(u[0] < P_NULL, -1)
        return Draw(self._rows(text, index), text, self.num_sharing[text] >= OPEN_FROM)

    def _one_of(self, text: Tensor, index: Tensor, generator: torch.Generator) -> Tensor:
        """`text` [n] of items `index`, or another that they have, each in its share."""
        worded = (self.text[index] >= 0) | (self.num_keywords[index] > 0)
        choices = torch.stack([text, *self.others[:, index]])  # [3, n]
        shares = (choices >= 0).long()
        shares[0] = TEXT_SHARE * worded
        until = shares.cumsum(dim=0)
        u = torch.rand(len(index), generator=generator) * until[-1]
        choice = (u >= until).sum(dim=0).clamp(max=len(choices) - 1)
        return choices.gather(0, choice[None]).squeeze(0)

    def captions(self, index: Tensor) -> Condition:
        """The plain captions of items `index`, or what stands in for one."""
        return self._rows(self.plain[index], index)

    def _rows(self, text: Tensor, index: Tensor) -> Condition:
        """Conditions of texts `text` [n] in the styles of items `index` [n]."""
        style = self.style[index.to(self.style.device)]
        if self.encoded is not None:
            return self.encoded.rows(text.to(style.device), style)
        return Condition(
            style.new_zeros(len(index), 1, self.encoder.width),
            torch.zeros(len(index), 1, dtype=torch.bool, device=style.device),
            style.new_zeros(len(index), self.encoder.width),
            style,
        )
