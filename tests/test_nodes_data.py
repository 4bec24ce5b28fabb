"""Nodes that take pictures in and give data sets out, in a real ComfyUI, through its API."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from comfyui import example, saved_pixels
from PIL import Image

from imagen_model.data.dataset import load_pictures
from imagen_model.data.folder import read_items
from imagen_model.inference.upscaler import Upscaler, UpscalerConfig, save_upscaler
from studio.server import Server, StudioError
from studio.workflow import set_input

pytestmark = pytest.mark.comfyui


def text_of(prompt: dict, class_type: str) -> str:
    """The text widget of the only node of a kind."""
    (node,) = (node for node in prompt.values() if node["class_type"] == class_type)
    return node["inputs"]["value"]


def folder_prompt(folder: str, **inputs: object) -> dict:
    """A prompt that shows the pictures of a folder."""
    values = {"folder": folder, "resolution": 32, "limit": 64, "shuffle_seed": -1, **inputs}
    return {
        "1": {"class_type": "ImagenLoadImageFolder", "inputs": values},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }


def test_every_run_adds_to_a_data_set_that_the_library_reads(server: Server):
    prompt = example(server, "labelled_dataset")
    set_input(prompt, "ImagenSaveDataset", "folder", "sets/a")
    set_input(prompt, "ImagenSaveDataset", "style", "mixed")
    labels = text_of(prompt, "PrimitiveStringMultiline").splitlines()
    for seed in (0, 1):
        set_input(prompt, "ImagenRandomLatent", "seed", seed)
        server.run(prompt)
    samples = read_items(server.base / "output" / "sets" / "a")
    assert [sample.text for sample in samples] == labels * 2
    assert {sample.style for sample in samples} == {"mixed"}
    read = load_pictures(samples, resolution=32, channels=4)
    assert not read.skipped and (read.pixels[:, 3] == 0).any()  # RGBA, as the mask says


@pytest.mark.parametrize("folder", ["../elsewhere", "", "/tmp/elsewhere"])
def test_a_data_set_stays_inside_of_the_output_directory(server: Server, folder):
    prompt = example(server, "labelled_dataset")
    set_input(prompt, "ImagenSaveDataset", "folder", folder)
    with pytest.raises(StudioError, match="expected the name of a folder inside") as caught:
        server.run(prompt)
    assert "\n" not in str(caught.value)


def test_captions_that_do_not_fit_are_one_line_on_the_node(server: Server):
    prompt = example(server, "labelled_dataset")
    set_input(prompt, "ImagenSaveDataset", "captions", "a\nb\nc")
    set_input(prompt, "ImagenSaveDataset", "folder", "sets/b")
    with pytest.raises(StudioError, match="ImagenSaveDataset: 3 captions do not fit 8 pictures"):
        server.run(prompt)


def test_a_folder_is_read_again_when_its_files_change(server: Server):
    folder = server.base / "input" / "mine"
    folder.mkdir()
    for name, colour in (("a", "red"), ("b", "blue")):
        Image.new("RGB", (40, 30), colour).save(folder / f"{name}.png")
    prompt = folder_prompt("mine")
    first = saved_pixels(server, server.run(prompt))
    assert [tuple(picture[0, 0, :3]) for picture in first] == [(255, 0, 0), (0, 0, 255)]
    Image.new("RGB", (30, 40), "lime").save(folder / "c.png")
    assert len(saved_pixels(server, server.run(prompt))) == 3
    assert len(saved_pixels(server, server.run(folder_prompt("mine", limit=2)))) == 2
    by_path = saved_pixels(server, server.run(folder_prompt(str(folder))))
    assert len(by_path) == 3


def test_an_unknown_folder_is_one_line(server: Server):
    with pytest.raises(StudioError, match="ImagenLoadImageFolder: no folder 'gone'") as caught:
        server.run(folder_prompt("gone"))
    assert "\n" not in str(caught.value)


def train_prompt(folder: str) -> dict:
    """A prompt that trains on a folder."""
    values = {"folder": folder, "name": "contained", "minutes": 0.01, "preset": "nano"}
    values |= {"init": "none", "resolution": "32", "training_seed": 0}
    return {"1": {"class_type": "ImagenTrain", "inputs": values}}


@pytest.fixture
def elsewhere(server: Server, tmp_path: Path) -> Path:
    """A picture outside of ComfyUI's folders, and links to it and its folder in the input one."""
    Image.new("RGB", (32, 32), "red").save(tmp_path / "a.png")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png"}')
    for link in ("linked", "split/train", "row/metadata.jsonl"):
        path = server.base / "input" / link
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)
        path.symlink_to(tmp_path / "metadata.jsonl" if path.suffix else tmp_path)
    return tmp_path


