"""`imagen export`: what the ONNX file draws, in ONNX Runtime and on a web page."""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

import imagen_model as im
from imagen_model.checkpoint import save_checkpoint
from imagen_model.cli import main
from imagen_model.condition import Condition
from imagen_model.config import preset
from imagen_model.networks.networks import Networks

PAGE = Path(__file__).resolve().parent.parent / "docs" / "export.html"
PROMPTS = ("a red apple", "a cat, twemoji", "")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
RUNTIME = "onnxruntime-web@1.30.0"


@pytest.fixture(scope="module")
def exported(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with PROMPTS as model.onnx, and as result.json what the command says."""
    folder = tmp_path_factory.mktemp("page")
    prompts = [part for prompt in PROMPTS for part in ("--prompt", prompt)]
    file, result = folder / "model.onnx", folder / "result.json"
    assert main(["export", str(tiny_checkpoint), "--onnx", str(file), *prompts,
                 "--json", str(result)]) == 0  # fmt: skip
    return file


def drawn(file: Path, latent: im.Latent, prompt: list[int], truncation: float = 1.0) -> list:
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    inputs = {
        "z": latent.values.numpy(),
        "prompt": np.array(prompt, np.int64),
        "truncation": np.array(truncation, np.float32),
    }
    return session.run(["pictures", "rgba"], inputs)


def as_rgba(pictures: torch.Tensor) -> np.ndarray:
    """[N, H, W, 4] as the PNG files of `imagen sample` hold them."""
    return np.stack([np.asarray(im.to_image(p).convert("RGBA")) for p in pictures]).astype(int)


@pytest.mark.parametrize("truncation", [1.0, 0.6, 0.0])
def test_the_file_draws_what_the_model_draws(exported, tiny_model, truncation):
    rows, latent = [0, 2, 1, 1, 0], tiny_model.latent(range(7, 12))
    condition = tiny_model.encode_text(PROMPTS)[torch.tensor(rows)]
    expected = tiny_model.draw(condition, latent, truncation=truncation)
    pictures, rgba = drawn(exported, latent, rows, truncation)
    assert np.abs(pictures - expected.numpy()).max() < 1e-3
    assert np.abs(rgba - as_rgba(expected)).max() <= 1


def test_a_picture_does_not_depend_on_the_batch(exported, tiny_model):
    many, _ = drawn(exported, tiny_model.latent(range(3)), [0, 1, 2])
    one, _ = drawn(exported, tiny_model.latent([1]), [1])
    assert np.abs(many[1] - one[0]).max() < 1e-4


def test_the_file_and_the_command_say_what_is_in_it(exported, tiny_model):
    facts = onnxruntime.InferenceSession(exported).get_modelmeta().custom_metadata_map
    assert json.loads(facts["imagen"])["prompts"] == list(PROMPTS)
    assert json.loads(facts["imagen"])["sha256"] == tiny_model.card["sha256"]
    said = json.loads((exported.parent / "result.json").read_text())
    assert said["prompts"] == list(PROMPTS)
    assert said["bytes"] == exported.stat().st_size
    assert 0 <= said["largest_difference"] < 1e-3


def test_the_article_s_generator_is_exported_too(tmp_path, capsys):
    """Its pictures are RGB; the canvas gets them opaque."""
    model, file = tmp_path / "dcgan.safetensors", tmp_path / "dcgan.onnx"
    config = preset("dcgan", channels=3)
    networks = Networks.seeded(config, 0).eval()
    save_checkpoint(model, config, networks, {"name": "dcgan"})
    assert main(["export", str(model), "--onnx", str(file)]) == 0
    assert "prompt 0: any picture" in capsys.readouterr().out
    loaded = im.load(model)
    latent = loaded.latent(range(3))
    pictures, rgba = drawn(file, latent, [0, 0, 0])
    expected = loaded.draw(Condition.null(1, config.conditioning), latent)
    assert np.abs(pictures - expected.numpy()).max() < 1e-3
    assert np.abs(rgba - as_rgba(expected)).max() <= 1
    assert (rgba[..., 3] == 255).all()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nothing", "--onnx", "x.onnx"], "nothing"),
        (["tiny", "--onnx", "folder"], "folder is a folder"),
        (["tiny", "--onnx", "file/x.onnx"], "file"),
        (["tiny", "--onnx", "x.onnx", "--style", "cubist"], "this model knows: fluent-3d"),
        (["tiny", "--onnx", "x.onnx", "--prompt", "(red:9)"], "weight"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(
    arguments, said, tiny_checkpoint, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("kept")
    arguments = [str(tiny_checkpoint) if word == "tiny" else word for word in arguments]
    assert main(["export", *arguments]) == 1
    errors = capsys.readouterr().err
    assert errors.startswith("error: ") and said in errors and len(errors.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder"]


def test_a_missing_extra_is_named(tiny_checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert main(["export", str(tiny_checkpoint), "--onnx", str(tmp_path / "x.onnx")]) == 1
    assert "pip install 'imagen-gan[export]'" in capsys.readouterr().err


# -- in a browser ---------------------------------------------------------------------------------


@pytest.fixture
def page(exported):
    """The example of the documents, beside the exported model, in Chromium."""
    program = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    npm = shutil.which("npm")
    if program is None or npm is None:
        pytest.skip("no Chromium, or no npm: the web page is not tested")
    folder = exported.parent
    fetch = [npm, "install", "--prefix", str(folder), "--ignore-scripts", "--prefer-offline",
             "--no-audit", "--no-fund", RUNTIME]  # fmt: skip
    done = subprocess.run(fetch, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"npm could not fetch {RUNTIME}: {done.stderr.strip()[-200:]}")
    options = "".join(f"<option>{prompt}" for prompt in PROMPTS)
    text = PAGE.read_text(encoding="utf-8").replace("<option>any picture", options)
    (folder / "index.html").write_text(text, encoding="utf-8")
    handler = functools.partial(_Quiet, directory=str(folder))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program, args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page()
        page.set_default_timeout(120_000)
        page.complaints = []
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.goto(f"http://127.0.0.1:{server.server_port}/")
        yield page
        browser.close()
    server.shutdown()
    server.server_close()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


CANVAS = """async () => {
    const canvas = document.querySelector("canvas");
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    return [canvas.height, canvas.width, Array.from(data)];
}"""


def over_white(rgba: np.ndarray) -> np.ndarray:
    """What is seen: a canvas keeps no colour where it is transparent."""
    alpha = rgba[..., 3:] / 255
    return rgba[..., :3] * alpha + 255 * (1 - alpha)


@pytest.mark.browser
def test_the_page_draws_the_picture_of_a_seed_and_prompt_as_python_does(page, tiny_model):
    for number, seed in ((0, 0), (1, 5), (2, 2**64 - 1)):
        page.select_option("#prompt", index=number)
        page.fill("#seed", str(seed))
        title = f"{PROMPTS[number]}, seed {seed}"
        page.wait_for_function(
            "title => document.querySelector('canvas').title === title", arg=title
        )
        height, width, values = page.evaluate(CANVAS)
        seen = np.array(values).reshape(height, width, 4)
        expected = as_rgba(tiny_model.sample(PROMPTS[number], seeds=[seed]))[0]
        assert np.abs(over_white(seen) - over_white(expected)).max() <= 2
    assert not page.complaints
