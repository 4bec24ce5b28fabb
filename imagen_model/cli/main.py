"""The `imagen` command: data, train, train-upscaler, sample, score, evaluate, learn, info, convert,
export, bench.

Exit codes: 0 done, 1 the work failed (one clear line), 2 wrong usage. Each command imports what it
needs when it runs.
"""

from __future__ import annotations

import argparse
import io
import logging
import sys

from ..version import __version__
from . import (
    bench,
    convert,
    data,
    evaluate,
    export,
    info,
    learn,
    ratings,
    sample,
    score,
    train,
    train_upscaler,
)
from .common import close_bars

DESCRIPTION = """\
Imagen GAN: pictures from a prompt in one forward pass, and a generator of your own.

  imagen sample --prompt "a red apple" --num 8 --out grid.png     use the bundled model
  imagen train PICTURES --out RUN --minutes 30                    train your own
  imagen sample --model RUN/latest.safetensors --out mine.png     use your own
"""
COMMANDS = (
    sample,
    train,
    train_upscaler,
    score,
    evaluate,
    data,
    info,
    convert,
    export,
    learn,
    ratings,
    bench,
)


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    args = build_parser().parse_args(argv)
    args.typed = sys.argv[1:] if argv is None else argv
    for stream in (sys.stdout, sys.stderr):  # names of files may be in any encoding
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        result = args.run(args)
        if args.json:
            from ..storage.files import write_json

            write_json(args.json, result)
        return 0
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 1
    except Exception as error:  # the one place that turns a failure into a line
        if args.debug:
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        kind = "" if isinstance(error, (ValueError, OSError)) else f"{type(error).__name__}: "
        close_bars()
        print(f"error: {kind}{reason}", file=sys.stderr)
        return 1


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="imagen",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"imagen-gan {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in COMMANDS:
        module.add_command(commands)
    return parser
