"""What else than words says what is to be drawn: another picture, or a recording.

The frozen encoders read them once, before training (conditioning/image.py and audio.py): a
reference picture gives eight tokens and a pooled vector, a recording the words that are heard in
it. A file that is missing or can't be read is told, and its item keeps what else it has.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import safe_open
from torch import Tensor

from ..progress import OnProgress
from ..storage.files import save_tensors, write_atomically
from .image_reader import read_all, warn_of_skipped
from .item import File, Item
from .sound import NEEDS_SOUNDFILE, read_sound

if TYPE_CHECKING:
    from ..conditioning.encoder import Encoder

ENCODED = "references.safetensors"
BATCH = 32


@dataclass
class References:
    """Each file once: what reference pictures show and what is heard in recordings."""

    tokens: Tensor  # fp16 [R, K, D] of the pictures that could be read
    pooled: Tensor  # fp32 [R, D]
    image: Tensor  # [N] row of each item's reference picture, -1 where there is none
    heard: list[str]  # of each item; "" where there is nothing
    skipped: list[str]  # "file: why"
    key: str = ""  # names files and encoders

    def report(self) -> dict[str, str]:
        """What people want to know before training; nothing where there are no such files."""
        counts = {"image_ref": int((self.image >= 0).sum()), "audio": sum(map(bool, self.heard))}
        if not any(counts.values()) and not self.skipped:
            return {}
        line = f"{counts['image_ref']} with pictures, {counts['audio']} with recordings"
        if self.skipped:
            line += f"; {len(self.skipped)} unreadable, the first: {self.skipped[0]}"
        return {"references": line}

    def card(self) -> dict[str, dict]:
        """How many items have which, and the encoders that read them."""
        from ..conditioning.audio import speech_recognizer_hash
        from ..conditioning.image import image_encoder_hash

        pictures, recordings = int((self.image >= 0).sum()), sum(map(bool, self.heard))
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
        facts = {"heard": self.heard, "skipped": self.skipped}
        metadata = {"key": self.key, "facts": json.dumps(facts, ensure_ascii=False)}
        write_atomically(folder / ENCODED, lambda new: save_tensors(state, new, metadata))


def read_references(
    items: Sequence[Item],
    encoder: Encoder,
    *,
    cache: Path | None = None,
    progress: OnProgress | None = None,
) -> References:
    """Encode the reference pictures and recordings of `items`, or take what `cache` has of them.

    Unreadable ones are skipped, with a warning and in `skipped`.
    """
    pictures = list(dict.fromkeys(s.image_ref for s in items if s.image_ref))
    recordings = list(dict.fromkeys(s.audio for s in items if s.audio))
    if not pictures and not recordings:
        none = torch.full((len(items),), -1)
        tokens, pooled = torch.zeros(0, 1, encoder.width).half(), torch.zeros(0, encoder.width)
        return References(tokens, pooled, none, [""] * len(none), [])
    key = _key_of(items, encoder)
    kept = _kept(cache / ENCODED, key) if cache else None
    if kept is not None:
        return kept
    skipped: list[str] = []
    total = len(pictures) + len(recordings)

    def on_progress(done: int) -> None:
        if progress is not None:
            progress(done, total)

    tokens, pooled, rows = _encoded(pictures, skipped, on_progress, encoder)
    heard: dict[File, str] = {}
    if recordings and find_spec("soundfile") is None:
        skipped.append(f"all {len(recordings)} recordings: {NEEDS_SOUNDFILE}")
        recordings = []
    for i, file in enumerate(recordings):
        heard[file] = _heard(file, skipped)
        on_progress(len(pictures) + i + 1)
    warn_of_skipped(skipped)
    return References(
        tokens,
        pooled,
        torch.tensor([rows.get(s.image_ref, -1) if s.image_ref else -1 for s in items]),
        [heard.get(s.audio, "") if s.audio else "" for s in items],
        skipped,
        key,
    )


def _encoded(
    pictures: list[File], skipped: list[str], on_progress, encoder: Encoder
) -> tuple[Tensor, Tensor, dict]:
    """Tokens and pooled vectors of the readable pictures, and which row is whose."""
    from ..conditioning.image import INPUT_PX, image_encoder
    from ..conditioning.resampler import NUM_TOKENS

    tokens = [torch.zeros(0, NUM_TOKENS, encoder.width).half()]
    pooled = [torch.zeros(0, encoder.width)]
    rows: dict[File, int] = {}
    waiting: list[Tensor] = []

    def encode() -> None:
        batch = torch.stack(waiting).float() / 127.5 - 1
        waiting.clear()
        new_tokens, new_pooled = image_encoder().encode(batch, encoder=encoder)
        tokens.append(new_tokens.half())
        pooled.append(new_pooled)

    results = read_all(
        [Item(file.path, span=file.span) for file in pictures], resolution=INPUT_PX, channels=4
    )
    for i, (file, result) in enumerate(zip(pictures, results, strict=True)):
        if isinstance(result, str):
            skipped.append(result)
        else:
            rows[file] = len(rows)
            waiting.append(torch.from_numpy(result[0]))
            if len(waiting) == BATCH:
                encode()
        on_progress(i + 1)
    if waiting:
        encode()
    return torch.cat(tokens), torch.cat(pooled), rows


def _heard(file: File, skipped: list[str]) -> str:
    """The words in a recording; "" where there are none, which `skipped` then says."""
    from ..conditioning.audio import transcribe

    try:
        clip = read_sound(file.path, content=io.BytesIO(file.content()) if file.span else None)
    except (ValueError, OSError) as error:  # which name the file
        skipped.append(str(error))
        return ""
    try:
        return transcribe([clip])[0]
    except ValueError as error:
        skipped.append(f"{file.path}: {error}")
        return ""


def _key_of(items: Sequence[Item], encoder: Encoder) -> str:
    from ..conditioning.audio import speech_recognizer_hash
    from ..conditioning.image import image_encoder_hash

    readers = [image_encoder_hash(), speech_recognizer_hash(), encoder.identity]
    digest = hashlib.sha256(" ".join(readers).encode())
    stamps: dict[Path, str] = {}
    for item in items:
        for source in (item.image_ref, item.audio):
            if source is None:
                digest.update(b"\n")
                continue
            file = source.span.shard if source.span else source.path
            if file not in stamps:
                exists = file.is_file()
                stamps[file] = f"{file.stat().st_size} {file.stat().st_mtime_ns}" if exists else ""
            digest.update(f"{source} {stamps[file]}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _kept(path: Path, key: str) -> References | None:
    """What `path` holds of these very files by these very encoders, or None."""
    if not path.is_file():
        return None
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
        if metadata["key"] != key:
            return None
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return References(**state, **json.loads(metadata["facts"]), key=key)
