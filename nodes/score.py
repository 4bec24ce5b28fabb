"""Nodes that score and rank pictures."""

import torch.nn.functional as F
from comfy_api.latest import io, ui
from torch import Tensor

from ..imagen_model import Condition, contact_sheet
from ..imagen_model.feedback.adapter import taste_of
from ..imagen_model.inference.scoring import map_colours
from .convert import masks_of, to_image_and_mask, to_pictures
from .host import HostedModel, NodeProgress, to_intermediate
from .inputs import MASK, MASK_OUTPUT, PICTURES
from .types import SELECT, ImagenCondition, ImagenModel, found_by

PREVIEW_PX = 128  # a picture's longer side on the node, at most
PREVIEW_PICTURES, PREVIEW_COLUMNS = 64, 4


def ranked_sheet(pictures: Tensor, captions: list[str]) -> Tensor:
    """IMAGE of the first of these pictures, each over its caption."""
    shown, longer = pictures[:PREVIEW_PICTURES], max(pictures.shape[2:])
    if longer > PREVIEW_PX:
        height, width = (max(1, side * PREVIEW_PX // longer) for side in pictures.shape[2:])
        shown = F.interpolate(shown, size=(height, width), mode="area")
    sheet = contact_sheet(
        shown,
        columns=PREVIEW_COLUMNS,
        scale=max(1, PREVIEW_PX // longer),  # captions need the width
        gap=4,
        captions=captions[: len(shown)],
    )
    image, _ = to_image_and_mask(sheet[None], "white")
    return image


class ImagenScore(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImagenScore",
            display_name="Imagen Score",
            category=SELECT,
            **found_by("rank", "discriminator", "quality", "realism", "aesthetic score", "评分"),
            description="Lets the discriminator rank pictures: how real, where, how well they fit.",
            inputs=[
                ImagenModel.Input("model", tooltip="The model whose discriminator judges."),
                PICTURES,
                MASK,
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
                io.Float.Output(
                    display_name="taste",
                    is_output_list=True,
                    tooltip="A list, how well you would like each; 0 without an adapter.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls, model: HostedModel, image: Tensor, mask: Tensor | None = None,
        condition: Condition | None = None,
    ) -> io.NodeOutput:  # fmt: skip
        pictures = to_pictures(image, mask)
        ready = model.ready()
        progress = NodeProgress(len(pictures))
        scores = ready.score(pictures, condition, progress=progress)
        realism, _ = to_image_and_mask(map_colours(scores.realism_map), "none")
        order = scores.order.tolist()
        ranking = [f"{i}: {scores.total[i]:+.3f}" for i in order]
        preview = ui.PreviewImage(ranked_sheet(pictures[order].cpu(), ranking), cls=cls)
        return io.NodeOutput(
            scores.total.tolist(),
            order,
            *to_intermediate(realism),
            order[0],
            taste_of(ready, pictures, progress=progress).tolist(),
            ui={**preview.as_dict(), "text": ("\n".join(ranking),)},
        )


class ImagenPickBest(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImagenPickBest",
            display_name="Imagen Pick Best",
            category=SELECT,
            **found_by("best of n", "select best", "top pictures", "filter"),
            description="Keeps the pictures that Imagen Score ranked highest, best first.",
            is_input_list=True,
            inputs=[
                io.Image.Input("image", tooltip="The pictures that were scored."),
                io.Int.Input(
                    "order", force_input=True, tooltip="The order from Imagen Score, best first."
                ),
                io.Int.Input(
                    "count", default=1, min=1, max=4096, tooltip="How many pictures to keep."
                ),
                io.Mask.Input("mask", optional=True, tooltip="Their transparency."),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="The best pictures, best first."),
                MASK_OUTPUT,
            ],
        )

    @classmethod
    def execute(
        cls, image: list[Tensor], order: list[int], count: list[int],
        mask: list[Tensor] | None = None,
    ) -> io.NodeOutput:  # fmt: skip
        if len(image) > 1:
            raise ValueError(f"{len(image)} batches of pictures; expected the one that was scored")
        pictures, chosen = image[0], order[: count[0]]
        outside = [i for i in order if not 0 <= i < len(pictures)]
        if outside or len(order) not in (1, len(pictures)):
            fault = f"names picture {outside[0]}" if outside else f"ranks {len(order)} pictures"
            raise ValueError(
                f"the order {fault}, and there are {len(pictures)}; "
                "link the pictures that were scored"
            )
        masks = masks_of(mask[0] if mask else None, pictures)
        return io.NodeOutput(pictures[chosen], masks[chosen])


NODES = [ImagenScore, ImagenPickBest]
