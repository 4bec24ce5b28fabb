"""Does the recipe hold? Short trainings on real data, measured before, halfway and at the end.

    python benchmarks/recipes.py stability objectives pretraining --data data --json recipes.json

stability    the default settings on four data sets, three seeds each: does anything diverge?
objectives   at equal images of the emoji set: the default, RpGAN with finite differences and with
             exact penalties, and the reference article's networks
pretraining  at equal images of the text stage: from a pretrained model and from scratch

`--data` holds `emoji-32` (`imagen data emoji --resolution 32`). `--stamps` and `--fashion` name
what Debian's packages `tuxpaint-stamps-default` and `dataset-fashion-mnist` install; of each a
folder at 32 px is made in `--data`. Rows that the JSON file holds are not run again.
"""

from __future__ import annotations

import gzip
import logging
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from common import arguments, read_json, write_json
from PIL import Image

from imagen_model.cli import main as imagen
from imagen_model.evaluation.distribution import frechet_distance
from imagen_model.evaluation.features import Lite1
from imagen_model.evaluation.training_metrics import TrainingMetrics
from imagen_model.inference.latent import random_latent
from imagen_model.inference.sampling import draw
from imagen_model.training.options import TrainOptions
from imagen_model.training.progress import Progress
from imagen_model.training.setup import prepare
from imagen_model.training.trainer import Trainer

STAMPS = Path("/usr/share/tuxpaint/stamps")
FASHION = Path("/usr/share/datasets/fashion-mnist")
FASHION_CLASSES = (
    "t-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot",
)  # fmt: skip
FASHION_COUNT = 10_000
SEEDS = (0, 1, 2)
CURVE_PICTURES = 192  # behind a point of a curve
MAX_SET = 1000  # pictures per set of the Frechet distance


@dataclass(frozen=True)
class Run:
    """One training: its options, and what a row calls it."""

    experiment: str
    name: str
    options: TrainOptions
    data: str = "emoji-32"
    init: str = ""  # the name of another run with the same seed, whose model it begins with

    @property
    def key(self) -> str:
        return f"{self.experiment}/{self.name}/{self.options.seed}"

    @property
    def folder(self) -> str:
        return self.key.replace("/", "-").replace(",", "").replace(" ", "_")


def stability(kimg: float) -> Iterator[Run]:
    for seed in SEEDS:
        options = TrainOptions(kimg=kimg, seed=seed, resolution=32)
        yield Run("stability", "emoji", options)
        yield Run("stability", "stamps", options, "stamps-32")
        yield Run("stability", "emoji, no captions", replace(options, stage="pretrain"))
        yield Run("stability", "fashion, one channel", options, "fashion-32")


def objectives(kimg: float) -> Iterator[Run]:
    options = TrainOptions(kimg=kimg, seed=0, resolution=32)
    rpgan = replace(options, objective="rpgan")
    yield Run("objectives", "default", options)
    yield Run("objectives", "dcgan", replace(options, preset="dcgan", resolution=None))
    yield Run("objectives", "rpgan, finite differences", rpgan)
    yield Run("objectives", "rpgan, exact penalties", replace(rpgan, penalty="exact"))


def pretraining(kimg: float) -> Iterator[Run]:
    for seed in SEEDS:
        options = TrainOptions(kimg=kimg, seed=seed, resolution=32, stage="text")
        first = Run("pretraining", "the pretraining itself", replace(options, stage="pretrain"))
        yield first
        yield Run("pretraining", "from scratch", options)
        yield Run("pretraining", "pretrained", options, init=first.name)


EXPERIMENTS: dict[str, Callable[[float], Iterator[Run]]] = {
    "stability": stability,
    "objectives": objectives,
    "pretraining": pretraining,
}


