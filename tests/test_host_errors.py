"""What people get wrong with each node, in a real ComfyUI: one clear line on that node, and the
next run works."""

from __future__ import annotations

import re
import shutil

import pytest
from every_node import (
    failed,
    failure,
    graph,
    models,
    needed,
    node,
    prompt,
    still_works,
    write_model,
)

from imagen_model.data.folder import read_items

pytestmark = pytest.mark.comfyui
HALF = "\ud800"  # of a surrogate pair: JSON can carry it, text cannot
LONG = "n" * 300
OTHER = {"condition": ["text_other", 0]}
THREE = {"condition": ["texts", 0]}
LATENT = {"latent": ["latent_other", 0]}
QUIET = {"audio": ["silence", 0]}
BIG = {"image": ["huge", 0], "mask": ["cover", 0]}


MISTAKES = [
    # wrong wires
    ("sample", {"sample": OTHER}, r"of another model \(it has 2 styles, this model 4\)"),
    ("truncated", {"truncated": OTHER}, "the condition is of another model"),
    ("mixed", {"mixed": OTHER}, "the condition is of another model"),
    ("moved", {"moved": OTHER}, "the condition is of another model"),
    ("inverted", {"inverted": OTHER}, "the condition is of another model"),
    ("score", {"score": OTHER}, "the condition is of another model"),
    ("rate", {"rate": OTHER}, "the condition is of another model"),
    ("film", {"film": OTHER}, "the condition is of another model"),
    ("sample", {"sample": THREE}, "3 conditions do not fit 2 pictures"),
    ("truncated", {"truncated": THREE}, "3 conditions do not fit 2 pictures"),
    ("inverted", {"inverted": THREE}, "3 conditions do not fit 2 pictures"),
    ("score", {"score": THREE}, "3 conditions do not fit 2 pictures"),
    ("rate", {"rate": THREE}, "3 conditions do not fit 2 pictures"),
    ("sample", {"sample": LATENT}, r"shape \(24,\) do not fit this model, whose are \(16,\)"),
    ("truncated", {"truncated": LATENT}, "sample them with this model"),
    ("mixed", {"mixed": {"fine": ["latent_other", 0]}}, "sample them with this model"),
    ("film", {"film": LATENT}, "sample them with this model"),
    ("film", {"film": {"audio": ["sample", 0]}}, r"received_type\(IMAGE\) mismatch"),
    ("moved", {"moved": LATENT}, "sample them with this model"),
    ("rate", {"rate": LATENT}, "sample them with this model"),
    ("sample", {"sample": {"latent": ["mixed", 0], "model": ["other", 0]}}, r"\(3, 32\) do not"),
    ("sample", {"sample": {"latent": ["sample", 0]}}, r"received_type\(IMAGE\) mismatch"),
    ("text", {"text": {"clip": ["latent", 0]}}, r"received_type\(IMAGEN_LATENT\) mismatch"),
    ("combined", {"combined": {"condition_b": ["text_other", 0]}}, "are of different models"),
    ("best", {"best": {"image": ["three", 0], "mask": ["masks", 0]}}, "ranks 2 pictures, and .* 3"),
    ("best", {"score": {"image": ["three", 0], "mask": ["masks", 0]}}, "names picture 2, and .* 2"),
    ("best", {"best": {"order": ["third", 0]}}, "names picture 2, and there are 2; link"),
    ("best", {"best": {"order": ["minus", 0]}}, "names picture -1, and there are 2; link"),
    ("carried", {"carried": {"model": ["other", 0]}}, r"shape \(16,\) do not fit this model"),
    ("carried", {"carried": {"latent": ["latent", 0]}}, "latents come without a condition; link"),
    # masks and batches that do not fit
    ("inverted", {"inverted": {"mask": ["masks", 0]}}, "3 masks do not fit 2 images"),
    ("score", {"score": {"mask": ["masks", 0]}}, "3 masks do not fit 2 images"),
    ("best", {"best": {"mask": ["masks", 0]}}, "3 masks do not fit 2 images"),
    ("grid", {"grid": {"mask": ["masks", 0]}}, "3 masks do not fit 2 images"),
    ("shown", {"shown": {"mask": ["masks", 0]}}, "3 masks do not fit 2 images"),
    ("upscaled", {"upscaled": {"mask": ["masks", 0]}}, "3 masks do not fit 2 images"),
    ("upscaled", {"upscaled": {"upscaler": "gone"}}, r"no upscaler gone in .*; there is: emoji-x4"),
    ("saved", {"saved": {"mask": ["masks", 0]}}, "3 masks do not fit 2 images"),
    ("score", {"score": {"image": ["three", 0]}}, "2 masks do not fit 3 images"),
    ("walk", {"latent": {"batch_size": 1}}, "needs 2 latents or more"),
    ("film", {"latent": {"batch_size": 1}}, "needs 2 latents or more"),
    # sounds
    ("spoken", {"spoken": QUIET}, "the sound is silent"),
    ("spoken", {"spoken": QUIET, "silence": {"duration": 0.05}}, "0.050 s long; expected 0.1 s"),
    ("film", {"film": QUIET, "silence": {"duration": 2400.0}}, "57600 frames; expected 16384 or"),
    # words
    ("shown", {"shown": {"style": "cubist"}}, "style is 'cubist'; this model knows: fluent-3d"),
    ("spoken", {"spoken": {"style": "cubist"}}, "style is 'cubist'; this model knows: fluent-3d"),
    ("text", {"text": {"style": "cubist"}}, "style is 'cubist'; this model knows: fluent-3d"),
    ("starter", {"starter": {"style": "cubist"}}, "style is 'cubist'; this model knows: fluent-3d"),
    ("styles", {"styles": {"styles": "noto\ncubist"}}, "style is 'cubist'; this model knows"),
    ("grid", {"grid": {"captions": "a\nb\nc"}}, "3 captions do not fit 2 pictures"),
    ("saved", {"saved": {"captions": "a\nb\nc"}}, "3 captions do not fit 2 pictures"),
    ("saved", {"saved": {"folder": ""}}, "folder is ''; expected the name of a folder inside"),
    ("saved", {"saved": {"folder": "../x"}}, "expected the name of a folder inside"),
    ("saved", {"saved": {"folder": "a\0b"}}, "expected the name of a folder inside"),
    ("saved", {"saved": {"folder": HALF}}, "expected the name of a folder inside"),
    ("saved", {"saved": {"folder": "a-file"}}, "Not a directory: .*a-file"),
    ("saved", {"saved": {"folder": LONG}}, "File name too long"),
    ("folder", {"folder": {"folder": ""}}, "no folder '' in ComfyUI's folders; expected a"),
    ("folder", {"folder": {"folder": "gone"}}, "no folder 'gone' in ComfyUI's folders; expected a"),
    ("folder", {"folder": {"folder": f"日本 {HALF}"}}, "no folder '日本"),
    ("folder", {"folder": {"folder": "empty"}}, "no pictures in .*empty; expected .avif, .bmp"),
    ("train", {"train": {"folder": "empty"}}, "no pictures in .*empty; expected .avif, .bmp"),
    ("train", {"train": {"folder": ""}}, "no folder '' in ComfyUI's folders; expected a"),
    ("train", {"train": {"name": LONG}}, "expected letters, digits"),
    ("train", {"train": {"name": f"x{HALF}"}}, "expected letters, digits"),
    ("train", {"train": {"init": "gone.safetensors"}}, r"no model gone\.safetensors in .*imagen"),
    ("train", {"train": {"init": "dcgan.safetensors", "resolution": "32"}}, "resolution 32 does n"),
    ("rate", {"rate": {"ratings": "+9"}}, "there is no picture 9; this batch has 0 to 1"),
    ("rate", {"rate": {"ratings": "très bien 😀"}}, "rating 'très'; expected"),
    ("rate", {"rate": {"ratings": "{"}}, "the ratings are no JSON"),
    ("learn", {"learn": {"name": ""}}, "name is ''; expected letters"),
    ("learn", {"learn": {"name": LONG}}, "expected letters"),
    ("learn", {"learn": {"name": "../x"}}, "expected letters"),
    ("learn", {}, "learning needs 5 or more"),
    ("adapted", {"adapted": {"adapter": "gone.safetensors"}}, "no adapter gone.safetensors in"),
    ("adapted", {"adapted": {"adapter": "junk.safetensors"}}, "not a readable safetensors file"),
    ("adapted", {"adapted": {"adapter": "a-model.safetensors"}}, "is not an Imagen GAN adapter"),
    ("model", {"model": {"model_name": ""}}, "no model  in .*; there is: emoji"),
    ("model", {"model": {"model_name": "/etc/hostname"}}, "no model /etc/hostname in .*; there is"),
    ("model", {"model": {"model_name": "main.py"}}, "no model main.py in .*; there is"),
    ("model", {"model": {"model_name": "dangling.safetensors"}}, "no model dangling"),
    # numbers
    ("latent", {"latent": {"seed": 2**64}}, "bigger than max"),
    ("latent", {"latent": {"batch_size": 4097}}, "bigger than max"),
    ("sample", {"sample": {"truncation": 2.1}}, "bigger than max"),
    ("sample", {"sample": {"tile": "up"}}, "'up'"),
    ("sample", {"sample": {"background": "pink"}}, "'pink'"),
    ("sample", {"sample": {"alpha": "crisp"}}, "'crisp'"),
    ("sample", {"sample": {"colours": 256}}, "bigger than max"),
    ("sample", {"sample": {"colours": -1}}, "smaller than min"),
    ("train", {"train": {"resolution": "17"}}, "'17'"),
    ("moved", {"moved": {"direction": 127}}, "direction 127; this model has 0 to 31"),
    ("film", {"film": {"frame_rate": 121.0}}, "bigger than max"),
    ("film", {"film": {"fine_from": "drums"}}, "'drums'"),
    ("moved", {"moved": {"attribute": "beauty"}}, "'beauty'"),
    ("mixed", {"mixed": {"from_block": 6}}, "from_block is 6; expected 0 to 3"),
    ("grid", {"grid": BIG | {"scale": 16}}, "expected 100,000,000 at most"),
    ("upscaled", {"upscaled": BIG, "huge": {"width": 1025}}, "1025x640; expected sides of up to"),
    ("folder", {"folder": {"resolution": 2048}}, "too many at once; expected 16 at most"),
]  # fmt: skip

