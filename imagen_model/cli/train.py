"""The command `imagen train`."""

from __future__ import annotations

import argparse
import shlex
from dataclasses import Field, fields
from pathlib import Path
from typing import TYPE_CHECKING

from ..training.options import TrainOptions
from .common import (
    Commands,
    bar_interval,
    command,
    number_above,
    pick_device,
    progress_bar,
    refuse_used,
    stop_on_signals,
)

if TYPE_CHECKING:
    from ..training.distributed import DistributedContext
    from ..training.progress import Progress
    from ..training.trainer import Trainer


def add_command(commands: Commands) -> None:
    c = command(commands, "train", run)
    c.add_argument(
        "data", type=Path, help="pictures: captions in metadata.jsonl, .txt or folder names"
    )
    c.add_argument(
        "--out", type=Path, required=True, metavar="RUN", help="where the run is written"
    )
    for field in fields(TrainOptions):
        _add_option(c, field)
    c.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    c.add_argument(
        "--resume", action="store_true",
        help="go on where RUN stopped, with its settings where no others are given",
    )  # fmt: skip
    c.add_argument("--dry-run", action="store_true", help="say what would be done, and end")


def _add_option(c: argparse.ArgumentParser, field: Field) -> None:
    facts, flag = field.metadata, "--" + field.name.replace("_", "-")
    if facts["type"] is bool:
        c.add_argument(flag, action="store_true", default=None, help=facts["help"])
        return
    kind, above = facts["type"], facts["above"]
    c.add_argument(
        flag,
        type=kind if above is None else number_above(above, kind),
        choices=facts["choices"] or None,
        default=field.default,
        metavar=facts["metavar"],
        help=facts["help"],
    )


def run(args: argparse.Namespace) -> dict:
    """Train a generator on a folder of pictures. Stop with Ctrl-C and go on with --resume."""
    from ..training.distributed import DistributedContext
    from ..training.plan import describe, estimate

    stop_on_signals()
    context = DistributedContext.current()
    trainer = _prepare(args, context)
    plan = describe(trainer)
    if args.dry_run:
        plan |= estimate(trainer)
    if context.is_first:
        for name, value in plan.items():
            print(f"{name:>12}: {value}")
    if not args.dry_run:
        if context.is_first:
            plan |= _train(trainer, args)
        else:
            trainer.run()
    context.close()
    return plan


def _prepare(args: argparse.Namespace, context: DistributedContext) -> Trainer:
    """The trainer; ValueError where --out holds a run that --resume does not ask for."""
    from ..training.setup import prepare

    if context.is_first:
        refuse_used(args.out, resume=args.resume or args.dry_run)
    options = {field.name: getattr(args, field.name) for field in fields(TrainOptions)}
    return prepare(
        args.data,
        args.out,
        TrainOptions(**options),
        device=context.device or pick_device(args.device),
        progress=progress_bar if context.is_first else lambda label: lambda done, total: None,
        resume=args.resume,
        context=context,
    )


def _train(trainer: Trainer, args: argparse.Namespace) -> dict:
    """Train in the first process, which prints; returns what --json adds to the plan."""
    from ..evaluation.training_metrics import TrainingMetrics
    from ..training.setup import save_cache

    try:
        trainer.metrics = TrainingMetrics(trainer.dataset, trainer.captions)
    except ValueError as error:  # what they need is not installed
        print(f"without metrics during training: {error}")
    progress = trainer.progress
    if args.resume and not progress.cur_nimg:
        print("nothing saved yet: starting fresh")
    save_cache(trainer)
    if not _run_with_bar(trainer):
        typed = [word for word in args.typed if word != "--resume"]
        print(f"stopped and saved; go on with: {shlex.join(['imagen', *typed, '--resume'])}")
    kimg = progress.cur_nimg / 1000
    print(f"trained {kimg:.1f} kimg: {args.out / 'latest.safetensors'}")
    return {"kimg": kimg, "seconds": progress.seconds}


def _run_with_bar(trainer: Trainer) -> bool:
    """Train with a bar; False where the user stopped it after something had been trained."""
    from tqdm import tqdm

    from ..training.plan import format_duration

    shape = "{percentage:3.0f}%|{bar}| {desc}"
    with tqdm(total=1.0, bar_format=shape, mininterval=bar_interval()) as bar:

        def show(progress: Progress) -> None:
            bar.n = min(progress.fraction, 1.0)
            bar.set_description_str(
                f"{progress.cur_nimg / 1000:.1f} kimg, {progress.img_per_sec:.1f} img/s, "
                f"{format_duration(progress.eta_sec)} left",
                refresh=False,
            )
            bar.update(0)

        try:
            trainer.run(show)
        except KeyboardInterrupt:
            if not trainer.progress.cur_nimg:
                raise
            return False
    return True
