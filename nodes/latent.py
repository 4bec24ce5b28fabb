"""Nodes that make, find and change latents."""

from comfy_api.latest import io

from ..imagen_model import mixed, moved_along, walk
from ..imagen_model.inference.directions import ATTRIBUTES
from ..imagen_model.inference.editing import CURVES
from .convert import latent_to_link, link_to_latent, to_pictures
from .host import NodeProgress
from .types import CATEGORY, ImagenCondition, ImagenLatent, ImagenModel

MAX_SEED = 2**64 - 1
MAX_BATCH = 4096
BY_NUMBER = "by number"


class ImagenRandomLatent(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImagenRandomLatent",
            display_name="Imagen Random Latent",
            category=CATEGORY,
            description="Draws the random numbers behind a batch of pictures.",
            inputs=[
                ImagenModel.Input("model", tooltip="The model that will draw."),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=MAX_SEED,
                    control_after_generate=True,
                    tooltip="Picture i of the batch comes from seed + i, whatever the batch size.",
                ),
                io.Int.Input(
                    "batch_size", default=1, min=1, max=MAX_BATCH, tooltip="How many pictures."
                ),
            ],
            outputs=[
                ImagenLatent.Output(
                    display_name="latent", tooltip="One point of latent space a picture."
                )
            ],
        )

    @classmethod
    def execute(cls, model, seed: int, batch_size: int) -> io.NodeOutput:
        latent = model.model.latent(range(seed, seed + batch_size))
        return io.NodeOutput(latent_to_link(latent))


class ImagenTruncate(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImagenTruncate",
            display_name="Imagen Truncate",
            category=CATEGORY,
            description="Draws latents towards the average picture of their condition.",
            inputs=[
                ImagenModel.Input("model", tooltip="The model that will draw."),
                ImagenCondition.Input(
                    "condition", tooltip="What will be drawn: one for all latents, or one each."
                ),
                ImagenLatent.Input("latent", tooltip="The latents."),
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
    def execute(cls, model, condition, latent: dict, truncation: float) -> io.NodeOutput:
        points = link_to_latent(latent)
        moved = model.ready().into_w(
            condition, points, truncation=truncation, progress=NodeProgress(len(points))
        )
        return io.NodeOutput(latent_to_link(moved))


class ImagenMixLatents(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImagenMixLatents",
            display_name="Imagen Mix Latents",
            category=CATEGORY,
            description="Style mixing: early blocks from one latent, late blocks from another.",
            inputs=[
                ImagenModel.Input("model", tooltip="The model that will draw."),
                ImagenCondition.Input(
                    "condition", tooltip="What will be drawn: one for all latents, or one each."
                ),
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
    def execute(cls, model, condition, coarse: dict, fine: dict, from_block: int) -> io.NodeOutput:
        ready = model.ready()
        progress = NodeProgress(1)
        a, b = (
            ready.into_w(condition, link_to_latent(link), progress=progress)
            for link in (coarse, fine)
        )
        return io.NodeOutput(latent_to_link(mixed(a, b, from_block=from_block)))


class ImagenInterpolate(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImagenInterpolate",
            display_name="Imagen Interpolate",
            category=CATEGORY,
            description="Walks through all latents of a batch: the frames of an animation.",
            inputs=[
                ImagenLatent.Input("latent", tooltip="Two latents or more, visited in order."),
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
    def execute(cls, latent: dict, frames: int, loop: bool, curve: str) -> io.NodeOutput:
        path = walk(link_to_latent(latent), frames, loop=loop, curve=curve)
        return io.NodeOutput(latent_to_link(path))


class ImagenDirection(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImagenDirection",
            display_name="Imagen Direction",
            category=CATEGORY,
            description="Moves latents along directions, by number or by what they change.",
            inputs=[
                ImagenModel.Input("model", tooltip="The model that will draw."),
                ImagenCondition.Input(
                    "condition", tooltip="What will be drawn: one for all latents, or one each."
                ),
                ImagenLatent.Input("latent", tooltip="The latents."),
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
        cls, model, condition, latent: dict, direction: int, strength: float,
        second_direction: int = 1, second_strength: float = 0.0, attribute: str = BY_NUMBER,
        second_attribute: str = BY_NUMBER,
    ) -> io.NodeOutput:  # fmt: skip
        ready = model.ready()
        progress = NodeProgress(1)
        points = ready.into_w(condition, link_to_latent(latent), progress=progress)
        first = direction if attribute == BY_NUMBER else attribute
        second = second_direction if second_attribute == BY_NUMBER else second_attribute
        ways = [
            (ready.direction(way, progress=progress), far)
            for way, far in ((first, strength), (second, second_strength))
            if far
        ]
        return io.NodeOutput(latent_to_link(moved_along(points, ways)))


class ImagenInvert(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImagenInvert",
            display_name="Imagen Invert",
            category=CATEGORY,
            description="Finds the latents that draw given pictures, so that they can be edited.",
            inputs=[
                ImagenModel.Input("model", tooltip="The model that shall draw them."),
                ImagenCondition.Input(
                    "condition", tooltip="What the pictures show: one for all, or one each."
                ),
                io.Image.Input("image", tooltip="The pictures, of any size."),
                io.Int.Input(
                    "steps",
                    default=100,
                    min=1,
                    max=10000,
                    tooltip="How long to search: more come nearer, and take longer.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Their transparency. Without it they count as opaque.",
                ),
            ],
            outputs=[
                ImagenLatent.Output(
                    display_name="latent", tooltip="One latent a picture, in w, for this condition."
                )
            ],
        )

    @classmethod
    def execute(cls, model, condition, image, steps: int, mask=None) -> io.NodeOutput:
        pictures = to_pictures(image, mask)
        progress = NodeProgress(steps)
        found = model.ready().invert(pictures, condition, steps=steps, progress=progress)
        return io.NodeOutput(latent_to_link(found))


NODES = [
    ImagenRandomLatent,
    ImagenInvert,
    ImagenTruncate,
    ImagenMixLatents,
    ImagenInterpolate,
    ImagenDirection,
]
