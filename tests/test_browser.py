"""The pack in ComfyUI's own frontend, in a real browser."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterator

import numpy as np
import pytest
from browser import fresh_page, outputs_on_page, press_run
from comfyui import SAVED, WORKFLOWS, forget_ratings, saved_pixels, template

import imagen_model as im

pytestmark = [pytest.mark.browser, pytest.mark.comfyui]


@pytest.fixture(scope="module")
def page(server, tmp_path_factory) -> Iterator:
    """A page with a fresh profile; `page.complaints` collects errors that name our pack."""
    yield from fresh_page(tmp_path_factory.mktemp("profile"))


def open_frontend(page, server, query: str = "") -> None:
    page.goto(server.address + "/" + query)
    page.wait_for_function("window.app?.graph && window.app.extensionManager")


def open_template(page, server, name: str, kind: str) -> None:
    """Open a template and wait until its node of this kind is there."""
    open_frontend(page, server)
    workflow = json.loads(template(name).read_text(encoding="utf-8"))
    page.evaluate("graph => void app.loadGraphData(graph)", workflow)
    page.wait_for_function(f"app.graph.nodes.some(n => n.type === '{kind}')")
    page.wait_for_timeout(1000)
    if page.locator(".p-dialog-mask").count():  # the first visit opens the list of templates
        page.keyboard.press("Escape")


def set_widget(page, kind: str, name: str, value: object) -> None:
    """Set a widget of the first node of a kind, as typing does."""
    page.evaluate(
        """([kind, name, value]) => {
            const node = app.graph.nodes.find(n => n.type === kind)
            const widget = node.widgets.find(w => w.name === name)
            widget.value = value
            widget.callback?.(value)
        }""",
        [kind, name, value],
    )


def set_mode(page, kind: str, mode: str) -> None:
    number = {"run": 0, "bypass": 4}[mode]
    page.evaluate(f"app.graph.nodes.find(n => n.type === '{kind}').mode = {number}")


def bring_into_view(page, kind: str) -> None:
    """Show the first node of a kind at its full size."""
    page.evaluate(
        """kind => {
            const node = app.graph.nodes.find(n => n.type === kind)
            app.canvas.ds.scale = 1
            app.canvas.ds.offset = [400 - node.pos[0], 150 - node.pos[1]]
            app.canvas.setDirty(true, true)
        }""",
        kind,
    )
    page.wait_for_timeout(500)


def test_the_pack_s_templates_are_listed_with_thumbnails(page, server):
    open_frontend(page, server)  # the first visit opens the template browser by itself
    page.get_by_text("imagen-gan", exact=True).first.click()
    for name in ("01 Text to image", "03 Score and pick", "06 Sprite on background"):
        page.get_by_text(name, exact=True).first.wait_for()
    images = page.locator("img[src^='blob:'], img[src*='imagen-gan']")
    images.first.wait_for()


def test_text_to_image_opens_from_the_browser_and_shows_its_picture_on_the_node(page, server):
    page.get_by_text("01 Text to image", exact=True).first.click()
    page.wait_for_function("app.graph.nodes.length === 5")
    types = page.evaluate("app.graph.nodes.map(node => node.type)")
    assert "ImagenTextToImage" in types
    assert page.evaluate("app.graph.nodes.every(node => !node.has_errors)")
    page.evaluate(
        "app.graph.nodes.find(n => n.type === 'ImagenTextToImage')"
        ".widgets.find(w => w.name === 'control_after_generate').value = 'fixed'"
    )
    page.get_by_test_id("queue-button").first.click()
    shown = "app.graph.nodes.find(n => n.type === 'SaveImage').imgs?.[0]?.naturalWidth"
    page.wait_for_function(f"{shown} === 256")


def run_on_page(page, server) -> list[np.ndarray]:
    """Run the graph; returns the pictures that it saves."""
    outputs = outputs_on_page(page, server)
    save_id = page.evaluate("String(app.graph.nodes.find(n => n.type === 'SaveImage').id)")
    return saved_pixels(server, {save_id: outputs[save_id]})


FIRST = "app.graph.nodes.filter(n => n.type === 'ImagenDirection').sort((a, b) => a.id - b.id)[0]"
PAD = f"""(() => {{
    const value = name => {FIRST}.widgets.find(w => w.name === name).value
    return [value('strength'), value('second_strength')]
}})()"""


def test_a_drag_on_the_pad_changes_the_picture_and_its_keys_move_the_strengths(page, server):
    open_template(page, server, "directions", "ImagenDirection")
    set_widget(page, "ImagenRandomLatent", "control_after_generate", "fixed")
    (before,) = run_on_page(page, server)
    bring_into_view(page, "ImagenDirection")
    pad = page.locator(".imagen-pad").first
    pad.wait_for(state="visible")
    area = pad.bounding_box()
    page.mouse.move(area["x"] + area["width"] / 2, area["y"] + area["height"] / 2)
    page.mouse.down()
    page.mouse.move(area["x"] + area["width"] * 5 / 6, area["y"] + area["height"] / 3, steps=5)
    page.mouse.up()
    assert page.evaluate(PAD) == pytest.approx([2.0, 1.0], abs=0.11)
    (dragged,) = run_on_page(page, server)
    assert dragged.shape == before.shape and (dragged != before).any()
    pad.press("Home")
    assert page.evaluate(PAD) == [0, 0]
    pad.press("ArrowRight")
    pad.press("Shift+ArrowUp")
    assert page.evaluate(PAD) == [0.1, 0.5]


def choose_run(page, mode: str) -> None:
    """Choose what the Run button does, in the menu beside it."""
    page.get_by_test_id("queue-button").locator("button").nth(1).click()
    page.get_by_role("menuitem").filter(has_text=re.compile(rf"^{re.escape(mode)}$")).click()


def test_run_on_change_draws_again_when_the_pad_is_moved(page, server):
    def drawn() -> int:
        return len(server.get("/api/history"))

    choose_run(page, "Run (On Change)")
    try:
        press_run(page, server)
        page.wait_for_function("app.ui.lastQueueSize === 0")
        before = drawn()
        page.locator(".imagen-pad").first.press("ArrowRight")
        deadline = time.monotonic() + 60
        while drawn() == before:
            assert time.monotonic() < deadline, "the pad moved and nothing ran"
            page.wait_for_timeout(100)
        page.locator(".imagen-pad").first.press("ArrowLeft")
    finally:
        choose_run(page, "Run")


def test_a_reload_keeps_the_graph_and_what_was_typed(page, server):
    values = "app.graph.serialize().nodes.map(n => [n.id, n.type, n.widgets_values])"
    links = "app.graph.serialize().links.length"
    before = page.evaluate(values), page.evaluate(links)
    page.wait_for_timeout(1000)  # the frontend keeps changes with a delay
    page.reload()
    page.wait_for_function("window.app?.graph?.nodes.some(n => n.type === 'ImagenDirection')")
    page.wait_for_timeout(1000)
    assert (page.evaluate(values), page.evaluate(links)) == before
    assert page.evaluate(PAD) == [0.1, 0.5]


def test_a_saved_workflow_does_not_hold_the_pad(page):
    kept = page.evaluate(
        "app.graph.serialize().nodes.find(n => n.type === 'ImagenDirection').widgets_values"
    )
    assert len(kept) == 6  # two directions, two strengths, two attributes


OVERLAPS = """async graph => {
    await app.loadGraphData(graph)
    await new Promise(resolve => setTimeout(resolve, 300))
    const overlap = (a, b) => [0, 1].every(i => {
        const title = i * LiteGraph.NODE_TITLE_HEIGHT
        return a.pos[i] - title < b.pos[i] + b.size[i] && b.pos[i] - title < a.pos[i] + a.size[i]
    })
    const nodes = app.graph.nodes
    return nodes.flatMap((a, i) => nodes.slice(i + 1).filter(b => overlap(a, b))
        .map(b => `${a.id} ${a.type} and ${b.id} ${b.type}`))
}"""


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_no_nodes_of_a_template_overlap(page, path):
    assert page.evaluate(OVERLAPS, json.loads(path.read_text(encoding="utf-8"))) == []


def test_a_node_shows_the_text_of_its_run_and_does_not_keep_it(page, server):
    open_template(page, server, "score_and_pick", "ImagenScore")
    run_on_page(page, server)
    bring_into_view(page, "ImagenScore")
    text = page.locator(".imagen-text").filter(has_text=re.compile(r"^\d+: [+-]"))
    text.wait_for()
    assert text.text_content().count("\n") == 15  # sixteen ranks
    node = "app.graph.serialize().nodes.find(n => n.type === 'ImagenScore')"
    assert not page.evaluate(f"{node}.widgets_values?.length")


def test_a_prompt_from_a_stranger_s_workflow_runs_no_script(page, server):
    open_template(page, server, "step_by_step", "ImagenEncodeText")
    prompt = "红苹果 (<img src=x onerror=window.imagenScript=1>:1.2)"
    set_widget(page, "ImagenEncodeText", "text", prompt)
    run_on_page(page, server)
    page.get_by_text("read as: red apple <img src=x onerror=window.imagenScript=1>").wait_for()
    page.wait_for_timeout(500)  # in which a script would have run
    assert page.evaluate("window.imagenScript") is None


@pytest.mark.parametrize("path", SAVED, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_workflow_that_an_earlier_version_saved_still_opens_and_runs(page, server, path):
    count = page.evaluate(
        "async workflow => { await app.loadGraphData(workflow); return app.graph.nodes.length }",
        json.loads(path.read_text(encoding="utf-8")),
    )
    assert count > 5
    assert page.evaluate("app.graph.nodes.every(node => !node.has_errors && node.type)")
    assert page.evaluate(
        "app.graph.nodes.every(node => LiteGraph.registered_node_types[node.type])"
    )
    outputs = outputs_on_page(page, server)
    assert any(shown.get("images") for shown in outputs.values())


# -- training -------------------------------------------------------------------------------------


def test_cancel_stops_training_within_a_step_and_two_seconds_and_keeps_the_model(
    page, server, emoji_folder
):
    shutil.copytree(emoji_folder / "train", server.base / "input" / "page", dirs_exist_ok=True)
    open_template(page, server, "train_your_own", "ImagenTrain")
    for name, value in (
        ("folder", "page"),
        ("name", "cancelled on the page"),
        ("minutes", 5),
        ("init", "none"),
    ):
        set_widget(page, "ImagenTrain", name, value)
    prompt_id = press_run(page, server)
    run = server.base / "output" / "imagen_training" / "cancelled on the page"
    while not (run / "samples" / "real.png").exists():  # training begins
        assert server.get("/api/queue")["queue_running"]
        page.wait_for_timeout(50)
    page.wait_for_timeout(3000)  # a few steps
    pressed = time.monotonic()
    page.get_by_role("button", name="Cancel current run").first.click()
    while not (entry := server.get(f"/api/history/{prompt_id}")):
        page.wait_for_timeout(20)
        assert time.monotonic() - pressed < 30
    took = time.monotonic() - pressed
    assert "execution_interrupted" in dict(entry[prompt_id]["status"]["messages"])
    model = im.load(server.base / "models" / "imagen" / "cancelled on the page.safetensors")
    steps = model.card["kimg"] * 1000 / model.card["training"]["batch"]
    assert steps >= 1
    assert took < 2 + model.card["seconds"] / steps


# -- feedback -------------------------------------------------------------------------------------


@pytest.fixture
def ratings_of_its_own(server) -> Iterator[None]:
    """Neither ratings nor the adapter stay for other tests."""

    def clear() -> None:
        forget_ratings(server)
        adapter = server.base / "models" / "imagen_adapters" / "bluer.safetensors"
        adapter.unlink(missing_ok=True)

    clear()
    yield
    clear()


def blueness(pictures: list[np.ndarray]) -> np.ndarray:
    """One number a picture: blue over the mean of red and green."""
    colour = np.stack(pictures).astype(float).mean(axis=(1, 2))
    return colour[:, 2] - colour[:, :2].mean(axis=1)


def click(page, index: int, verdict: str, *, pressed: bool) -> None:
    """Click a button of a picture and wait until it shows that the server has kept it."""
    button = page.locator(".imagen-tile").nth(index).locator(f"button[title^='{verdict}']")
    button.click()
    page.wait_for_function(
        """([index, verdict, pressed]) => document.querySelectorAll('.imagen-tile')[index]
            .querySelector(`button[title^='${verdict}']`)
            .getAttribute('aria-pressed') === pressed""",
        arg=[index, verdict, str(pressed).lower()],
    )


def test_eight_clicks_teach_it_blue_and_undone_the_pictures_are_identical_to_before(
    page, server, ratings_of_its_own
):
    open_template(page, server, "rate_and_learn", "ImagenRate")
    set_widget(page, "ImagenEncodeText", "text", "")
    set_widget(page, "ImagenRandomLatent", "seed", 300)
    before = run_on_page(page, server)
    page.wait_for_function("document.querySelectorAll('.imagen-tile').length === 8")
    bring_into_view(page, "ImagenRate")
    order = blueness(before).argsort().tolist()
    for place, index in enumerate(order):
        click(page, index, "thumb up" if place >= 4 else "thumb down", pressed=True)
    assert page.get_by_text("8 ratings").first.is_visible()

    set_mode(page, "ImagenLearn", "run")
    for name, value in (("method", "best"), ("name", "bluer"), ("force", True)):
        set_widget(page, "ImagenLearn", name, value)
    learn_id = page.evaluate("String(app.graph.nodes.find(n => n.type === 'ImagenLearn').id)")
    (report,) = outputs_on_page(page, server)[learn_id]["text"]
    assert "8 thumbs" in report and "bluer.safetensors" in report
    set_mode(page, "ImagenLearn", "bypass")

    page.wait_for_function(  # the new adapter is listed by itself
        """app.graph.nodes.find(n => n.type === 'ImagenApplyAdapter').widgets[0]
            .options.values.includes('bluer.safetensors')"""
    )
    set_widget(page, "ImagenApplyAdapter", "adapter", "bluer.safetensors")
    after = run_on_page(page, server)
    assert (blueness(after) >= blueness(before)).sum() >= 6  # the best of four may be the first
    assert blueness(after).mean() > blueness(before).mean() + blueness(before).std() / 2

    def is_as_before() -> bool:
        return all(map(np.array_equal, run_on_page(page, server), before))

    set_mode(page, "ImagenApplyAdapter", "bypass")
    assert is_as_before()
    set_mode(page, "ImagenApplyAdapter", "run")
    set_widget(page, "ImagenApplyAdapter", "strength", 0)
    assert is_as_before()
    set_widget(page, "ImagenApplyAdapter", "strength", 1)
    set_widget(page, "ImagenApplyAdapter", "adapter", "none")
    assert is_as_before()

    for place, index in enumerate(order):  # the buttons know what was clicked; again: taken back
        click(page, index, "thumb up" if place >= 4 else "thumb down", pressed=False)
    assert page.get_by_text("0 ratings").first.is_visible()


def test_a_thumb_takes_back_its_rival_and_keys_rate_too(page, server, ratings_of_its_own):
    bring_into_view(page, "ImagenRate")
    click(page, 0, "thumb up", pressed=True)
    click(page, 0, "thumb down", pressed=True)
    tile = page.locator(".imagen-tile").first
    assert tile.locator("button[aria-pressed=true]").count() == 1
    tile.press("ArrowDown")
    page.wait_for_function("!document.querySelector('.imagen-tile button[aria-pressed=true]')")
    assert page.get_by_text("0 ratings").first.is_visible()


def test_nothing_of_the_pack_complained_in_the_console(page):
    assert page.complaints == []
