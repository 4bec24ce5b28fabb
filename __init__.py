"""Imagen GAN for ComfyUI: the pack's entry point. ComfyUI imports this; nothing else does."""

WEB_DIRECTORY = "./nodes/web"


async def comfy_entrypoint():
    """The V3 extension; imported here, so that looking at this file starts nothing."""
    from .nodes import ImagenExtension

    return ImagenExtension()
