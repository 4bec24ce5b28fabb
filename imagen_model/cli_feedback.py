"""The commands `imagen learn` and `imagen ratings`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from .cli import _command, _load, _model_options


def add_commands(commands, common) -> None:
    _add_learn(commands, common)
    _add_ratings(commands, common)


def _add_learn(commands, common) -> None:
    c = _command(
        commands, common, "learn", run_learn,
        "Learn from ratings what you like: an adapter that changes the model and comes off again.",
    )  # fmt: skip
    _model_options(c)
    c.add_argument("--store", type=Path, required=True, metavar="FILE", help="the ratings")
    c.add_argument("--out", type=Path, required=True, metavar="ADAPTER", help="a .safetensors file")
    c.add_argument(
        "--method",
        choices=("auto", "best", "shift", "lora"),
        default="auto",
        help="draw the best of a few; also shift w; also update weights (default: by the number)",
    )
    c.add_argument(
        "--force", action="store_true", help="write the adapter even where the A/B speaks against"
    )
    c.add_argument(
        "--merge", type=Path, metavar="M", help="also write the model with the adapter in it"
    )


def run_learn(args: argparse.Namespace) -> dict:
    from tqdm import tqdm

    from .feedback.adapter import save_merged
    from .feedback.learn import learn, report

    for path in filter(None, (args.out, args.merge)):
        if path.suffix != ".safetensors":
            raise ValueError(f"{path} is no .safetensors file")
    with _stored(args.store) as store:
        ratings = store.ratings()
    model = _load(args)
    with tqdm(total=1000, bar_format="{percentage:3.0f}%|{bar}| {elapsed}", leave=False) as bar:
        adapter = learn(
            model,
            ratings,
            method=args.method,
            progress=lambda done, total, _: bar.update(done - bar.n),
        )
    print(report(adapter))
    against = adapter.card["objections"]
    if against and not args.force:
        raise ValueError(f"not written: {'; '.join(against)}. --force writes it all the same")
    adapter.save(args.out)
    print(args.out)
    if args.merge is not None:
        save_merged(args.merge, model, adapter)
        print(args.merge)
    return {"file": str(args.out), "card": adapter.card}


def _add_ratings(commands, common) -> None:
    c = _command(
        commands, common, "ratings", run_ratings,
        "Show, export, import or delete ratings; they never leave this machine by themselves.",
    )  # fmt: skip
    c.add_argument("--store", type=Path, required=True, metavar="FILE", help="the ratings")
    what = c.add_mutually_exclusive_group()
    what.add_argument("--export", type=Path, metavar="FILE", help="write all as JSON lines")
    what.add_argument("--import", type=Path, metavar="FILE", dest="import_", help="add such lines")
    what.add_argument("--delete", metavar="ID", help="forget one rating")
    what.add_argument("--clear", action="store_true", help="forget all of them")
    what.add_argument("--list", action="store_true", help="one a line, with its id")


def run_ratings(args: argparse.Namespace) -> dict:
    from .feedback.reward import enough_for

    with _stored(args.store, new=args.import_ is not None) as store:
        result: dict = {"store": str(args.store)}
        if args.export is not None:
            result["exported"] = store.export_jsonl(args.export)
            print(f"exported {result['exported']} ratings: {args.export}")
        elif args.import_ is not None:
            result["imported"] = store.import_jsonl(args.import_)
            print(f"imported {result['imported']} ratings that were not there")
        elif args.delete is not None:
            store.delete(args.delete)
            print(f"deleted {args.delete}")
        elif args.clear:
            result["deleted"] = store.clear()
            print(f"deleted {result['deleted']} ratings")
        elif args.list:
            for rating in store.ratings():
                print(_line(rating))
        result["ratings"] = store.count()
        print(enough_for(result["ratings"]))
    return result


def _line(rating) -> str:
    verdict = {1: "up", -1: "down"}[rating.value] if rating.other is None else "better than"
    other = "" if rating.other is None else f" seed {rating.other.seed}"
    text = json.dumps(rating.picture.text, ensure_ascii=False)
    return f"{rating.id}  {text} seed {rating.picture.seed}: {verdict}{other}"


def _stored(path: Path, *, new: bool = False):
    """The store at `path`; ValueError where there is none and none shall be made."""
    from .feedback.store import Store

    if not new and not path.is_file():
        raise ValueError(f"no ratings {path}")
    return Store(path)