class Warnings(logging.Handler):
    """Collects what the training warns of."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def train(run: Run, data: Path, runs: Path) -> dict:
    """Train it; the row has figures of the EMA at the start, halfway and at the end."""
    options = run.options
    if run.init:
        folder = replace(run, name=run.init).folder
        options = replace(options, init=str(runs / folder / "latest.safetensors"))
    trainer = prepare(
        data / run.data,
        runs / run.folder,
        options,
        device=torch.device("cpu"),
        progress=lambda label: lambda done, total: None,
    )
    metrics = TrainingMetrics(trainer.dataset, trainer.captions, num=CURVE_PICTURES)
    curve: list[dict] = []

    def measure() -> None:
        figures = metrics(trainer.ema.module)
        curve.append({"kimg": trainer.progress.cur_nimg / 1000} | figures)

    def on_step(progress: Progress) -> None:
        if len(curve) == 1 and progress.fraction >= 0.5:
            measure()

    warnings, logger = Warnings(), logging.getLogger("imagen_model.training")
    logger.addHandler(warnings)
    measure()
    started = time.monotonic()
    try:
        trainer.run(on_step)
    finally:
        logger.removeHandler(warnings)
    measure()
    return {
        "experiment": run.experiment,
        "name": run.name,
        "seed": options.seed,
        "pictures": len(trainer.dataset),
        "kimg": trainer.progress.cur_nimg / 1000,
        "img_per_sec": round(trainer.progress.cur_nimg / trainer.progress.seconds, 2),
        "wall_sec": round(time.monotonic() - started, 1),
        "curve": curve,
        "complaints": warnings.messages,
        **(distance(trainer) if run.experiment == "objectives" else {}),
    }


def distance(trainer: Trainer) -> dict:
    """FD-lite1 of generated pictures from as many real ones, and between two sets of real ones.

    Everything is reduced to the data's 32 px, whatever the network's resolution is.
    """
    count = min(MAX_SET, len(trainer.dataset) // 2)
    order = torch.randperm(len(trainer.dataset), generator=torch.Generator().manual_seed(0))
    asked, other = order[:count], order[count : 2 * count]
    latent = random_latent(range(count), trainer.model.generator.z_dim)
    generated = draw(trainer.ema.module, trainer.captions.captions(asked), latent)
    lite1, small = Lite1(), torch.nn.AdaptiveAvgPool2d(32)
    real, floor, features = (
        lite1.pooled(small(pictures))
        for pictures in (trainer.dataset.batch(other), trainer.dataset.batch(asked), generated)
    )
    return {
        "fd_lite1": frechet_distance(real, features),
        "fd_lite1_floor": frechet_distance(real, floor),
        "cloud": count,
    }


# -- data -----------------------------------------------------------------------------------------


def make_stamps(source: Path, folder: Path) -> None:
    """Tux Paint's stamps; the first line of a .txt file is the English caption."""
    for i, path in enumerate(sorted(source.rglob("*.png"))):
        caption = path.with_suffix(".txt")
        if caption.is_file():
            target = folder / f"{i:04d}.png"
            target.write_bytes(path.read_bytes())
            text = caption.read_text(encoding="utf-8").splitlines()[0]
            target.with_suffix(".txt").write_text(text, encoding="utf-8")


def make_fashion(source: Path, folder: Path) -> None:
    """The first pictures of Fashion-MNIST's training set (1708.07747), a folder for each class."""

    def read(name: str, header: int) -> np.ndarray:
        with gzip.open(source / name) as file:
            return np.frombuffer(file.read(), np.uint8, offset=header)

    pixels = read("train-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28)[:FASHION_COUNT]
    labels = read("train-labels-idx1-ubyte.gz", 8)[:FASHION_COUNT]
    for i, (picture, label) in enumerate(zip(pixels, labels, strict=True)):
        path = folder / FASHION_CLASSES[label] / f"{i:05d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(picture).save(path)


def prepare_folder(make: Callable[[Path, Path], None], source: Path, out: Path) -> None:
    """Make a folder of pictures from `source`, and the 32 px data set of it."""
    with tempfile.TemporaryDirectory() as folder:
        make(source, Path(folder))
        command = ["data", "folder", "--source", folder, "--out", str(out), "--resolution", "32"]
        if code := imagen(command):
            raise SystemExit(code)


# -- the command ----------------------------------------------------------------------------------


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("experiments", nargs="+", choices=EXPERIMENTS)
    parser.add_argument("--kimg", type=float, default=3.0, help="of each run (default 3)")
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--stamps", type=Path, default=STAMPS)
    parser.add_argument("--fashion", type=Path, default=FASHION)
    parser.add_argument("--runs", type=Path, default=Path("runs/recipes"))
    args = parser.parse_args()
    wanted = [run for name in args.experiments for run in EXPERIMENTS[name](args.kimg)]
    for name, make, source in (
        ("stamps-32", make_stamps, args.stamps),
        ("fashion-32", make_fashion, args.fashion),
    ):
        if any(run.data == name for run in wanted) and not (args.data / name).is_dir():
            prepare_folder(make, source, args.data / name)
    rows = read_json(args.json, [])
    done = {f"{row['experiment']}/{row['name']}/{row['seed']}" for row in rows}
    for run in wanted:
        if run.key in done:
            continue
        row = train(run, args.data, args.runs)
        rows.append(row)
        write_json(args.json, rows)
        first, last = row["curve"][0], row["curve"][-1]
        more = f"  R@1 {last['retrieval_r1']:.3f}" if "retrieval_r1" in last else ""
        more += f"  FD {row['fd_lite1']:.0f}" if "fd_lite1" in row else ""
        print(
            f"{run.key:48} KID {first['kid_lite1']:.3f} -> {last['kid_lite1']:.3f}{more}  "
            f"{row['img_per_sec']:.1f} img/s  {len(row['complaints'])} warnings",
            flush=True,
        )


if __name__ == "__main__":
    main()
