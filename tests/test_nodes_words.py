"""Prompts as the node reads them, in a real ComfyUI, through its API."""

from __future__ import annotations

import pytest
import torch
from comfyui import saved_pixels
from every_node import node

import imagen_model as im
from imagen_model.bundled import bundled_models
from studio.server import Server, StudioError

pytestmark = pytest.mark.comfyui


def generated(server: Server, text: str, style: str = "any") -> dict:
    """A prompt that draws two pictures of `text`."""
    return {
        "1": node(server, "ImagenLoadModel"),
        "2": node(server, "ImagenEncodeText", model=["1", 0], text=text, style=style),
        "3": node(server, "ImagenRandomLatent", model=["1", 0], batch_size=2),
        "4": node(server, "ImagenSample", model=["1", 0], condition=["2", 0], latent=["3", 0]),
        "5": {"class_type": "PreviewImage", "inputs": {"images": ["4", 0]}},
    }


def test_the_node_shows_how_it_read_a_prompt_and_what_it_does_not_know(server: Server):
    outputs = server.run(generated(server, "在海边的红苹果"))
    read, unknown = outputs["2"]["text"][0].splitlines()
    assert read == "read as: in red apple"
    assert unknown == "no English is known for: 海边"
    assert server.run(generated(server, "a red apple"))["2"]["text"] == [""]  # as written


def test_a_foreign_prompt_with_a_style_draws_what_the_english_one_draws(server: Server):
    foreign, english = (
        saved_pixels(server, server.run(prompt))
        for prompt in (generated(server, "红苹果, noto"), generated(server, "red apple", "noto"))
    )
    assert [(a == b).all() for a, b in zip(foreign, english, strict=True)] == [True, True]


def test_a_bad_weight_is_one_line_on_the_node(server: Server):
    with pytest.raises(StudioError, match="ImagenEncodeText: the weight of 'red' is 9") as caught:
        server.run(generated(server, "a (red:9) apple"))
    assert "\n" not in str(caught.value)


def test_the_node_weighs_as_the_library_does(server: Server):
    model = im.load(next(iter(bundled_models())))
    plain, heavy = (
        model.draw(model.encode_text(text, style="noto"), model.latent([0, 1]))
        for text in ("a red apple", "a (red:2) apple")
    )
    pictures = saved_pixels(server, server.run(generated(server, "a (red:2) apple", "noto")))
    for ours, expected, other in zip(pictures, heavy, plain, strict=True):
        ours = torch.from_numpy(ours / 127.5 - 1).permute(2, 0, 1)
        expected, other = (p[:3] + 1 - p[3:] for p in (expected, other))  # over white
        expected, other = expected.clamp(-1, 1), other.clamp(-1, 1)
        assert (ours - expected).abs().mean() < (ours - other).abs().mean() / 4
