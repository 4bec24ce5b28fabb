"""The nodes, in a real ComfyUI, through its API."""

from __future__ import annotations

import json
import math
import shutil
import struct
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from comfyui import SAVED, WORKFLOWS, example, free, saved_pixels, template
from every_node import needed
from PIL import Image
from safetensors.torch import save_file

from imagen_model.bundled import bundled_models
from imagen_model.checkpoint import load_checkpoint, save_checkpoint
from studio.server import Server, StudioError
from studio.workflow import load_workflow, set_input, to_prompt

pytestmark = pytest.mark.comfyui
NODES = {
    "ImagenLoadModel",
    "ImagenEncodeText",
    "ImagenEncodeAudio",
    "ImagenRandomLatent",
    "ImagenSample",
    "ImagenScore",
    "ImagenTruncate",
    "ImagenMixLatents",
    "ImagenInterpolate",
    "ImagenDirection",
    "ImagenPickBest",
    "ImagenGrid",
    "ImagenModelInfo",
    "ImagenTrain",
    "ImagenRate",
    "ImagenLearn",
    "ImagenApplyAdapter",
    "ImagenInvert",
    "ImagenCombineConditions",
    "ImagenSaveDataset",
    "ImagenLoadImageFolder",
    "ImagenEncodeImage",
    "ImagenAudioWalk",
    "ImagenUpscale",
    "ImagenTextToImage",
    "ImagenStyleRow",
}

NEEDS_A_CHECKPOINT = "diffusion_refine"
RUNNABLE = [path for path in WORKFLOWS if path != template(NEEDS_A_CHECKPOINT)]


def run_step_by_step(server: Server, **inputs: tuple[str, object]) -> list[np.ndarray]:
    """The starter workflow with some inputs set: name = (class_type, value)."""
    prompt = example(server, "step_by_step")
    for name, (class_type, value) in inputs.items():
        set_input(prompt, class_type, name, value)
    return saved_pixels(server, server.run(prompt))


def test_all_nodes_are_registered_with_core_types(server):
    info = server.get("/object_info")
    assert set(info) >= NODES
    assert info["ImagenSample"]["output"] == ["IMAGE", "MASK"]
    assert info["ImagenScore"]["output"] == ["FLOAT", "INT", "IMAGE", "INT", "FLOAT"]
    assert info["ImagenLoadModel"]["input_order"]["required"] == ["model_name"]
    order = info["ImagenSample"]["input_order"]
    assert order["required"] == ["latent", "truncation", "background", "tile"]
    assert order["optional"] == ["model", "condition", "alpha", "colours"]


def test_a_sprite_has_hard_edges_and_few_colours_that_the_batch_shares(server):
    chosen = {"alpha": "hard", "colours": 6, "background": "black"}
    inputs = {name: ("ImagenSample", value) for name, value in chosen.items()}
    common = {
        "batch_size": ("ImagenRandomLatent", 2),
        "upscale_method": ("ImageScaleBy", "nearest-exact"),
    }
    [first, second] = run_step_by_step(server, **common, **inputs)
    colours = [np.unique(x.reshape(-1, 3), axis=0) for x in (first, second)]
    assert 4 <= len(np.unique(np.concatenate(colours), axis=0)) <= 7
    [soft, _] = run_step_by_step(server, **common, background=inputs["background"])
    assert len(np.unique(soft.reshape(-1, 3), axis=0)) > 100
    assert np.abs(first.astype(int) - soft).mean() < 16


@pytest.mark.parametrize("path", RUNNABLE, ids=lambda path: path.stem)
def test_every_example_workflow_executes_and_has_a_thumbnail(server, path, emoji_folder):
    assert path.with_suffix(".jpg").is_file()
    prompt = to_prompt(load_workflow(path), server.get("/object_info"))
    if any(node["class_type"] == "ImagenTrain" for node in prompt.values()):
        shutil.copytree(emoji_folder, server.base / "input" / "emoji", dirs_exist_ok=True)
        set_input(prompt, "ImagenTrain", "folder", "emoji")
        set_input(prompt, "ImagenTrain", "minutes", 0.15)
    pictures = saved_pixels(server, server.run(prompt))
    assert pictures
    assert all(picture.std() > 1 for picture in pictures)  # not one flat colour


