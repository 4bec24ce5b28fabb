"""All that a GPU is wanted for, unattended, in two parts that end in time.

    python tools/gpu_session.py pack --source NODE_MODULES [--model FILE]    before, on any machine
    python tools/gpu_session.py train [--minutes 9]                          on the GPU's machine
    python tools/gpu_session.py measure                                      there, after it

`pack` fills .gpu/, which git ignores, with what that machine needs beside a checkout: the sources
of the emoji set, compressed, and packages as wheels (for CPython 3.12 on x86-64 Linux).
NODE_MODULES is what `imagen data emoji` takes as --source. `--model` is a checkpoint to go on from
(default: the bundled model). The sizes are printed: .gpu/train is for the first part, .gpu/measure
for the second. Of the checkout both parts need imagen_model/ and tools/ alone.

`train` builds the data on all cores and trains the bundled model within its minutes, which include
everything. After each snapshot the model, as int8, is in $OUT and in .gpu/, so that something is
left even when the machine stops. `measure` evaluates that model and measures the speed of training
and sampling, into $OUT. Neither needs a network.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

PACK = ROOT / ".gpu"
SOURCES = "train/sources.tar.xz"
FIRST = "train/model.safetensors"  # what a session goes on from, if it is not the bundled model
MODEL = "model.safetensors"
WHEEL_OPTIONS = (
    "--no-deps", "--only-binary=:all:", "--python-version", "3.12", "--implementation", "cp",
    "--platform", "manylinux_2_28_x86_64", "--platform", "manylinux2014_x86_64",
)  # fmt: skip
PACKAGES = ("resvg_py",)
PARTS = ("train", "measure")
RESOLUTION = 128
BATCH, LR = 512, 8e-4
SAVING_SEC = 15.0  # at the end: the state, the report, the last snapshot
SNAPSHOT_KIMG = 100.0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parts = parser.add_subparsers(dest="part", required=True)
    c = parts.add_parser("pack")
    c.add_argument("--source", type=Path, required=True, help="a node_modules folder")
    c.add_argument("--model", type=Path, help="a checkpoint to go on from")
    c.add_argument("--without-wheels", action="store_true", help="the packages are there already")
    c = parts.add_parser("train")
    c.add_argument("--minutes", type=float, default=9.0, help="in all (default 9)")
    c.add_argument("--batch", type=int, default=BATCH)
    c.add_argument("--lr", type=float, default=LR)
    c = parts.add_parser("measure")
    c.add_argument("--batches", type=int, nargs="+", default=[256, 512])
    c.add_argument("--presets", nargs="+", default=["small", "base"])
    for name in ("train", "measure"):
        parts.choices[name].add_argument("--resolution", type=int, default=RESOLUTION)
        parts.choices[name].add_argument("--device", default="auto")
    for c in parts.choices.values():
        c.add_argument("--folder", type=Path, default=PACK, help="default .gpu")
    args = parser.parse_args(arguments)
    {"pack": pack, "train": train, "measure": measure}[args.part](args)
    return 0


def out_folder(args: argparse.Namespace) -> Path:
    """$OUT, from which results are taken, or a folder beside the data."""
    out = Path(os.environ.get("OUT") or args.folder / "out")
    out.mkdir(parents=True, exist_ok=True)
    return out


# -- before ---------------------------------------------------------------------------------------


def pack(args: argparse.Namespace) -> None:
    for part in PARTS:
        (args.folder / part).mkdir(parents=True, exist_ok=True)
    with tarfile.open(args.folder / SOURCES, "w:xz", preset=9) as tar:
        for name, content in source_files(args.source):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    if args.model:
        save_int8(args.model, args.folder / FIRST)
    if not args.without_wheels:
        wheels = args.folder / "train"
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--dest", str(wheels)]
        subprocess.run([*command, *WHEEL_OPTIONS, *PACKAGES], check=True)
        pack_lite1(args.folder / "measure" / "lite1.zip")
    for part in PARTS:
        size = sum(path.stat().st_size for path in (args.folder / part).iterdir())
        print(f"{args.folder / part}: {size / 2**20:.1f} MiB")


def source_files(modules: Path) -> Iterator[tuple[str, bytes]]:
    """What `imagen data emoji` reads of NODE_MODULES; pictures at the size that they train in."""
    from PIL import Image

    from imagen_model.data.prepare.emoji import NAMES, STYLES

    patterns = [f"{NAMES.package}/en/data.json", f"{NAMES.package}/en/shortcodes/*.json"]
    for source in STYLES.values():
        files = [f"{source.folder}/*"] if source.folder else ["icons.json", "chars.json"]
        patterns += [f"{source.package}/{file}" for file in files]
    for pattern in patterns:
        for path in sorted(modules.glob(pattern)):
            content = path.read_bytes()
            if path.suffix == ".webp":
                with Image.open(path) as image:
                    side = (RESOLUTION, RESOLUTION)
                    small = image.convert("RGBA").resize(side, Image.Resampling.LANCZOS)
                buffer = io.BytesIO()
                small.save(buffer, "WEBP", quality=50, alpha_quality=90, method=6)
                content = buffer.getvalue()
            yield path.relative_to(modules).as_posix(), content


def pack_lite1(path: Path) -> None:
    """The evaluation's network in half precision: half the size."""
    import torch

    from imagen_model.evaluation.features import FILE, PACKAGE

    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise SystemExit("evaluation needs lite1: pip install 'imagen-gan[train]'")
    weights = torch.load(Path(spec.origin).parent / FILE, map_location="cpu", weights_only=True)
    buffer = io.BytesIO()
    torch.save({k: v.half() if v.is_floating_point() else v for k, v in weights.items()}, buffer)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(f"{PACKAGE}/__init__.py", "")
        archive.writestr(f"{PACKAGE}/{FILE}", buffer.getvalue())


