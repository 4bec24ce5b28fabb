"""The command `imagen convert`."""

from __future__ import annotations

import argparse
from pathlib import Path

from .common import Commands, command


def add_command(commands: Commands) -> None:
    c = command(commands, "convert", run)
    c.add_argument("generator", type=Path, metavar="FILE.pth", help="the generator's state dict")
    c.add_argument(
        "--discriminator", type=Path, metavar="FILE.pth", help="default: the one beside it"
    )
    c.add_argument("--out", type=Path, required=True, metavar="M", help="a .safetensors file")


def run(args: argparse.Namespace) -> dict:
    """Turn the reference article's generator_N.pth and discriminator_N.pth into a checkpoint."""
    from ..convert_dcgan import convert

    card = convert(args.generator, args.out, discriminator=args.discriminator)
    print(args.out)
    return {"file": str(args.out), "card": card}
