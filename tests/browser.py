"""What the tests share that open a page of ComfyUI's frontend in a real browser."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

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


def fresh_page(profile: Path) -> Iterator:
    """A page with a profile of its own; `page.complaints` collects errors that name our pack."""
    program = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if program is None:
        pytest.skip("no Chromium found: the browser tests are skipped")
    from playwright.sync_api import sync_playwright

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
    said = f"{message.text} ({where})"
    if message.type == "error" and "imagen" in said.lower() and "api.comfy.org" not in said:
        complaints.append(said)


def press_run(page, server) -> str:
    """Queue the graph with the Run button; returns the prompt's id."""
    with page.expect_response(
        lambda r: r.url.endswith("/prompt") and r.request.method == "POST"
    ) as sent:
        page.get_by_test_id("queue-button").first.click()
    answer = sent.value.json()
    assert not answer.get("node_errors") and "error" not in answer, answer
    return answer["prompt_id"]


def outputs_on_page(page, server) -> dict[str, dict]:
    """Run the graph; returns what its output nodes showed."""
    prompt_id = press_run(page, server)
    while not server.get(f"/api/history/{prompt_id}"):
        page.wait_for_timeout(100)
    return server.wait_for(prompt_id)["outputs"]