@pytest.mark.parametrize("prompt_of", [folder_prompt, train_prompt])
def test_nodes_read_no_pictures_outside_of_comfyui_s_folders(server, elsewhere, prompt_of):
    up = "../" * len(server.base.parts)
    for folder in (
        str(elsewhere), f"{up}{elsewhere}", "..", "../..", "/", str(elsewhere / "gone"),
        "linked", "linked/..", str(server.base / "input" / "linked"), "split", "row",
    ):  # fmt: skip
        with pytest.raises(StudioError, match="leads out of ComfyUI's folders; expected") as caught:
            server.run(prompt_of(folder))
        assert "\n" not in str(caught.value) and "imagen_datasets" in str(caught.value)
    for folder in ("C:\\Windows", "\\\\server\\share"):
        with pytest.raises(StudioError, match="ComfyUI's folders; expected"):
            server.run(prompt_of(folder))


def test_a_folder_that_extra_model_paths_lists_is_read(server: Server, shared_folder: Path):
    pets = shared_folder / "datasets" / "pets"
    pets.mkdir(parents=True)
    Image.new("RGB", (32, 32), "red").save(pets / "a.png")
    for folder in ("pets", str(pets)):
        (picture,) = saved_pixels(server, server.run(folder_prompt(folder)))
        assert tuple(picture[0, 0, :3]) == (255, 0, 0)


def test_data_sets_are_not_written_through_a_link(server: Server, elsewhere: Path):
    for link in ("linked", "split/train", "label/train/red_apple"):
        path = server.base / "output" / "sets" / link
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(elsewhere)
    before = sorted(elsewhere.iterdir())
    for name in ("linked", "linked/new", "split", "label", str(elsewhere)):
        prompt = example(server, "labelled_dataset")
        set_input(prompt, "ImagenSaveDataset", "folder", str(Path("sets", name)))
        with pytest.raises(StudioError, match="expected the name of a folder inside"):
            server.run(prompt)
    assert sorted(elsewhere.iterdir()) == before


def test_a_sprite_sheet_is_transparent_and_without_gaps(server: Server):
    (sheet,) = saved_pixels(server, server.run(example(server, "sprite_sheet")))
    assert sheet.shape == (512, 512, 4)
    assert sheet[..., 3].min() == 0 and sheet[..., 3].max() > 250  # a model's alpha nears 1


def test_a_sheet_of_an_odd_size_is_a_frame_of_a_film(server: Server):
    size = {"width": 21, "height": 31, "batch_size": 3, "color": 0}
    sheet = {"image": ["1", 0], "columns": 2, "scale": 1, "gap": 3, "captions": ""}
    video = {"filename_prefix": "odd", "format": "mp4", "codec": "h264"}
    prompt = {
        "1": {"class_type": "EmptyImage", "inputs": size},
        "2": {"class_type": "ImagenGrid", "inputs": sheet},
        "3": {"class_type": "CreateVideo", "inputs": {"images": ["2", 0], "fps": 8.0}},
        "4": {"class_type": "SaveVideo", "inputs": {"video": ["3", 0], **video}},
    }
    (frame,) = saved_pixels(server, server.run(prompt))
    assert frame.shape == (66, 46, 3)  # 65 x 45 made even


def test_a_tile_goes_on_over_its_edges(server: Server):
    (sheet,) = saved_pixels(server, server.run(example(server, "seamless_tile")))
    steps = np.abs(np.diff(sheet.astype(int), axis=1)).mean(axis=(0, 2))  # [columns]
    seams, inside = steps[127::128], np.delete(steps, [127, 255])
    assert seams.max() <= inside.max()


def test_a_panorama_is_twice_as_wide_as_high_closed_at_its_seam_and_plain_at_its_poles(server):
    (sheet,) = saved_pixels(server, server.run(example(server, "panorama")))
    assert sheet.shape == (512, 1024, 3)
    turned = np.roll(sheet.astype(int), 512, axis=1)  # the seam is in the middle now
    steps = np.abs(np.diff(turned, axis=1)).mean(axis=(0, 2))  # [columns]
    joins = np.delete(steps[127::128], 3)  # between one mountain and the next
    assert steps[511] < 1.5 * joins.max()
    for pole in (sheet[0], sheet[-1]):
        assert (pole == pole[0]).all()
    assert (sheet[200:256] != sheet[0, 0]).any(
        axis=(0, 2)
    ).mean() > 0.9  # mountains nearly all round