def save_int8(source: Path, target: Path) -> None:
    """A checkpoint as models are bundled: a quarter of the size."""
    from imagen_model.checkpoint import load_checkpoint, save_checkpoint

    config, networks, card = load_checkpoint(source)
    save_checkpoint(target, config, networks, card, int8=True)


# -- on the GPU's machine -------------------------------------------------------------------------


def use_packages(folder: Path) -> None:
    """Unpack the packages, for this process and those that it starts."""
    site = folder / "site"
    for path in sorted(p for p in folder.glob("*/*") if p.suffix in (".whl", ".zip")):
        with zipfile.ZipFile(path) as archive:
            archive.extractall(site)
    for paths in (sys.path, path_list := os.environ.get("PYTHONPATH", "").split(os.pathsep)):
        paths.insert(0, str(site))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [*path_list, str(ROOT)]))


def data_of(args: argparse.Namespace) -> Path:
    """The emoji set at the resolution, built once."""
    from imagen_model.data.prepare.emoji import build_emoji

    data = args.folder / f"emoji-{args.resolution}"
    if not data.is_dir():
        modules = args.folder / "node_modules"
        with tarfile.open(args.folder / SOURCES) as tar:
            tar.extractall(modules, filter="data")
        shutil.rmtree(building := data.with_name("building"), ignore_errors=True)
        build_emoji(building, resolution=args.resolution, source=modules)
        building.rename(data)
    return data


def train(args: argparse.Namespace) -> None:
    started = time.monotonic()
    use_packages(args.folder)
    from imagen_model.cli.common import pick_device
    from imagen_model.training.options import TrainOptions
    from imagen_model.training.published_model import PublishedModel
    from imagen_model.training.setup import prepare

    class Kept(PublishedModel):
        """The newest model as int8, here and in $OUT."""

        def replace(self, model: Path) -> None:
            save_int8(model, self.target)
            shutil.copyfile(self.target, out / MODEL)

    def say(text: str) -> None:
        print(f"{time.monotonic() - started:5.0f} s  {text}", flush=True)

    out, run = out_folder(args), args.folder / "run"
    kept, first = args.folder / MODEL, args.folder / FIRST
    shutil.rmtree(run, ignore_errors=True)
    data = data_of(args)
    say(f"data: {data}")
    options = TrainOptions(
        init=next((str(path) for path in (kept, first) if path.is_file()), "emoji"),
        batch=args.batch,
        lr=args.lr,
        minutes=args.minutes,
        snapshot=SNAPSHOT_KIMG,
        keep=1,
    )
    trainer = prepare(
        data, run, options, device=pick_device(args.device), progress=lambda label: _silent
    )
    kept.unlink(missing_ok=True)  # what it holds has been read; it is written anew
    trainer.published = Kept(run, kept)
    left = max(1.0, args.minutes * 60 - SAVING_SEC - (time.monotonic() - started))
    trainer.training = replace(trainer.training, minutes=left / 60)
    say(f"training for {left / 60:.1f} minutes from {options.init}, batch {args.batch}")
    trainer.run()
    progress = trainer.progress
    say(f"{progress.cur_nimg / 1000:.1f} kimg, {progress.img_per_sec:.0f} images per second")
    for path in (run / "stats.jsonl", *sorted((run / "samples").glob("*.png"))[-1:]):
        shutil.copy(path, out / path.name)


def _silent(done: int, total: int) -> None:
    pass


def measure(args: argparse.Namespace) -> None:
    use_packages(args.folder)
    from imagen_model.bench import synthetic_trainer
    from imagen_model.cli.common import pick_device
    from imagen_model.evaluation.evaluate import evaluate
    from imagen_model.model import load
    from imagen_model.storage.files import write_json

    out, device = out_folder(args), pick_device(args.device)
    speeds = {
        f"{preset}, {args.resolution} px, batch {batch}": round(
            synthetic_trainer(preset, args.resolution, batch, device).probe(), 1
        )
        for preset in args.presets
        for batch in args.batches
    }
    write_json(out / "speed.json", {"training, images per second": speeds})
    print(json.dumps(speeds, indent=1), flush=True)
    model = load(args.folder / MODEL, device=device)
    result = evaluate(model, data_of(args), html=out / "evaluation.html", stage=print)
    write_json(out / "evaluation.json", result.to_dict())
    print(json.dumps(result.to_dict(), indent=1))


if __name__ == "__main__":
    sys.exit(main())
