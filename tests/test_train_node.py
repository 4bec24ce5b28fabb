"""Training in the graph, in a real ComfyUI."""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path

import pytest
import torch
from comfyui import free, saved_pixels

import imagen_model as im
from studio.server import Server, StudioError

pytestmark = pytest.mark.comfyui
FOLDER = "twelve-emoji"


@pytest.fixture
def pictures(server: Server, emoji_folder: Path) -> str:
    """A folder of captioned pictures in ComfyUI's input directory."""
    target = server.base / "input" / FOLDER
    if not target.exists():
        shutil.copytree(emoji_folder / "train", target)
    return FOLDER


def graph(
    folder: str, name: str, *, minutes: float = 0.02, plot: bool = False, **inputs: object
) -> dict:
    """Train, draw with the model, and plot the losses."""
    prompt = {
        "1": {
            "class_type": "ImagenTrain",
            "inputs": {
                "folder": folder, "name": name, "minutes": minutes, "preset": "nano",
                "init": "none", "resolution": "auto", "training_seed": 0, **inputs,
            },
        },
        "2": {
            "class_type": "LossGraphNode",
            "inputs": {"loss": ["1", 1], "filename_prefix": "loss"},
        },
        "3": {
            "class_type": "ImagenEncodeText",
            "inputs": {"model": ["1", 0], "text": "rocket", "style": "any"},
        },
        "4": {
            "class_type": "ImagenRandomLatent",
            "inputs": {"model": ["1", 0], "seed": 0, "batch_size": 2},
        },
        "5": {
            "class_type": "ImagenSample",
            "inputs": {
                "model": ["1", 0], "condition": ["3", 0], "latent": ["4", 0],
                "truncation": 1.0, "background": "white", "tile": "none",
            },
        },
        "6": {"class_type": "SaveImage", "inputs": {"images": ["5", 0], "filename_prefix": "t"}},
    }  # fmt: skip
    if not plot:
        del prompt["2"]
    return prompt


def model_file(server: Server, name: str) -> Path:
    return server.base / "models" / "imagen" / f"{name}.safetensors"


def test_a_graph_trains_plots_draws_and_lists_its_model(server, pictures):
    outputs = server.run(graph(pictures, "from graph", plot=True))
    assert outputs["2"]["images"]  # core's plot of the losses
    assert len(saved_pixels(server, {"6": outputs["6"]})) == 2
    listed = server.get("/object_info/ImagenLoadModel")["ImagenLoadModel"]["input"]["required"]
    assert "from graph.safetensors" in str(listed["model_name"])
    model = im.load(model_file(server, "from graph"))
    assert model.styles == ("fluent-3d", "fluent-flat", "noto", "twemoji")
    assert (server.base / "output" / "imagen_training" / "from graph" / "report.html").is_file()


def test_a_run_with_nothing_left_to_train_is_plotted_all_the_same(server, pictures):
    prompt = graph(pictures, "one tick", minutes=0.01, plot=True)
    for _ in range(2):
        assert server.run(prompt)["2"]["images"]
        free(server)


def test_a_downloaded_model_of_the_same_name_is_kept(server, pictures):
    file = model_file(server, "theirs")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"somebody's model")
    with pytest.raises(StudioError, match=r"theirs\.safetensors is not a model of the run in"):
        server.run(graph(pictures, "theirs", minutes=0.01))
    assert file.read_bytes() == b"somebody's model"
    file.unlink()


def test_more_minutes_go_on_where_the_run_stopped(server, pictures):
    server.run(graph(pictures, "longer", minutes=0.01))
    first = im.load(model_file(server, "longer")).card
    server.run(graph(pictures, "longer", minutes=0.1))
    second = im.load(model_file(server, "longer")).card
    assert second["kimg"] > first["kimg"]
    assert second["seconds"] >= 0.1 * 60 > first["seconds"]


def test_a_model_can_begin_with_another(server, pictures):
    server.run(graph(pictures, "parent"))
    server.run(graph(pictures, "child", init="parent.safetensors", preset="large"))
    lineage = im.load(model_file(server, "child")).card["lineage"]
    assert [parent["name"] for parent in lineage] == ["parent"]


def test_an_init_that_is_gone_is_named(server, pictures):
    with pytest.raises(StudioError, match=r"no model gone\.safetensors in"):
        server.run(graph(pictures, "orphan", init="gone.safetensors"))


def test_cancel_stops_within_two_seconds_and_keeps_the_model(server, pictures):
    failures: list[StudioError] = []

    def run() -> None:
        try:
            server.run(graph(pictures, "cancelled", minutes=5.0))
        except StudioError as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    log = server.base / "output" / "imagen_training" / "cancelled" / "samples" / "real.png"
    deadline = time.monotonic() + 120
    while not log.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(2.0)  # a few steps
    pressed = time.monotonic()
    server.post("/api/interrupt", {})
    thread.join(timeout=30)
    took = time.monotonic() - pressed
    assert not thread.is_alive()
    assert failures and "interrupted" in str(failures[0])
    assert took < 2.0
    model = im.load(model_file(server, "cancelled"))
    assert 0 < model.card["seconds"] < 60
    assert torch.isfinite(model.sample("rocket")).all()


@pytest.mark.parametrize(
    ("folder", "name", "words"),
    [
        ("nowhere", "m", r"no folder 'nowhere' in ComfyUI's folders; expected a folder in .*input"),
        (FOLDER, "../m", r"name is '../m'; expected letters"),
        (FOLDER, "", r"name is ''; expected letters"),
        (FOLDER, "con", r"name is 'con'; expected letters"),
        (FOLDER, "NUL.v1", r"name is 'NUL.v1'; expected letters"),
        (FOLDER, "my model.", r"name is 'my model.'; expected letters"),
        (FOLDER, "x ", r"name is 'x '; expected letters"),
    ],
)
def test_a_wrong_folder_or_name_is_explained(server, pictures, folder, name, words):
    with pytest.raises(StudioError, match=words):
        server.run(graph(folder, name))


def test_a_run_does_not_become_another(server, pictures):
    server.run(graph(pictures, "one kind", minutes=0.01))
    with pytest.raises(StudioError, match="preset small does not fit the run in") as caught:
        server.run(graph(pictures, "one kind", minutes=0.02, preset="small"))
    assert "--" not in str(caught.value)  # flags are the command line's
