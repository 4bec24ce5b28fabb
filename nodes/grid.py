"""Nodes that arrange pictures."""

from comfy_api.latest import io
from torch import Tensor

from ..imagen_model import contact_sheet
from .convert import masks_of, to_image_and_mask, to_pictures
from .types import SELECT, found_by


class ImagenGrid(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImagenGrid",
            display_name="Imagen Grid",
            category=SELECT,
            **found_by(
                "contact sheet", "sprite sheet", "sprite", "collage", "montage", "atlas", "拼图"
            ),
            description="Lays a batch out as one contact sheet, with captions below the pictures.",
            inputs=[
                io.Image.Input("image", tooltip="The pictures."),
                io.Int.Input(
                    "columns", default=4, min=1, max=64, tooltip="How many pictures a row."
                ),
                io.Int.Input(
                    "scale",
                    default=1,
                    min=1,
                    max=16,
                    tooltip="Enlarges whole pixels, so that small pictures stay sharp.",
                ),
                io.Int.Input(
                    "gap", default=8, min=0, max=64, tooltip="White pixels between the pictures."
                ),
                io.String.Input(
                    "captions",
                    default="",
                    multiline=True,
                    tooltip="A line a picture; empty: no captions.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Their transparency: gaps are transparent, too, as in a sprite sheet.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="The sheet: one picture."),
                io.Mask.Output(display_name="mask", tooltip="1 where the sheet is transparent."),
            ],
        )

    @classmethod
    def execute(
        cls, image: Tensor, columns: int, scale: int, gap: int, captions: str,
        mask: Tensor | None = None,
    ) -> io.NodeOutput:  # fmt: skip
        sheet = contact_sheet(
            to_pictures(image, mask),
            columns=columns,
            scale=scale,
            gap=gap,
            captions=captions.splitlines(),
        )
        if mask is None:
            image, _ = to_image_and_mask(sheet[None], "white")
            return io.NodeOutput(image, masks_of(None, image))
        return io.NodeOutput(*to_image_and_mask(sheet[None], "none"))


NODES = [ImagenGrid]
