"""Nodes that say what to draw."""

from comfy_api.latest import io, ui

from ..imagen_model import combined, transcribe
from .clip import hosted_clip
from .convert import to_pictures
from .host import all_styles, stage_progress, tell
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
                    tooltip="What to draw, in about 30 words. (red:1.3) weighs; empty: anything.",
                ),
                io.Combo.Input(
                    "style",
                    options=[ANY_STYLE, *all_styles()],
                    default=ANY_STYLE,
                    tooltip="One of the model's styles; with 'any', the one that the text names, "
                    "or each seed takes one.",
                ),
                io.Boolean.Input(
                    "per_line",
                    default=False,
                    optional=True,
                    tooltip="Each line is a prompt of its own: a picture a line.",
                ),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="Only for a model that was trained on a CLIP text encoder: that one.",
                ),
            ],
            outputs=[
                ImagenCondition.Output(
                    display_name="condition", tooltip="What to draw, for Imagen Sample and Score."
                )
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, style: str):
        """In place of the core's list check: whether the model has the style shows when it runs."""
        return True

    @classmethod
    def execute(
        cls, model, text: str, style: str, per_line: bool = False, clip=None
    ) -> io.NodeOutput:
        reader = model.model
        if clip is not None:
            reader = reader.with_text_encoder(hosted_clip(clip))
        chosen = None if style == ANY_STYLE else style
        prompts = (text.strip().splitlines() if per_line else text) or ""
        condition = reader.encode_text(prompts, style=chosen, progress=stage_progress("reading"))
        read = reader.how_read(prompts, style=chosen)
        tell(cls.hidden.unique_id, read)
        return io.NodeOutput(condition, ui=ui.PreviewText(read) if read else None)


class ImagenEncodeImage(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImagenEncodeImage",
            display_name="Imagen Encode Image",
            category=CATEGORY,
            description="Turns pictures and a style into a condition: this, in that style.",
            inputs=[
                ImagenModel.Input(
                    "model", tooltip="The model that will draw; it knows its styles."
                ),
                io.Image.Input(
                    "image", tooltip="What to draw, as a picture: a batch of any size, a row each."
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="What is transparent in it, and so not part of what to draw.",
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
    def execute(cls, model, image, style: str, mask=None) -> io.NodeOutput:
        chosen = None if style == ANY_STYLE else style
        condition = model.model.encode_image(
            to_pictures(image, mask), style=chosen, progress=stage_progress("looking")
        )
        return io.NodeOutput(condition)


class ImagenEncodeAudio(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImagenEncodeAudio",
            display_name="Imagen Encode Audio",
            category=CATEGORY,
            description="Turns a spoken prompt and a style into a condition of the model.",
            inputs=[
                ImagenModel.Input(
                    "model", tooltip="The model that will draw; it knows its styles."
                ),
                io.Audio.Input(
                    "audio",
                    tooltip="Someone says in English what to draw, in 0.1 to 60 seconds.",
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
                ),
                io.String.Output(
                    display_name="heard", tooltip="The words that were heard, a line each sound."
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, style: str):
        """In place of the core's list check: whether the model has the style shows when it runs."""
        return True

    @classmethod
    def execute(cls, model, audio, style: str) -> io.NodeOutput:
        chosen = None if style == ANY_STYLE else style
        clips = [(wave, audio["sample_rate"]) for wave in audio["waveform"]]
        heard = transcribe(clips, progress=stage_progress("listening"))
        condition = model.model.encode_text(heard, style=chosen)
        return io.NodeOutput(condition, "\n".join(heard))


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


NODES = [ImagenEncodeText, ImagenEncodeImage, ImagenEncodeAudio, ImagenCombineConditions]
