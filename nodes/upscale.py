"""Nodes that enlarge pictures."""

from pathlib import Path

import folder_paths
from comfy_api.latest import io
from torch import Tensor

from ..imagen_model import upscale
from ..imagen_model.inference.upscaler import UPSCALER_FILE, load_upscaler
from ..imagen_model.networks.generator import TILES
from .convert import to_image_and_mask, to_pictures
from .host import (
    NodeProgress,
    fingerprint,
    listed_path,
    register_model_folder,
    to_intermediate,
    torch_device,
    validate_name,
)
from .inputs import MASK_OUTPUT
from .types import GENERATE, found_by

UPSCALERS = "imagen_upscalers"  # models/imagen_upscalers
BUNDLED = "emoji-x4"  # UPSCALER_FILE


def upscaler_names() -> list[str]:
    """The bundled one, then those that `imagen train-upscaler` made."""
    register_model_folder(UPSCALERS)
    return [BUNDLED, *folder_paths.get_filename_list(UPSCALERS)]


def upscaler_path(name: str) -> Path:
    """The file of a listed upscaler. The ValueError for any other lists what there is."""
    if name == BUNDLED:
        return UPSCALER_FILE
    return listed_path(UPSCALERS, name, upscaler_names(), "upscaler")


class ImagenUpscale(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImagenUpscale",
            display_name="Imagen Upscale",
            category=GENERATE,
            **found_by("enlarge", "super resolution", "4x", "upscaler", "放大"),
            description="Enlarges pictures four times and redraws their edges sharply.",
            inputs=[
                io.Image.Input("image", tooltip="The pictures, of up to 1024 pixels a side."),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Their transparency, enlarged with them. Without it they are opaque.",
                ),
                io.Combo.Input(
                    "tile",
                    options=list(TILES),
                    default="none",
                    optional=True,
                    tooltip="Edges that join and stay seamless: x left and right, both all four.",
                ),
                io.Combo.Input(
                    "upscaler",
                    options=upscaler_names(),
                    default=BUNDLED,
                    optional=True,
                    tooltip="emoji-x4, or one of your own in models/imagen_upscalers.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="image",
                    tooltip="The pictures, four times as wide and high; with mask straight colour.",
                ),
                MASK_OUTPUT,
            ],
        )

    @classmethod
    def validate_inputs(cls, upscaler: str = BUNDLED) -> bool | str:
        """Replaces ComfyUI's list check: the message names the folder and what is in it."""
        return validate_name(upscaler_path, upscaler)

    @classmethod
    def fingerprint_inputs(cls, upscaler: str = BUNDLED, **others: object) -> str | None:
        """A file that training has replaced is loaded again."""
        return None if upscaler == BUNDLED else fingerprint(upscaler_path(upscaler))

    @classmethod
    def execute(
        cls, image: Tensor, mask: Tensor | None = None, tile: str = "none", upscaler: str = BUNDLED
    ) -> io.NodeOutput:
        pictures, device = to_pictures(image, mask), torch_device()
        progress = NodeProgress(len(pictures))
        network = None if upscaler == BUNDLED else load_upscaler(upscaler_path(upscaler)).to(device)
        large = upscale(pictures, network=network, device=device, tile=tile, progress=progress)
        return io.NodeOutput(*to_intermediate(*to_image_and_mask(large, "none")))


NODES = [ImagenUpscale]
