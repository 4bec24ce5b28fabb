"""docs/images/sheet64.jpg: what a model draws for 64 prompts that nobody chose, seeds 0 to 63.

The prompts are those of `imagen evaluate` (imagen_model/evaluation/sheet.py); nothing is left out.

    python tools/make_sheet.py --model emoji --data DATA --out docs/images/sheet64.jpg
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import imagen_model as im
from imagen_model.data.folder import read_items
from imagen_model.evaluation.sheet import COLUMNS, draw_sheet
from imagen_model.networks.efficientnet import as_rgb
from imagen_model.storage.provenance import model_facts

SHOWN_PX = 96  # a side
QUALITY = 90  # of the JPEG, whose comment says what drew it


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="emoji")
    parser.add_argument("--data", type=Path, required=True, help="a folder made by `imagen data`")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.jpg")
    args = parser.parse_args()
    model = im.load(args.model)
    samples = [s for s in read_items(args.data, split="train") if s.hexcode == s.base]
    prompts, pictures = draw_sheet(model, samples)
    scale = max(1, SHOWN_PX // model.resolution)
    sheet = im.contact_sheet(pictures, columns=COLUMNS, scale=scale, gap=6, captions=prompts)
    facts = model_facts(model.name, model.card)
    facts |= {"prompts": prompts, "seeds": list(range(len(prompts)))}
    on_white = as_rgb(sheet[None])[0]
    im.to_image(on_white).save(args.out, quality=QUALITY, comment=json.dumps(facts))


if __name__ == "__main__":
    main()
