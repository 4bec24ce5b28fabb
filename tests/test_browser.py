"""The pack in ComfyUI's own frontend, in a real browser."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

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


def test_nothing_of_the_pack_complained_in_the_console(page):
    assert page.complaints == []
