"""Nodes that make and change latents."""

from comfy_api.latest import io

from .convert import latent_to_link
from .types import CATEGORY, ImagenLatent, ImagenModel

MAX_SEED = 2**64 - 1
MAX_BATCH = 4096


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


NODES = [ImagenRandomLatent]
