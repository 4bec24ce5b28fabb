"""What several commands share: options, devices, models, pictures, ratings, progress bars."""

from __future__ import annotations

import argparse
import math
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..training.interrupt import STOPPING

if TYPE_CHECKING:
    import torch

    from ..feedback.store import Store
    from ..model import Model

Commands = argparse._SubParsersAction  # argparse has no public name for it
MAX_SKIPPED_LINES = 10
LOG_INTERVAL_SEC = 10.0

_open_bars: list = []  # a failure would otherwise leave them on the line of its message


# -- options --------------------------------------------------------------------------------------


def command(
    commands: Commands, name: str, run: Callable[[argparse.Namespace], dict]
) -> argparse.ArgumentParser:
    """A command with the options that all have. `run` returns what --json writes, and its docstring
    is the help text."""
    summary = run.__doc__
    parser = commands.add_parser(name, help=summary, description=summary)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what is printed as JSON")
    parser.add_argument("--debug", action="store_true", help="show a traceback when it fails")
    parser.set_defaults(run=run)
    return parser


def model_options(
    parser: argparse.ArgumentParser,
    help: str = "a bundled name or a .safetensors file (default: emoji)",
) -> None:
    """The options that `load_model` reads."""
    parser.add_argument("--model", default="emoji", help=help)
    parser.add_argument(
        "--device", default="auto", help="auto (a GPU where there is one), cpu, cuda or mps"
    )
    text_encoder_option(parser)


def text_encoder_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--text-encoder",
        type=Path,
        metavar="FOLDER",
        help="the CLIP text encoder, for a model that was trained on one",
    )


def number_above(bound: float, kind: type) -> Callable[[str], Any]:
    """An argument's type: a finite number of `kind`, int or float, that is more than `bound`."""

    def number(text: str) -> float:
        value = kind(text)
        if not bound < value < math.inf:
            expected = f"{bound + 1:g} or more" if kind is int else f"a number above {bound:g}"
            shown = value if kind is int else f"{value:g}"
            raise argparse.ArgumentTypeError(f"is {shown}; expected {expected}")
        return value

    number.__name__ = kind.__name__  # argparse says "invalid int value"
    return number


positive = number_above(0, int)


# -- models and files -----------------------------------------------------------------------------


def pick_device(name: str) -> torch.device:
    """The torch device called `name`; ValueError where this machine has none."""
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError):
        raise ValueError(f"device {name!r} is not available here; try --device cpu") from None
    return device


def refuse_used(out: Path, *, resume: bool) -> None:
    """ValueError where --out is a file, or holds a run that --resume does not ask for."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out is {out}, which is a file; expected a folder for the run")
    if out.exists() and any(out.iterdir()) and not resume:
        raise ValueError(f"{out} already holds a run; go on with --resume, or choose another --out")


def load_model(args: argparse.Namespace) -> Model:
    """The model that --model names, on --device, with the CLIP of --text-encoder."""
    from ..model import load

    device = pick_device(args.device)
    model = load(args.model, device=device)
    if args.text_encoder is None:
        return model
    from ..conditioning.clip import ClipEncoder, ClipFolder

    return model.with_text_encoder(ClipEncoder(ClipFolder(args.text_encoder, device)))


def read_pictures(paths: list[Path], *, resolution: int, channels: int) -> torch.Tensor:
    """Picture files as one batch [N, channels, resolution, resolution] in [-1, 1]."""
    import numpy as np
    import torch

    from ..data.image_reader import premultiplied, read_picture

    arrays = [
        premultiplied(read_picture(path, resolution=resolution, channels=channels))
        for path in paths
    ]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 127.5 - 1


def open_store(path: Path, *, create: bool = False) -> Store:
    """The ratings in `path`; ValueError where there are none and `create` is not set."""
    from ..feedback.store import Store

    if not create and not path.is_file():
        raise ValueError(f"no ratings {path}")
    return Store(path)


def stop_on_signals() -> None:
    """Ctrl-C, SIGTERM and a closed terminal stop what comes before and after the training; during
    it training/interrupt.py has them. nohup is honoured."""

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    for number in STOPPING:
        # a shell ignores SIGINT for background jobs, which can be stopped all the same
        if number == signal.SIGINT or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, stop)


# -- what is printed ------------------------------------------------------------------------------


def bar_interval() -> float:
    """Seconds between two states of a bar: in a log file every state is a line."""
    return 0.1 if sys.stderr.isatty() else LOG_INTERVAL_SEC


def progress_bar(label: str) -> Callable[[int, int], None]:
    """A progress callback (done, total) that shows a bar."""
    from tqdm import tqdm

    bar = None

    def show(done: int, total: int) -> None:
        nonlocal bar
        if bar is None:
            bar = tqdm(desc=label, unit="", leave=False, total=total, mininterval=bar_interval())
            _open_bars.append(bar)
        bar.update(done - bar.n)
        if done == total:
            bar.close()

    return show


def close_bars() -> None:
    """Close the bars of work that failed."""
    while _open_bars:
        _open_bars.pop().close()


def print_skipped(reasons: list[str]) -> None:
    """The first reasons, and how many more there are."""
    for reason in reasons[:MAX_SKIPPED_LINES]:
        print(f"  skipped {reason}")
    if len(reasons) > MAX_SKIPPED_LINES:
        print(f"  and {len(reasons) - MAX_SKIPPED_LINES} more")
