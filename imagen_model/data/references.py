"""Conditions from reference pictures and recordings.

Frozen encoders read them once, before training (conditioning/image.py and audio.py): a reference
picture gives eight tokens and a pooled vector, a recording its transcript. A missing or unreadable
file is reported, and its item keeps its other conditions.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache as memoized
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from ..conditioning.audio import speech_recognizer_hash, transcribe
from ..conditioning.encoder import Encoder
from ..conditioning.image import INPUT_PX, image_encoder, image_encoder_hash
from ..conditioning.resampler import NUM_TOKENS
from ..progress import OnProgress, reported
from ..storage.files import write_atomically
from ..storage.tensor_file import read_cache, save_tensors
from .image_reader import read_all, warn_of_skipped
from .item import File, Item, stamp_of
from .sound import NEEDS_SOUNDFILE, read_sound

ENCODED = "references.safetensors"
BATCH = 32


@dataclass
class References:
    """The encoded reference pictures, each once, and the transcripts of recordings."""

    tokens: Tensor  # fp16 [R, K, D] of the readable pictures
    pooled: Tensor  # fp32 [R, D]
    image: Tensor  # [N] row of each item's reference picture, or -1
    transcripts: list[str]  # of each item, or ""
    skipped: list[str]  # "file: why"
    key: str = ""  # hash of files and encoders

    def _counts(self) -> tuple[int, int]:
        """How many items have a readable reference picture, and how many a transcript."""
        return int((self.image >= 0).sum()), sum(map(bool, self.transcripts))

    def report(self) -> dict[str, str]:
        """The line shown before training; empty if there are no such files."""
        pictures, recordings = self._counts()
        if not pictures and not recordings and not self.skipped:
            return {}
        line = f"{pictures} with pictures, {recordings} with recordings"
        if self.skipped:
            line += f"; {len(self.skipped)} unreadable, the first: {self.skipped[0]}"
        return {"references": line}

    def card(self) -> dict[str, dict]:
        """The number of items with each kind of reference, and the encoder that read them."""
        pictures, recordings = self._counts()
        card = {}
        if pictures:
            card["image_ref"] = {"samples": pictures, "encoder": image_encoder_hash()}
        if recordings:
            card["audio"] = {"samples": recordings, "encoder": speech_recognizer_hash()}
        return card

    def save(self, folder: Path) -> None:
        if not self.key:
            return
        state = {"tokens": self.tokens, "pooled": self.pooled, "image": self.image}
        facts = {"heard": self.transcripts, "skipped": self.skipped}
        metadata = {"key": self.key, "facts": json.dumps(facts, ensure_ascii=False)}
        write_atomically(folder / ENCODED, lambda new: save_tensors(state, new, metadata))


def read_references(
    items: Sequence[Item],
    encoder: Encoder,
    *,
    cache: Path | None = None,
    progress: OnProgress | None = None,
) -> References:
    """Encode the reference pictures and recordings of `items`, or read them from `cache`.

    Unreadable ones are skipped, with a warning and in `skipped`.
    """
    pictures = list(dict.fromkeys(item.image_ref for item in items if item.image_ref))
    recordings = list(dict.fromkeys(item.audio for item in items if item.audio))
    if not pictures and not recordings:
        none = torch.full((len(items),), -1)
        tokens, pooled = torch.zeros(0, 1, encoder.width).half(), torch.zeros(0, encoder.width)
        return References(tokens, pooled, none, [""] * len(none), [])
    key = _key_of(items, encoder)
    found = read_cache(cache / ENCODED, key) if cache else None
    if found is not None:
        facts = json.loads(found[1]["facts"])
        return References(**found[0], transcripts=facts["heard"], skipped=facts["skipped"], key=key)
    skipped: list[str] = []
    total = len(pictures) + len(recordings)

    def on_picture(done: int, _: int) -> None:
        if progress is not None:
            progress(done, total)

    tokens, pooled, rows = _encode_pictures(pictures, skipped, on_picture, encoder)
    transcripts: dict[File | None, str] = {}
    if recordings and find_spec("soundfile") is None:
        skipped.append(f"all {len(recordings)} recordings: {NEEDS_SOUNDFILE}")
        recordings = []
    for file in reported(recordings, total, progress, done=len(pictures)):
        transcripts[file] = _transcript(file, skipped)
    warn_of_skipped(skipped)
    return References(
        tokens,
        pooled,
        torch.tensor([rows.get(item.image_ref, -1) for item in items]),
        [transcripts.get(item.audio, "") for item in items],
        skipped,
        key,
    )


def _encode_pictures(
    pictures: list[File], skipped: list[str], progress: OnProgress, encoder: Encoder
) -> tuple[Tensor, Tensor, dict[File | None, int]]:
    """Tokens and pooled vectors of the readable pictures, and the row of each file."""
    tokens = [torch.zeros(0, NUM_TOKENS, encoder.width).half()]
    pooled = [torch.zeros(0, encoder.width)]
    rows: dict[File | None, int] = {}
    waiting: list[Tensor] = []

    def encode() -> None:
        batch = torch.stack(waiting).float() / 127.5 - 1
        waiting.clear()
        new_tokens, new_pooled = image_encoder().encode(batch, encoder=encoder)
        tokens.append(new_tokens.half())
        pooled.append(new_pooled)

    items = [Item(file.path, span=file.span) for file in pictures]
    results = read_all(items, resolution=INPUT_PX, channels=4, progress=progress)
    for file, result in zip(pictures, results, strict=True):
        if isinstance(result, str):
            skipped.append(result)
        else:
            rows[file] = len(rows)
            waiting.append(torch.from_numpy(result[0]))
            if len(waiting) == BATCH:
                encode()
    if waiting:
        encode()
    return torch.cat(tokens), torch.cat(pooled), rows


def _transcript(file: File, skipped: list[str]) -> str:
    """The words in a recording; "" if there are none, with the reason in `skipped`."""
    try:
        clip = read_sound(file.path, content=io.BytesIO(file.content()) if file.span else None)
    except (ValueError, OSError) as error:  # its message names the file
        skipped.append(str(error))
        return ""
    try:
        return transcribe([clip])[0]
    except ValueError as error:
        skipped.append(f"{file.path}: {error}")
        return ""


def _key_of(items: Sequence[Item], encoder: Encoder) -> str:
    encoders = [image_encoder_hash(), speech_recognizer_hash(), encoder.identity]
    digest, stamp = hashlib.sha256(" ".join(encoders).encode()), memoized(stamp_of)
    for item in items:
        for file in (item.image_ref, item.audio):
            line = f"{file} {stamp(file.on_disk())}\n" if file else "\n"
            digest.update(line.encode(errors="surrogateescape"))
    return digest.hexdigest()