UNFIT = [  # what a model cannot do
    ("texts", "grey", "model grey was trained without text; give an empty prompt"),
    ("texts", "dcgan", "model dcgan was trained without text; give an empty prompt"),
    ("shown", "grey", "model grey was trained without text; it takes no pictures"),
    ("shown", "dcgan", "model dcgan was trained without text; it takes no pictures"),
    ("spoken", "grey", "model grey was trained without text"),
    ("spoken", "dcgan", "model dcgan was trained without text"),
    ("texts", "on_clip", "model on_clip was trained on a CLIP text encoder; connect it to clip"),
    ("shown", "on_clip", "model on_clip was trained on a CLIP text encoder; connect it to clip"),
    ("spoken", "on_clip", "model on_clip was trained on a CLIP text encoder; connect it to clip"),
    ("moved", "dcgan", "this model has no w space"),
]


def check(told: tuple[str, str, str], kind: str, words: str) -> None:
    """One clear line on a node of `kind`."""
    at, exception, message = told
    assert at == kind
    assert exception in ("refused", "ValueError", "OSError", "NotADirectoryError"), told
    assert "\n" not in message and "Traceback" not in message
    assert re.search(words, message), message


@pytest.mark.parametrize(
    ("target", "changes", "words"),
    MISTAKES,
    ids=[f"{target}: {words[:40]}" for target, _, words in MISTAKES],
)
def test_a_mistake_is_one_line_on_its_node_and_the_next_run_works(host, target, changes, words):
    wrong = prompt(host, target, changes)
    check(failure(host, wrong), wrong[target]["class_type"], words)
    still_works(host)


