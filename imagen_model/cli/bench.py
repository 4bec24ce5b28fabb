"""The command `imagen bench`."""

from __future__ import annotations

import argparse
import sys

from .common import Commands, command, pick_device, positive


def add_command(commands: Commands) -> None:
    c = command(commands, "bench", run)
    c.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    c.add_argument(
        "--preset", action="append", metavar="P",
        help="nano, small, base or large; repeat for several (default nano)",
    )  # fmt: skip
    c.add_argument("--resolution", type=int, help="pixels a side (default: the preset's)")
    c.add_argument("--batch", type=positive, default=32, help="images a step (default 32)")
    c.add_argument(
        "--rounds", type=positive, default=3, metavar="N", help="repetitions of each (default 3)"
    )
    c.add_argument(
        "--compile", action="store_true", help="also a step whose networks are compiled (minutes)"
    )


def run(args: argparse.Namespace) -> dict:
    """Measure how fast this machine generates and trains, against its own matrix products."""
    from ..bench import bench

    result = bench(
        pick_device(args.device),
        args.preset or ["nano"],
        resolution=args.resolution,
        batch=args.batch,
        rounds=args.rounds,
        compiled=args.compile,
        stage=lambda text: print(text, file=sys.stderr),
    )
    machine = result["machine"]
    print(
        f"{machine['device']}, threads {machine['threads']}, torch {machine['torch']}: "
        f"{machine['peak_gflops']:.0f} GFLOP/s in a matrix product"
    )
    if machine["clock"] == "processor":
        print("the cores are busy with other work: times are processor time divided by threads")
    for title in ("sampling", "training"):
        for row in result[title]:
            what = row.get("step", f"batch {row['batch']}")
            ((other, ratio),) = row["ratio_to"].items()
            print(
                f"{title} {row['preset']} {row['resolution']} px, {what:26} "
                f"{row['ms_per_image']:8.1f} ms an image {row['images_per_sec']:8.1f} img/s "
                f"{100 * row['peak_fraction']:5.1f} % of the peak, {ratio:.2f} x {other}"
            )
    return result
