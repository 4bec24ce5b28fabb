"""Imagen GAN: a transformer generator trained against a CNN discriminator.

    import imagen_model as im
    model = im.load("emoji")
    pictures = model.sample(["a red apple"], seeds=[0, 1], style="fluent-3d")  # [2, 4, 128, 128]

Pictures are NCHW float in [-1, 1]; four channels are premultiplied RGBA. This package knows nothing
of ComfyUI; the nodes are beside it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .version import __version__

if TYPE_CHECKING:
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
    from .storage.palette import crisp

# Where the public names are. A module is imported when one of its names is first used, so that
# `imagen --help` does not wait for torch.
_MODULES = {
    "bundled": ("bundled_models",),
    "condition": ("Condition", "combined"),
    "conditioning.audio": ("transcribe",),
    "inference.audio_reactive": ("Reactions",),
    "inference.editing": ("mixed", "moved", "moved_along", "walk"),
    "inference.latent": ("Latent", "random_latent"),
    "inference.scoring": ("Scores",),
    "inference.sound_analysis": ("Sound", "analyze_audio"),
    "inference.upscaler": ("upscale",),
    "model": ("Model", "load"),
    "storage.contact_sheet": ("contact_sheet", "picture_grid"),
    "storage.images": ("straight", "to_image"),
    "storage.palette": ("crisp",),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}
_RENAMED = {"hear": "transcribe", "listen": "analyze_audio"}  # until 0.1; removed in 0.3

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name in _RENAMED:
        import warnings

        new = _RENAMED[name]
        warnings.warn(f"{name} is called {new} now", DeprecationWarning, stacklevel=2)
        return __getattr__(new)
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
