"""Nodes that generate pictures."""

from typing import Any

from comfy_api.latest import io

from ..imagen_model import Condition, crisp
from ..imagen_model.networks.generator import TILES
from ..imagen_model.storage.palette import ALPHAS
from .convert import link_to_latent, to_image_and_mask
from .host import HostedModel, NodeProgress, to_intermediate
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
                io.Combo.Input(
                    "alpha",
                    options=list(ALPHAS),
                    default="soft",
                    optional=True,
                    tooltip="Edges: soft, or hard: each pixel is opaque or transparent.",
                ),
                io.Int.Input(
                    "colours",
                    default=0,
                    min=0,
                    max=255,  # MAX_COLOURS of palette.py
                    optional=True,
                    tooltip="Of one palette for all pictures together; 0: all colours.",
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
        background: str, tile: str, **crispness: Any,
    ) -> io.NodeOutput:  # fmt: skip
        points = link_to_latent(latent)
        pictures = model.ready().draw(
            condition, points, truncation=truncation, tile=tile, progress=NodeProgress(len(points))
        )
        pictures = crisp(pictures, **crispness)  # alpha, colours
        return io.NodeOutput(*to_intermediate(*to_image_and_mask(pictures, background)))


NODES = [ImagenSample]
