"""Nodes that generate pictures."""

from typing import Any

from comfy_api.latest import io, ui

from ..imagen_model import Condition
from ..imagen_model.networks.generator import TILES
from ..imagen_model.storage.palette import ALPHAS, crisp_batches
from .convert import gathered, link_to_latent, made_for, to_image_and_mask
from .host import HostedModel, NodeProgress, intermediate_device, to_intermediate
from .inputs import (
    BACKGROUND,
    BATCH_SIZE,
    CONDITION_NOW,
    IMAGE_OUTPUT,
    LATENT,
    MODEL_NOW,
    MODEL_THAT_DRAWS,
    PICTURE_MASK_OUTPUT,
    PROMPT_TEXT,
    SEED,
    STYLE_OF_TEXT,
    TRUNCATION,
    accept_any_style,
    chosen_style,
    style_input,
)
from .types import GENERATE, LatentLink, found_by, known


class ImagenSample(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImagenSample",
            display_name="Imagen Sample",
            category=GENERATE,
            **found_by("gan", "generate", "sampler", "ksampler", "draw", "transparent", "生成"),
            description="Draws pictures in one forward pass.",
            inputs=[
                MODEL_NOW,
                CONDITION_NOW,
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
            outputs=[IMAGE_OUTPUT, PICTURE_MASK_OUTPUT],
        )

    @classmethod
    def execute(
        cls, latent: LatentLink, truncation: float, background: str, tile: str,
        model: HostedModel | None = None, condition: Condition | None = None, **crispness: Any,
    ) -> io.NodeOutput:  # fmt: skip
        model, condition = made_for(model, condition, latent)
        points = link_to_latent(latent)
        count = max(len(condition), len(points))
        pictures = model.ready().draw_batches(
            condition, points, truncation=truncation, tile=tile, progress=NodeProgress(count)
        )
        pictures = crisp_batches(pictures, **crispness)  # alpha, colours
        result = gathered(pictures, count, background, intermediate_device())
        return io.NodeOutput(*to_intermediate(*result))


class ImagenTextToImage(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImagenTextToImage",
            display_name="Imagen Text to Image",
            category=GENERATE,
            **found_by(
                "gan",
                "txt2img",
                "generate",
                "emoji",
                "sprite",
                "icon",
                "clip art",
                "文生图",
                "表情",
            ),
            **known(io.Schema, essentials_category="Basics"),
            description="Draws pictures from a prompt: all that it takes, in one node.",
            inputs=[
                MODEL_THAT_DRAWS,
                PROMPT_TEXT,
                style_input(STYLE_OF_TEXT),
                SEED,
                BATCH_SIZE,
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="The pictures, over white."),
                PICTURE_MASK_OUTPUT,
            ],
        )

    validate_inputs = classmethod(accept_any_style)

    @classmethod
    def execute(
        cls, model: HostedModel, text: str, style: str, seed: int, batch_size: int
    ) -> io.NodeOutput:
        chosen, ready = chosen_style(style), model.ready()
        read = ready.how_read(text, style=chosen)
        pictures = ready.sample(
            text,
            seeds=range(seed, seed + batch_size),
            style=chosen,
            progress=NodeProgress(batch_size),
        )
        image, mask = to_intermediate(*to_image_and_mask(pictures, "white"))
        return io.NodeOutput(image, mask, ui=ui.PreviewText(read))


class ImagenStyleRow(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImagenStyleRow",
            display_name="Imagen Style Row",
            category=GENERATE,
            **found_by("styles", "all styles", "compare styles", "style sheet", "风格"),
            description="Draws the same pictures in several styles, a row of them each.",
            inputs=[
                LATENT,
                io.String.Input(
                    "styles",
                    default="",
                    multiline=True,
                    tooltip="A style a line; empty: every style that the model knows.",
                ),
                TRUNCATION,
                BACKGROUND,
                MODEL_NOW,
                CONDITION_NOW,
            ],
            outputs=[
                io.Image.Output(
                    display_name="image", tooltip="The pictures, style by style, as one batch."
                ),
                PICTURE_MASK_OUTPUT,
                io.String.Output(
                    display_name="captions",
                    tooltip="The style of each picture, a line each, for Imagen Grid.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls, latent: LatentLink, styles: str, truncation: float, background: str,
        model: HostedModel | None = None, condition: Condition | None = None,
    ) -> io.NodeOutput:  # fmt: skip
        model, condition = made_for(model, condition, latent)
        names = [line.strip() for line in styles.splitlines() if line.strip()]
        names = names or [*model.model.styles] or [""]  # a model may have none
        points = link_to_latent(latent)
        pictures = model.ready().draw_styles(
            condition, points, names, truncation=truncation, progress=NodeProgress(len(names))
        )
        captions = [name for name in names for _ in range(len(pictures) // len(names))]
        image, mask = to_intermediate(*to_image_and_mask(pictures, background))
        return io.NodeOutput(image, mask, "\n".join(captions))


NODES = [ImagenTextToImage, ImagenSample, ImagenStyleRow]
