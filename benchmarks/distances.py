"""Models beside each other: FD-lite1 of each at one resolution, whatever it draws at.

    .venv/bin/python benchmarks/distances.py MODEL... --data data/emoji-32 [--json FILE]

A model is a bundled name or a checkpoint file. Of the training pictures, a random half lends its
captions and styles to the models that know such; the other half is what the drawings are compared
with, at `--resolution`. The floor compares the two halves, which are both real.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import imagen_model as im
from imagen_model.evaluation.dataset import all_pixels, base_pictures, draw_pairs, subset
from imagen_model.evaluation.density_coverage import mean_pairwise_distance
from imagen_model.evaluation.distribution import MAX_CLOUD, frechet_distance, kernel_distance
from imagen_model.evaluation.features import Lite1
from imagen_model.evaluation.shared_artifact import shared_artifact


def at(pictures: Tensor, resolution: int) -> Tensor:
    return F.adaptive_avg_pool2d(pictures, resolution)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--resolution", type=int, default=32)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    lite1, rows = Lite1(), []
    for name in args.models:
        model = im.load(name)
        pictures = base_pictures(model, args.data, "train")
        count = min(len(pictures) // 2, MAX_CLOUD)
        order = torch.randperm(len(pictures), generator=torch.Generator().manual_seed(0))
        real = lite1.pooled(at(all_pixels(pictures), args.resolution))
        asked, held = order[:count], order[count : 2 * count]
        drawn = at(draw_pairs(model, subset(pictures, asked), 0), args.resolution)
        features = lite1.pooled(drawn)
        spread, real_spread = (
            mean_pairwise_distance(F.normalize(x, dim=1)) for x in (features, real[asked])
        )
        row = {
            "model": name,
            "images": count,
            "fd_lite1": frechet_distance(real[held], features),
            "fd_lite1_floor": frechet_distance(real[held], real[asked]),
            "kid_lite1": kernel_distance(real[held], features),
            "diversity": spread / real_spread,
            "common_mark": shared_artifact(drawn),
        }
        rows.append(row)
        print(json.dumps(row), flush=True)
        if args.json:
            args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