@pytest.mark.parametrize(("target", "model", "words"), UNFIT)
def test_what_a_model_cannot_do_is_one_line(host, target, model, words):
    wrong = prompt(host, target, model=model)
    check(failure(host, wrong), wrong[target]["class_type"], words)
    still_works(host)


def test_every_node_of_the_pack_has_its_mistakes_here(host):
    wrong = {graph(host)[target]["class_type"] for target, _, _ in MISTAKES}
    ours = {name for name in host.get("/object_info") if name.startswith("Imagen")}
    assert ours - wrong == {"ImagenModelInfo"}  # takes a model, and nothing else


@pytest.mark.parametrize("model", models())
def test_every_node_takes_a_model_of_any_kind(host, model):
    """Grey, RGB, RGBA; with text or without, with styles or without."""
    unfit = {target for target, kind, _ in UNFIT if kind == model}
    skipped = unfit | {"train", "learn", "other", "text_other", "latent_other", "huge", "cover"}
    nodes = graph(host, model=model)
    wanted = [key for key in nodes if key not in skipped]
    shown = {f"{key}!": node(host, "PreviewAny", source=[key, 0]) for key in wanted}
    outputs = host.run(needed(nodes | shown, *shown))
    assert outputs.keys() >= shown.keys()
    assert len(read_items(host.base / "output" / "sets" / model)) == 2


