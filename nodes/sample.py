"""Nodes that generate pictures."""

from comfy_api.latest import io

from ..imagen_model import Condition
from ..imagen_model.networks.generator import TILES
from .convert import gathered, link_to_latent
from .host import HostedModel, NodeProgress, intermediate_device
from .inputs import BACKGROUND, CONDITION, LATENT, MODEL_NOW, PICTURE_MASK_OUTPUT, TRUNCATION
from .types import CATEGORY, LatentLink


class ImagenSample(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImagenSample",
            display_name="Imagen Sample",
            category=CATEGORY,
            description="Draws pictures in one forward pass.",
            inputs=[
                MODEL_NOW,
                CONDITION,
                LATENT,
                TRUNCATION,
                BACKGROUND,
                io.Combo.Input(
                    "tile",
                    options=list(TILES),
                    default="none",
                    tooltip="Seamless edges: x joins left and right, both also top and bottom.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="The pictures, over the background."),
                PICTURE_MASK_OUTPUT,
            ],
        )

    @classmethod
    def execute(
        cls, model: HostedModel, condition: Condition, latent: LatentLink, truncation: float,
        background: str, tile: str,
    ) -> io.NodeOutput:  # fmt: skip
        points = link_to_latent(latent)
        count = max(len(condition), len(points))
        batches = model.ready().draw_batches(
            condition, points, truncation=truncation, tile=tile, progress=NodeProgress(count)
        )
        return io.NodeOutput(*gathered(batches, count, background, intermediate_device()))


NODES = [ImagenSample]
