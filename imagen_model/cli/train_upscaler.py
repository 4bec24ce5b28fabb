"""The command `imagen train-upscaler`."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from .common import (
    Commands,
    bar_interval,
    command,
    load_model,
    model_options,
    pick_device,
    progress_bar,
    refuse_used,
    stop_on_signals,
)

if TYPE_CHECKING:
    from ..training.upscaler_setup import PreparedUpscaler

COMPARISON = "comparison.png"
COMPARED = 8  # pictures, in columns


def add_command(commands: Commands) -> None:
    c = command(commands, "train-upscaler", run)
    c.add_argument("data", type=Path, help="pictures, which are used at their full size")
    c.add_argument(
        "--out", type=Path, required=True, metavar="U", help="where the upscaler is written"
    )
    c.add_argument(
        "--scale", type=int, choices=(2, 4), default=4, help="times the pixels a side (default 4)"
    )
    c.add_argument("--steps", type=int, default=4200, help="of training (default 4200)")
    model_options(c, help="also learn from pictures that this model generates, which it is for")
    c.set_defaults(model=None)
    c.add_argument("--seed", type=int, default=0, help="default 0")
    c.add_argument("--resume", action="store_true", help="go on where U stopped")


def run(args: argparse.Namespace) -> dict:
    """Train an upscaler for generated pictures. Stop with Ctrl-C and go on with --resume."""
    from ..training.upscaler import LATEST, UpscalerOptions
    from ..training.upscaler_setup import prepare_upscaler

    options = UpscalerOptions(args.scale, args.steps, args.seed)
    stop_on_signals()
    refuse_used(args.out, resume=args.resume)
    prepared = prepare_upscaler(
        args.data,
        args.out,
        options,
        device=pick_device(args.device),
        progress=progress_bar,
        model=load_model(args) if args.model else None,
    )
    patches, training = prepared.training.patches, prepared.training
    small = f", {patches.num_small} too small" if patches.num_small else ""
    print(f"{patches.num_pictures} pictures{small}, {len(patches.pixels)} parts of them")
    if args.resume and not training.done:
        print("nothing saved yet: starting fresh")
    result = {"file": str(args.out / LATEST), "pictures": patches.num_pictures, "scale": args.scale}
    if not _run_with_bar(prepared, args.out):
        typed = [word for word in args.typed if word != "--resume"]
        print(f"stopped and saved; go on with: {shlex.join(['imagen', *typed, '--resume'])}")
    else:
        result |= _figures(prepared, args.out)
    print(f"trained {training.done} steps: {args.out / LATEST}")
    return {**result, "steps": training.done}


def _run_with_bar(prepared: PreparedUpscaler, out: Path) -> bool:
    """Train with a bar; False where the user stopped it."""
    from tqdm import tqdm

    from ..training.plan import format_duration
    from ..training.upscaler import UpscalerProgress

    training = prepared.training
    shape = "{percentage:3.0f}%|{bar}| {desc}"
    total = training.options.steps
    with tqdm(total=total, bar_format=shape, mininterval=bar_interval()) as bar:

        def show(progress: UpscalerProgress) -> None:
            bar.n = progress.done
            losses = ", ".join(f"{name} {loss:.3f}" for name, loss in progress.losses.items())
            bar.set_description_str(
                f"{progress.done} steps, {losses}, {format_duration(progress.eta_sec)} left",
                refresh=False,
            )
            bar.update(0)

        try:
            training.run(out, prepared.card, show)
        except KeyboardInterrupt:
            return False
    return True


def _figures(prepared: PreparedUpscaler, out: Path) -> dict:
    """Figures on held-out pictures beside bicubic enlargement, printed and in the model's card, and
    a sheet to look at: reduced and enlarged by bicubic, by the upscaler, and as they were."""
    import torch

    from ..evaluation.upscaling import compare, enlarged
    from ..storage.contact_sheet import picture_grid
    from ..storage.images import save_png

    if prepared.held_out is None:
        print("no figures: fewer than 20 pictures")
        return {}
    network = prepared.training.average.cpu()
    large = prepared.held_out.targets(64)
    figures = compare(network, large)
    prepared.training.save(out, {**prepared.card, "figures": figures})
    for name in ("bicubic", "upscaler"):
        print(
            f"{name:>10}: {figures[name]['psnr']} dB, distance in lite0 "
            f"{figures[name]['lite0_distance']} on {len(large)} parts of held-out pictures"
        )
    shown = large[:COMPARED]
    by_method = enlarged(network, shown)
    rows = torch.cat([by_method["bicubic"], by_method["upscaler"], shown])
    save_png(picture_grid(rows, columns=len(shown)), out / COMPARISON, None)
    return {"figures": figures}
