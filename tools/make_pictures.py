"""Make the pack's pictures by running it: thumbnails, pictures of nodes, a screenshot.

    .venv/bin/python tools/make_pictures.py

Needs what `python3 run.py test` sets up, and a Chromium.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from studio.host import ROOT, find_host
from studio.server import Server, running
from studio.workflow import load_workflow, to_prompt

EXAMPLES = ROOT / "example_workflows"
NODE_PICTURES = ROOT / "nodes" / "web" / "docs" / "images"
SCREENSHOT = ROOT / "docs" / "images" / "text_to_image.jpg"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
THUMBNAIL_PX = 384
MARGIN_PX = 12


def run_all(server: Server) -> None:
    """Run every example; its thumbnail is what it saved."""
    info = server.get("/object_info")
    for path in sorted(EXAMPLES.glob("*.json")):
        outputs = server.run(to_prompt(load_workflow(path), info))
        images = [image for output in outputs.values() for image in output.get("images", [])]
        saved = next(image for image in images if image["type"] == "output")
        picture = Image.open(server.image_path(saved)).convert("RGB")
        picture.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
        picture.save(path.with_suffix(".jpg"), quality=90)
        print(path.with_suffix(".jpg"))


def open_example(page: Page, server: Server, name: str) -> None:
    page.goto(f"{server.address}/?template={name}&source=imagen-gan")
    page.wait_for_function("window.app?.graph?.nodes.length > 2")
    page.wait_for_timeout(2000)


def run_on_page(page: Page) -> None:
    """Press Run and wait until the last node shows its picture."""
    page.evaluate("app.queuePrompt(0)")
    page.wait_for_function("app.graph.nodes.find(n => n.type === 'SaveImage').imgs?.length")
    page.wait_for_timeout(1500)


def fit_view(page: Page) -> None:
    page.evaluate("""() => {
        const nodes = app.graph.nodes, ds = app.canvas.ds, w = innerWidth, h = innerHeight
        const left = Math.min(...nodes.map(n => n.pos[0]))
        const top = Math.min(...nodes.map(n => n.pos[1])) - 40
        const right = Math.max(...nodes.map(n => n.pos[0] + n.size[0]))
        const bottom = Math.max(...nodes.map(n => n.pos[1] + n.size[1]))
        ds.scale = Math.min((w - 160) / (right - left), (h - 220) / (bottom - top))
        ds.offset = [80 / ds.scale - left, 120 / ds.scale - top]
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
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        raise SystemExit("no Chromium found")
    with (
        running(find_host(ROOT / ".venv" / "bin" / "python")) as server,
        sync_playwright() as playwright,
        tempfile.TemporaryDirectory() as profile,
    ):
        run_all(server)
        browser = playwright.chromium.launch_persistent_context(
            profile,
            executable_path=program,
            args=FLAGS,
            viewport={"width": 1600, "height": 800},
        )
        page = browser.new_page()
        page.set_default_timeout(120_000)
        open_example(page, server, "text_to_image")
        run_on_page(page)
        fit_view(page)
        SCREENSHOT.parent.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SCREENSHOT, type="jpeg", quality=85)
        done: set[str] = set()
        for path in sorted(EXAMPLES.glob("*.json")):
            open_example(page, server, path.stem)
            picture_nodes(page, done)
        browser.close()


if __name__ == "__main__":
    main()
