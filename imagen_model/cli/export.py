"""The command `imagen export`."""

from __future__ import annotations

import argparse
from pathlib import Path

from .common import Commands, command, load_model, text_encoder_option


def add_command(commands: Commands) -> None:
    c = command(commands, "export", run)
    c.add_argument("model", help="a bundled name or a .safetensors file")
    c.add_argument("--onnx", type=Path, required=True, metavar="FILE", help="the file to write")
    c.add_argument(
        "--prompt", action="append", metavar="TEXT",
        help="what the file can draw; repeat for several (default: any picture)",
    )  # fmt: skip
    c.add_argument("--style", help="one of the model's styles; without it each seed takes one")
    text_encoder_option(c)
    c.set_defaults(device="cpu")


def run(args: argparse.Namespace) -> dict:
    """Write a generator as an ONNX file, for a web page or another program."""
    from ..onnx_export import export_onnx

    prompts = args.prompt or [""]
    difference = export_onnx(load_model(args), args.onnx, prompts, style=args.style)
    for number, prompt in enumerate(prompts):
        print(f"prompt {number}: {prompt or 'any picture'}")
    size = args.onnx.stat().st_size
    print(f"{args.onnx}: {size / 1e6:.1f} MB, draws as PyTorch does to {difference:.1g}")
    return {
        "file": str(args.onnx),
        "bytes": size,
        "prompts": prompts,
        "style": args.style,
        "largest_difference": difference,
    }
