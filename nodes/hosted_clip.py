"""ComfyUI's CLIP as a text encoder for the library."""

from weakref import WeakKeyDictionary

import comfy.model_management as management
import torch
from comfy.sd import CLIP
from einops import rearrange

from ..imagen_model.conditioning.clip import ClipEncoder

BATCH = 16  # texts encoded at a time
ONE_MODEL = ("l", "h", "g")  # as ComfyUI calls the CLIP text models

_identities: WeakKeyDictionary[CLIP, str] = WeakKeyDictionary()  # each costs five texts


class HostedClip:
    """The tokenizer and the text model behind an input of type CLIP, as a ClipCore."""

    def __init__(self, clip: CLIP) -> None:
        self.clip = clip
        chunks = clip.tokenize("")
        self.name, *others = chunks
        if others or self.name not in ONE_MODEL:
            raise ValueError(
                f"clip holds {' and '.join(chunks)}; expected one CLIP text model, such as Load "
                "CLIP makes of a single file"
            )
        self.empty = [token for token, _ in chunks[self.name][0]]  # start, end, padding
        self.max_pieces = len(self.empty) - 2

    def pieces(self, text: str) -> list:
        pieces = []
        for chunk in self.clip.tokenize(text, disable_weights=True)[self.name]:
            for token, _ in chunk[1:]:
                if isinstance(token, int) and token == self.empty[1]:
                    break
                pieces.append(token)
        return pieces

    def states(self, rows: list[list]) -> torch.Tensor:
        parts = []
        for begin in range(0, len(rows), BATCH):
            management.throw_exception_if_processing_interrupted()
            tokens = [
                [
                    (token, 1.0)
                    for token in (self.empty[0], *row, *self.empty[1 : -len(row) or None])
                ]
                for row in rows[begin : begin + BATCH]
            ]
            states = self.clip.encode_from_tokens({self.name: tokens})
            parts.append(rearrange(states, "1 (n t) d -> n t d", n=len(tokens)).float().cpu())
        return torch.cat(parts)


def hosted_clip(clip: CLIP) -> ClipEncoder:
    """The encoder. ValueError where `clip` is not exactly one CLIP text model."""
    encoder = ClipEncoder(HostedClip(clip))
    if clip in _identities:
        encoder.identity = _identities[clip]
    else:
        _identities[clip] = encoder.identity
    return encoder
