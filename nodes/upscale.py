"""Nodes that enlarge pictures."""

from comfy_api.latest import io
from torch import Tensor

from ..imagen_model import upscale
from ..imagen_model.networks.generator import TILES
from .convert import to_image_and_mask, to_pictures
from .host import NodeProgress, to_intermediate, torch_device
from .inputs import MASK_OUTPUT
from .types import GENERATE, found_by


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
    def execute(
        cls, image: Tensor, mask: Tensor | None = None, tile: str = "none"
    ) -> io.NodeOutput:
        pictures = to_pictures(image, mask)
        progress = NodeProgress(len(pictures))
        large = upscale(pictures, device=torch_device(), tile=tile, progress=progress)
        return io.NodeOutput(*to_intermediate(*to_image_and_mask(large, "none")))


NODES = [ImagenUpscale]
