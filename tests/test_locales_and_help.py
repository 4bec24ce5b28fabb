"""The words that a user reads, checked without ComfyUI: schemas, help pages, translations, pack."""

from __future__ import annotations

import ast
import json
import operator
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "nodes" / "web" / "docs"
LOCALES = ROOT / "locales"
WORKFLOWS = sorted((ROOT / "example_workflows").glob("*.json"))

CORE_NODES = {
    "CLIPTextEncode",
    "CheckpointLoaderSimple",
    "CreateVideo",
    "EmptyImage",
    "ImageBatch",
    "ImageCompositeMasked",
    "ImageCrop",
    "ImageFromBatch",
    "ImageScale",
    "ImageScaleBy",
    "InvertMask",
    "JoinImageWithAlpha",
    "KSampler",
    "LoadAudio",
    "LoadImage",
    "LossGraphNode",
    "MarkdownNote",
    "Note",
    "PreviewAny",
    "PreviewImage",
    "PrimitiveStringMultiline",
    "RepeatImageBatch",
    "SaveAnimatedWEBP",
    "SaveImage",
    "SaveVideo",
    "VAEDecode",
    "VAEEncode",
}
KEPT_IN_CHINESE = {"Imagen GAN", "Latent"}  # core's translation says Latent, too
CJK = re.compile("[\u4e00-\u9fff]")

OPERATORS: dict[type[ast.operator], Callable] = {ast.Pow: operator.pow, ast.Sub: operator.sub}


# Reading nodes/*.py without importing them


@dataclass(frozen=True)
class Slot:
    """One input (name is its id) or output (name is its display name), as the schema has it."""

    name: str | None
    tooltip: str | None
    default: object = None
    min: object = None
    max: object = None

    def words(self) -> dict:
        return {"name": self.name, "tooltip": self.tooltip}


@dataclass(frozen=True)
class Node:
    """One io.Schema(...) call and the class around it."""

    class_name: str
    bases: list[str]
    node_id: str
    display_name: str
    description: str
    category: str
    inputs: list[Slot]
    outputs: list[Slot]

    def words(self) -> dict:
        """What locales/en/nodeDefs.json holds of it."""
        return {
            "display_name": self.display_name,
            "description": self.description,
            "inputs": {slot.name: slot.words() for slot in self.inputs},
            "outputs": {str(i): slot.words() for i, slot in enumerate(self.outputs)},
        }

    @property
    def help_path(self) -> Path:
        return DOCS / f"{self.node_id}.md"


def constants_of(tree: ast.Module) -> dict[str, ast.expr]:
    """NAME = ... at the top of a module, unevaluated."""
    return {
        statement.targets[0].id: statement.value
        for statement in tree.body
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name)
    }


def value_of(node: ast.expr | None, constants: dict[str, ast.expr]) -> object:
    """A literal, a constant of its module, or the arithmetic in one such as 2**64 - 1."""
    if node is None:
        return None
    if isinstance(node, ast.Name):
        return value_of(constants[node.id], constants)
    if isinstance(node, ast.BinOp):
        left, right = value_of(node.left, constants), value_of(node.right, constants)
        return OPERATORS[type(node.op)](left, right)
    return ast.literal_eval(node)


@dataclass(frozen=True)
class Names:
    """What a schema's slots may use: constants and functions, of a module or of inputs.py."""

    constants: dict[str, ast.expr]
    functions: dict[str, ast.FunctionDef]

    @classmethod
    def of(cls, tree: ast.Module) -> Names:
        functions = {item.name: item for item in tree.body if isinstance(item, ast.FunctionDef)}
        return cls(constants_of(tree), functions)

    def __or__(self, other: Names) -> Names:
        return Names(self.constants | other.constants, self.functions | other.functions)

    def call_of(self, slot: ast.expr) -> tuple[ast.Call, dict[str, ast.expr]]:
        """The Input(...) or Output(...) of a slot, and the constants in it.

        A slot is that call itself, a constant, or a call of a function that returns it.
        """
        if isinstance(slot, ast.Name):
            slot = self.constants[slot.id]
        assert isinstance(slot, ast.Call)
        if not isinstance(slot.func, ast.Name):
            return slot, self.constants
        function = self.functions[slot.func.id]
        parameters = [arg.arg for arg in function.args.args]
        missing = len(parameters) - len(slot.args)
        defaults = function.args.defaults[-missing:] if missing else []
        returned = function.body[-1]
        assert isinstance(returned, ast.Return) and isinstance(returned.value, ast.Call)
        given = dict(zip(parameters, [*slot.args, *defaults], strict=True))
        return returned.value, self.constants | given


