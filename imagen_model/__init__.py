"""Imagen GAN: a transformer generator trained against a CNN discriminator.

    import imagen_model as im
    model = im.load("emoji")
    pictures = model.sample(["a red apple"], seeds=[0, 1], style="fluent-3d")  # [2, 4, 128, 128]

Pictures are NCHW float in [-1, 1]; four channels are premultiplied RGBA. This package does not
depend on ComfyUI; the nodes are in another.
"""

from typing import Any

from .bundled import bundled_models
from .condition import Condition, combined
from .conditioning.audio import transcribe
from .inference.audio_reactive import Reactions
from .inference.editing import mixed, moved, moved_along, walk
from .inference.latent import Latent, random_latent
from .inference.scoring import Scores
from .inference.sound_analysis import Sound, analyze_audio
from .inference.upscaler import upscale
from .model import Model, load
from .storage.contact_sheet import contact_sheet, picture_grid
from .storage.images import straight, to_image
from .version import __version__

__all__ = [
    "Condition",
    "Latent",
    "Model",
    "Reactions",
    "Scores",
    "Sound",
    "__version__",
    "analyze_audio",
    "bundled_models",
    "combined",
    "contact_sheet",
    "load",
    "mixed",
    "moved",
    "moved_along",
    "picture_grid",
    "random_latent",
    "straight",
    "to_image",
    "transcribe",
    "upscale",
    "walk",
]

_RENAMED = {"hear": "transcribe", "listen": "analyze_audio"}  # removed in 0.3


def __getattr__(name: str) -> Any:
    """The former names of two functions (until version 0.1), with a DeprecationWarning."""
    if name not in _RENAMED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import warnings

    new = _RENAMED[name]
    warnings.warn(f"{name} is called {new} now", DeprecationWarning, stacklevel=2)
    return globals()[new]
