"""The command `imagen info`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from .common import Commands, command


def add_command(commands: Commands) -> None:
    c = command(commands, "info", run)
    c.add_argument("model", help="a bundled name, a .safetensors file, or a generated .png")


def run(args: argparse.Namespace) -> dict:
    """Show a checkpoint's configuration and card, or how a picture was made."""
    from ..bundled import find_model
    from ..checkpoint_header import read_metadata
    from ..storage.provenance import SUFFIXES, read_facts

    path = Path(args.model)
    if path.suffix.lower() in SUFFIXES:
        facts = read_facts(path)
    else:
        path = find_model(args.model)
        metadata = read_metadata(path)
        facts = {
            name: json.loads(metadata[f"imagen.{name}"]) for name in ("format", "config", "card")
        }
    result = {"file": str(path), **facts}
    print(json.dumps(result, indent=1, ensure_ascii=False))
    return result