def slots_of(slots: ast.expr, name_key: str, names: Names) -> list[Slot]:
    """The inputs or outputs in a list of a schema."""
    assert isinstance(slots, ast.List)
    found = []
    for slot in slots.elts:
        call, constants = names.call_of(slot)
        given = {keyword.arg: keyword.value for keyword in call.keywords}
        if call.args:
            given["id"] = call.args[0]
        fields = {key: given.get(key) for key in ("tooltip", "default", "min", "max")}
        fields["name"] = given.get(name_key)
        found.append(Slot(**{key: value_of(node, constants) for key, node in fields.items()}))
    return found


def is_schema(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func) == "io.Schema"


def nodes_in(path: Path, shared: ast.Module) -> Iterator[Node]:
    """Every node of a module. Fails for an io.Schema(...) that no top-level class holds."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = Names.of(shared) | Names.of(tree)
    found = 0
    for item in tree.body:
        if not isinstance(item, ast.ClassDef):
            continue
        for call in filter(is_schema, ast.walk(item)):
            assert isinstance(call, ast.Call)
            given = {keyword.arg: keyword.value for keyword in call.keywords}
            assert isinstance(given["node_id"], ast.Constant), f"{item.name}: not a literal id"
            texts = ("node_id", "display_name", "description")
            found += 1
            yield Node(
                class_name=item.name,
                bases=[ast.unparse(base) for base in item.bases],
                category=str(value_of(given["category"], names.constants)),
                inputs=slots_of(given["inputs"], "id", names),
                outputs=slots_of(given["outputs"], "display_name", names),
                **{key: ast.literal_eval(given[key]) for key in texts},
            )
    assert found == sum(map(is_schema, ast.walk(tree)))


SHARED = ast.parse(
    "".join(
        (ROOT / "nodes" / name).read_text(encoding="utf-8") for name in ("types.py", "inputs.py")
    )
)
MODULES = sorted((ROOT / "nodes").glob("*.py"))
NODES = [node for path in MODULES for node in nodes_in(path, SHARED)]
each_node = pytest.mark.parametrize("node", NODES, ids=lambda node: node.node_id)
each_workflow = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)


def read_json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def flat(tree: dict, prefix: tuple[str, ...] = ()) -> dict[tuple[str, ...], object]:
    """Nested dictionaries as path -> leaf."""
    leaves: dict[tuple[str, ...], object] = {}
    for key, value in tree.items():
        path = (*prefix, key)
        leaves |= flat(value, path) if isinstance(value, dict) else {path: value}
    return leaves


def section(page: str, title: str) -> str:
    """The text under `## title`."""
    return page.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def table(text: str) -> dict[str, str]:
    """`| `name` | ... |` rows as name -> row, in their order."""
    return {match[1]: match[0] for match in re.finditer(r"^\| `(\w+)` \|.*$", text, re.MULTILINE)}


# Nodes


def test_there_are_nodes_and_their_ids_are_unique():
    ids = [node.node_id for node in NODES]
    assert len(ids) >= 5 and len(set(ids)) == len(ids)


@each_node
def test_a_node_is_one_that_the_managers_scanner_finds(node):
    assert node.bases == ["io.ComfyNode"]
    assert node.node_id.startswith("Imagen")
    assert node.class_name == node.node_id


@each_node
def test_a_category_is_a_task_below_the_pack_s_own(node):
    assert re.fullmatch(r"Imagen GAN/\w+", node.category)


@each_node
def test_every_input_and_output_has_a_name_and_a_tooltip(node):
    assert node.display_name and node.description.endswith(".")
    for slot in (*node.inputs, *node.outputs):
        assert slot.name and slot.tooltip and slot.tooltip.endswith("."), slot


# Help pages


@each_node
def test_a_help_page_has_its_title_its_picture_and_all_sections(node):
    page = node.help_path.read_text(encoding="utf-8")
    picture = f"images/{node.node_id}.png"  # the frontend puts /extensions/<pack>/docs/ before it
    assert page.startswith(f"# {node.display_name}\n\n![{node.display_name}]({picture})\n")
    assert (DOCS / picture).is_file()
    titles = re.findall(r"^## (.*)$", page, re.MULTILINE)
    assert titles == ["Inputs", "Outputs", "How to use", "Good to know"]


@each_node
def test_a_help_page_lists_the_inputs_and_outputs_in_the_codes_order(node):
    page = node.help_path.read_text(encoding="utf-8")
    assert list(table(section(page, "Inputs"))) == [slot.name for slot in node.inputs]
    assert list(table(section(page, "Outputs"))) == [slot.name for slot in node.outputs]


@each_node
def test_a_help_page_tells_the_codes_ranges_and_defaults(node):
    rows = table(section(node.help_path.read_text(encoding="utf-8"), "Inputs"))
    for slot in node.inputs:
        row = rows[slot.name]
        if slot.max is not None:
            assert re.search(rf"(?<![\w.]){slot.min} to {slot.max}\b(?!\.\d)", row), row
        if slot.default is not None:
            assert re.search(rf"default `?{re.escape(str(slot.default))}\b(?!\.\d)", row), row


def test_every_help_page_belongs_to_a_node():
    assert {path.stem for path in DOCS.glob("*.md")} == {node.node_id for node in NODES}


# Translations


def test_english_is_what_the_schemas_say():
    assert read_json(LOCALES / "en" / "nodeDefs.json") == {n.node_id: n.words() for n in NODES}
    words = {word for node in NODES for word in node.category.split("/")}
    named = read_json(LOCALES / "en" / "main.json")
    assert named == {"nodeCategories": {word: word for word in named["nodeCategories"]}}
    assert set(named["nodeCategories"]) == words


@pytest.mark.parametrize("name", ["main.json", "nodeDefs.json"])
def test_chinese_translates_all_of_the_english_and_nothing_else(name):
    english, chinese = (flat(read_json(LOCALES / lang / name)) for lang in ("en", "zh"))
    assert chinese.keys() == english.keys()
    for path, text in chinese.items():
        assert CJK.search(text) or text in KEPT_IN_CHINESE, (path, text)


@pytest.mark.parametrize(
    "path", sorted(LOCALES.glob("*/*.json")), ids=lambda p: "-".join(p.parts[-2:])
)
def test_no_translation_holds_what_the_frontend_reads_as_syntax(path):
    for key, text in flat(read_json(path)).items():
        assert not set("{}|@") & set(text), (key, text)  # vue-i18n's placeholders and plurals


# The pack


def test_the_pyproject_is_one_that_the_registry_takes():
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    name = pyproject["project"]["name"]
    assert "comfyui" not in name.lower() and len(name) < 100
    assert pyproject["project"]["license"] and pyproject["project"]["urls"]["Repository"]
    comfy = pyproject["tool"]["comfy"]
    assert comfy["PublisherId"] and comfy["DisplayName"] and "Icon" in comfy


def test_there_are_example_workflows():
    assert WORKFLOWS


@each_workflow
def test_an_example_workflow_is_in_ui_format_and_needs_no_other_pack(path):
    workflow = read_json(path)
    assert workflow["version"] == 0.4
    ours = {node.node_id for node in NODES}
    used = {node["type"] for node in workflow["nodes"]}
    assert used <= ours | CORE_NODES
    assert used & ours


def test_the_gallery_lists_every_example_workflow():
    page = (ROOT / "docs" / "gallery" / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| \[([^\]]+)\]", page, re.MULTILINE) == [p.stem for p in WORKFLOWS]


@each_workflow
def test_a_template_opens_readable_and_says_what_it_is(path):
    """At 1500 x 900 the frontend shows it at 60 % or more, where texts are shown."""
    workflow = read_json(path)
    nodes = workflow["nodes"]
    for i, most in enumerate((0.75 * 1500 / 0.6, 0.75 * 900 / 0.6)):
        ends = [node["pos"][i] + node["size"][i] for node in nodes]
        assert max(ends) - min(node["pos"][i] for node in nodes) <= most
    assert workflow["groups"] and re.match(r"\d\d [A-Z]", path.stem)
    (note,) = (node for node in nodes if node["type"] == "MarkdownNote")
    assert re.match(r"## .+\n\n.+", note["widgets_values"][0])


@pytest.mark.parametrize("title", ["01 Text to image", "05 Sprite sheet", "20 Rate and learn"])
def test_a_template_is_an_app_with_inputs_and_a_result(title):
    workflow = read_json(ROOT / "example_workflows" / f"{title}.json")
    kinds = {node["id"]: node["type"] for node in workflow["nodes"]}
    inputs = {node.node_id: {slot.name for slot in node.inputs} for node in NODES}
    app = workflow["extra"]["linearData"]
    assert app["inputs"] and app["outputs"] and workflow["extra"]["linearMode"] is False
    assert all(widget in inputs[kinds[node]] for node, widget in app["inputs"])
    assert {kinds[node] for node in app["outputs"]} <= {"SaveImage", "ImagenRate"}
