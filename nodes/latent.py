"""Nodes that sample, find and edit latents."""

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..imagen_model import Condition, mixed, moved_along, walk
from ..imagen_model.inference.directions import ATTRIBUTES
from ..imagen_model.inference.editing import CURVES
from .convert import latent_to_link, link_to_latent, made_for, to_pictures
from .host import HostedModel, NodeProgress
from .inputs import (
    BATCH_SIZE,
    CONDITION_OF_LATENTS,
    LATENTS,
    LATENTS_IN_ORDER,
    MASK,
    MODEL,
    MODEL_OF_LATENTS,
    PICTURES,
    SEED,
)
from .types import (
    EXPLORE,
    GENERATE,
    ImagenCondition,
    ImagenLatent,
    ImagenModel,
    LatentLink,
    found_by,
)

BY_NUMBER = "by number"


class ImagenRandomLatent(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImagenRandomLatent",
            display_name="Imagen Random Latent",
            category=GENERATE,
            **found_by("seed", "noise", "empty latent", "random"),
            description="Draws the random numbers behind a batch of pictures.",
            inputs=[
                MODEL,
                SEED,
                BATCH_SIZE,
                ImagenCondition.Input(
                    "condition",
                    optional=True,
                    tooltip="What will be drawn; linked here, it goes along with the latents.",
                ),
            ],
            outputs=[
                ImagenLatent.Output(
                    display_name="latent", tooltip="One point of latent space a picture."
                )
            ],
        )

    @classmethod
    def execute(
        cls, model: HostedModel, seed: int, batch_size: int, condition: Condition | None = None
    ) -> io.NodeOutput:
        latent = model.model.latent(range(seed, seed + batch_size))
        return io.NodeOutput(latent_to_link(latent, model, condition))


class ImagenTruncate(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImagenTruncate",
            display_name="Imagen Truncate",
            category=EXPLORE,
            **found_by("truncation", "psi", "typical", "average"),
            description="Draws latents towards the average picture of their condition.",
            inputs=[
                MODEL_OF_LATENTS,
                CONDITION_OF_LATENTS,
                LATENTS,
                io.Float.Input(
                    "truncation",
                    default=0.7,
                    min=0.0,
                    max=2.0,
                    step=0.05,
                    tooltip="1: unchanged; lower: more typical; 0: the average picture.",
                ),
            ],
            outputs=[
                ImagenLatent.Output(
                    display_name="latent", tooltip="The latents in w, ready to mix and move."
                )
            ],
        )

    @classmethod
    def execute(
        cls, latent: LatentLink, truncation: float, model: HostedModel | None = None,
        condition: Condition | None = None,
    ) -> io.NodeOutput:  # fmt: skip
        model, condition = made_for(model, condition, latent)
        points = link_to_latent(latent)
        moved = model.ready().into_w(
            condition, points, truncation=truncation, progress=NodeProgress(len(points))
        )
        return io.NodeOutput(latent_to_link(moved, model, condition))


class ImagenMixLatents(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImagenMixLatents",
            display_name="Imagen Mix Latents",
            category=EXPLORE,
            **found_by("style mixing", "crossover", "blend latents", "stylegan"),
            description="Style mixing: early blocks from one latent, late blocks from another.",
            inputs=[
                MODEL_OF_LATENTS,
                CONDITION_OF_LATENTS,
                ImagenLatent.Input("coarse", tooltip="Rules the early blocks, and open styles."),
                ImagenLatent.Input("fine", tooltip="Rules the late blocks."),
                io.Int.Input(
                    "from_block",
                    default=6,
                    min=0,
                    max=12,
                    tooltip="The first block that the fine latent rules; there are 12.",
                ),
            ],
            outputs=[ImagenLatent.Output(display_name="latent", tooltip="The mixture, in w.")],
        )

    @classmethod
    def execute(
        cls, coarse: LatentLink, fine: LatentLink, from_block: int,
        model: HostedModel | None = None, condition: Condition | None = None,
    ) -> io.NodeOutput:  # fmt: skip
        model, condition = made_for(model, condition, coarse, fine)
        ready = model.ready()
        progress = NodeProgress(1)
        a, b = (
            ready.into_w(condition, link_to_latent(link), progress=progress)
            for link in (coarse, fine)
        )
        mixture = mixed(a, b, from_block=from_block)
        return io.NodeOutput(latent_to_link(mixture, model, condition))


