"""Nodes that judge."""

from comfy_api.latest import io, ui

from ..imagen_model.scoring import map_colours
from .convert import to_image_and_mask, to_pictures
from .host import NodeProgress, to_intermediate
from .types import CATEGORY, ImagenCondition, ImagenModel


class ImagenScore(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImagenScore",
            display_name="Imagen Score",
            category=CATEGORY,
            description="Lets the discriminator rank pictures: how real, where, how well they fit.",
            inputs=[
                ImagenModel.Input("model", tooltip="The model whose discriminator judges."),
                io.Image.Input("image", tooltip="The pictures, of any size."),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Their transparency. Without it they count as opaque.",
                ),
                ImagenCondition.Input(
                    "condition",
                    optional=True,
                    tooltip="Also judge how well they fit this: one for all, or one each.",
                ),
            ],
            outputs=[
                io.Float.Output(
                    display_name="scores",
                    is_output_list=True,
                    tooltip="A list, one score a picture, higher is better.",
                ),
                io.Int.Output(
                    display_name="order",
                    is_output_list=True,
                    tooltip="A list of batch indices, from the best picture to the worst.",
                ),
                io.Image.Output(
                    display_name="map", tooltip="Where a picture looks real (blue) or drawn (red)."
                ),
                io.Int.Output(
                    display_name="best",
                    tooltip="The batch index of the best picture, for Get Image from Batch.",
                ),
            ],
        )

    @classmethod
    def execute(cls, model, image, mask=None, condition=None) -> io.NodeOutput:
        pictures = to_pictures(image, mask)
        scores = model.ready().score(pictures, condition, progress=NodeProgress(len(pictures)))
        realism, _ = to_image_and_mask(map_colours(scores.realism_map), "none")
        order = scores.order.tolist()
        ranking = "\n".join(f"{i}: {scores.total[i]:+.3f}" for i in order)
        return io.NodeOutput(
            scores.total.tolist(),
            order,
            to_intermediate(realism),
            order[0],
            ui=ui.PreviewText(ranking),
        )


NODES = [ImagenScore]
