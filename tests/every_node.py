"""Models of every kind, and one graph with every node of the pack, for the end-to-end tests."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

from comfyui import forget_ratings, saved_pixels
from conftest import tiny_model_config

from imagen_model.checkpoint import save_checkpoint
from imagen_model.config import ModelConfig, dcgan
from imagen_model.networks.efficientnet import lite0_hash
from imagen_model.networks.networks import Networks
from studio.server import Server, StudioError
from studio.workflow import declared, is_widget

WORDLESS = ("grey", "dcgan", "on_clip")  # models without text, or without its encoder
SEEDS = count(1000)
_INFO: dict[str, dict] = {}


def models() -> dict[str, ModelConfig]:
    """Tiny models of every kind; `wide` is of another width and knows other styles."""
    rgba = tiny_model_config()
    wide = tiny_model_config(styles=("ink", "oil"))
    clip = replace(rgba.conditioning, dim=48, text_encoder=f"clip-48-{'5a' * 24}")
    return {
        "rgba": rgba,
        "wide": replace(wide, generator=replace(wide.generator, dim=64, z_dim=24)),
        "rgb": tiny_model_config(channels=3, styles=()),
        "grey": tiny_model_config(channels=1, styles=(), text_encoder=""),
        "dcgan": dcgan(channels=3, width=4, discriminator_width=4),
        "on_clip": replace(rgba, conditioning=clip),
    }


def write_model(server: Server, kind: str, name: str) -> Path:
    """An untrained model in models/imagen."""
    config, path = models()[kind], server.base / "models" / "imagen" / f"{name}.safetensors"
    lite0 = {"lite0": lite0_hash()} if config.discriminator.features else {}
    save_checkpoint(path, config, Networks.seeded(config, 0).eval(), {"name": name, **lite0})
    return path


def furnished(server: Server, emoji_folder: Path) -> Iterator[Server]:
    """The server with the models, a folder of pictures, an empty one, and files that are no
    adapters, and without ratings; takes the models away again."""
    forget_ratings(server)
    paths = [write_model(server, kind, kind) for kind in models()]
    shutil.copytree(emoji_folder / "train", server.base / "input" / "twelve", dirs_exist_ok=True)
    (server.base / "input" / "empty").mkdir(exist_ok=True)
    (server.base / "output" / "a-file").write_text("in the way")
    adapters = server.base / "models" / "imagen_adapters"
    adapters.mkdir(exist_ok=True)
    wrong = [adapters / "a-model.safetensors", adapters / "junk.safetensors"]
    shutil.copy(paths[0], wrong[0])
    wrong[1].write_bytes(b"junk")
    dangling = server.base / "models" / "imagen" / "dangling.safetensors"
    dangling.symlink_to("nowhere")
    yield server
    for path in (*paths, *wrong, dangling):
        path.unlink()


def graph(server: Server, model: str = "rgba", other: str = "wide") -> dict[str, dict]:
    """One node of each kind, wired as they should be, and some that wrong wires come from."""

    def new(kind: str, **inputs: object) -> dict:
        return node(server, kind, **inputs)

    def words(name: str) -> str:
        return "" if name in WORDLESS else "red apple"

    asked = {"model": ["model", 0], "condition": ["text", 0]}
    link = asked | {"latent": ["latent", 0]}
    pictures = {"image": ["sample", 0], "mask": ["sample", 1]}
    return {
        "model": new("ImagenLoadModel", model_name=f"{model}.safetensors"),
        "other": new("ImagenLoadModel", model_name=f"{other}.safetensors"),
        "info": new("ImagenModelInfo", model=["model", 0]),
        "text": new("ImagenEncodeText", model=["model", 0], text=words(model)),
        "texts": new("ImagenEncodeText", model=["model", 0], text="a\nb\nc", per_line=True),
        "text_other": new("ImagenEncodeText", model=["other", 0], text=words(other)),
        "shown": new("ImagenEncodeImage", model=["model", 0], **pictures),
        "spoken": new("ImagenEncodeAudio", model=["model", 0], audio=["speech", 0]),
        "combined": new(
            "ImagenCombineConditions", condition_a=["text", 0], condition_b=["text", 0]
        ),
        "latent": new("ImagenRandomLatent", model=["model", 0], batch_size=2),
        "starter": new("ImagenTextToImage", model=["model", 0], text=words(model)),
        "styles": new("ImagenStyleRow", **link),
        "latents": new("ImagenRandomLatent", **asked, batch_size=2),
        "carried": new("ImagenSample", latent=["latents", 0]),
        "latent_other": new("ImagenRandomLatent", model=["other", 0], batch_size=2),
        "sample": new("ImagenSample", **link),
        "truncated": new("ImagenTruncate", **link),
        "mixed": new(
            "ImagenMixLatents", **asked, coarse=["latent", 0], fine=["latent", 0], from_block=1
        ),
        "walk": new("ImagenInterpolate", latent=["latent", 0]),
        "film": new("ImagenAudioWalk", **link, audio=["speech", 0]),
        "moved": new("ImagenDirection", **link),
        "inverted": new("ImagenInvert", **asked, **pictures, steps=2),
        "score": new("ImagenScore", **asked, **pictures),
        "best": new("ImagenPickBest", **pictures, order=["score", 1]),
        "grid": new("ImagenGrid", **pictures),
        "upscaled": new("ImagenUpscale", **pictures),
        "saved": new("ImagenSaveDataset", **pictures, captions="x", folder=f"sets/{model}"),
        "folder": new("ImagenLoadImageFolder", folder="twelve"),
        "train": new("ImagenTrain", folder="twelve", name="mistaken", minutes=0.01),
        "rate": new("ImagenRate", **link),
        "learn": new("ImagenLearn", model=["model", 0]),
        "adapted": new("ImagenApplyAdapter", model=["model", 0]),
        "three": new("EmptyImage", width=20, height=30, batch_size=3),
        "huge": new("EmptyImage", width=640, height=640),
        "cover": new("ImageToMask", image=["huge", 0], channel="red"),
        "masks": new("ImageToMask", image=["three", 0], channel="red"),
        "speech": new("LoadAudio", audio="imagen_spoken_prompt.flac"),
        "silence": new("EmptyAudio", duration=600.0, sample_rate=8000, channels=1),
        "minus": new("PrimitiveInt", value=-1),
        "third": new("PrimitiveInt", value=2),
    }  # fmt: skip


def prompt(
    server: Server, target: str, changes: dict[str, dict] | None = None, **kinds: str
) -> dict[str, dict]:
    """The graph up to `target`, with inputs of nodes changed."""
    nodes = graph(server, **kinds)
    for key, inputs in (changes or {}).items():
        nodes[key]["inputs"] |= inputs
    nodes["show"] = node(server, "PreviewAny", source=[target, 0])
    return needed(nodes, "show")


def still_works(server: Server) -> None:
    """A correct graph generates two pictures, with a new seed."""
    nodes = graph(server)
    nodes["latent"]["inputs"]["seed"] = next(SEEDS)
    nodes["show"] = node(server, "PreviewImage", images=["sample", 0])
    assert len(saved_pixels(server, server.run(needed(nodes, "show")))) == 2


def node(server: Server, class_type: str, **inputs: object) -> dict:
    """A node as it is dropped on the canvas: every widget at its default, `inputs` set."""
    if class_type not in _INFO:
        _INFO.update(server.get(f"/object_info/{class_type}"))
    values = {}
    for name, spec in declared(_INFO[class_type]):
        if is_widget(spec):
            options = spec[1] if len(spec) > 1 else {}
            choices = spec[0] if isinstance(spec[0], list) else options.get("options") or [None]
            values[name] = options.get("default", choices[0])
    return {"class_type": class_type, "inputs": values | inputs}


def needed(prompt: dict, *keys: str) -> dict:
    """The nodes `keys` and all that they are linked to."""
    found: dict[str, dict] = {}
    waiting = [*keys]
    while waiting:
        key = waiting.pop()
        if key not in found:
            found[key] = prompt[key]
            links = [v for v in prompt[key]["inputs"].values() if isinstance(v, list)]
            waiting += [link[0] for link in links]
    return found


def failure(server: Server, prompt: dict) -> tuple[str, str, str]:
    """Class of the node that fails, kind of failure ("refused" before it ran) and its words."""
    try:
        prompt_id = server.queue(prompt)
    except StudioError as error:
        told = str(error).split("; ", 1)[1]
        return told.split(":")[0], "refused", told
    return failed(server, prompt, prompt_id)


def failed(server: Server, prompt: dict, prompt_id: str) -> tuple[str, str, str]:
    """`failure` of a prompt that was queued."""
    try:
        server.wait_for(prompt_id)
    except StudioError:
        messages = dict(server.get(f"/api/history/{prompt_id}")[prompt_id]["status"]["messages"])
        error = messages["execution_error"]
        kind = prompt[error["node_id"]]["class_type"]
        return kind, error["exception_type"], error["exception_message"].strip()
    raise AssertionError("it did not fail")
