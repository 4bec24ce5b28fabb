"""Rating, learning and undoing, in a real ComfyUI, through its API."""

from __future__ import annotations

import json
import shutil

import pytest
from comfyui import example, forget_ratings, saved_pixels

from studio.server import Server, StudioError
from studio.workflow import set_input

pytestmark = [pytest.mark.comfyui, pytest.mark.usefixtures("small_model")]
SMALL = "small.safetensors"


@pytest.fixture(scope="module")
def small_model(server, tiny_checkpoint):
    """An untrained model: these tests are of the graph; test_browser.py teaches the bundled one."""
    path = server.base / "models" / "imagen" / SMALL
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(tiny_checkpoint, path)
    yield
    path.unlink()


def rate_and_learn(server: Server) -> dict:
    """The example workflow with the small model."""
    prompt = example(server, "rate_and_learn")
    set_input(prompt, "ImagenLoadModel", "model_name", SMALL)
    return prompt


def rate(server: Server, seed: int, ratings: str) -> dict[str, dict]:
    """The example workflow with ratings written down; returns the node outputs by kind."""
    prompt = rate_and_learn(server)
    set_input(prompt, "ImagenRandomLatent", "seed", seed)
    set_input(prompt, "ImagenRate", "ratings", ratings)
    return by_kind(prompt, server.run(prompt))


def by_kind(prompt: dict, outputs: dict[str, dict]) -> dict[str, dict]:
    return {prompt[key]["class_type"]: output for key, output in outputs.items()}


def generated(server: Server, adapter: str, strength: float = 1.0):
    """The saved picture of the example with an adapter."""
    prompt = rate_and_learn(server)
    set_input(prompt, "ImagenApplyAdapter", "adapter", adapter)
    set_input(prompt, "ImagenApplyAdapter", "strength", strength)
    (save_id,) = (key for key, node in prompt.items() if node["class_type"] == "SaveImage")
    return saved_pixels(server, {save_id: server.run(prompt)[save_id]})


def learning(server: Server, **inputs: object) -> dict:
    """A prompt that learns by best-of-N only, which is quick."""
    prompt = rate_and_learn(server)
    (rate_id,) = (key for key, node in prompt.items() if node["class_type"] == "ImagenRate")
    model = prompt[rate_id]["inputs"]["model"]
    values = {"model": model, "method": "best", "name": "my-taste", "force": False} | inputs
    prompt["100"] = {"class_type": "ImagenLearn", "inputs": {**values, "count": [rate_id, 2]}}
    return prompt


def test_ratings_are_kept_counted_and_learned_and_what_was_learned_comes_off_again(server):
    forget_ratings(server)
    with pytest.raises(StudioError, match="learning needs 5 or more"):
        server.run(learning(server))
    before = generated(server, "none")
    first = rate(server, 0, "+0 +1 -2 -3 4>5 6>7")
    assert "6 ratings" in first["ImagenRate"]["text"][0]
    assert len(first["ImagenRate"]["images"]) == 8
    again = rate(server, 0, json.dumps({"up": [0, 1], "pairs": [[4, 5]]}))
    assert "6 ratings" in again["ImagenRate"]["text"][0]  # said before
    second = rate(server, 8, "+0 -1 2>3 4>5 6>7")
    assert "11 ratings" in second["ImagenRate"]["text"][0]

    prompt = learning(server, force=True)
    text = by_kind(prompt, server.run(prompt))["ImagenLearn"]["text"][0]
    assert "5 pairs" in text and "A/B on" in text and "my-taste.safetensors" in text
    info = server.get("/object_info/ImagenApplyAdapter")["ImagenApplyAdapter"]
    kind, options = info["input"]["required"]["adapter"]
    listed = options["options"] if kind == "COMBO" else kind
    assert listed == ["none", "my-taste.safetensors"]

    liked = generated(server, "my-taste.safetensors")
    assert any((a != b).any() for a, b in zip(before, liked, strict=True))
    for undone in (generated(server, "none"), generated(server, "my-taste.safetensors", 0.0)):
        assert all((a == b).all() for a, b in zip(before, undone, strict=True))


def test_mistakes_are_one_line_on_their_node(server):
    for call, words in (
        (lambda: rate(server, 0, "+8"), "no picture 8; this batch has 0 to 7"),
        (lambda: generated(server, "gone.safetensors"), "no adapter gone.safetensors in"),
        (lambda: server.run(learning(server, name="../x")), "name is '../x'; expected letters"),
    ):
        with pytest.raises(StudioError, match=words) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_clicks_are_kept_by_the_batch_that_was_shown_and_can_be_taken_back(server):
    shown = rate(server, 100, "")["ImagenRate"]
    rate(server, 200, "")  # the graph has gone on
    said = {"batch": shown["imagen_batch"][0], "clicks": {"up": [0], "pairs": [[1, 2]]}}
    answer = server.post("/api/imagen/rate", said)
    assert len(answer["ids"]) == 2 and f"{answer['count']} ratings" in answer["text"]
    assert server.post("/api/imagen/rate", said) == answer  # once is enough
    undone = server.post("/api/imagen/forget", {"ids": answer["ids"]})
    assert undone["count"] == answer["count"] - 2


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"batch": "unknown", "clicks": {"up": [0]}}, "no longer known; run the graph again"),
        ({"batch": "known", "clicks": {"up": [99]}}, "no picture 99"),
        ({"batch": "known", "clicks": "love"}, "expected an object"),
        ({"clicks": {}}, "batch"),
    ],
)
def test_clicks_that_make_no_sense_are_refused(server, said, words):
    if said.get("batch") == "known":
        said = {**said, "batch": rate(server, 100, "")["ImagenRate"]["imagen_batch"][0]}
    with pytest.raises(StudioError, match=words):
        server.post("/api/imagen/rate", said)