def test_diffusion_refine_lacks_nothing_but_a_checkpoint_and_draws_its_draft_without(server):
    prompt = example(server, NEEDS_A_CHECKPOINT)
    refused = r"Some outputs were refused; CheckpointLoaderSimple: Value not in list \(ckpt_name: "
    with pytest.raises(StudioError, match=refused) as caught:
        server.queue(prompt)
    assert ";" not in str(caught.value).partition("; ")[2]  # one error in all
    (draft,) = saved_pixels(server, server.run(needed(prompt, "7")))
    assert draft.shape == (512, 512, 3) and draft.std() > 1


@pytest.mark.parametrize("path", SAVED, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_workflow_that_an_earlier_version_saved_still_runs(server, path):
    prompt = to_prompt(load_workflow(path), server.get("/object_info"))
    assert saved_pixels(server, server.run(prompt))


def test_the_same_workflow_gives_identical_pixels_after_everything_was_freed(server):
    first = run_step_by_step(server)
    free(server)
    second = run_step_by_step(server)
    assert all((a == b).all() for a, b in zip(first, second, strict=True))


def test_another_seed_or_prompt_gives_another_picture(server):
    (first,) = run_step_by_step(server)
    (seed,) = run_step_by_step(server, seed=("ImagenRandomLatent", 1))
    (text,) = run_step_by_step(server, text=("ImagenEncodeText", "rocket"))
    assert (first != seed).any() and (first != text).any()


def test_picture_3_of_a_batch_at_seed_10_is_picture_0_at_seed_13(server):
    batch = run_step_by_step(
        server, seed=("ImagenRandomLatent", 10), batch_size=("ImagenRandomLatent", 4)
    )
    (alone,) = run_step_by_step(server, seed=("ImagenRandomLatent", 13))
    assert len(batch) == 4
    assert np.abs(batch[3].astype(int) - alone.astype(int)).max() <= 1


@pytest.mark.parametrize("text", ["", "word " * 10_000], ids=["empty", "10,000 words"])
def test_any_prompt_draws(server, text):
    assert len(run_step_by_step(server, text=("ImagenEncodeText", text))) == 1


def test_the_largest_seed_draws_a_batch(server):
    pictures = run_step_by_step(
        server, seed=("ImagenRandomLatent", 2**64 - 1), batch_size=("ImagenRandomLatent", 2)
    )
    assert (pictures[0] != pictures[1]).any()


def test_batch_0_is_refused_with_the_limit(server):
    with pytest.raises(StudioError, match=r"ImagenRandomLatent: .*smaller than min"):
        run_step_by_step(server, batch_size=("ImagenRandomLatent", 0))


def test_an_unknown_style_names_the_known_ones(server):
    with pytest.raises(StudioError, match=r"style is 'cubist'; this model knows: fluent-3d"):
        run_step_by_step(server, style=("ImagenEncodeText", "cubist"))


def test_a_missing_model_names_the_folder(server):
    with pytest.raises(StudioError, match=r"no model gone.safetensors in .*imagen; there is"):
        run_step_by_step(server, model_name=("ImagenLoadModel", "gone.safetensors"))


def damaged(kind: str, good: Path, target: Path) -> None:
    """Write a checkpoint that is broken in one way."""
    data = good.read_bytes()
    if kind == "truncated":
        target.write_bytes(data[: len(data) // 2])
    elif kind == "a renamed picture":
        target.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    elif kind == "another model":
        from safetensors.torch import save_file
        from torch import zeros

        save_file({"lora.weight": zeros(2)}, target)
    elif kind == "tampered":
        (size,) = struct.unpack("<Q", data[:8])
        changed = bytearray(data)
        changed[8 + size + 1000] ^= 0xFF
        target.write_bytes(bytes(changed))
    elif kind == "NaN-filled":
        config, networks, card = load_checkpoint(good)
        networks.generator.grid.fill_(math.nan)
        save_checkpoint(target, config, networks, card)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("truncated", "not a readable safetensors file"),
        ("a renamed picture", "not a readable safetensors file"),
        ("another model", "not an Imagen GAN checkpoint"),
        ("tampered", "is damaged"),
        ("NaN-filled", "holds NaN or infinite weights"),
    ],
)
def test_a_bad_checkpoint_is_one_line_and_comfyui_goes_on(server, tiny_checkpoint, kind, words):
    name = f"{kind.replace(' ', '-')}.safetensors"
    folder = server.base / "models" / "imagen"
    folder.mkdir(exist_ok=True)
    damaged(kind, tiny_checkpoint, folder / name)
    with pytest.raises(StudioError, match=words) as caught:
        run_step_by_step(server, model_name=("ImagenLoadModel", name))
    assert "\n" not in str(caught.value)
    assert len(run_step_by_step(server)) == 1


def test_an_own_model_is_listed_and_draws(server, tiny_checkpoint):
    folder = server.base / "models" / "imagen" / "mine"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(tiny_checkpoint, folder / "tiny.safetensors")
    name = str(Path("mine") / "tiny.safetensors")
    (kind, options) = server.get("/object_info/ImagenLoadModel")["ImagenLoadModel"]["input"][
        "required"
    ]["model_name"]
    listed = options["options"] if kind == "COMBO" else kind
    assert name in listed and listed[0] == next(iter(bundled_models()))
    assert len(run_step_by_step(server, model_name=("ImagenLoadModel", name))) == 1


def test_a_model_that_nests_too_deeply_leaves_the_others_listed(server, tiny_checkpoint):
    folder = server.base / "models" / "imagen"
    folder.mkdir(parents=True, exist_ok=True)
    deep = {"imagen.config": '{"conditioning":' + "[" * 100_000, "imagen.card": "{}"}
    path = folder / "deep.safetensors"
    save_file({"weight": torch.zeros(1)}, path, metadata=deep)
    try:
        assert "ImagenEncodeText" in server.get("/object_info")
        with pytest.raises(StudioError, match="deep") as caught:
            run_step_by_step(server, model_name=("ImagenLoadModel", path.name))
        assert "\n" not in str(caught.value)
    finally:
        path.unlink()


def test_a_saved_picture_does_not_tell_where_the_model_lies(server, tiny_checkpoint):
    folder = server.base / "models" / "imagen"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(tiny_checkpoint, folder / "private.safetensors")
    prompt = example(server, "step_by_step")
    load = next(n for n in prompt.values() if n["class_type"] == "ImagenLoadModel")
    load["inputs"]["model_name"] = "private.safetensors"
    outputs = server.run(prompt)
    (saved,) = (output["images"] for output in outputs.values() if "images" in output)
    with Image.open(server.base / "output" / saved[0]["subfolder"] / saved[0]["filename"]) as image:
        told = json.loads(image.info["prompt"])
    assert any("is_changed" in node for node in told.values())
    assert str(server.base) not in json.dumps(told)


def test_the_mask_makes_the_background_and_scores_rank(server):
    prompt = example(server, "score_and_pick")
    outputs = server.run(prompt)
    (score_id,) = (i for i, n in prompt.items() if n["class_type"] == "ImagenScore")
    ranking = outputs[score_id]["text"][0].splitlines()
    values = [float(line.split(":")[1]) for line in ranking]
    assert len(values) == 16 and values == sorted(values, reverse=True)
    (sheet,) = saved_pixels(server, {"score": outputs[score_id]})
    assert sheet.shape[1] == 4 * 128 + 3 * 4  # four pictures a row, best first, captions below
    best = int(ranking[0].split(":")[0])
    scored = prompt[score_id]["inputs"]["image"]
    prompt["100"] = {"class_type": "PreviewImage", "inputs": {"images": scored}}
    generated = saved_pixels(server, {"100": server.run(prompt)["100"]})
    far = [np.abs(sheet[:128, :128].astype(int) - picture).mean() for picture in generated]
    assert int(np.argmin(far)) == best


def test_the_best_pictures_come_first_and_are_those_that_were_ranked(server):
    prompt = example(server, "best_of_many")
    (pick_id,) = (i for i, n in prompt.items() if n["class_type"] == "ImagenPickBest")
    (score_id,) = (i for i, n in prompt.items() if n["class_type"] == "ImagenScore")
    set_input(prompt, "ImagenRandomLatent", "batch_size", 6)
    set_input(prompt, "ImagenPickBest", "count", 2)
    set_input(prompt, "ImagenGrid", "captions", "")
    sample = prompt[score_id]["inputs"]["image"]
    prompt["100"] = {"class_type": "PreviewImage", "inputs": {"images": sample}}
    prompt["101"] = {"class_type": "PreviewImage", "inputs": {"images": [pick_id, 0]}}
    outputs = server.run(prompt)
    order = [int(line.split(":")[0]) for line in outputs[score_id]["text"][0].splitlines()]
    generated = saved_pixels(server, {"100": outputs["100"]})
    best = saved_pixels(server, {"101": outputs["101"]})
    assert len(generated) == 6 and len(best) == 2
    for picture, index in zip(best, order, strict=False):
        assert (picture == generated[index]).all()


def test_a_walk_gives_a_frame_a_latent(server):
    outputs = server.run(example(server, "latent_walk"))
    (entry,) = (o for o in outputs.values() if o.get("images"))
    with Image.open(server.image_path(entry["images"][0])) as film:
        assert film.n_frames == 40


def test_model_info_shows_what_the_model_is(server):
    prompt = example(server, "directions")
    (info_id,) = (i for i, n in prompt.items() if n["class_type"] == "ImagenModelInfo")
    (text,) = server.run(prompt)[info_id]["text"]
    assert text.startswith(f"{next(iter(bundled_models()))}: 128 px RGBA") and "fluent-3d" in text


@pytest.mark.parametrize(
    ("workflow", "change", "words"),
    [
        ("latent_walk", ("ImagenRandomLatent", "batch_size", 1), "needs 2 latents or more"),
        ("best_of_many", ("ImagenPickBest", "count", 0), "smaller than min"),
        ("style_mixing", ("ImagenMixLatents", "from_block", 13), "bigger than max"),
        ("style_mixing", ("ImagenGrid", "captions", "x\n" * 99), "99 captions do not fit"),
    ],
)
def test_a_wrong_value_is_one_line_on_its_node(server, workflow, change, words):
    prompt = example(server, workflow)
    set_input(prompt, *change)
    with pytest.raises(StudioError, match=words) as caught:
        server.run(prompt)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_4096_pictures_draw_and_can_be_cancelled_within_two_seconds(server):
    prompt = example(server, "step_by_step")
    set_input(prompt, "ImagenRandomLatent", "batch_size", 4096)
    scale = next(n for n in prompt.values() if n["class_type"] == "ImageScaleBy")
    sample = scale["inputs"]["image"]
    prompt["100"] = {
        "class_type": "ImageFromBatch",
        "inputs": {"image": sample, "batch_index": 4095, "length": 1},
    }
    scale["inputs"]["image"] = ["100", 0]
    set_input(prompt, "ImagenRandomLatent", "seed", 77)
    prompt_id = server.queue(prompt)
    time.sleep(1.5)
    server.post("/api/interrupt", {})
    started = time.monotonic()
    while not server.get(f"/api/history/{prompt_id}"):
        assert time.monotonic() - started < 2
        time.sleep(0.05)
    status = server.get(f"/api/history/{prompt_id}")[prompt_id]["status"]
    assert "execution_interrupted" in json.dumps(status["messages"])
    (picture,) = saved_pixels(server, server.run(prompt))
    assert picture.shape == (256, 256, 3)
