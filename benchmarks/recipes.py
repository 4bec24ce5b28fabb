"""Does the recipe hold? Short trainings on real data, a figure before, within and after each.

    python benchmarks/recipes.py stability objectives pretraining --data data --json recipes.json

stability    the default settings on four data sets, three seeds each: does anything diverge?
objectives   at equal images of the emoji set: the default, RpGAN with finite differences and with
             exact penalties, and the reference article's networks
pretraining  at equal images of the text stage: from a pretrained model and from scratch

`--data` holds `emoji-32` (`imagen data emoji --resolution 32`). `--stamps` and `--fashion` name
what Debian's packages `tuxpaint-stamps-default` and `dataset-fashion-mnist` install; of both a
folder at 32 px is made in `--data`. Rows that the JSON file holds are not run again.
"""

from __future__ import annotations

import argparse
import gzip
import json
import logging
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from imagen_model.cli import main as imagen
from imagen_model.evaluation.distribution import frechet_distance
from imagen_model.evaluation.training_metrics import TrainingMetrics
from imagen_model.training.options import TrainOptions
from imagen_model.training.setup import prepare
from imagen_model.training.trainer import Progress, Trainer

STAMPS = Path("/usr/share/tuxpaint/stamps")
FASHION = Path("/usr/share/datasets/fashion-mnist")
FASHION_CLASSES = (
    "t-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot",
)  # fmt: skip
FASHION_COUNT = 10_000
SEEDS = (0, 1, 2)
GLANCE = 192  # pictures behind a point of a curve
CLOUD = 1000  # pictures a side of the Frechet distance


@dataclass(frozen=True)
class Run:
    """One training: what is chosen, and what a row calls it."""

    experiment: str
    name: str
    data: str
    choices: TrainOptions
    exact: bool = False
    begins_with: str = ""  # the name of another run with the same seed

    @property
    def key(self) -> str:
        return f"{self.experiment}/{self.name}/{self.choices.seed}"


def stability(kimg: float) -> list[Run]:
    kinds = {
        "emoji": ("emoji-32", None),
        "stamps": ("stamps-32", None),
        "emoji, no captions": ("emoji-32", "pretrain"),
        "fashion, one channel": ("fashion-32", None),
    }
    return [
        Run("stability", name, data, TrainOptions(kimg=kimg, seed=seed, stage=stage, resolution=32))
        for seed in SEEDS
        for name, (data, stage) in kinds.items()
    ]


def objectives(kimg: float) -> list[Run]:
    def run(name: str, *, exact: bool = False, **choices) -> Run:
        chosen = TrainOptions(kimg=kimg, seed=0, **choices)
        return Run("objectives", name, "emoji-32", chosen, exact=exact)

    return [
        run("default", resolution=32),
        run("dcgan", preset="dcgan"),
        run("rpgan, finite differences", resolution=32, objective="rpgan"),
        run("rpgan, exact penalties", resolution=32, objective="rpgan", exact=True),
    ]


def pretraining(kimg: float) -> list[Run]:
    runs = []
    for seed in SEEDS:

        def run(name: str, seed: int = seed, start: str = "", **choices) -> Run:
            chosen = TrainOptions(seed=seed, resolution=32, **choices)
            return Run("pretraining", name, "emoji-32", chosen, begins_with=start)

        runs += [
            run("the pretraining itself", kimg=kimg, stage="pretrain"),
            run("from scratch", kimg=kimg, stage="text"),
            run("pretrained", kimg=kimg, stage="text", start="the pretraining itself"),
        ]
    return runs


EXPERIMENTS: dict[str, Callable[[float], list[Run]]] = {
    "stability": stability,
    "objectives": objectives,
    "pretraining": pretraining,
}


def train(run: Run, data: Path, out: Path) -> dict:
    """Run it; figures of the EMA at the start, halfway and at the end."""
    choices = run.choices
    if run.begins_with:
        earlier = replace(run, name=run.begins_with)
        choices = replace(choices, init=str(out.parent / slug(earlier) / "latest.safetensors"))
    trainer = prepare(
        data / run.data, out, choices, device=torch.device("cpu"), progress=lambda label: _silent
    )
    if run.exact:
        trainer.training = trainer.train_step.training = replace(trainer.training, penalty="exact")
    glance = TrainingMetrics(trainer.dataset, trainer.captions, num=GLANCE)
    curve = [{"kimg": 0.0} | glance(trainer.ema.module)]

    def watch(progress: Progress) -> None:
        if len(curve) == 1 and progress.fraction >= 0.5:
            curve.append({"kimg": progress.cur_nimg / 1000} | glance(trainer.ema.module))

    complaints: list[str] = []
    speech_recognizer = logging.Handler()
    speech_recognizer.emit = lambda record: complaints.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("imagen_model.training").addHandler(speech_recognizer)
    started = time.monotonic()
    try:
        trainer.run(watch)
    finally:
        logging.getLogger("imagen_model.training").removeHandler(speech_recognizer)
    seconds = trainer.progress.seconds
    curve.append({"kimg": trainer.progress.cur_nimg / 1000} | glance(trainer.ema.module))
    return {
        "experiment": run.experiment,
        "name": run.name,
        "seed": choices.seed,
        "pictures": len(trainer.dataset),
        "kimg": trainer.progress.cur_nimg / 1000,
        "img_per_sec": round(trainer.progress.cur_nimg / seconds, 2),
        "wall_sec": round(time.monotonic() - started, 1),
        "curve": curve,
        "complaints": complaints,
        **(distance(trainer) if run.experiment == "objectives" else {}),
    }


