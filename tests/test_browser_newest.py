"""The pack in the newest frontend, in both of its renderers: one session, step by step.

After each step, what is on the screen is what the server has.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlparse

import pytest
from browser import fresh_page, press_run
from comfyui import forget_ratings
from every_node import node

from studio.host import StudioError, fetch_frontend, find_host
from studio.server import Server, running

pytestmark = [pytest.mark.browser, pytest.mark.comfyui]
RENDERERS = {"classic": False, "nodes-2": True}
PATIENCE_SEC = 120
MODEL, ADAPTER = "tiny.safetensors", "session.safetensors"
LATENT, DIRECTION, RATE, LEARN = "4", "5", "6", "8"

# What is on the screen: of elements with a size, so that what is kept aside does not count.
SCREEN = """() => {
    const seen = selector => [...document.querySelectorAll(selector)].filter(e => e.offsetWidth)
    const pads = seen(".imagen-pad").map(pad => {
        const dot = pad.querySelector(".imagen-pad-dot")
        return {
            size: [pad.offsetWidth, pad.offsetHeight],
            at: [parseFloat(dot.style.left) / 50 - 1, 1 - parseFloat(dot.style.top) / 50],
        }
    })
    const tiles = seen(".imagen-tile")
    const lit = tile => [...tile.querySelectorAll("button")].map(
        button => button.getAttribute("aria-pressed") === "true")
    return {
        pads,
        lit: tiles.map(lit),
        pictures: tiles.map(tile => tile.querySelector("img").src),
        loaded: tiles.every(tile => tile.querySelector("img").naturalWidth > 0),
        everyPicture: seen("img").map(img => img.src),
        drawn: app.canvas.graph.nodes.flatMap(n => n.type === "ImagenRate" ? n.imgs ?? [] : [])
            .length,
        line: tiles[0]?.parentElement.previousSibling.textContent,
        texts: seen(".imagen-text").map(text => text.textContent),
    }
}"""
OF_KIND = """kind => {
    const root = app.canvas.graph.rootGraph
    return [root, ...root.subgraphs.values()].flatMap(g => g.nodes).find(n => n.type === kind)
}"""


@pytest.fixture(scope="module")
def server(tmp_path_factory, tiny_checkpoint) -> Iterator[Server]:
    """ComfyUI with the newest frontend, and a model that draws in no time."""
    python = Path(sys.executable)
    try:
        frontend = fetch_frontend(python)
    except StudioError as error:
        pytest.skip(str(error))
    base = tmp_path_factory.mktemp("newest")
    arguments = ("--front-end-root", str(frontend))
    with running(find_host(python), base=base, arguments=arguments) as server:
        (base / "models" / "imagen").mkdir(parents=True, exist_ok=True)
        shutil.copy(tiny_checkpoint, base / "models" / "imagen" / MODEL)
        yield server


class Session:
    """A person at the page. `check` compares the screen with the server."""

    def __init__(self, page, server: Server) -> None:
        self.page, self.server = page, server

    def open(self, prompt: dict) -> None:
        self.page.goto(self.server.address)
        self.ready("window.LiteGraph?.registered_node_types?.ImagenRate && window.app?.graph")
        self.page.evaluate("prompt => app.loadApiJson(prompt, 'session')", prompt)
        self.ready(f"app.graph.nodes.length === {len(prompt)}")
        self.show()

    def ready(self, condition: str) -> None:
        self.page.wait_for_function(condition)
        self.page.wait_for_timeout(500)

    def show(self) -> None:
        """Place the nodes of the graph that is open side by side, and all of them in view."""
        self.page.evaluate("""() => {
            app.canvas.graph.nodes.forEach((n, i) =>
                n.pos = [(i % 4) * 400, Math.floor(i / 4) * 700])
            app.canvas.ds.scale = 0.6
            app.canvas.ds.offset = [150, 180]
            app.canvas.setDirty(true, true)
        }""")
        self.page.wait_for_timeout(500)

    def set(self, kind: str, name: str, value: object) -> None:
        self.page.evaluate(
            f"""([kind, name, value]) => {{
                const widget = ({OF_KIND})(kind).widgets.find(w => w.name === name)
                widget.value = value
                widget.callback?.(value)
            }}""",
            [kind, name, value],
        )

    def choose_run(self, mode: str) -> None:
        """Choose what the Run button does, in the menu beside it."""
        self.page.get_by_test_id("queue-mode-menu-trigger").click()
        self.page.get_by_role("menuitemradio", name=mode, exact=True).click()
        self.page.keyboard.press("Escape")

    def drag(self, x: float, y: float) -> None:
        """Drag the pad's dot to strengths."""
        area = self.page.locator(".imagen-pad:visible").bounding_box()
        place = [
            area[start] + area[size] * part
            for start, size, part in (
                ("x", "width", (x / 3 + 1) / 2),
                ("y", "height", (1 - y / 3) / 2),
            )
        ]
        self.page.mouse.move(area["x"] + area["width"] / 2, area["y"] + area["height"] / 2)
        self.page.mouse.down()
        self.page.mouse.move(*place, steps=5)
        self.page.mouse.up()

    def click(self, index: int, verdict: str) -> None:
        tile = self.page.locator(".imagen-tile:visible").nth(index)
        tile.locator(f"button[data-verdict={verdict}]").click()

    # -- what the server has ----------------------------------------------------------------------

    def last_run(self) -> tuple[dict, dict]:
        """The prompt of the last run and the outputs of its nodes."""
        deadline = time.monotonic() + PATIENCE_SEC
        while any(self.server.get("/api/queue").values()):
            assert time.monotonic() < deadline, "the queue does not get empty"
            self.page.wait_for_timeout(50)
        (last,) = self.server.get("/api/history?max_items=1").values()
        assert last["status"]["status_str"] == "success", last["status"]
        return last["prompt"][2], last["outputs"]

    def check(self, *, read: bool = True, pictures: int | None = None) -> dict:
        """Wait until the screen shows what the server has, and this many pictures to rate; returns
        the screen."""
        deadline = time.monotonic() + PATIENCE_SEC
        while True:
            prompt, outputs = self.last_run()
            screen = self.page.evaluate(SCREEN)
            try:
                self.compare(screen, prompt, outputs)
                assert ("read as: red apple" in screen["texts"]) == read
                assert pictures in (None, len(screen["pictures"]))
                return screen
            except AssertionError:
                if time.monotonic() > deadline:
                    raise
                self.page.wait_for_timeout(100)

    def compare(self, screen: dict, prompt: dict, outputs: dict) -> None:
        by_kind = {each["class_type"]: key for key, each in prompt.items()}
        for pad in screen["pads"]:
            said = prompt[by_kind["ImagenDirection"]]["inputs"]
            strengths = [said["strength"] / 3, said["second_strength"] / 3]
            assert pad["at"] == pytest.approx(strengths, abs=1e-3)
            assert pad["size"] == [140, 140]
        if screen["pictures"]:
            shown = outputs[by_kind["ImagenRate"]]
            assert [name_of(src) for src in screen["pictures"]] == [
                image["filename"] for image in shown["images"]
            ]
            assert screen["loaded"] and screen["drawn"] == 0
            names = [name_of(src) for src in screen["everyPicture"]]
            assert all(names.count(image["filename"]) == 1 for image in shown["images"])
            stored = self.server.post("/api/imagen/ratings", {"batch": shown["imagen_batch"][0]})
            assert screen["lit"] == [
                [bool(each[name]) for name in ("up", "down", "best")] for each in stored["verdicts"]
            ]
            assert screen["line"] == stored["text"]