def test_a_picture_of_another_size_without_alpha_is_inverted(server: Server):
    rows = np.linspace(0, 255, 50 * 40 * 3).reshape(50, 40, 3).astype(np.uint8)
    Image.fromarray(rows).save(server.base / "input" / "photo.png")
    prompt = example(server, "invert_and_edit")
    (node,) = (n for n in prompt.values() if n["class_type"] == "ImagenInvert")
    prompt["100"] = {"class_type": "LoadImage", "inputs": {"image": "photo.png"}}
    node["inputs"] |= {"image": ["100", 0], "mask": ["100", 1], "steps": 2}
    (sheet,) = saved_pixels(server, server.run(prompt))
    assert sheet.std() > 1


def test_a_seamless_picture_stays_seamless_when_it_is_enlarged(server: Server):
    """Where it begins makes no difference, which it does where no edges join."""
    noise = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    for name, picture in (("tile", noise), ("moved", np.roll(noise, (5, 7), axis=(0, 1)))):
        Image.fromarray(picture).save(server.base / "input" / f"{name}.png")

    def enlarged(name: str, **inputs: str) -> np.ndarray:
        prompt = {
            "1": {"class_type": "LoadImage", "inputs": {"image": f"{name}.png"}},
            "2": {"class_type": "ImagenUpscale", "inputs": {"image": ["1", 0], **inputs}},
            "3": {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}},
        }
        (picture,) = saved_pixels(server, server.run(prompt))
        return picture.astype(int)

    def farthest(**inputs: str) -> int:
        back = np.roll(enlarged("moved", **inputs), (-20, -28), axis=(0, 1))
        return np.abs(back - enlarged("tile", **inputs)).max()

    assert farthest(tile="both") <= 1
    assert farthest() > 20


def test_a_search_is_cancelled_within_two_seconds_and_the_next_run_works(server: Server):
    prompt = example(server, "invert_and_edit")
    set_input(prompt, "ImagenInvert", "steps", 10_000)
    prompt_id = server.queue(prompt)
    time.sleep(3)
    assert not server.get(f"/api/history/{prompt_id}")  # it is at work
    server.post("/api/interrupt", {})
    started = time.monotonic()
    while not server.get(f"/api/history/{prompt_id}"):
        assert time.monotonic() - started < 2
        time.sleep(0.05)
    status = server.get(f"/api/history/{prompt_id}")[prompt_id]["status"]
    assert "execution_interrupted" in json.dumps(status["messages"])
    set_input(prompt, "ImagenInvert", "steps", 2)
    assert saved_pixels(server, server.run(prompt))


def test_a_prompt_a_line_draws_what_each_line_alone_draws(server: Server):
    prompt = example(server, "step_by_step")
    set_input(prompt, "ImagenEncodeText", "style", "noto")
    alone = []
    for text in ("red apple", "rocket"):
        set_input(prompt, "ImagenEncodeText", "text", text)
        alone += saved_pixels(server, server.run(prompt))
    set_input(prompt, "ImagenEncodeText", "text", "red apple\nrocket")
    set_input(prompt, "ImagenEncodeText", "per_line", True)
    both = saved_pixels(server, server.run(prompt))
    assert len(both) == 2
    for one, other in zip(alone, both, strict=True):
        assert torch.from_numpy(one.astype(int) - other.astype(int)).abs().max() <= 1


def test_an_upscaler_of_ones_own_is_listed_and_used(server: Server):
    name, network = "of-two.safetensors", Upscaler(UpscalerConfig(width=8, num_blocks=1, scale=2))
    save_upscaler(server.base / "models" / "imagen_upscalers" / name, network, {"name": "of-two"})
    inputs = {"image": ["1", 0], "tile": "none"}
    prompt = {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 20, "height": 30, "batch_size": 1,
                                                     "color": 0x3366CC}},
        "2": {"class_type": "ImagenUpscale", "inputs": {**inputs, "upscaler": name}},
        "3": {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}},
    }  # fmt: skip
    [large] = saved_pixels(server, server.run(prompt))
    assert large.shape == (60, 40, 3) and np.abs(large.astype(int) - (51, 102, 204)).max() <= 1
    options = server.get("/object_info/ImagenUpscale")["ImagenUpscale"]["input"]["optional"]
    assert name in str(options["upscaler"]) and "emoji-x4" in str(options["upscaler"])
    prompt["2"]["inputs"] = inputs  # as earlier versions saved it
    [large] = saved_pixels(server, server.run(prompt))
    assert large.shape == (120, 80, 3)
