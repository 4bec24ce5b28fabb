"""The nodes. Each has a schema and a short body: convert, one library call, convert."""

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
from .host import register_model_folder
from .rating_server import add_routes

FAMILIES = (
    model, condition, latent, sample, score, grid, upscale, audio, dataset, train, feedback,
)  # fmt: skip


class ImagenExtension(ComfyExtension):
    """The list of nodes for ComfyUI."""

    async def on_load(self) -> None:
        register_model_folder()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        register_model_folder()  # hosts before on_load existed
        add_routes()
        return [node for family in FAMILIES for node in family.NODES]
