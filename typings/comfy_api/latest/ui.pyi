from typing import Any

from torch import Tensor

from . import io

class UIOutput:
    def as_dict(self) -> dict[str, Any]: ...

class PreviewImage(UIOutput):
    def __init__(self, image: Tensor, *, cls: type[io.ComfyNode] | None = None) -> None: ...

class PreviewText(UIOutput):
    def __init__(self, value: str) -> None: ...
