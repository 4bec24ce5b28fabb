"""Make the pack's pictures by running it: thumbnails, pictures of nodes, screenshots.

    .venv/bin/python tools/make_pictures.py [EXAMPLE ...]

Without names it takes all example workflows. Needs what `python3 run.py test` sets up, and a
Chromium.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import av
from PIL import Image
from playwright.sync_api import Page, ViewportSize, sync_playwright

from imagen_model.data.prepare.emoji import build_emoji
from studio.host import ROOT, find_host
from studio.server import Server, running
from studio.workflow import load_workflow, to_prompt

EXAMPLES = ROOT / "example_workflows"
NODE_PICTURES = ROOT / "nodes" / "web" / "docs" / "images"
GALLERY = ROOT / "docs" / "gallery"
EMOJI_SOURCES = ROOT / "tests" / "fixtures" / "emoji_sources"
TRAINING_MINUTES = 2.0
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
THUMBNAIL_PX = 384
PICTURE_FOLDER = "my-pictures"  # in ComfyUI's input directory, as train_your_own has it
NEEDS = "CheckpointLoaderSimple"  # what depends on it is not run: the pack brings no checkpoint
VIEW = ViewportSize(width=1600, height=800)
SCALE = 0.8  # of screenshots; under 0.6 the frontend leaves texts out
MARGIN_PX = 12
FILM_FRAME = 60


def run_all(server: Server, paths: list[Path]) -> None:
    """Run the examples. A thumbnail is the picture that one saved, on white."""
    info = server.get("/object_info")
    for path in paths:
        prompt = to_prompt(load_workflow(path), info)
        for node in prompt.values():
            if node["class_type"] == "ImagenTrain":
                node["inputs"]["minutes"] = TRAINING_MINUTES
        outputs = server.run(without_checkpoint(prompt))
        images = [image for output in outputs.values() for image in output.get("images", [])]
        saved = min(images, key=lambda image: image["type"] != "output")  # else a preview
        picture = opened(server.image_path(saved)).convert("RGBA")
        thumbnail = Image.new("RGB", picture.size, "white")
        thumbnail.paste(picture, mask=picture.getchannel("A"))
        thumbnail.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
        thumbnail.save(path.with_suffix(".jpg"), quality=90)
        print(path.with_suffix(".jpg"))


def without_checkpoint(prompt: dict) -> dict:
    """The prompt without the nodes that depend on a checkpoint."""
    gone: set[str] = set()

    def depends(node: dict) -> bool:
        links = [value for value in node["inputs"].values() if isinstance(value, list)]
        return node["class_type"] == NEEDS or any(link[0] in gone for link in links)

    while more := {key for key, node in prompt.items() if depends(node)} - gone:
        gone |= more
    return {key: node for key, node in prompt.items() if key not in gone}


def opened(path: Path) -> Image.Image:
    """A picture, or one frame of a film."""
    if path.suffix != ".mp4":
        return Image.open(path)
    with av.open(path) as film:
        return next(islice(film.decode(video=0), FILM_FRAME, None)).to_image()


@contextlib.contextmanager
def to_train_on(folder: Path) -> Iterator[None]:
    """A folder of pictures for as long as the block lasts."""
    with tempfile.TemporaryDirectory() as data:
        styles = ("fluent-3d", "fluent-flat", "noto", "twemoji")
        build_emoji(Path(data) / "emoji", resolution=32, styles=styles, source=EMOJI_SOURCES)
        shutil.copytree(Path(data) / "emoji" / "train", folder, dirs_exist_ok=True)
    try:
        yield
    finally:
        shutil.rmtree(folder)


def open_example(page: Page, server: Server, path: Path) -> None:
    page.set_viewport_size(VIEW)
    page.goto(server.address)
    page.wait_for_function("window.app?.graph && window.app.extensionManager")
    page.evaluate("graph => void app.loadGraphData(graph)", load_workflow(path))
    page.wait_for_timeout(2000)
    page.keyboard.press("Escape")  # the first visit opens the list of templates
    page.wait_for_function("window.app?.graph?.nodes.length > 2")
    page.evaluate("void app.extensionManager.setting.set('Comfy.Minimap.Visible', false)")
    page.wait_for_timeout(2000)
    for announcement in page.locator("button:has-text('Try it out')").all():
        announcement.locator("xpath=following::button[1]").click()  # its close button


def run_on_page(page: Page, server: Server) -> None:
    """Press Run and wait until the nodes show their pictures.

    Trains as `run_all` did, so that ComfyUI need not do so again; where a checkpoint is missing,
    the picture that would be saved is left out.
    """
    done = len(server.get("/api/history"))
    page.evaluate(
        """([minutes, needs]) => {
            const ours = type => app.graph.nodes.filter(n => n.type === type)
            for (const node of ours("ImagenTrain"))
                node.widgets.find(w => w.name === "minutes").value = minutes
            if (ours(needs).length) for (const node of ours("SaveImage")) node.mode = 2
        }""",
        [TRAINING_MINUTES, NEEDS],
    )
    page.evaluate("app.queuePrompt(0)")
    while len(server.get("/api/history")) == done:
        page.wait_for_timeout(200)
    page.evaluate("app.graph.nodes.forEach(n => { if (n.mode === 2) n.mode = 0 })")
    page.wait_for_timeout(2000)
    page.evaluate(
        """base => Object.entries(app.nodeOutputs).forEach(([id, { text, ...rest }]) => {
            if (!text) return
            const shown = text.map(line => line.replaceAll(base, "ComfyUI"))
            app.nodeOutputs[id] = { ...rest, text: shown }
        })""",
        str(server.base),  # where this machine keeps it is nobody's business
    )
    page.wait_for_timeout(500)


def fit_view(page: Page) -> None:
    """Make the window as large as the graph needs."""
    left, top, width, height = page.evaluate("""() => {
        const nodes = app.graph.nodes
        const left = Math.min(...nodes.map(n => n.pos[0]))
        const top = Math.min(...nodes.map(n => n.pos[1])) - 40
        const right = Math.max(...nodes.map(n => n.pos[0] + n.size[0]))
        const bottom = Math.max(...nodes.map(n => n.pos[1] + n.size[1]))
        return [left, top, right - left, bottom - top]
    }""")
    page.set_viewport_size(
        ViewportSize(
            width=max(VIEW["width"], round(width * SCALE) + 160),
            height=max(VIEW["height"], round(height * SCALE) + 220),
        )
    )
    page.evaluate(
        """([left, top, scale]) => {
            app.canvas.ds.scale = scale
            app.canvas.ds.offset = [80 / scale - left, 140 / scale - top]
            app.canvas.setDirty(true, true)
        }""",
        [left, top, SCALE],
    )
    page.wait_for_timeout(1000)


def picture_nodes(page: Page, done: set[str]) -> None:
    """Picture every node of this pack on the page that is not in `done`."""
    NODE_PICTURES.mkdir(parents=True, exist_ok=True)
    page.evaluate("app.canvas.ds.scale = 1")
    kinds = page.evaluate("app.graph.nodes.map(n => n.type).filter(t => t.startsWith('Imagen'))")
    for kind in sorted(set(kinds) - done):
        done.add(kind)
        box = page.evaluate(
            """([kind, margin]) => {
            const node = app.graph.nodes.find(n => n.type === kind), ds = app.canvas.ds
            ds.offset = [400 - node.pos[0], 300 - node.pos[1]]
            app.canvas.setDirty(true, true)
            const area = app.canvas.canvas.getBoundingClientRect()
            const [width, height] = node.size
            return {x: area.x + 400 - margin, y: area.y + 300 - 30 - margin,
                    width: width + 2 * margin, height: height + 30 + 2 * margin}
        }""",
            [kind, MARGIN_PX],
        )
        page.wait_for_timeout(400)
        page.screenshot(path=NODE_PICTURES / f"{kind}.png", clip=box)
        print(NODE_PICTURES / f"{kind}.png")


def picture_pages(server: Server, page: Page, paths: list[Path]) -> None:
    """Open and run each example on the page; picture it and the nodes in it.

    The picture of "01 Text to image" is text_to_image.jpg.
    """
    done: set[str] = set()
    GALLERY.mkdir(parents=True, exist_ok=True)
    for path in paths:
        open_example(page, server, path)
        picture_nodes(page, done)
        run_on_page(page, server)
        fit_view(page)
        screenshot = GALLERY / f"{path.stem[3:].lower().replace(' ', '_')}.jpg"
        page.screenshot(path=screenshot, type="jpeg", quality=80)
        print(screenshot)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("examples", nargs="*", help="names of example workflows (default: all)")
    parser.add_argument("--front-end-root", help="another frontend than ComfyUI's own: its folder")
    given = parser.parse_args()
    wanted = given.examples
    frontend = ["--front-end-root", given.front_end_root] if given.front_end_root else []
    paths = [p for p in sorted(EXAMPLES.glob("*.json")) if not wanted or p.stem in wanted]
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise SystemExit("no Chromium found")
    with (
        running(find_host(ROOT / ".venv" / "bin" / "python"), arguments=frontend) as server,
        sync_playwright() as playwright,
        tempfile.TemporaryDirectory() as profile,
        to_train_on(server.base / "input" / PICTURE_FOLDER),
    ):
        shutil.rmtree(server.base / "output" / "imagen_training", ignore_errors=True)  # start anew
        run_all(server, paths)
        browser = playwright.chromium.launch_persistent_context(
            profile, executable_path=chromium, args=FLAGS, viewport=VIEW
        )
        page = browser.new_page()
        page.set_default_timeout(120_000)
        picture_pages(server, page, paths)
        browser.close()


if __name__ == "__main__":
    main()
