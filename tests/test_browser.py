"""The pack in ComfyUI's own frontend, in a real browser."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from comfyui import SAVED, saved_pixels

pytestmark = [pytest.mark.browser, pytest.mark.comfyui]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
START_MS = 120_000


@pytest.fixture(scope="module")
def page(server, tmp_path_factory) -> Iterator:
    """A page with a fresh profile; `page.complaints` collects errors that name our pack."""
    program = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if program is None:
        pytest.skip("no Chromium found: the browser tests are skipped")
    from playwright.sync_api import sync_playwright

    profile = tmp_path_factory.mktemp("profile")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch_persistent_context(
            profile,
            executable_path=program,
            args=FLAGS,
            headless=True,
            viewport={"width": 1500, "height": 900},
        )
        page = browser.new_page()
        page.set_default_timeout(START_MS)
        page.complaints = []
        page.on("console", lambda message: _collect(page.complaints, message))
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        yield page
        if folder := os.environ.get("IMAGEN_SCREENSHOTS"):
            page.screenshot(path=Path(folder) / "last.png")
        browser.close()


def _collect(complaints: list[str], message) -> None:
    """Errors that come from our files or speak of them; the frontend has some of its own."""
    where = message.location.get("url", "")
    ours = "imagen" in where.lower() or "imagen" in message.text.lower()
    if ours and message.type == "error" and "api.comfy.org" not in message.text:
        complaints.append(f"{message.text} ({where})")


def open_frontend(page, server, query: str = "") -> None:
    page.goto(server.address + "/" + query)
    page.wait_for_function("window.app?.graph && window.app.extensionManager")


def test_the_pack_s_templates_are_listed_with_thumbnails(page, server):
    open_frontend(page, server)  # the first visit opens the template browser by itself
    page.get_by_text("imagen-gan", exact=True).first.click()
    for name in ("text_to_image", "score_and_pick", "sprite_on_background"):
        page.get_by_text(name, exact=True).first.wait_for()
    images = page.locator("img[src^='blob:'], img[src*='imagen-gan']")
    images.first.wait_for()


def test_text_to_image_opens_from_the_browser_and_shows_its_picture_on_the_node(page, server):
    page.get_by_text("text_to_image", exact=True).first.click()
    page.wait_for_function("app.graph.nodes.length === 6")
    types = page.evaluate("app.graph.nodes.map(node => node.type)")
    assert "ImagenSample" in types
    assert page.evaluate("app.graph.nodes.every(node => !node.has_errors)")
    page.evaluate(
        "app.graph.nodes.find(n => n.type === 'ImagenRandomLatent').widgets[1].value = 'fixed'"
    )
    page.get_by_test_id("queue-button").first.click()
    shown = "app.graph.nodes.find(n => n.type === 'SaveImage').imgs?.[0]?.naturalWidth"
    page.wait_for_function(f"{shown} === 256")


def run_on_page(page, server) -> np.ndarray:
    """Queue the graph as the Run button does; returns the picture that it saves."""
    known = set(server.get("/api/history"))
    page.evaluate("app.queuePrompt(0)")
    while not (new := set(server.get("/api/history")) - known):
        page.wait_for_timeout(100)
    (prompt_id,) = new
    outputs = server.wait_for(prompt_id)["outputs"]
    save_id = page.evaluate("String(app.graph.nodes.find(n => n.type === 'SaveImage').id)")
    (picture,) = saved_pixels(server, {save_id: outputs[save_id]})
    return picture


FIRST = "app.graph.nodes.filter(n => n.type === 'ImagenDirection').sort((a, b) => a.id - b.id)[0]"
PAD = f"""(() => {{
    const value = name => {FIRST}.widgets.find(w => w.name === name).value
    return [value('strength'), value('second_strength')]
}})()"""


def test_a_drag_on_the_pad_and_its_keys_move_the_strengths_and_the_picture(page, server):
    open_frontend(page, server, "?template=directions&source=imagen-gan")
    page.wait_for_function("app.graph.nodes.some(n => n.type === 'ImagenDirection')")
    page.wait_for_timeout(1000)
    page.evaluate(
        "app.graph.nodes.find(n => n.type === 'ImagenRandomLatent').widgets[1].value = 'fixed'"
    )
    before = run_on_page(page, server)
    page.evaluate(f"""() => {{
        const node = {FIRST}
        app.canvas.ds.scale = 1
        app.canvas.ds.offset = [400 - node.pos[0], 200 - node.pos[1]]
        app.canvas.setDirty(true, true)
    }}""")
    pad = page.locator(".imagen-pad").first
    pad.wait_for(state="visible")
    page.wait_for_timeout(500)
    area = pad.bounding_box()
    page.mouse.move(area["x"] + area["width"] / 2, area["y"] + area["height"] / 2)
    page.mouse.down()
    page.mouse.move(area["x"] + area["width"] * 5 / 6, area["y"] + area["height"] / 3, steps=5)
    page.mouse.up()
    assert page.evaluate(PAD) == pytest.approx([2.0, 1.0], abs=0.11)
    pad.press("Home")
    assert page.evaluate(PAD) == [0, 0]
    pad.press("ArrowRight")
    pad.press("Shift+ArrowUp")
    assert page.evaluate(PAD) == [0.1, 0.5]
    assert (run_on_page(page, server) != before).any()


def test_a_saved_workflow_does_not_hold_the_pad(page):
    kept = page.evaluate(
        "app.graph.serialize().nodes.find(n => n.type === 'ImagenDirection').widgets_values"
    )
    assert len(kept) == 4  # two directions, two strengths


@pytest.mark.parametrize("path", SAVED, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_workflow_that_an_earlier_version_saved_still_opens(page, path):
    count = page.evaluate(
        "async workflow => { await app.loadGraphData(workflow); return app.graph.nodes.length }",
        json.loads(path.read_text(encoding="utf-8")),
    )
    assert count > 5
    assert page.evaluate("app.graph.nodes.every(node => !node.has_errors && node.type)")
    assert page.evaluate(
        "app.graph.nodes.every(node => LiteGraph.registered_node_types[node.type])"
    )


def test_nothing_of_the_pack_complained_in_the_console(page):
    assert page.complaints == []
