"""Train the bundled upscaler: `python tools/train_upscaler.py data/emoji-128 --out runs/upscaler`.

`imagen data emoji --resolution 128` makes the data; the two Fluent styles are used, which alone are
sharp at 128 px. It is the training of `imagen train-upscaler` at a quarter of that size: pictures
that the bundled model generated take part, reduced to 32 px. A run that was stopped continues. At
the end the weights are written as the bundled file, and compared with bicubic and Lanczos
enlargement on the held-out pictures.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch.nn.functional as F

import imagen_model as im
from imagen_model.bundled import ALIASES
from imagen_model.cli.common import progress_bar
from imagen_model.data.dataset import load_pictures
from imagen_model.data.folder import read_items
from imagen_model.data.item import Item
from imagen_model.evaluation.dataset import all_pixels
from imagen_model.evaluation.features import Lite1
from imagen_model.evaluation.upscaling import compare
from imagen_model.inference.upscaler import SCALE, UPSCALER_FILE, load_upscaler, save_upscaler
from imagen_model.storage.files import sha256_of
from imagen_model.training.upscaler import UpscalerOptions, UpscalerTraining
from imagen_model.training.upscaler_data import read_patches
from imagen_model.training.upscaler_setup import generated_pictures

STYLES = ("fluent-3d", "fluent-flat")
RESOLUTION = 128  # pixels of a whole picture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/upscaler"))
    parser.add_argument("--steps", type=int, default=UpscalerOptions.steps)
    args = parser.parse_args()
    items, held_out = (_fluent(read_items(args.data, split=split)) for split in ("train", "test"))
    options = UpscalerOptions(SCALE, args.steps)
    patches = read_patches(items, scale=SCALE, seed=options.seed, progress=progress_bar("reading"))
    generated = generated_pictures(im.load("emoji"), items, progress_bar("generating"))
    generated = F.adaptive_avg_pool2d(generated, RESOLUTION // SCALE)
    training = UpscalerTraining(patches, options, generated=generated)
    training.resume(args.out)
    card = {
        "name": UPSCALER_FILE.stem,
        "data": f"emoji set, {' and '.join(STYLES)} at {RESOLUTION} px",
        "licence": "MIT; Fluent Emoji by Microsoft, MIT",
        "pictures": patches.num_pictures,
        "generated_by": ALIASES["emoji"],
    }
    bar = progress_bar("training")
    path = training.run(args.out, card, lambda now: bar(now.done, now.steps))
    real = load_pictures(held_out, resolution=RESOLUTION, channels=4)
    figures = compare(training.average, all_pixels(real), Lite1())
    network = load_upscaler(path)
    save_upscaler(UPSCALER_FILE, network, {**network.card, "figures": figures}, int8=True)
    Path(f"{UPSCALER_FILE}.sha256").write_text(sha256_of(UPSCALER_FILE) + "\n")
    load_upscaler()
    print(json.dumps(figures, indent=1))


def _fluent(items: list[Item]) -> list[Item]:
    return [item for item in items if item.style in STYLES]


if __name__ == "__main__":
    main()
