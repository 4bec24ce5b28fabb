"""The subgraphs that ComfyUI lists as blueprints: each opens on one node and runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from comfyui import ROOT, saved_pixels
from every_node import node

from studio.server import Server
from studio.workflow import declared, widget_values

BLUEPRINTS = sorted((ROOT / "subgraphs").glob("*.json"))
each_blueprint = pytest.mark.parametrize("path", BLUEPRINTS, ids=lambda path: path.stem)


def inside(path: Path) -> tuple[dict, dict]:
    """The node that a blueprint puts on the canvas, and what is in it."""
    blueprint = json.loads(path.read_text(encoding="utf-8"))
    (outer,), (graph,) = blueprint["nodes"], blueprint["definitions"]["subgraphs"]
    return outer, graph


@each_blueprint
def test_every_link_of_a_blueprint_has_two_ends_that_know_it(path):
    outer, graph = inside(path)
    nodes = {n["id"]: n for n in graph["nodes"]}
    assert outer["type"] == graph["id"] and outer["title"] == graph["name"] == path.stem
    for name in ("inputs", "outputs"):
        assert [s["name"] for s in outer[name]] == [s["name"] for s in graph[name]]
    for link in graph["links"]:
        start, end = link["origin_id"], link["target_id"]
        if start == -10:
            assert link["id"] in graph["inputs"][link["origin_slot"]]["linkIds"]
        else:
            assert link["id"] in nodes[start]["outputs"][link["origin_slot"]]["links"]
        if end == -20:
            assert link["id"] in graph["outputs"][link["target_slot"]]["linkIds"]
        else:
            assert nodes[end]["inputs"][link["target_slot"]]["link"] == link["id"]


def flattened(server: Server, graph: dict) -> dict[str, dict]:
    """What is in a blueprint as a prompt; the model is the only thing that it lacks."""
    info = server.get("/object_info")
    prompt = {}
    for inner in graph["nodes"]:
        values = [*inner["widgets_values"]]
        inputs: dict = {}
        for name, spec in declared(info[inner["type"]]):
            inputs |= widget_values(name, spec, values)
        prompt[str(inner["id"])] = {"class_type": inner["type"], "inputs": inputs}
    for link in graph["links"]:
        if link["target_id"] == -20:
            continue
        target = next(n for n in graph["nodes"] if n["id"] == link["target_id"])
        name = target["inputs"][link["target_slot"]]["name"]
        if link["origin_id"] != -10:
            source = [str(link["origin_id"]), link["origin_slot"]]
        elif link["type"] == "IMAGEN_MODEL":
            source = ["model", 0]
        else:
            continue  # the value of the inner widget
        prompt[str(target["id"])]["inputs"][name] = source
    return prompt


@pytest.mark.comfyui
@each_blueprint
def test_a_blueprint_is_listed_and_draws(host, path):
    listed = {entry["name"] for entry in host.get("/global_subgraphs").values()}
    assert path.stem in listed
    _, graph = inside(path)
    prompt = flattened(host, graph)
    prompt["model"] = node(host, "ImagenLoadModel", model_name="rgba.safetensors")
    last = next(link for link in graph["links"] if link["target_id"] == -20)
    image = [str(last["origin_id"]), last["origin_slot"]]
    prompt["show"] = node(host, "PreviewImage", images=image)
    (picture,) = saved_pixels(host, {"show": host.run(prompt)["show"]})
    assert picture.std() > 1
