"""The command `imagen score`."""

from __future__ import annotations

import argparse
from pathlib import Path

from .common import Commands, command, load_model, model_options, read_pictures


def add_command(commands: Commands) -> None:
    c = command(commands, "score", run)
    c.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    model_options(c)
    c.add_argument("--prompt", help="also score how well the pictures match this text")
    c.add_argument("--style", help="the style that the prompt asks for")


def run(args: argparse.Namespace) -> dict:
    """Rank pictures by the discriminator's scores, best first."""
    model = load_model(args)
    channels = model.config.generator.channels
    pictures = read_pictures(args.images, resolution=model.resolution, channels=channels)
    condition = None
    if args.prompt is not None:
        condition = model.encode_text(args.prompt, style=args.style)
    scores = model.score(pictures, condition)
    rows = []
    for rank, i in enumerate(scores.order.tolist(), start=1):
        row = {"rank": rank, "image": str(args.images[i]), "realism": float(scores.realism[i])}
        line = f"{rank:3d}  realism {row['realism']:+.3f}"
        if scores.match is not None:
            row["match"] = float(scores.match[i])
            line += f"  match {row['match']:+.3f}"
        rows.append(row)
        print(f"{line}  {row['image']}")
    return {"model": model.name, "scores": rows}
