from collections.abc import Sequence
from enum import Enum
from typing import Any

from . import ui

class Input:
    def __init__(self, id: str, *, optional: bool = False, tooltip: str | None = None) -> None: ...

class Output:
    def __init__(
        self, *, display_name: str, tooltip: str | None = None, is_output_list: bool = False
    ) -> None: ...

class ComfyTypeIO:
    Input = Input
    Output = Output

def Custom(io_type: str) -> type[ComfyTypeIO]: ...  # noqa: N802

class Image(ComfyTypeIO): ...
class Mask(ComfyTypeIO): ...
class Audio(ComfyTypeIO): ...
class Clip(ComfyTypeIO): ...
class LossMap(ComfyTypeIO): ...

class Int:
    class Input(Input):
        def __init__(
            self,
            id: str,
            *,
            optional: bool = False,
            tooltip: str | None = None,
            default: int | None = None,
            min: int | None = None,
            max: int | None = None,
            control_after_generate: bool | None = None,
            force_input: bool | None = None,
        ) -> None: ...

    Output = Output

class Float:
    class Input(Input):
        def __init__(
            self,
            id: str,
            *,
            tooltip: str | None = None,
            optional: bool = False,
            default: float | None = None,
            min: float | None = None,
            max: float | None = None,
            step: float | None = None,
        ) -> None: ...

    Output = Output

class String:
    class Input(Input):
        def __init__(
            self,
            id: str,
            *,
            tooltip: str | None = None,
            multiline: bool = False,
            default: str | None = None,
            dynamic_prompts: bool | None = None,
        ) -> None: ...

    Output = Output

class Boolean:
    class Input(Input):
        def __init__(
            self,
            id: str,
            *,
            optional: bool = False,
            tooltip: str | None = None,
            default: bool | None = None,
        ) -> None: ...

class Combo:
    class Input(Input):
        def __init__(
            self,
            id: str,
            *,
            options: Sequence[str],
            optional: bool = False,
            tooltip: str | None = None,
            default: str | None = None,
        ) -> None: ...

class Hidden(str, Enum):
    unique_id = "UNIQUE_ID"
    prompt = "PROMPT"

class HiddenHolder:
    unique_id: str | None
    prompt: dict[str, Any] | None

class Schema:
    def __init__(
        self,
        *,
        node_id: str,
        display_name: str,
        category: str,
        description: str,
        inputs: Sequence[Input],
        outputs: Sequence[Output],
        hidden: Sequence[Hidden] = (),
        is_input_list: bool = False,
        is_output_node: bool = False,
        is_experimental: bool = False,
    ) -> None: ...

class NodeOutput:
    def __init__(self, *args: Any, ui: ui.UIOutput | dict[str, Any] | None = None) -> None: ...

class ComfyNode:
    hidden: HiddenHolder

    @classmethod
    def define_schema(cls) -> Schema: ...
    @classmethod
    def execute(cls, *args: Any, **kwargs: Any) -> NodeOutput: ...
    @classmethod
    def validate_inputs(cls, *args: Any, **kwargs: Any) -> bool | str: ...
    @classmethod
    def fingerprint_inputs(cls, *args: Any, **kwargs: Any) -> Any: ...
