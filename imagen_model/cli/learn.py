"""The command `imagen learn`."""

from __future__ import annotations

import argparse
from pathlib import Path

from .common import Commands, bar_interval, command, load_model, model_options, open_store


def add_command(commands: Commands) -> None:
    c = command(commands, "learn", run)
    model_options(c)
    c.add_argument("--store", type=Path, required=True, metavar="FILE", help="the ratings")
    c.add_argument("--out", type=Path, required=True, metavar="ADAPTER", help="a .safetensors file")
    c.add_argument(
        "--method", choices=("auto", "best", "shift", "lora"), default="auto",
        help="generate several and keep the best; also shift w; also update weights (default: by "
        "the number of ratings)",
    )  # fmt: skip
    c.add_argument(
        "--force", action="store_true", help="write the adapter even where the A/B speaks against"
    )
    c.add_argument(
        "--merge", type=Path, metavar="M", help="also write the model with the adapter in it"
    )


def run(args: argparse.Namespace) -> dict:
    """Learn from ratings what you like: write an adapter, which can be removed at any time."""
    from tqdm import tqdm

    from ..feedback.adapter import save_merged
    from ..feedback.learn import learn, report

    for path in filter(None, (args.out, args.merge)):
        if path.suffix != ".safetensors":
            raise ValueError(f"{path} is no .safetensors file")
    with open_store(args.store) as store:
        ratings = store.ratings()
    model = load_model(args)
    shape = "{percentage:3.0f}%|{bar}| {elapsed}"
    with tqdm(total=1000, bar_format=shape, leave=False, mininterval=bar_interval()) as bar:
        adapter = learn(
            model,
            ratings,
            method=args.method,
            progress=lambda done, total, _: bar.update(done - bar.n),
        )
    print(report(adapter))
    objections = adapter.card["objections"]
    if objections and not args.force:
        raise ValueError(f"not written: {'; '.join(objections)}. --force writes it all the same")
    adapter.save(args.out)
    print(args.out)
    if args.merge is not None:
        save_merged(args.merge, model, adapter)
        print(args.merge)
    return {"file": str(args.out), "card": adapter.card}
