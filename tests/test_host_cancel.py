"""Cancel at every node that takes longer than a moment, in a real ComfyUI.

Training is cancelled in test_train_node.py.
"""

from __future__ import annotations

import time
import wave

import numpy as np
import pytest
from every_node import graph, needed, node, still_works
from PIL import Image

from imagen_model.bundled import ALIASES
from studio.server import Server, StudioError

pytestmark = pytest.mark.comfyui
BUNDLED = ALIASES["emoji"]
MANY = {"width": 32, "height": 32, "batch_size": 4096}
ALL = {"image": ["three", 0], "mask": ["masks", 0]}
THUMBS = {"ratings": "+0 +1 +2 -3 -4 -5"}
LINES = "\n".join(f"{i} red apples" for i in range(4096))
LARGE = 600  # pictures in the folder that is read
RATE, NOISE_SEC = 16_000, 60

SLOW = [
    ("sample", {"latent": {"batch_size": 4096}}),
    ("rate", {"latent": {"batch_size": 4096}}),
    ("truncated", {"model": {"model_name": BUNDLED}, "latent": {"batch_size": 4096}}),
    ("moved", {"model": {"model_name": BUNDLED}, "moved": {"attribute": "detail"}}),
    ("texts", {"texts": {"text": LINES}}),
    ("shown", {"three": MANY, "shown": ALL}),
    ("upscaled", {"three": MANY, "upscaled": ALL}),
    ("spoken", {"speech": {"audio": "noise.wav"}}),
    ("film", {"film": {"audio": ["silence", 0]}}),
    ("score", {"three": MANY, "score": ALL}),
    ("inverted", {"latent": {"batch_size": 64}, "inverted": {"steps": 10_000}}),
    ("saved", {"three": MANY, "saved": {**ALL, "folder": "sets/cancelled"}}),
    ("folder", {"folder": {"folder": "large", "resolution": 128, "limit": 4096}}),
    ("learn", {"latent": {"batch_size": 6}, "rate": THUMBS, "learn": {"count": ["rate", 2]}}),
]


@pytest.fixture(scope="module")
def large(host: Server) -> None:
    """A folder of pictures that take a while to read, and a sound to listen to for long."""
    folder = host.base / "input" / "large"
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (1200, 1200, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "0.png")
    for i in range(1, LARGE):
        (folder / f"{i}.png").hardlink_to(folder / "0.png")
    with wave.open(str(host.base / "input" / "noise.wav"), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", None))
        samples = np.random.default_rng(0).normal(scale=3000, size=RATE * NOISE_SEC)
        file.writeframes(samples.astype("<i2").tobytes())


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize(("target", "changes"), SLOW, ids=[target for target, _ in SLOW])
def test_cancel_stops_within_two_seconds_and_the_next_run_works(host, target, changes):
    nodes = graph(host)
    for key, inputs in changes.items():
        nodes[key]["inputs"] |= inputs
    links = [value for value in nodes[target]["inputs"].values() if isinstance(value, list)]
    before = {f"{i}!": node(host, "PreviewAny", source=link) for i, link in enumerate(links)}
    if before:
        host.run(needed(nodes | before, *before))  # what the node needs is cached then
    nodes["show"] = node(host, "PreviewAny", source=[target, 0])
    prompt_id = host.queue(needed(nodes, "show"))
    time.sleep(0.5)
    assert not host.get(f"/api/history/{prompt_id}"), "it took no time; make it more"
    pressed = time.monotonic()
    host.post("/api/interrupt", {})
    with pytest.raises(StudioError, match=f"{nodes[target]['class_type']}: interrupted"):
        host.wait_for(prompt_id)
    assert time.monotonic() - pressed < 2
    assert not [*(host.base / "output" / "sets" / "cancelled").rglob("*.png")]
    still_works(host)
