"""The directions that the design has, the sizes that it allows, and what importing costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = ROOT / "imagen_model"
# Folders and single files of the library. Each may import from its own row and from later ones.
LAYERS = (
    ("cli", "__main__"),
    ("evaluation", "bench", "onnx_export"),
    ("feedback",),
    ("training",),
    ("data",),
    ("model",),
    ("inference",),
    ("conditioning",),
    ("checkpoint", "convert_dcgan"),
    ("bundled", "checkpoint_header"),
    ("networks",),
    ("storage",),
    ("condition", "config"),
    ("version", "progress", "device"),
)
RANK = {name: -rank for rank, names in enumerate(LAYERS) for name in names}
MAX_FILE_LINES, MAX_FUNCTION_LINES, MAX_PARAMETERS = 400, 60, 7
FOLDERS = ("imagen_model", "nodes", "studio", "benchmarks", "tools")
SOURCES = [
    ROOT / "run.py",
    ROOT / "__init__.py",
    *sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")),
]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


class Import(NamedTuple):
    """`module` is dotted, of the library without "imagen_model."; `name` is None for the whole."""

    line: int
    module: str
    name: str | None
    level: int  # of a relative import; 0: absolute


def imports(path: Path) -> Iterator[Import]:
    """Every import of a file: also inside functions, and those for type checkers alone."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (Import(node.lineno, alias.name, None, 0) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names = [alias.name for alias in node.names]
            yield from (Import(node.lineno, node.module or "", n, node.level) for n in names)


def module_of(path: Path) -> str:
    """imagen_model/data/folder.py -> data.folder; "" is the package itself."""
    parts = path.relative_to(LIBRARY).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


MODULES = {module_of(path): path for path in sorted(LIBRARY.rglob("*.py"))}


def library_imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, module) of each import of the library by one of its own files."""
    package = path.relative_to(LIBRARY).parent.parts
    for found in imports(path):
        if found.level:
            base = package[: len(package) - (found.level - 1)]
            module = ".".join([*base, *filter(None, [found.module])])
        elif found.module.split(".")[0] == "imagen_model":
            module = found.module.partition(".")[2]
        else:
            continue
        longer = f"{module}.{found.name}".lstrip(".")
        yield found.line, longer if longer in MODULES else module


@pytest.mark.parametrize("path", MODULES.values(), ids=lambda path: str(path.relative_to(LIBRARY)))
def test_the_library_imports_in_one_direction(path):
    if path == LIBRARY / "__init__.py":
        return  # the public names; nothing below may import it
    room = path.relative_to(LIBRARY).parts[0].removesuffix(".py")
    assert room in RANK, f"name the layer of {room} in LAYERS"
    upward = [
        f"{name_of(path)}:{line} imports {module or 'the package itself'}"
        for line, module in library_imports(path)
        if RANK.get(module.split(".")[0], 1) > RANK[room]
    ]
    assert not upward


def test_no_module_imports_itself_by_a_detour():
    graph = {m: {to for _, to in library_imports(p)} - {m} for m, p in MODULES.items()}
    done: set[str] = set()

    def walk(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " imports ".join([*path[path.index(module) :], module])
        if module not in done:
            for other in sorted(graph[module]):
                walk(other, (*path, module))
            done.add(module)

    for module in graph:
        walk(module, ())


def test_no_private_name_crosses_a_module():
    crossing = [
        f"{name_of(path)}:{found.line} imports {found.name} from {found.module}"
        for path in SOURCES
        for found in imports(path)
        if found.name and found.name.startswith("_") and not found.name.startswith("__")
        if found.level or found.module.split(".")[0] in ("imagen_model", "studio")
    ]
    assert not crossing


def test_only_nodes_import_comfy():
    for path in [*LIBRARY.rglob("*.py"), *(ROOT / "studio").glob("*.py"), ROOT / "run.py"]:
        roots = {found.module.split(".")[0] for found in imports(path) if not found.level}
        assert not roots & {"comfy", "comfy_api", "folder_paths", "nodes", "server"}, path


def test_studio_and_run_need_only_the_standard_library():
    for path in [*(ROOT / "studio").glob("*.py"), ROOT / "run.py"]:
        roots = {found.module.split(".")[0] for found in imports(path) if not found.level}
        assert roots <= {*sys.stdlib_module_names, "studio"}, path


def test_the_pack_s_entry_point_imports_nothing_until_asked():
    tree = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))
    assert not [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]


# -- sizes ----------------------------------------------------------------------------------------


def code_lines(path: Path) -> int:
    """Lines that are neither empty, nor a comment, nor part of a docstring."""
    text = path.read_text(encoding="utf-8")
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    said: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, documented) and ast.get_docstring(node) is not None:
            said |= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    return sum(
        bool(line.strip()) and not line.strip().startswith("#") and number not in said
        for number, line in enumerate(text.splitlines(), start=1)
    )


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node


def test_no_file_is_too_long_to_read():
    lengths = {name_of(path): code_lines(path) for path in SOURCES}
    assert not {name: n for name, n in lengths.items() if n > MAX_FILE_LINES}


def test_no_function_but_a_node_s_schema_is_longer_than_a_screen():
    long = [
        f"{name_of(path)}:{function.lineno} {function.name}"
        for path in SOURCES
        for function in functions(path)
        if (function.end_lineno or 0) - function.lineno >= MAX_FUNCTION_LINES
        if not (path.parent.name == "nodes" and function.name == "define_schema")
    ]
    assert not long


def test_no_function_takes_more_parameters_than_can_be_remembered():
    many = []
    for path in SOURCES:
        for function in functions(path):
            a = function.args
            names = [arg.arg for arg in (*a.posonlyargs, *a.args, *a.kwonlyargs)]
            if len([n for n in names if n not in ("self", "cls")]) > MAX_PARAMETERS:
                many.append(f"{name_of(path)}:{function.lineno} {function.name}")
    assert not many


# -- what importing costs -------------------------------------------------------------------------


def in_a_fresh_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


EVERYTHING = "import imagen_model; [getattr(imagen_model, name) for name in imagen_model.__all__]"


def test_importing_adds_little_to_importing_torch():
    code = (
        f"import time, torch; started = time.process_time(); {EVERYTHING}; "
        "print(time.process_time() - started)"
    )
    assert min(float(in_a_fresh_python(code)) for _ in range(3)) < 0.3


def test_importing_touches_no_network_no_cuda_and_no_transformers():
    code = f"""
