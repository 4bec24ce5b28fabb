"""Imagen GAN: a transformer generator trained against a CNN discriminator.

    import imagen_model as im
    model = im.load("emoji")
    pictures = model.sample(["a red apple"], seeds=[0, 1], style="fluent-3d")  # [2, 4, 32, 32]

Pictures are NCHW float in [-1, 1]; four channels are premultiplied RGBA. This package knows nothing
of ComfyUI; the nodes are beside it.
"""

from .audio_walk import Reactions, Sound, listen
from .bundled import bundled_models
from .conditioning import Condition, combined
from .conditioning.audio import hear
from .grid import contact_sheet, picture_grid, straight, to_image
from .latent import mixed, moved, moved_along, walk
from .model import Model, load
from .sampling import Latent, random_latent
from .scoring import Scores
from .upscaler import upscale

__version__ = "0.1.0"

__all__ = [
    "Condition",
    "Latent",
    "Model",
    "Reactions",
    "Scores",
    "Sound",
    "bundled_models",
    "combined",
    "contact_sheet",
    "hear",
    "listen",
    "load",
    "mixed",
    "moved",
    "moved_along",
    "picture_grid",
    "random_latent",
    "straight",
    "to_image",
    "upscale",
    "walk",
]