def name_of(src: str) -> str | None:
    return parse_qs(urlparse(src).query).get("filename", [None])[0]


def prompt_of(server: Server) -> dict:
    """Text to image with a direction, and rating; learning is added later."""
    asked = {"model": ["2", 0], "condition": ["3", 0]}
    return {
        "1": node(server, "ImagenLoadModel", model_name=MODEL),
        "2": node(server, "ImagenApplyAdapter", model=["1", 0]),
        "3": node(server, "ImagenEncodeText", model=["2", 0], text="红苹果"),
        LATENT: node(server, "ImagenRandomLatent", model=["2", 0], seed=300, batch_size=8),
        DIRECTION: node(server, "ImagenDirection", **asked, latent=[LATENT, 0], strength=0.0),
        RATE: node(server, "ImagenRate", **asked, latent=[DIRECTION, 0]),
        LEARN: node(
            server, "ImagenLearn", model=["1", 0], count=[RATE, 2], method="best", name="session",
            force=True,
        ),
    }  # fmt: skip


@pytest.fixture(params=RENDERERS)
def session(request, server, tmp_path) -> Iterator[Session]:
    server.post("/api/settings/Comfy.VueNodes.Enabled", RENDERERS[request.param])
    server.post("/api/settings/Comfy.Minimap.Visible", False)
    server.post("/api/settings/Comfy.TutorialCompleted", True)  # else a dialog opens
    forget_all(server)
    for page in fresh_page(tmp_path / "profile"):
        yield Session(page, server)


def forget_all(server: Server) -> None:
    forget_ratings(server)
    (server.base / "models" / "imagen_adapters" / ADAPTER).unlink(missing_ok=True)


