"""FD-lite1 of several models at one resolution, whatever their own resolution is.

    .venv/bin/python benchmarks/distances.py MODEL... --data data/emoji-32 [--json FILE]

A model is a bundled name or a checkpoint file. A random half of the training pictures provides
captions and styles; the generated pictures are compared with the other half at `--resolution`. The
floor compares the two halves, which are both real.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from common import arguments, write_json

import imagen_model as im
from imagen_model.evaluation.dataset import all_pixels, base_pictures, generate_pairs, subset
from imagen_model.evaluation.density_coverage import mean_pairwise_distance
from imagen_model.evaluation.distribution import MAX_PICTURES, frechet_distance, kernel_distance
from imagen_model.evaluation.features import Lite1
from imagen_model.evaluation.shared_artifact import shared_artifact


def measure(name: str, data: Path, resolution: int, lite1: Lite1) -> dict:
    """The row of one model."""
    model = im.load(name)
    pictures = base_pictures(model, data, "train")
    count = min(len(pictures) // 2, MAX_PICTURES)
    order = torch.randperm(len(pictures), generator=torch.Generator().manual_seed(0))
    asked, held = order[:count], order[count : 2 * count]
    real = lite1.pooled(F.adaptive_avg_pool2d(all_pixels(pictures), resolution))
    generated = generate_pairs(model, subset(pictures, asked).items, 0)
    generated = F.adaptive_avg_pool2d(generated, resolution)
    features = lite1.pooled(generated)
    spread, real_spread = (
        mean_pairwise_distance(F.normalize(x, dim=1)) for x in (features, real[asked])
    )
    return {
        "model": name,
        "images": count,
        "fd_lite1": frechet_distance(real[held], features),
        "fd_lite1_floor": frechet_distance(real[held], real[asked]),
        "kid_lite1": kernel_distance(real[held], features),
        "diversity": spread / real_spread,
        "common_mark": shared_artifact(generated),
    }


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--resolution", type=int, default=32)
    args = parser.parse_args()
    lite1, rows = Lite1(), []
    for name in args.models:
        rows.append(measure(name, args.data, args.resolution, lite1))
        print(json.dumps(rows[-1]), flush=True)
        write_json(args.json, rows)


if __name__ == "__main__":
    main()
