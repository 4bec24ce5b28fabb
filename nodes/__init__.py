"""The nodes. Each is a schema and three lines: convert, one library call, convert."""

from comfy_api.latest import ComfyExtension, io

from . import (
    audio,
    condition,
    dataset,
    feedback,
    grid,
    latent,
    model,
    sample,
    score,
    train,
    upscale,
)
from .feedback_host import add_routes
from .host import register_model_folder

FAMILIES = (
    model, condition, latent, sample, score, grid, upscale, audio, dataset, train, feedback,
)  # fmt: skip


class ImagenExtension(ComfyExtension):
    """What ComfyUI asks for the nodes."""

    async def on_load(self) -> None:
        register_model_folder()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        register_model_folder()  # hosts before on_load existed
        add_routes()
        return [node for family in FAMILIES for node in family.NODES]
