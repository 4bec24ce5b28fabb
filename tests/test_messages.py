"""Messages of the library reach the users of nodes too, who know no flags of the command line."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

LIBRARY = Path(__file__).resolve().parent.parent / "imagen_model"
FLAG = re.compile(r"(?<![\w-])--[a-z]")
NO_MESSAGES = (
    "cli",
    "evaluation/html_report.py",  # CSS
    "training/options.py",  # the help of `imagen train`
)
NPM = {"--ignore-scripts", "--no-audit", "--no-fund", "--silent"}


def texts(path: Path) -> Iterator[ast.Constant]:
    """The string constants of a file that are no docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    statements = (node.value for node in ast.walk(tree) if isinstance(node, ast.Expr))
    docstrings = {id(value) for value in statements}
    for node in ast.walk(tree):
        is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
        if is_text and id(node) not in docstrings:
            yield node


def test_no_message_of_the_library_names_a_flag_of_the_command_line():
    flags = [
        f"{path.relative_to(LIBRARY)}:{text.lineno} {text.value!r}"
        for path in sorted(LIBRARY.rglob("*.py"))
        if not path.relative_to(LIBRARY).as_posix().startswith(NO_MESSAGES)
        for text in texts(path)
        if FLAG.search(text.value) and text.value not in NPM
    ]
    assert not flags