def distance(trainer: Trainer) -> dict:
    """FD-lite1 of drawn pictures from as many real ones, and of two halves of the real ones.

    Everything is seen at the data's 32 px, whatever the network draws.
    """
    count = min(CLOUD, len(trainer.dataset) // 2)
    glance = TrainingMetrics(trainer.dataset, trainer.captions, num=2 * count)
    asked, other = glance.index[:count], glance.index[count:]
    lite1 = glance.lite1
    small = torch.nn.AdaptiveAvgPool2d(32)
    real = lite1.pooled(small(trainer.dataset.batch(other)))
    floor = lite1.pooled(small(trainer.dataset.batch(asked)))
    glance.index = asked
    drawn = lite1.pooled(small(glance._drawn(trainer.ema.module)))
    return {
        "fd_lite1": frechet_distance(real, drawn),
        "fd_lite1_floor": frechet_distance(real, floor),
        "cloud": count,
    }


def _silent(done: int, total: int) -> None:
    pass


def slug(run: Run) -> str:
    return run.key.replace("/", "-").replace(",", "").replace(" ", "_")


# -- data -----------------------------------------------------------------------------------------


def make_stamps(source: Path, out: Path) -> None:
    """Tux Paint's stamps; the first line of a .txt file is the English caption."""
    with tempfile.TemporaryDirectory() as scratch:
        for i, path in enumerate(sorted(source.rglob("*.png"))):
            caption = path.with_suffix(".txt")
            if not caption.is_file():
                continue
            target = Path(scratch) / f"{i:04d}.png"
            target.write_bytes(path.read_bytes())
            text = caption.read_text(encoding="utf-8").splitlines()[0]
            target.with_suffix(".txt").write_text(text, encoding="utf-8")
        _fold(Path(scratch), out)


def make_fashion(source: Path, out: Path) -> None:
    """The first pictures of Fashion-MNIST's training set (1708.07747), a folder a class."""
    pixels = _idx(source / "train-images-idx3-ubyte.gz", header=16).reshape(-1, 28, 28)
    labels = _idx(source / "train-labels-idx1-ubyte.gz", header=8)
    with tempfile.TemporaryDirectory() as scratch:
        for i, (picture, label) in enumerate(zip(pixels, labels, strict=True)):
            if i == FASHION_COUNT:
                break
            folder = Path(scratch) / FASHION_CLASSES[label]
            folder.mkdir(exist_ok=True)
            Image.fromarray(picture).save(folder / f"{i:05d}.png")
        _fold(Path(scratch), out)


def _idx(path: Path, *, header: int) -> np.ndarray:
    """The bytes of a file in MNIST's format."""
    with gzip.open(path) as file:
        return np.frombuffer(file.read(), np.uint8, offset=header)


def _fold(source: Path, out: Path) -> None:
    code = imagen(
        ["data", "folder", "--source", str(source), "--out", str(out), "--resolution", "32"]
    )
    if code:
        raise SystemExit(code)


# -- the command ----------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("experiments", nargs="+", choices=list(EXPERIMENTS))
    parser.add_argument("--kimg", type=float, default=3.0, help="of each run (default 3)")
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--stamps", type=Path, default=STAMPS)
    parser.add_argument("--fashion", type=Path, default=FASHION)
    parser.add_argument("--runs", type=Path, default=Path("runs/recipes"))
    parser.add_argument("--json", type=Path, required=True)
    args = parser.parse_args()
    wanted = [run for name in args.experiments for run in EXPERIMENTS[name](args.kimg)]
    for name, make, source in (
        ("stamps-32", make_stamps, args.stamps),
        ("fashion-32", make_fashion, args.fashion),
    ):
        if any(run.data == name for run in wanted) and not (args.data / name).is_dir():
            make(source, args.data / name)
    rows = json.loads(args.json.read_text()) if args.json.is_file() else []
    done = {f"{row['experiment']}/{row['name']}/{row['seed']}" for row in rows}
    for run in wanted:
        if run.key in done:
            continue
        row = train(run, args.data, args.runs / slug(run))
        rows.append(row)
        args.json.write_text(json.dumps(rows, indent=1) + "\n")
        first, last = row["curve"][0], row["curve"][-1]
        more = f"  R@1 {last['retrieval_r1']:.3f}" if "retrieval_r1" in last else ""
        more += f"  FD {row['fd_lite1']:.0f}" if "fd_lite1" in row else ""
        print(
            f"{run.key:48} KID {first['kid_lite1']:.3f} -> {last['kid_lite1']:.3f}{more}  "
            f"{row['img_per_sec']:.1f} img/s  {len(row['complaints'])} complaints",
            flush=True,
        )


if __name__ == "__main__":
    main()
