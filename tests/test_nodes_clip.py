"""A CLIP that ComfyUI has loaded reads for a model that was trained on its folder."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from clip_folders import random_clip
from comfyui import free, saved_pixels
from every_node import failure, node

import imagen_model as im
from imagen_model.cli import main
from imagen_model.conditioning.clip import ClipEncoder, ClipFolder
from studio.host import find_host
from studio.server import Server

pytestmark = [pytest.mark.comfyui, pytest.mark.slow]  # 250 MB of random weights
CLIP_L = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
          "num_attention_heads": 12, "vocab": 49408}  # fmt: skip
FILE, MODEL = "random-clip-l.safetensors", "on-clip.safetensors"
STYLE = "noto"


@pytest.fixture(scope="module")
def clip(server: Server, tmp_path_factory) -> Iterator[ClipEncoder]:
    """Random weights of CLIP-L's size: a folder for the library, and its file for ComfyUI."""
    folder = tmp_path_factory.mktemp("clip") / "clip-l"
    random_clip(folder, 0, dtype=torch.float16, **CLIP_L)
    tokenizer = find_host(Path(sys.executable)).directory / "comfy" / "sd1_tokenizer"
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(tokenizer / name, folder)
    listed = server.base / "models" / "text_encoders" / FILE
    listed.parent.mkdir(exist_ok=True)
    (folder / "model.safetensors").rename(listed)
    (folder / "model.safetensors").symlink_to(listed)
    yield ClipEncoder(ClipFolder(folder))
    listed.unlink()
    free(server)


@pytest.fixture(scope="module")
def model(
    server: Server, clip: ClipEncoder, emoji_folder: Path, tmp_path_factory
) -> Iterator[im.Model]:
    """A model after two steps of training on the folder, in models/imagen."""
    run = tmp_path_factory.mktemp("runs") / "run"
    typed = ["train", emoji_folder, "--out", run, "--batch", 8, "--kimg", 0.016]
    folder = clip.core.folder
    assert main([str(word) for word in [*typed, "--text-encoder", folder]]) == 0
    path = server.base / "models" / "imagen" / MODEL
    path.parent.mkdir(exist_ok=True)
    shutil.copy(run / "latest.safetensors", path)
    yield im.load(path).with_text_encoder(clip)
    path.unlink()


def asked(server: Server, text: str, *, model: str = MODEL, clip: str | None = "clip") -> dict:
    """A prompt that draws two pictures of `text`, with the node `clip` linked."""
    linked = {} if clip is None else {"clip": [clip, 0]}
    return {
        "model": node(server, "ImagenLoadModel", model_name=model),
        "clip": node(server, "CLIPLoader", clip_name=FILE, type="stable_diffusion"),
        "early": node(server, "CLIPSetLastLayer", clip=["clip", 0], stop_at_clip_layer=-8),
        "text": node(
            server, "ImagenEncodeText", model=["model", 0], text=text, style=STYLE, **linked
        ),
        "latent": node(server, "ImagenRandomLatent", model=["model", 0], batch_size=2),
        "sample": node(
            server, "ImagenSample", model=["model", 0], condition=["text", 0], latent=["latent", 0]
        ),
        "show": node(server, "PreviewImage", images=["sample", 0]),
    }  # fmt: skip


def numbers_in(shown: str) -> torch.Tensor:
    """The numbers that a printed condition shows: six of each token and of the pooled vector."""
    return torch.tensor([float(x) for x in re.findall(r"-?\d+\.\d+(?:e-?\d+)?", shown)])


def test_comfyui_s_clip_says_what_the_library_hears_from_the_folder(server, model):
    text = "two (cars:1.6) at night, (blue:0.5) sky"
    prompt = asked(server, text)
    prompt["print"] = node(server, "PreviewAny", source=["text", 0])
    outputs = server.run(prompt)
    said = numbers_in(outputs["print"]["text"][0])
    condition = model.encode_text(text, style=STYLE)
    expected, plain = (
        numbers_in(str(c)) for c in (condition, model.encode_text("two cars at night, blue sky"))
    )
    assert len(said) == len(expected) > 50
    torch.testing.assert_close(said, expected, atol=0.01, rtol=0)  # fp16 weights; up to 3.8
    assert (said - plain).abs().max() > 0.1  # the weights are heard
    generated = saved_pixels(server, outputs)
    for pixels, right in zip(generated, model.draw(condition, model.latent([0, 1])), strict=True):
        white = (right[:3] + 1 - right[3:]).clamp(-1, 1)
        assert (torch.from_numpy(pixels / 127.5 - 1).permute(2, 0, 1) - white).abs().max() < 0.02


@pytest.mark.parametrize(
    ("linked", "words"),
    [
        ({"clip": None}, "was trained on a CLIP text encoder; connect it to clip"),
        ({"clip": "early"}, r"was trained on another CLIP .* or another layer of it \(\d\d% of"),
        ({"model": "emoji"}, "was not trained on a CLIP text encoder; disconnect clip"),
    ],
)
def test_a_clip_that_does_not_fit_is_one_line_on_the_node(server, model, linked, words):
    kind, exception, message = failure(server, asked(server, "key", **linked))
    assert (kind, exception) == ("ImagenEncodeText", "ValueError")
    assert "\n" not in message
    assert re.search(words, message), message


def test_pictures_do_not_speak_to_such_a_model(server, model):
    prompt = asked(server, "key")
    prompt["shown"] = node(server, "ImagenEncodeImage", model=["model", 0], image=["blank", 0])
    prompt["blank"] = node(server, "EmptyImage", width=32, height=32)
    prompt["sample"]["inputs"]["condition"] = ["shown", 0]
    kind, _, message = failure(server, prompt)
    assert kind == "ImagenEncodeImage" and "connect it to clip of Imagen Encode Text" in message
