"""Nodes that make conditions: what the model draws."""

from comfy.sd import CLIP
from comfy_api.latest import io, ui
from torch import Tensor

from ..imagen_model import Condition, combined, transcribe
from .convert import to_pictures
from .host import HostedModel, stage_progress
from .hosted_clip import hosted_clip
from .inputs import (
    CONDITION_OUTPUT,
    MODEL_WITH_STYLES,
    PROMPT_TEXT,
    STYLE_OF_TEXT,
    accept_any_style,
    chosen_style,
    style_input,
)
from .types import GENERATE, PROMPT, Audio, ImagenCondition, found_by


class ImagenEncodeText(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImagenEncodeText",
            display_name="Imagen Encode Text",
            category=GENERATE,
            **found_by("prompt", "text prompt", "clip text encode", "style", "提示词"),
            description="Turns a prompt and a style into a condition that the model follows.",
            inputs=[
                MODEL_WITH_STYLES,
                PROMPT_TEXT,
                style_input(STYLE_OF_TEXT),
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
            outputs=[CONDITION_OUTPUT],
        )

    validate_inputs = classmethod(accept_any_style)

    @classmethod
    def execute(
        cls, model: HostedModel, text: str, style: str, per_line: bool = False,
        clip: CLIP | None = None,
    ) -> io.NodeOutput:  # fmt: skip
        reader = model.model
        if clip is not None:
            reader = reader.with_text_encoder(hosted_clip(clip))
        chosen = chosen_style(style)
        prompts = (text.strip().splitlines() if per_line else text) or ""
        condition = reader.encode_text(prompts, style=chosen, progress=stage_progress("reading"))
        read = reader.how_read(prompts, style=chosen)
        return io.NodeOutput(condition, ui=ui.PreviewText(read))


class ImagenEncodeImage(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImagenEncodeImage",
            display_name="Imagen Encode Image",
            category=PROMPT,
            **found_by(
                "image prompt",
                "picture prompt",
                "ip adapter",
                "img2img",
                "style transfer",
                "图像提示",
            ),
            description="Turns pictures and a style into a condition: this, in that style.",
            inputs=[
                MODEL_WITH_STYLES,
                io.Image.Input(
                    "image", tooltip="What to draw, as a picture: a batch of any size, a row each."
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="What is transparent in it, and so not part of what to draw.",
                ),
                style_input(),
            ],
            outputs=[CONDITION_OUTPUT],
        )

    validate_inputs = classmethod(accept_any_style)

    @classmethod
    def execute(
        cls, model: HostedModel, image: Tensor, style: str, mask: Tensor | None = None
    ) -> io.NodeOutput:
        condition = model.model.encode_image(
            to_pictures(image, mask),
            style=chosen_style(style),
            progress=stage_progress("looking"),
        )
        return io.NodeOutput(condition)


class ImagenEncodeAudio(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImagenEncodeAudio",
            display_name="Imagen Encode Audio",
            category=PROMPT,
            **found_by("voice", "speech", "spoken prompt", "microphone", "speech to text", "语音"),
            description="Turns a spoken prompt and a style into a condition of the model.",
            inputs=[
                MODEL_WITH_STYLES,
                io.Audio.Input(
                    "audio",
                    tooltip="Someone says in English what to draw, in 0.1 to 60 seconds.",
                ),
                style_input(),
            ],
            outputs=[
                CONDITION_OUTPUT,
                io.String.Output(
                    display_name="heard", tooltip="The words that were heard, a line each sound."
                ),
            ],
        )

    validate_inputs = classmethod(accept_any_style)

    @classmethod
    def execute(cls, model: HostedModel, audio: Audio, style: str) -> io.NodeOutput:
        clips = [(wave, audio["sample_rate"]) for wave in audio["waveform"]]
        heard = transcribe(clips, progress=stage_progress("listening"))
        condition = model.model.encode_text(heard, style=chosen_style(style))
        return io.NodeOutput(condition, "\n".join(heard))


class ImagenCombineConditions(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImagenCombineConditions",
            display_name="Imagen Combine Conditions",
            category=PROMPT,
            **found_by("blend prompts", "mix prompts", "combine prompts", "interpolate prompts"),
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
    def execute(
        cls, condition_a: Condition, condition_b: Condition, weight: float
    ) -> io.NodeOutput:
        return io.NodeOutput(combined(condition_a, condition_b, weight))


NODES = [ImagenEncodeText, ImagenEncodeImage, ImagenEncodeAudio, ImagenCombineConditions]