class ImagenInterpolate(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImagenInterpolate",
            display_name="Imagen Interpolate",
            category=EXPLORE,
            **found_by("animation", "latent walk", "morph", "slerp", "动画"),
            description="Walks through all latents of a batch: the frames of an animation.",
            inputs=[
                LATENTS_IN_ORDER,
                io.Int.Input(
                    "frames", default=24, min=1, max=4096, tooltip="How many latents come out."
                ),
                io.Boolean.Input(
                    "loop", default=True, tooltip="Return to the first latent at the end."
                ),
                io.Combo.Input(
                    "curve",
                    options=list(CURVES),
                    default="slerp",
                    tooltip="How to go: slerp keeps pictures crisp half-way; linear goes straight.",
                ),
            ],
            outputs=[ImagenLatent.Output(display_name="latent", tooltip="One latent a frame.")],
        )

    @classmethod
    def execute(cls, latent: LatentLink, frames: int, loop: bool, curve: str) -> io.NodeOutput:
        path = walk(link_to_latent(latent), frames, loop=loop, curve=curve)
        condition = latent.get("condition")
        if condition is not None and len(condition) > 1:
            condition = None  # one a latent, which are not the frames
        return io.NodeOutput(latent_to_link(path, latent.get("model"), condition))


class ImagenDirection(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImagenDirection",
            display_name="Imagen Direction",
            category=EXPLORE,
            **found_by("edit", "slider", "attribute", "pad", "sefa"),
            description="Moves latents along directions, by number or by what they change.",
            inputs=[
                MODEL_OF_LATENTS,
                CONDITION_OF_LATENTS,
                LATENTS,
                io.Int.Input(
                    "direction",
                    default=0,
                    min=0,
                    max=127,
                    tooltip="Which direction: 0 changes the picture most.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-5.0,
                    max=5.0,
                    step=0.1,
                    tooltip="How far, in units of the latents' own spread; 0: unchanged.",
                ),
                io.Int.Input(
                    "second_direction",
                    default=1,
                    min=0,
                    max=127,
                    optional=True,
                    tooltip="Another direction: up and down on the pad.",
                ),
                io.Float.Input(
                    "second_strength",
                    default=0.0,
                    min=-5.0,
                    max=5.0,
                    step=0.1,
                    optional=True,
                    tooltip="How far along the second direction; 0: not at all.",
                ),
                io.Combo.Input(
                    "attribute",
                    options=[BY_NUMBER, *ATTRIBUTES],
                    default=BY_NUMBER,
                    optional=True,
                    tooltip="Instead of the number: what to change, and little else.",
                ),
                io.Combo.Input(
                    "second_attribute",
                    options=[BY_NUMBER, *ATTRIBUTES],
                    default=BY_NUMBER,
                    optional=True,
                    tooltip="The same for the second direction: up and down on the pad.",
                ),
            ],
            outputs=[
                ImagenLatent.Output(display_name="latent", tooltip="The moved latents, in w.")
            ],
        )

    @classmethod
    def execute(
        cls, latent: LatentLink, direction: int, strength: float, attribute: str = BY_NUMBER,
        model: HostedModel | None = None, condition: Condition | None = None, **second: Any,
    ) -> io.NodeOutput:  # fmt: skip
        model, condition = made_for(model, condition, latent)
        ready = model.ready()
        progress = NodeProgress(1)
        points = ready.into_w(condition, link_to_latent(latent), progress=progress)
        ways = [
            (ready.direction(way, progress=progress), far)
            for way, far in (way_of(direction, strength, attribute), second_way(**second))
            if far
        ]
        return io.NodeOutput(latent_to_link(moved_along(points, ways), model, condition))


def way_of(direction: int, strength: float, attribute: str) -> tuple[int | str, float]:
    """A direction by number, or the attribute where one is chosen; and how far."""
    return (direction if attribute == BY_NUMBER else attribute), strength


def second_way(
    second_direction: int = 1, second_strength: float = 0.0, second_attribute: str = BY_NUMBER
) -> tuple[int | str, float]:
    """The optional inputs of ImagenDirection; a workflow may leave out any of them."""
    return way_of(second_direction, second_strength, second_attribute)


class ImagenInvert(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImagenInvert",
            display_name="Imagen Invert",
            category=EXPLORE,
            **found_by("gan inversion", "projection", "find latent", "edit photo"),
            description="Finds the latents that draw given pictures, so that they can be edited.",
            inputs=[
                ImagenModel.Input("model", tooltip="The model that shall draw them."),
                ImagenCondition.Input(
                    "condition", tooltip="What the pictures show: one for all, or one each."
                ),
                PICTURES,
                io.Int.Input(
                    "steps",
                    default=100,
                    min=1,
                    max=10000,
                    tooltip="How long to search: more come nearer, and take longer.",
                ),
                MASK,
            ],
            outputs=[
                ImagenLatent.Output(
                    display_name="latent", tooltip="One latent a picture, in w, for this condition."
                )
            ],
        )

    @classmethod
    def execute(
        cls, model: HostedModel, condition: Condition, image: Tensor, steps: int,
        mask: Tensor | None = None,
    ) -> io.NodeOutput:  # fmt: skip
        pictures = to_pictures(image, mask)
        progress = NodeProgress(steps)
        found = model.ready().invert(pictures, condition, steps=steps, progress=progress)
        return io.NodeOutput(latent_to_link(found, model, condition))


NODES = [
    ImagenRandomLatent,
    ImagenInvert,
    ImagenTruncate,
    ImagenMixLatents,
    ImagenInterpolate,
    ImagenDirection,
]