import sys, socket, torch
def refuse(*args, **kwargs):
    raise AssertionError("the network was asked for")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
{EVERYTHING}
assert not torch.cuda.is_initialized()
assert "transformers" not in sys.modules
print("quiet")
"""
    assert in_a_fresh_python(code) == "quiet"


def test_importing_opens_only_files_of_installed_packages():
    code = f"""
import sys, torch
opened = []
sys.addaudithook(lambda event, args: event == "open" and opened.append(str(args[0])))
{EVERYTHING}
from pathlib import Path
ours = Path(imagen_model.__file__).parent
print([f for f in opened if str(ours) not in f and not f.startswith((sys.prefix, sys.base_prefix))
       and "python" not in f and not f.isdigit()])
"""
    assert in_a_fresh_python(code) == "[]"


def test_the_command_line_s_help_does_not_wait_for_torch():
    code = """
import sys
from imagen_model.cli.main import build_parser
build_parser().format_help()
print(sorted({"torch", "numpy", "PIL", "safetensors", "transformers"} & sys.modules.keys()))
"""
    assert in_a_fresh_python(code) == "[]"


def test_what_a_model_says_of_itself_is_shown_without_torch():
    code = """
import contextlib, io, sys
from imagen_model.cli import main
with contextlib.redirect_stdout(io.StringIO()):
    assert main(["info", "emoji"]) == 0
print(sorted({"torch", "numpy", "transformers"} & sys.modules.keys()))
"""
    assert in_a_fresh_python(code) == "[]"


def test_names_of_version_0_1_still_work_and_say_what_they_are_called_now():
    code = """
import warnings
import imagen_model as im
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    same = im.hear is im.transcribe and im.listen is im.analyze_audio
print(same, [str(w.message) for w in said])
"""
    said = "True ['hear is called transcribe now', 'listen is called analyze_audio now']"
    assert in_a_fresh_python(code) == said
