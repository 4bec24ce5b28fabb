"""The directions that the design has, and what importing costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = ROOT / "imagen_model"
# A module may import from its own layer and from those before it.
LAYERS = (
    ("files", "config", "layers", "credentials", "provenance"),
    ("features", "generator", "discriminator", "conditioning", "grid", "likeness"),
    ("dcgan",),
    ("networks",),
    ("checkpoint", "sampling", "scoring", "bundled"),
    ("latent", "attributes", "inversion", "convert", "upscaler"),
    ("audio_walk",),
    ("model",),
    ("data",),
    ("training",),
    ("feedback",),
    ("evaluation", "bench"),
    ("cli", "cli_bench", "cli_feedback", "__main__", "__init__"),
)
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}


def imports(path: Path) -> set[tuple[int, str]]:
    """(level, module) of every import of a file, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {(0, alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.level, node.module or ""))
            if not node.module:
                found |= {(node.level, alias.name) for alias in node.names}
    return found


def library_imports(path: Path) -> set[str]:
    """The library's top-level modules that one of its files imports."""
    depth = len(path.relative_to(LIBRARY).parts)
    names = set()
    for level, module in imports(path):
        if level == depth and module:
            names.add(module.split(".")[0])
    return names & set(RANK)


@pytest.mark.parametrize(
    "path", sorted(LIBRARY.rglob("*.py")), ids=lambda path: str(path.relative_to(LIBRARY))
)
def test_the_library_imports_in_one_direction(path):
    name = path.relative_to(LIBRARY).parts[0].removesuffix(".py")
    assert name in RANK, "name the module's layer in LAYERS"
    above = {other for other in library_imports(path) if RANK[other] > RANK[name]}
    assert not above


def test_only_nodes_import_comfy():
    for path in [*LIBRARY.rglob("*.py"), *(ROOT / "studio").glob("*.py"), ROOT / "run.py"]:
        roots = {module.split(".")[0] for level, module in imports(path) if level == 0}
        assert not roots & {"comfy", "comfy_api", "folder_paths", "nodes", "server"}, path


def test_studio_and_run_need_only_the_standard_library():
    for path in [*(ROOT / "studio").glob("*.py"), ROOT / "run.py"]:
        roots = {module.split(".")[0] for level, module in imports(path) if level == 0}
        assert roots <= {*sys.stdlib_module_names, "studio"}, path


def test_the_pack_s_entry_point_imports_nothing_until_asked():
    tree = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))
    assert not [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]


def in_a_fresh_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_adds_little_to_importing_torch():
    code = (
        "import time, torch; started = time.perf_counter(); import imagen_model; "
        "print(time.perf_counter() - started)"
    )
    assert min(float(in_a_fresh_python(code)) for _ in range(3)) < 0.3


def test_importing_touches_no_network_no_cuda_and_no_transformers():
    code = """
import sys, socket, torch
def refuse(*args, **kwargs):
    raise AssertionError("the network was asked for")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
import imagen_model
assert not torch.cuda.is_initialized()
assert "transformers" not in sys.modules
print("quiet")
"""
    assert in_a_fresh_python(code) == "quiet"


def test_importing_opens_only_files_of_installed_packages():
    code = """
import sys, torch
opened = []
sys.addaudithook(lambda event, args: event == "open" and opened.append(str(args[0])))
import imagen_model
from pathlib import Path
ours = Path(imagen_model.__file__).parent
print([f for f in opened if str(ours) not in f and not f.startswith((sys.prefix, sys.base_prefix))
       and "python" not in f and not f.isdigit()])
"""
    assert in_a_fresh_python(code) == "[]"