@pytest.mark.parametrize(
    ("target", "inputs"),
    [
        ("text", {"text": ""}),
        ("text", {"text": f"一只红苹果 \0 \u202e 😀 {HALF}"}),
        ("texts", {"text": "\n\n"}),
        ("grid", {"captions": f"é😀\u202e漢字\0{HALF}\n" + "w" * 100_000}),
        ("grid", {"image": ["three", 0], "mask": ["masks", 0], "gap": 64, "columns": 64}),
        ("score", {"image": ["three", 0], "mask": ["masks", 0]}),
        ("best", {"count": 4096}),
        ("saved", {"captions": f"é😀漢字 a/../b {HALF}\n" + "𐌰" * 1000, "style": HALF}),
        ("saved", {"captions": "", "folder": "sets/空 😀"}),
        ("latent", {"seed": 2**64 - 1, "batch_size": 4096}),
        ("walk", {"frames": 4096}),
        ("walk", {"frames": 1, "loop": False}),
        ("moved", {"strength": 5.0, "second_strength": -5.0, "second_direction": 31}),
        ("mixed", {"from_block": 0}),
        ("truncated", {"truncation": 2.0}),
        ("folder", {"resolution": 17, "limit": 4096, "shuffle_seed": 2**53 - 1}),
        ("rate", {"ratings": "\n ", "truncation": 0.0}),
        ("shown", {"image": ["huge", 0], "mask": ["cover", 0]}),
        ("film", {"coarse": 8.0, "fine": 8.0, "attack": 0.0, "smoothing": 10.0, "loop": False}),
        ("film", {"frame_rate": 1.0, "truncation": 0.0, "background": "none"}),
    ],
)
def test_strange_words_and_extreme_numbers_run(host, target, inputs):
    host.run(prompt(host, target, {target: inputs}))


def test_what_is_deleted_between_queueing_and_running_is_named(host):
    """Also after a run that has cached it."""
    model = write_model(host, "rgba", "leaving")
    folder = host.base / "input" / "leaving"
    shutil.copytree(host.base / "input" / "twelve", folder)
    adapter = host.base / "models" / "imagen_adapters" / "leaving.safetensors"
    shutil.copy(host.base / "models" / "imagen_adapters" / "a-model.safetensors", adapter)
    prompts = {
        "model": prompt(host, "text", {"model": {"model_name": model.name}}),
        "folder": prompt(host, "folder", {"folder": {"folder": "leaving"}}),
        "adapted": prompt(host, "adapted", {"adapted": {"adapter": adapter.name}}),
        "train": prompt(host, "train", {"train": {"init": model.name}}),
    }
    for key in ("model", "folder"):
        host.run(prompts[key])
    busy = host.queue(prompt(host, "inverted", {"inverted": {"steps": 10_000}}))
    queued = {key: host.queue(wrong) for key, wrong in prompts.items()}
    model.unlink()
    adapter.unlink()
    shutil.rmtree(folder)
    host.post("/api/interrupt", {"prompt_id": busy})
    for key, prompt_id in queued.items():
        told = failed(host, prompts[key], prompt_id)
        check(told, prompts[key][key]["class_type"], r"^no (model|folder|adapter) .?leaving.* in ")
    still_works(host)
    check(failure(host, prompts["model"]), "ImagenLoadModel", "no model leaving.safetensors")


def test_a_node_is_still_there_when_a_listed_model_is_not_readable(host):
    """dangling.safetensors is in the folder, and so is a file of junk."""
    junk = host.base / "models" / "imagen" / "junk.safetensors"
    junk.write_bytes(b"junk")
    info = host.get("/object_info")
    junk.unlink()
    assert "fluent-3d" in str(info["ImagenEncodeText"]["input"]["required"]["style"])
    assert "junk.safetensors" in str(info["ImagenLoadModel"]["input"]["required"]["model_name"])
