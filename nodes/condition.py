"""Nodes that say what to draw."""

from comfy_api.latest import io

from .host import all_styles
from .types import CATEGORY, ImagenCondition, ImagenModel

ANY_STYLE = "any"


class ImagenEncodeText(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImagenEncodeText",
            display_name="Imagen Encode Text",
            category=CATEGORY,
            description="Turns a prompt and a style into a condition that the model follows.",
            inputs=[
                ImagenModel.Input(
                    "model", tooltip="The model that will draw; it knows its styles."
                ),
                io.String.Input(
                    "text",
                    default="a red apple",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="What to draw, in English. Empty: anything. About 30 words count.",
                ),
                io.Combo.Input(
                    "style",
                    options=[ANY_STYLE, *all_styles()],
                    default=ANY_STYLE,
                    tooltip="One of the model's styles; with 'any', each seed takes one.",
                ),
            ],
            outputs=[
                ImagenCondition.Output(
                    display_name="condition", tooltip="What to draw, for Imagen Sample and Score."
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, style: str):
        """In place of the core's list check: whether the model has the style shows when it runs."""
        return True

    @classmethod
    def execute(cls, model, text: str, style: str) -> io.NodeOutput:
        chosen = None if style == ANY_STYLE else style
        return io.NodeOutput(model.model.encode_text(text, style=chosen))


NODES = [ImagenEncodeText]