def test_what_is_on_screen_is_what_the_server_has(session: Session, server: Server):
    page = session.page
    session.open(prompt_of(server))
    assert page.evaluate("LiteGraph.vueNodesMode") == bool(
        server.get("/api/settings/Comfy.VueNodes.Enabled")
    )
    session.set("ImagenRandomLatent", "control_after_generate", "fixed")
    page.evaluate(f"({OF_KIND})('ImagenLearn').mode = 4")
    press_run(page, server)
    session.check(pictures=8)

    session.choose_run("Run (On Change)")
    steps = "app.extensionManager.workflow.activeWorkflow.changeTracker.undoQueue.length"
    before = page.evaluate(steps)
    places = ((2, 1), (-1, 2), (0.5, -2.5), (-3, 0), (1, 1))
    for x, y in places:
        session.drag(x, y)
        (pad,) = session.check()["pads"]
        assert pad["at"] == pytest.approx([x / 3, y / 3], abs=0.04)
    assert page.evaluate(steps) == before + len(places)  # a drag is one step
    for _ in places:
        page.evaluate("app.extensionManager.workflow.activeWorkflow.changeTracker.undo()")
        session.check()
    session.drag(2, 1)  # the pad that is on the screen writes into the node that runs
    session.check()
    session.choose_run("Run")

    tabs(session)
    session.check()
    page.reload()
    session.ready("window.app?.graph?.nodes?.length === 7")
    session.show()
    session.check()

    inside_a_subgraph(session)
    rated(session)
    learned_and_applied(session)
    assert page.complaints == []


def tabs(session: Session) -> None:
    """Go to another tab and back."""
    page = session.page
    page.evaluate("app.extensionManager.command.execute('Comfy.NewBlankWorkflow')")
    session.ready("app.graph.nodes.length === 0")
    page.evaluate("app.extensionManager.command.execute('Workspace.PreviousOpenedWorkflow')")
    session.ready("app.graph.nodes.length === 7")
    session.show()


def inside_a_subgraph(session: Session) -> None:
    """The direction in a subgraph, its strength outside on the subgraph's node."""
    page = session.page
    page.evaluate(f"""() => {{
        const node = ({OF_KIND})("ImagenDirection")
        const made = app.graph.convertToSubgraph(new Set([node]))
        window.host = made.node
        const inner = made.subgraph.nodes[0]
        const slot = inner.inputs.find(input => input.widget?.name === "strength")
        made.subgraph.addInput("strength", "FLOAT").connect(slot, inner)
    }}""")
    page.wait_for_timeout(500)
    page.evaluate("""() => {
        const widget = host.widgets.find(w => w.name === "strength")
        widget.value = -2.4
        widget.callback?.(-2.4)
    }""")
    press_run(page, session.server)
    session.check()
    prompt, _ = session.last_run()
    assert next(n for n in prompt.values() if n["class_type"] == "ImagenDirection")["inputs"][
        "strength"
    ] == pytest.approx(-2.4)
    page.evaluate("app.canvas.setGraph(host.subgraph)")
    page.wait_for_timeout(500)
    session.show()
    (pad,) = session.check(read=False)["pads"]
    assert pad["at"][0] == pytest.approx(-0.8, abs=1e-3)
    session.drag(1, 1)
    page.evaluate("app.canvas.setGraph(app.graph.rootGraph ?? app.graph)")
    page.wait_for_timeout(500)
    session.show()
    press_run(page, session.server)
    session.check()


def rated(session: Session) -> None:
    """Eight pictures: thumbs, one of them turned, and a star that moves."""
    for index in range(8):
        session.click(index, "up" if index % 2 else "down")
    session.click(0, "up")
    session.click(2, "best")
    session.click(5, "best")
    deadline = time.monotonic() + PATIENCE_SEC
    while not session.check()["line"].startswith("9 ratings"):
        assert time.monotonic() < deadline
    lit = session.check()["lit"]
    assert [tile[2] for tile in lit] == [index == 5 for index in range(8)]
    assert lit[0] == [True, False, False]
    press_run(session.page, session.server)  # all of it is in the server's cache
    assert session.check()["lit"] == lit


def learned_and_applied(session: Session) -> None:
    page = session.page
    page.evaluate(f"({OF_KIND})('ImagenLearn').mode = 0")
    session.server.wait_for(press_run(page, session.server))
    session.check()
    listed = f"""({OF_KIND})('ImagenApplyAdapter').widgets[0].options.values"""
    page.wait_for_function(f"({listed}).includes('{ADAPTER}')")  # without a key pressed
    report = next(text for text in session.check()["texts"] if "ratings" in text)
    assert report.splitlines()[0].startswith("kept as ")
    page.evaluate(f"({OF_KIND})('ImagenLearn').mode = 4")
    session.set("ImagenApplyAdapter", "adapter", ADAPTER)
    press_run(page, session.server)
    screen = session.check()
    assert not any(any(tile) for tile in screen["lit"])  # other pictures
