"""The documents show the measured figures of the bundled model, and their links are valid."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
from pathlib import Path
from urllib.parse import unquote

import pytest
from PIL import Image

import imagen_model as im
from imagen_model.bundled import ALIASES, find_model
from imagen_model.checkpoint import load_checkpoint
from imagen_model.checkpoint_header import read_metadata

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


@pytest.fixture(scope="module")
def tool():
    path = ROOT / "tools" / "write_figures.py"
    spec = importlib.util.spec_from_file_location("write_figures", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_readme_and_weights_show_what_the_model_s_card_holds(tool):
    """Where this fails after a new model: `python tools/write_figures.py figures.json`."""
    figures = tool.figures_of(ALIASES["emoji"])
    assert figures["model"] == ALIASES["emoji"]
    for document in tool.DOCUMENTS:
        assert document.read_text(encoding="utf-8") == tool.renewed(document, figures)


def test_the_sheet_shows_what_this_model_draws():
    """Where this fails after a new model: `python tools/make_sheet.py` (docs/weights.md)."""
    with Image.open(ROOT / "docs" / "images" / "sheet64.jpg") as sheet:
        drawn_by = json.loads(sheet.info["comment"])
    card = json.loads(read_metadata(find_model("emoji"))["imagen.card"])
    assert (drawn_by["model"], drawn_by["sha256"]) == (ALIASES["emoji"], card["sha256"])


def test_a_renewed_card_has_other_figures_and_the_same_tensors(tool, tmp_path):
    path = tmp_path / "model.safetensors"
    shutil.copy(find_model("emoji"), path)
    before = json.loads(read_metadata(path)["imagen.card"])
    tool.renew_card(path, {"model": "another"})
    _, _, after = load_checkpoint(path)  # its hash is checked
    assert after == before | {"figures": {"model": "another"}}
    assert im.load(str(path)).card["sha256"] == before["sha256"]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_to_files_lead_somewhere(document):
    text = document.read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" not in link and not link.startswith("#"):
            assert (document.parent / unquote(link.split("#")[0])).exists(), link


def anchors(document: Path) -> set[str]:
    """The #names that GitHub gives to a document's headings."""
    text = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    names = (
        re.sub(r"[^\w\- ]", "", h.lower()) for h in re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    )
    return {name.strip().replace(" ", "-") for name in names}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_to_headings_lead_somewhere(document):
    for link in re.findall(r"\]\(([^)\s]*#[^)\s]+)\)", document.read_text(encoding="utf-8")):
        if "://" not in link:
            path, name = link.split("#")
            assert name in anchors((document.parent / path) if path else document), link


def test_the_architecture_names_files_that_exist():
    """Paths are given from the root or a package; a bare name stands beside its folder's."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    folders = [path for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")]
    files = [*ROOT.glob("*.*"), *(path for folder in folders for path in folder.rglob("*.*"))]
    paths = [f"/{path.relative_to(ROOT).as_posix()}" for path in files]
    names = set(re.findall(r"`([\w/.-]+\.(?:py|js|json|md))`", text))
    assert len(names) > 40
    assert not sorted(name for name in names if not any(p.endswith(f"/{name}") for p in paths))


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


@pytest.mark.parametrize(
    ("table", "row", "files"),
    [
        ("templates.md", r"^\| \[(.*?)\]\(", "example_workflows/*.json"),
        ("nodes.md", r"^\| \[.*?\]\(.*?(\w+)\.\w+\)", "nodes/web/docs/*.md"),
    ],
)
def test_the_tables_list_every_template_and_node(table, row, files):
    rows = re.findall(row, (ROOT / "docs" / table).read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(rows) == sorted(path.stem for path in ROOT.glob(files))
