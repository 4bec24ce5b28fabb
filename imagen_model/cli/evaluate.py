"""The command `imagen evaluate`."""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from pathlib import Path

from .common import Commands, command, load_model, model_options


def add_command(commands: Commands) -> None:
    c = command(commands, "evaluate", run)
    model_options(c)
    c.add_argument("--data", type=Path, required=True, help="a folder made by `imagen data`")
    c.add_argument("--html", type=Path, metavar="FILE", help="also write a page with pictures")


def run(args: argparse.Namespace) -> dict:
    """Measure a model on held-out pictures: distances, retrieval, copying, variety, speed."""
    from ..evaluation.evaluate import evaluate

    stage = partial(print, file=sys.stderr, flush=True)
    result = evaluate(load_model(args), args.data, html=args.html, stage=stage).to_dict()
    print(json.dumps(result, indent=1))
    for line in result["flags"].values() or ["none of the checks found something wrong"]:
        stage(line)
    return result
