"""How starting a run grows with the pictures in its data set: the table in docs/scaling.md.

    .venv/bin/python benchmarks/growth.py [--pictures 1000 10000 100000] [--json FILE]

For each number it writes WebDataset shards of small pictures of noise, each with a caption of its
own (2.5 KB a picture, in the system's folder for temporary files), and starts `nano` at 32 px on
them twice, each time in a process of its own, with the pictures read from disk: the first start
surveys all pictures, the second one finds the survey beside the run, as `--resume` does. Both times
until a step of 32 pictures is done. Processor seconds hold on a busy machine; wall seconds do not.
"""

from __future__ import annotations

import io
import json
import math
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
from common import arguments, write_json
from PIL import Image

PX, RESOLUTION, BATCH = 16, 32, 32
SHARD = 10_000
STEPS = 5


def write_shards(folder: Path, count: int) -> None:
    """`count` pictures of noise with captions, in shards."""
    rng = np.random.default_rng(0)
    for begin in range(0, count, SHARD):
        with tarfile.open(folder / f"{begin:08d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for i in range(begin, min(begin + SHARD, count)):
                picture = io.BytesIO()
                pixels = rng.integers(0, 256, (PX, PX, 3), np.uint8)
                Image.fromarray(pixels).save(picture, "PNG", compress_level=0)
                facts = json.dumps({"text": f"a thing called {i}"}).encode()
                for name, data in ((f"{i:08d}.png", picture.getvalue()), (f"{i:08d}.json", facts)):
                    header = tarfile.TarInfo(name)
                    header.size = len(data)
                    tar.addfile(header, io.BytesIO(data))
                tar.members = []  # type: ignore[attr-defined]


def start(data: Path, run: Path) -> dict:
    """Start a run in this process, as `imagen train --resume` does, and take a few steps."""
    import torch

    from imagen_model.data import streaming
    from imagen_model.training.options import TrainOptions
    from imagen_model.training.plan import describe
    from imagen_model.training.setup import prepare, save_cache

    streaming.memory_for_pictures = lambda: 0
    options = TrainOptions(preset="nano", resolution=RESOLUTION, batch=BATCH, kimg=1.0)
    wall = time.perf_counter()
    trainer = prepare(
        data, run, options, device=torch.device("cpu"), progress=lambda label: lambda *_: None,
        resume=True,
    )  # fmt: skip
    describe(trainer)
    save_cache(trainer)
    trainer.step()
    result = {
        "processor_sec": time.process_time(),
        "wall_sec": time.perf_counter() - wall,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    stepped = time.process_time()
    for _ in range(STEPS):
        trainer.step()
    seconds = time.process_time() - stepped
    return {**result, "images_per_processor_sec": STEPS * BATCH / seconds}


def in_a_process(data: Path, run: Path) -> dict:
    command = [sys.executable, __file__, "--start", str(data), str(run)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def exponent(counts: list[int], values: list[float]) -> float:
    """b of the last two: value ~ count ** b."""
    return math.log(values[-1] / values[-2]) / math.log(counts[-1] / counts[-2])


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--pictures", nargs="+", type=int, default=[1000, 10_000, 100_000])
    parser.add_argument("--start", nargs=2, type=Path, metavar=("DATA", "RUN"), help="used inside")
    args = parser.parse_args()
    if args.start:
        print(json.dumps(start(*args.start)))
        return
    rows = []
    print("| pictures | first start | again | peak memory, first and again | images |\n"
          "|---|---|---|---|---|")  # fmt: skip
    for count in args.pictures:
        with tempfile.TemporaryDirectory() as temporary:
            data, run = Path(temporary) / "data", Path(temporary) / "run"
            data.mkdir()
            write_shards(data, count)
            first, again = in_a_process(data, run), in_a_process(data, run)
        rows.append({"pictures": count, "first": first, "again": again})
        print(
            f"| {count:,} | {first['processor_sec']:.0f} s ({first['wall_sec']:.0f} s) | "
            f"{again['processor_sec']:.0f} s ({again['wall_sec']:.0f} s) | "
            f"{first['peak_bytes'] / 2**20:.0f} MiB, {again['peak_bytes'] / 2**20:.0f} MiB | "
            f"{again['images_per_processor_sec']:.1f} a processor second |",
            flush=True,
        )
    if len(rows) > 1:
        for name in ("first", "again"):
            values = [row[name]["processor_sec"] for row in rows]
            print(f"{name}: processor time grows as N^{exponent(args.pictures, values):.2f}")
    write_json(args.json, rows)


if __name__ == "__main__":
    main()
