"""Make the pack's pictures by running it: thumbnails, pictures of nodes, screenshots.

    .venv/bin/python tools/make_pictures.py [EXAMPLE ...]

All examples, or those named, with the nodes in them. Needs what `python3 run.py test` sets up, and
a Chromium.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from imagen_model.data.emoji import build_emoji
from studio.host import ROOT, find_host
from studio.server import Server, running
from studio.workflow import load_workflow, set_input, to_prompt

EXAMPLES = ROOT / "example_workflows"
NODE_PICTURES = ROOT / "nodes" / "web" / "docs" / "images"
SCREENSHOT = ROOT / "docs" / "images" / "text_to_image.jpg"
GALLERY = ROOT / "docs" / "gallery"
EMOJI_SOURCES = ROOT / "tests" / "fixtures" / "emoji_sources"
TRAINING_MINUTES = 2.0
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
THUMBNAIL_PX = 384
NOT_RUN = {"train_your_own"}  # on the page: it trains for half an hour on the user's own pictures
MARGIN_PX = 12


def run_all(server: Server, paths: list[Path], pictures: Path) -> None:
    """Run the examples; a thumbnail is what one saved, on white where it is transparent.

    What trains does so on `pictures`.
    """
    shutil.rmtree(server.base / "output" / "imagen_training", ignore_errors=True)  # begin anew
    info = server.get("/object_info")
    for path in paths:
        prompt = to_prompt(load_workflow(path), info)
        if any(node["class_type"] == "ImagenTrain" for node in prompt.values()):
            set_input(prompt, "ImagenTrain", "folder", str(pictures))
            set_input(prompt, "ImagenTrain", "minutes", TRAINING_MINUTES)
        outputs = server.run(prompt)
        images = [image for output in outputs.values() for image in output.get("images", [])]
        saved = next(image for image in images if image["type"] == "output")
        drawn = Image.open(server.image_path(saved)).convert("RGBA")
        picture = Image.new("RGBA", drawn.size, "white")
        picture.alpha_composite(drawn)
        picture = picture.convert("RGB")
        picture.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
        picture.save(path.with_suffix(".jpg"), quality=90)
        print(path.with_suffix(".jpg"))


def open_example(page: Page, server: Server, name: str) -> None:
    page.goto(f"{server.address}/?template={name}&source=imagen-gan")
    page.wait_for_function("window.app?.graph?.nodes.length > 2")
    page.wait_for_timeout(2000)


def run_on_page(page: Page, server: Server) -> None:
    """Press Run and wait until the nodes show their pictures."""
    done = len(server.get("/api/history"))
    page.evaluate("app.queuePrompt(0)")
    while len(server.get("/api/history")) == done:
        page.wait_for_timeout(200)
    page.wait_for_timeout(2000)


def fit_view(page: Page) -> None:
    page.evaluate("""() => {
        const nodes = app.graph.nodes, ds = app.canvas.ds, w = innerWidth, h = innerHeight
        const left = Math.min(...nodes.map(n => n.pos[0]))
        const top = Math.min(...nodes.map(n => n.pos[1])) - 40
        const right = Math.max(...nodes.map(n => n.pos[0] + n.size[0]))
        const bottom = Math.max(...nodes.map(n => n.pos[1] + n.size[1]))
        ds.scale = Math.min((w - 160) / (right - left), (h - 260) / (bottom - top))
        ds.offset = [80 / ds.scale - left, 180 / ds.scale - top]
        app.canvas.setDirty(true, true)
    }""")
    page.wait_for_timeout(500)


def picture_nodes(page: Page, done: set[str]) -> None:
    """One picture of every node of ours on the page that has none yet."""
    NODE_PICTURES.mkdir(parents=True, exist_ok=True)
    page.evaluate("app.canvas.ds.scale = 1")
    kinds = page.evaluate("app.graph.nodes.map(n => n.type).filter(t => t.startsWith('Imagen'))")
    for kind in sorted(set(kinds) - done):
        done.add(kind)
        box = page.evaluate(
            """kind => {
            const node = app.graph.nodes.find(n => n.type === kind), ds = app.canvas.ds
            ds.offset = [400 - node.pos[0], 300 - node.pos[1]]
            app.canvas.setDirty(true, true)
            const area = app.canvas.canvas.getBoundingClientRect()
            const [width, height] = node.size
            return {x: area.x + 400, y: area.y + 300 - 30, width, height: height + 30}
        }""",
            kind,
        )
        page.wait_for_timeout(400)
        clip = {
            "x": box["x"] - MARGIN_PX,
            "y": box["y"] - MARGIN_PX,
            "width": box["width"] + 2 * MARGIN_PX,
            "height": box["height"] + 2 * MARGIN_PX,
        }
        page.screenshot(path=NODE_PICTURES / f"{kind}.png", clip=clip)
        print(NODE_PICTURES / f"{kind}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("examples", nargs="*", help="names of example workflows (default: all)")
    wanted = parser.parse_args().examples
    paths = [p for p in sorted(EXAMPLES.glob("*.json")) if not wanted or p.stem in wanted]
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        raise SystemExit("no Chromium found")
    with (
        running(find_host(ROOT / ".venv" / "bin" / "python")) as server,
        sync_playwright() as playwright,
        tempfile.TemporaryDirectory() as profile,
        tempfile.TemporaryDirectory() as data,
    ):
        build_emoji(Path(data), resolution=32, source=EMOJI_SOURCES)
        run_all(server, paths, Path(data))
        browser = playwright.chromium.launch_persistent_context(
            profile,
            executable_path=program,
            args=FLAGS,
            viewport={"width": 1600, "height": 800},
        )
        page = browser.new_page()
        page.set_default_timeout(120_000)
        done: set[str] = set()
        GALLERY.mkdir(parents=True, exist_ok=True)
        for path in paths:
            open_example(page, server, path.stem)
            picture_nodes(page, done)
            if path.stem not in NOT_RUN:
                run_on_page(page, server)
            fit_view(page)
            screenshot = GALLERY / f"{path.stem}.jpg"
            page.screenshot(path=screenshot, type="jpeg", quality=80)
            print(screenshot)
            if path.stem == SCREENSHOT.stem:
                shutil.copy(screenshot, SCREENSHOT)
        browser.close()


if __name__ == "__main__":
    main()
