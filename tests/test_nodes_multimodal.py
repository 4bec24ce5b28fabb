"""Pictures and sound as inputs of nodes, in a real ComfyUI, through its API."""

from __future__ import annotations

import av
import numpy as np
import pytest
import torch
from comfyui import example, saved_pixels
from every_node import node
from PIL import Image

import imagen_model as im
from imagen_model.bundled import bundled_models
from studio.server import Server, StudioError
from studio.workflow import set_input

pytestmark = pytest.mark.comfyui
MUSIC = "imagen_music.ogg"
RATE = 44_100


def redrawn(server: Server, file: str, style: str) -> dict:
    """A prompt that draws what a picture in the input folder shows, in a style."""
    return {
        "1": node(server, "ImagenLoadModel"),
        "2": {"class_type": "LoadImage", "inputs": {"image": file}},
        "3": node(
            server, "ImagenEncodeImage", model=["1", 0], image=["2", 0], mask=["2", 1], style=style
        ),
        "4": node(server, "ImagenRandomLatent", model=["1", 0], batch_size=2),
        "5": node(
            server, "ImagenSample", model=["1", 0], condition=["3", 0], latent=["4", 0]
        ),
        "6": {"class_type": "PreviewImage", "inputs": {"images": ["5", 0]}},
    }  # fmt: skip


def walked(server: Server, audio: list, **inputs: object) -> dict:
    """A prompt for a film to what node 2 loads or makes."""
    return {
        "1": node(server, "ImagenLoadModel"),
        "3": node(server, "ImagenEncodeText", model=["1", 0], text="cat face", style="noto"),
        "4": node(server, "ImagenRandomLatent", model=["1", 0], batch_size=3),
        "5": node(
            server, "ImagenAudioWalk", model=["1", 0], condition=["3", 0], latent=["4", 0],
            audio=audio, **inputs,
        ),
        "6": {"class_type": "PreviewImage", "inputs": {"images": ["5", 0]}},
    }  # fmt: skip


def test_a_loaded_picture_is_drawn_as_the_library_draws_it(server: Server, emoji_folder):
    file = next(iter(sorted(emoji_folder.glob("train/fluent-3d/1F34E.png"))))
    (server.base / "input" / "apple.png").write_bytes(file.read_bytes())
    generated = saved_pixels(server, server.run(redrawn(server, "apple.png", "twemoji")))
    model = im.load(next(iter(bundled_models())))
    rgba = torch.from_numpy(np.array(Image.open(file).convert("RGBA"))).permute(2, 0, 1)[None] / 255
    picture = torch.cat([rgba[:, :3] * rgba[:, 3:], rgba[:, 3:]], dim=1) * 2 - 1
    condition = model.encode_image(picture, style="twemoji")
    colour, alpha = im.straight(model.draw(condition, model.latent([0, 1])))
    expected = (colour * alpha + 1 - alpha).permute(0, 2, 3, 1) * 255
    for ours, theirs in zip(generated, expected.numpy(), strict=True):
        assert np.abs(ours - theirs).max() <= 1.01


def test_a_style_that_the_model_has_not_is_one_line(server: Server):
    Image.new("RGB", (40, 30), "red").save(server.base / "input" / "red.png")
    with pytest.raises(StudioError, match="ImagenEncodeImage: style is 'cubist'") as caught:
        server.run(redrawn(server, "red.png", "cubist"))
    assert "\n" not in str(caught.value)


def test_music_becomes_a_film_with_sound_of_the_same_length(server: Server):
    outputs = server.run(example(server, "music_to_video"))
    (entry,) = (image for output in outputs.values() for image in output.get("images", []))
    path = server.image_path(entry)
    assert path.suffix == ".mp4"
    with av.open(path) as film:
        (picture,), (sound,) = film.streams.video, film.streams.audio
        frames = [f.to_ndarray(format="rgb24") for f in film.decode(picture)]
        assert len(frames) == 240 and picture.average_rate == 24
        assert float(picture.duration * picture.time_base) == pytest.approx(10, abs=0.05)
        assert float(sound.duration * sound.time_base) == pytest.approx(10, abs=0.05)
        film.seek(0)
        samples = np.concatenate([f.to_ndarray() for f in film.decode(sound)], axis=1)
    assert samples.shape[1] / sound.rate == pytest.approx(10, abs=0.1)
    assert np.abs(samples).max() > 0.3
    film = np.stack(frames).astype(float)
    moved = np.abs(film[1:] - film[:-1]).mean(axis=(1, 2, 3))
    assert moved.max() > 3 * np.median(moved)  # it follows beats, not only time


def test_a_silent_film_is_a_walk_and_one_latent_is_refused(server: Server):
    silence = {"class_type": "EmptyAudio",
               "inputs": {"duration": 0.5, "sample_rate": RATE, "channels": 2}}  # fmt: skip
    prompt = walked(server, ["2", 0], frame_rate=12.0) | {"2": silence}
    frames = saved_pixels(server, server.run(prompt))
    assert len(frames) == 6 and (frames[0] != frames[3]).any()
    set_input(prompt, "ImagenRandomLatent", "batch_size", 1)
    with pytest.raises(StudioError, match="ImagenAudioWalk: a walk needs 2 latents") as caught:
        server.run(prompt)
    assert "\n" not in str(caught.value)


def test_an_hour_is_refused_in_one_line(server: Server):
    hour = {"class_type": "EmptyAudio",
            "inputs": {"duration": 3600.0, "sample_rate": 8000, "channels": 1}}  # fmt: skip
    with pytest.raises(StudioError, match="ImagenAudioWalk: 3600 s of sound") as caught:
        server.run(walked(server, ["2", 0]) | {"2": hour})
    assert "\n" not in str(caught.value)
