"""Workflows as the GUI saves them, turned into the prompts that the server runs.

The examples are kept in the GUI's format only; what the demo and the tests run is what users open.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

BYPASSED = (2, 4)  # node modes: muted, bypassed
DYNAMIC_COMBO = "COMFY_DYNAMICCOMBO_V3"  # its choice brings further inputs
CONTROLS = {"fixed", "increment", "decrement", "randomize"}


def load_workflow(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def to_prompt(workflow: dict, object_info: dict) -> dict[str, dict]:
    """GUI format (schema 0.4) -> API format, with the server's /object_info.

    Widgets take their values by position, in the order of the node's inputs; a seed is followed by
    the value of its "control after generate" widget. Inputs that were added to a node after the
    workflow was saved take their defaults, as in the GUI. ValueError for unknown nodes.
    """
    links = {link[0]: (str(link[1]), link[2]) for link in workflow["links"]}
    prompt = {}
    for node in workflow["nodes"]:
        kind = node["type"]
        if kind in ("Note", "MarkdownNote") or node.get("mode", 0) in BYPASSED:
            continue
        if kind not in object_info:
            raise ValueError(f"the server has no node {kind}")
        linked = {i["name"]: links[i["link"]] for i in node.get("inputs", []) if i.get("link")}
        values = list(node.get("widgets_values", []))
        inputs: dict[str, Any] = {}
        for name, spec in declared(object_info[kind]):
            inputs |= widget_values(name, spec, values)
            if name in linked:
                inputs[name] = list(linked[name])
        prompt[str(node["id"])] = {"class_type": kind, "inputs": inputs}
    return prompt


def widget_values(name: str, spec: list, values: list) -> dict[str, Any]:
    """The values of one input, taken from the front of `values`; none for an input without widget.

    The choice of a dynamic combo is followed by the values of the inputs that it brings, which are
    called after it: codec, codec.encoding.
    """
    if not is_widget(spec):
        return {}
    options = spec[1] if len(spec) > 1 else {}
    if spec[0] == DYNAMIC_COMBO:
        choices = {choice["key"]: choice["inputs"] for choice in options["options"]}
        chosen = values.pop(0) if values else next(iter(choices))
        found = {name: chosen}
        for own, inner in declared({"input": choices.get(chosen, {})}):
            found |= widget_values(f"{name}.{own}", inner, values)
        return found
    value = values.pop(0) if values else options.get("default")
    if options.get("control_after_generate") and values and values[0] in CONTROLS:
        values.pop(0)
    if options.get("image_upload") and values and values[0] == "image":
        values.pop(0)  # LoadImage stores its upload button too
    return {name: value}


def declared(info: dict) -> list[tuple[str, list]]:
    """A node's inputs in order: required, then optional."""
    return [
        (name, spec)
        for group in ("required", "optional")
        for name, spec in info["input"].get(group, {}).items()
    ]


def is_widget(spec: list) -> bool:
    """Whether an input has a value of its own on the node."""
    kind, options = spec[0], spec[1] if len(spec) > 1 else {}
    if options.get("forceInput"):
        return False
    return isinstance(kind, list) or kind in (
        "INT",
        "FLOAT",
        "STRING",
        "BOOLEAN",
        "COMBO",
        "COLOR",
        DYNAMIC_COMBO,
    )


def set_input(prompt: dict, class_type: str, name: str, value: Any) -> None:
    """Set one input on every node of a kind."""
    nodes = [node for node in prompt.values() if node["class_type"] == class_type]
    if not nodes:
        raise ValueError(f"the workflow has no {class_type}")
    for node in nodes:
        node["inputs"][name] = value
