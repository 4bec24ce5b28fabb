"""The part of ComfyUI's API that the nodes use, for mypy."""

from . import io as io
from . import ui as ui

class ComfyExtension:
    async def on_load(self) -> None: ...
    async def get_node_list(self) -> list[type[io.ComfyNode]]: ...
