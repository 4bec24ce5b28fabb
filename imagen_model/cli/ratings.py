"""The command `imagen ratings`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from .common import Commands, command, open_store

if TYPE_CHECKING:
    from ..feedback.store import Rating


def add_command(commands: Commands) -> None:
    c = command(commands, "ratings", run)
    c.add_argument("--store", type=Path, required=True, metavar="FILE", help="the ratings")
    action = c.add_mutually_exclusive_group()
    action.add_argument("--export", type=Path, metavar="FILE", help="write all as JSON lines")
    action.add_argument(
        "--import", type=Path, metavar="FILE", dest="import_", help="add such lines"
    )
    action.add_argument("--delete", metavar="ID", help="delete one rating")
    action.add_argument("--clear", action="store_true", help="delete all of them")
    action.add_argument("--list", action="store_true", help="one a line, with its id")


def run(args: argparse.Namespace) -> dict:
    """Show, export, import or delete ratings; they never leave this machine by themselves."""
    from ..feedback.reward import enough_for

    with open_store(args.store, create=args.import_ is not None) as store:
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


def _line(rating: Rating) -> str:
    verdict = {1: "up", -1: "down"}[rating.value] if rating.other is None else "better than"
    other = "" if rating.other is None else f" seed {rating.other.seed}"
    text = json.dumps(rating.picture.text, ensure_ascii=False)
    return f"{rating.id}  {text} seed {rating.picture.seed}: {verdict}{other}"
