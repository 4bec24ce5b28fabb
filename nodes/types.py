"""The link types of this pack, and what its links and ComfyUI's carry."""

from __future__ import annotations

from inspect import signature
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from comfy_api.latest import io
from torch import Tensor

if TYPE_CHECKING:
    from ..imagen_model import Condition
    from .host import HostedModel

# categories, by task
GENERATE = "Imagen GAN/Generate"
PROMPT = "Imagen GAN/Prompt"
EXPLORE = "Imagen GAN/Explore"
SELECT = "Imagen GAN/Select"
RATE = "Imagen GAN/Rate"
TRAIN = "Imagen GAN/Train"

ImagenModel = io.Custom("IMAGEN_MODEL")  # host.HostedModel
ImagenCondition = io.Custom("IMAGEN_CONDITION")  # imagen_model.Condition
ImagenLatent = io.Custom("IMAGEN_LATENT")  # LatentLink


class LatentValues(TypedDict):
    """imagen_model.Latent as a plain dictionary."""

    space: Literal["z", "w"]
    values: Tensor
    seeds: tuple[int, ...]


class LatentLink(LatentValues, total=False):
    """Latents, with what they were made for as far as it is known."""

    model: HostedModel
    condition: Condition


class Audio(TypedDict):
    """ComfyUI's AUDIO: waveform [B, C, T]."""

    waveform: Tensor
    sample_rate: int


def known(kind: type, **fields: Any) -> dict[str, Any]:
    """Those `fields` that this ComfyUI's `kind` takes: an older one fails on what is newer."""
    taken = signature(kind).parameters
    return {name: value for name, value in fields.items() if name in taken}


def found_by(*words: str) -> dict[str, Any]:
    """The words by which the search of a newer ComfyUI finds a node, for io.Schema."""
    return known(io.Schema, search_aliases=list(words))
