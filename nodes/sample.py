"""Nodes that draw."""

from comfy_api.latest import io

from ..imagen_model.networks.generator import TILES
from .convert import BACKGROUNDS, link_to_latent, to_image_and_mask
from .host import NodeProgress, to_intermediate
from .types import CATEGORY, ImagenCondition, ImagenLatent, ImagenModel


class ImagenSample(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImagenSample",
            display_name="Imagen Sample",
            category=CATEGORY,
            description="Draws pictures in one forward pass.",
            inputs=[
                ImagenModel.Input("model", tooltip="The model that draws."),
                ImagenCondition.Input(
                    "condition", tooltip="What to draw: one for all pictures, or one each."
                ),
                ImagenLatent.Input("latent", tooltip="One point of latent space a picture."),
                io.Float.Input(
                    "truncation",
                    default=1.0,
                    min=0.0,
                    max=2.0,
                    step=0.05,
                    tooltip="1: as varied as the data; lower: more typical; 0: the average.",
                ),
                io.Combo.Input(
                    "background",
                    options=list(BACKGROUNDS),
                    default="white",
                    tooltip="What shows behind transparent parts; none: the straight colour.",
                ),
                io.Combo.Input(
                    "tile",
                    options=list(TILES),
                    default="none",
                    tooltip="Seamless edges: x joins left and right, both also top and bottom.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="The pictures, over the background."),
                io.Mask.Output(display_name="mask", tooltip="1 where a picture is transparent."),
            ],
        )

    @classmethod
    def execute(
        cls, model, condition, latent: dict, truncation: float, background: str, tile: str
    ) -> io.NodeOutput:
        points = link_to_latent(latent)
        pictures = model.ready().draw(
            condition, points, truncation=truncation, tile=tile, progress=NodeProgress(len(points))
        )
        image, mask = to_image_and_mask(pictures, background)
        return io.NodeOutput(to_intermediate(image), to_intermediate(mask))


NODES = [ImagenSample]
