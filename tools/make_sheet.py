"""Make docs/images/sheet64.jpg: 64 prompts that a hash chose, one picture each, seeds 0 to 63.

    python tools/make_sheet.py --model emoji --data DATA --out docs/images/sheet64.jpg

The prompts are those of `imagen evaluate` (imagen_model/evaluation/sheet.py). Nothing is left out.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from torch import Tensor

import imagen_model as im
from imagen_model.data.folder import read_items
from imagen_model.evaluation.sheet import COLUMNS, generate_sheet
from imagen_model.networks.efficientnet import as_rgb
from imagen_model.storage.provenance import model_facts

SHOWN_PX = 96  # a side


def save_on_white(sheet: Tensor, path: Path, comment: str = "") -> None:
    """Write a contact sheet [C, H, W] as a JPEG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    im.to_image(as_rgb(sheet[None])[0]).save(path, quality=90, comment=comment)
    print(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="emoji")
    parser.add_argument("--data", type=Path, required=True, help="a folder made by `imagen data`")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.jpg")
    args = parser.parse_args()
    model = im.load(args.model)
    items = [item for item in read_items(args.data, split="train") if item.hexcode == item.base]
    prompts, pictures = generate_sheet(model, items)
    scale = max(1, SHOWN_PX // model.resolution)
    sheet = im.contact_sheet(pictures, columns=COLUMNS, scale=scale, gap=6, captions=prompts)
    facts = model_facts(model.name, model.card)
    facts |= {"prompts": prompts, "seeds": list(range(len(prompts)))}
    save_on_white(sheet, args.out, comment=json.dumps(facts))


if __name__ == "__main__":
    main()
