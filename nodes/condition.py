"""Nodes that say what to draw."""

from comfy_api.latest import io

from ..imagen_model import combined
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
                io.Boolean.Input(
                    "per_line",
                    default=False,
                    optional=True,
                    tooltip="Each line is a prompt of its own: a picture a line.",
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
    def execute(cls, model, text: str, style: str, per_line: bool = False) -> io.NodeOutput:
        chosen = None if style == ANY_STYLE else style
        prompts = text.strip().splitlines() if per_line else text
        return io.NodeOutput(model.model.encode_text(prompts or "", style=chosen))


class ImagenCombineConditions(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImagenCombineConditions",
            display_name="Imagen Combine Conditions",
            category=CATEGORY,
            description="Goes part of the way from one condition to another.",
            inputs=[
                ImagenCondition.Input("condition_a", tooltip="Where weight 0 is."),
                ImagenCondition.Input("condition_b", tooltip="Where weight 1 is."),
                io.Float.Input(
                    "weight",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="0: a alone; 1: b alone; between them a mixture.",
                ),
            ],
            outputs=[
                ImagenCondition.Output(
                    display_name="condition", tooltip="The mixture, for Imagen Sample and Score."
                )
            ],
        )

    @classmethod
    def execute(cls, condition_a, condition_b, weight: float) -> io.NodeOutput:
        return io.NodeOutput(combined(condition_a, condition_b, weight))


NODES = [ImagenEncodeText, ImagenCombineConditions]
