"""The link types of this pack, and what its links and ComfyUI's carry."""

from typing import Literal, TypedDict

from comfy_api.latest import io
from torch import Tensor

CATEGORY = "Imagen GAN"

ImagenModel = io.Custom("IMAGEN_MODEL")  # host.HostedModel
ImagenCondition = io.Custom("IMAGEN_CONDITION")  # imagen_model.Condition
ImagenLatent = io.Custom("IMAGEN_LATENT")  # LatentLink


class LatentLink(TypedDict):
    """imagen_model.Latent as a plain dictionary."""

    space: Literal["z", "w"]
    values: Tensor
    seeds: tuple[int, ...]


class Audio(TypedDict):
    """ComfyUI's AUDIO: waveform [B, C, T]."""

    waveform: Tensor
    sample_rate: int
