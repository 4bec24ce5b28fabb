"""What the benchmarks share: arguments, results as JSON, and the pictures that they compare."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from imagen_model.data.folder import read_items
from imagen_model.data.item import Item


def arguments(doc: str | None) -> argparse.ArgumentParser:
    """A parser with a script's docstring as its help, and --json."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results to FILE")
    return parser


def write_json(path: Path | None, result: Any) -> None:
    """Nothing without a path."""
    if path:
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def read_json(path: Path | None, default: Any) -> Any:
    """What an earlier call wrote, so that a stopped benchmark continues; else `default`."""
    return json.loads(path.read_text(encoding="utf-8")) if path and path.is_file() else default


def captioned_items(data: Path, split: str) -> list[Item]:
    """Items with captions, without the emoji's skin tones."""
    return [i for i in read_items(data, split=split) if i.hexcode == i.base and i.text]
