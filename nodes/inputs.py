"""Inputs and outputs that several nodes share."""

from comfy_api.latest import io

from .convert import BACKGROUNDS
from .host import all_styles
from .types import ImagenCondition, ImagenLatent, ImagenModel

ANY_STYLE = "any"
NONE = "none"
MAX_BATCH = 4096
STYLE_OF_TEXT = (
    "One of the model's styles; with 'any', the one that the text names, or each seed takes one."
)
MAX_SEED = 2**64 - 1
MAX_SHUFFLE_SEED = 2**53 - 1  # the largest integer that JavaScript keeps exact
MAX_TRAINING_SEED = 2**31 - 1

MODEL = ImagenModel.Input("model", tooltip="The model that will draw.")
MODEL_THAT_DRAWS = ImagenModel.Input("model", tooltip="The model that draws.")
MODEL_OF_LATENTS = ImagenModel.Input(
    "model", optional=True, tooltip="The model that will draw; else the one of the latents."
)
MODEL_NOW = ImagenModel.Input(
    "model", optional=True, tooltip="The model that draws; else the one of the latents."
)
MODEL_WITH_STYLES = ImagenModel.Input(
    "model", tooltip="The model that will draw; it knows its styles."
)
CONDITION = ImagenCondition.Input(
    "condition", tooltip="What to draw: one for all pictures, or one each."
)
CONDITION_NOW = ImagenCondition.Input(
    "condition",
    optional=True,
    tooltip="What to draw: one for all pictures, or one each; else that of the latents.",
)
CONDITION_OF_LATENTS = ImagenCondition.Input(
    "condition",
    optional=True,
    tooltip="What will be drawn: one for all latents, or one each; else that of the latents.",
)
LATENT = ImagenLatent.Input("latent", tooltip="One point of latent space a picture.")
LATENTS = ImagenLatent.Input("latent", tooltip="The latents.")
LATENTS_IN_ORDER = ImagenLatent.Input("latent", tooltip="Two latents or more, visited in order.")
PROMPT_TEXT = io.String.Input(
    "text",
    default="a red apple",
    multiline=True,
    dynamic_prompts=True,
    tooltip="What to draw, in about 30 words. (red:1.3) weighs; empty: anything.",
)
PICTURES = io.Image.Input("image", tooltip="The pictures, of any size.")
MASK = io.Mask.Input(
    "mask", optional=True, tooltip="Their transparency. Without it they count as opaque."
)
TRUNCATION = io.Float.Input(
    "truncation",
    default=1.0,
    min=0.0,
    max=2.0,
    step=0.05,
    tooltip="1: as varied as the data; lower: more typical; 0: the average.",
)
SEED = io.Int.Input(
    "seed",
    default=0,
    min=0,
    max=MAX_SEED,
    control_after_generate=True,
    tooltip="Picture i of the batch comes from seed + i, whatever the batch size.",
)
BACKGROUND = io.Combo.Input(
    "background",
    options=list(BACKGROUNDS),
    default="white",
    tooltip="What shows behind transparent parts; none: the straight colour.",
)
BATCH_SIZE = io.Int.Input(
    "batch_size", default=1, min=1, max=MAX_BATCH, tooltip="How many pictures."
)

IMAGE_OUTPUT = io.Image.Output(display_name="image", tooltip="The pictures, over the background.")
CONDITION_OUTPUT = ImagenCondition.Output(
    display_name="condition", tooltip="What to draw, for Imagen Sample and Score."
)
PICTURE_MASK_OUTPUT = io.Mask.Output(
    display_name="mask", tooltip="1 where a picture is transparent."
)
MASK_OUTPUT = io.Mask.Output(display_name="mask", tooltip="1 where they are transparent.")


def style_input(
    tooltip: str = "One of the model's styles; with 'any', each seed takes one.",
) -> io.Combo.Input:
    """A choice of all styles that listed models know."""
    return io.Combo.Input(
        "style", options=[ANY_STYLE, *all_styles()], default=ANY_STYLE, tooltip=tooltip
    )


def chosen_style(style: str) -> str | None:
    """The style for the library: None lets the text or the seed choose."""
    return None if style == ANY_STYLE else style


def accept_any_style(cls: type[io.ComfyNode], style: str) -> bool:
    """A `validate_inputs` in place of ComfyUI's list check: the run checks the model's styles."""
    return True
