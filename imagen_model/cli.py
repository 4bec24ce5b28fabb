"""The `imagen` command: data, train, sample, score, evaluate, learn, info, convert, bench.

Exit codes: 0 done, 1 the work failed (one clear line), 2 wrong usage. Everything heavy is imported
by the command that needs it, so `imagen --help` answers at once.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import shlex
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from pathlib import Path

DESCRIPTION = """\
Imagen GAN: pictures from a prompt in one forward pass, and a generator of your own.

  imagen sample --prompt "a red apple" --num 8 --out grid.png     draw with the bundled model
  imagen train PICTURES --out RUN --minutes 30                    train your own
  imagen sample --model RUN/latest.safetensors --out mine.png     draw with it
"""


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    parser = build_parser()
    args = parser.parse_args(argv)
    args.typed = sys.argv[1:] if argv is None else argv
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        result = args.run(args)
        if args.json:
            args.json.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
        return 0
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 1
    except Exception as error:  # the command line's one place to turn a failure into a line
        if args.debug:
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        kind = "" if isinstance(error, (ValueError, OSError)) else f"{type(error).__name__}: "
        while _open_bars:
            _open_bars.pop().close()
        print(f"error: {kind}{reason}", file=sys.stderr)
        return 1


def build_parser() -> argparse.ArgumentParser:
    from .version import __version__

    parser = argparse.ArgumentParser(
        prog="imagen",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"imagen-gan {__version__}")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", type=Path, metavar="FILE", help="write what is printed as JSON")
    common.add_argument("--debug", action="store_true", help="show a traceback when it fails")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in (
        _add_sample, _add_train, _add_score, _add_evaluate, _add_data, _add_info, _add_convert,
    ):  # fmt: skip
        add(commands, common)
    from . import cli_bench
    from .cli_feedback import add_commands

    add_commands(commands, common)
    cli_bench.add_commands(commands, common)
    return parser


def _command(
    commands: argparse._SubParsersAction,
    common: argparse.ArgumentParser,
    name: str,
    run: Callable[[argparse.Namespace], dict],
    summary: str,
) -> argparse.ArgumentParser:
    command = commands.add_parser(name, parents=[common], help=summary, description=summary)
    command.set_defaults(run=run)
    return command


def _model_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--model", default="emoji", help="a bundled name or a .safetensors file (default: emoji)"
    )
    command.add_argument(
        "--device", default="auto", help="auto (a GPU where there is one), cpu, cuda or mps"
    )
    command.add_argument(
        "--text-encoder",
        type=Path,
        metavar="FOLDER",
        help="the CLIP text encoder, for a model that was trained on one",
    )


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"is {value}; expected 1 or more")
    return value


def _above_zero(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"is {value:g}; expected a number above 0")
    return value


def pick_device(name: str):
    """The torch device called `name`; ValueError where this machine has none."""
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError):
        raise ValueError(f"device {name!r} is not available here; try --device cpu") from None
    return device


def _load(args: argparse.Namespace):
    from .model import load

    device = pick_device(args.device)
    model = load(args.model, device=device)
    if args.text_encoder is None:
        return model
    from .conditioning.clip import ClipEncoder, ClipFolder

    return model.with_text_encoder(ClipEncoder(ClipFolder(args.text_encoder, device)))


# -- sample ---------------------------------------------------------------------------------------


def _add_sample(commands, common) -> None:
    c = _command(commands, common, "sample", run_sample, "Draw pictures for prompts.")
    _model_options(c)
    c.add_argument(
        "--prompt", action="append", metavar="TEXT", help="what to draw; repeat for several"
    )
    c.add_argument(
        "--image", action="append", type=Path, metavar="FILE",
        help="a picture of what to draw, transparent or not; repeat for several",
    )  # fmt: skip
    c.add_argument(
        "--audio", action="append", type=Path, metavar="FILE",
        help="a recording of someone saying in English what to draw; repeat for several",
    )  # fmt: skip
    c.add_argument("--style", help="one of the model's styles; without it each seed takes one")
    c.add_argument("--seed", type=int, default=0, help="the first seed (default 0)")
    c.add_argument(
        "--num",
        type=_positive,
        default=1,
        metavar="N",
        help="pictures a prompt, from consecutive seeds",
    )
    c.add_argument(
        "--truncation", type=float, default=1.0, help="1 varied ... 0 the average picture"
    )
    c.add_argument("--tile", choices=("none", "x", "both"), default="none", help="seamless edges")
    c.add_argument("--scale", type=_positive, default=1, help="enlarge whole pixels, for looking")
    c.add_argument("--upscale", action="store_true", help="redraw with four times the pixels")
    c.add_argument("--adapter", type=Path, metavar="FILE", help="what `imagen learn` wrote")
    c.add_argument("--strength", type=float, default=1.0, help="of the adapter (default 1)")
    c.add_argument(
        "--out",
        type=Path,
        required=True,
        help="FILE.png for one grid, or a folder for single files",
    )
    c.add_argument(
        "--credentials", type=Path, nargs=2, metavar=("CERT", "KEY"),
        help="sign the files (Content Credentials) with a certificate chain and its key, both PEM",
    )  # fmt: skip


def run_sample(args: argparse.Namespace) -> dict:
    if args.out.suffix and args.out.suffix.lower() != ".png":
        raise ValueError(f"--out is {args.out}; expected a .png file or a folder")
    signer = _signer(args)
    model = _adapted(_load(args), args)
    seeds = [(args.seed + i) % (1 << 64) for i in range(args.num)]
    condition, prompts = _asked(model, args)  # loads the encoders
    started = time.perf_counter()
    pictures = _drawn(model, condition, seeds, args)
    seconds = time.perf_counter() - started
    paths = _write_pictures(pictures, prompts, seeds, model, args, signer)
    per_image = 1000 * seconds / len(pictures)
    for path in paths:
        print(path)
    print(f"{len(pictures)} pictures in {seconds:.2f} s, {per_image:.1f} ms each, {model.device}")
    return {
        "model": model.name,
        "files": [str(p) for p in paths],
        "prompts": prompts,
        "seeds": seeds,
        "seconds": seconds,
        "ms_per_image": per_image,
        "device": str(model.device),
    }


def _asked(model, args: argparse.Namespace):
    """What to draw, and a name for each row. Modalities have equal shares in a row; one prompt, or
    one file, goes with all of another modality's."""
    from .condition import combined

    parts = []  # (condition, names)
    if args.prompt or not (args.image or args.audio):
        texts = args.prompt or [""]
        parts.append((model.encode_text(texts, style=args.style), texts))
    if args.image:
        from .conditioning.image import INPUT_PX

        pictures = _read_pictures(args.image, resolution=INPUT_PX, channels=4)
        condition = model.encode_image(pictures, style=args.style)
        parts.append((condition, [path.name for path in args.image]))
    if args.audio:
        from .data.sound import read_sound

        clips = [read_sound(path) for path in args.audio]
        condition = model.encode_audio(clips, style=args.style)
        parts.append((condition, [path.name for path in args.audio]))
    condition, names = parts[0]
    for i, (other, theirs) in enumerate(parts[1:], start=1):
        condition = combined(condition, other, 1 / (i + 1))
        columns = (n * len(condition) if len(n) == 1 else n for n in (names, theirs))
        names = [" + ".join(row) for row in zip(*columns, strict=True)]
    return condition, names


def _adapted(model, args: argparse.Namespace):
    """The model with the adapter that was asked for."""
    if args.adapter is None:
        return model
    from .feedback.adapter import apply_adapter, load_adapter

    return apply_adapter(model, load_adapter(args.adapter), args.strength)


def _drawn(model, condition, seeds: list[int], args: argparse.Namespace):
    import torch

    from .inference.upscaler import upscale

    rows = torch.arange(len(condition)).repeat_interleave(len(seeds))
    latent = model.latent(seeds * len(condition))
    drawn = model.draw(condition[rows], latent, truncation=args.truncation, tile=args.tile)
    return upscale(drawn, device=model.device, tile=args.tile) if args.upscale else drawn


def _signer(args: argparse.Namespace):
    """Who signs what is written, tried before anything is drawn; None where nobody does."""
    if args.credentials is None:
        return None
    from .storage.credentials import Signer

    return Signer(*args.credentials)


def _write_pictures(pictures, prompts, seeds, model, args, signer) -> list[Path]:
    """A grid with a row a prompt, or one file each; every file says how it was made."""
    from .storage.contact_sheet import picture_grid
    from .storage.images import save_png
    from .storage.provenance import model_facts

    facts = model_facts(model.name, model.card) | {
        "style": args.style, "truncation": args.truncation, "tile": args.tile,
        **({"upscaled": True} if args.upscale else {}),
    }  # fmt: skip
    form = {"scale": args.scale, "deep": "notice" in facts, "signer": signer}
    if args.out.suffix:
        columns = len(seeds) if len(prompts) > 1 else min(len(seeds), 8)
        sheet = picture_grid(pictures, columns=columns)
        save_png(sheet, args.out, {**facts, "prompts": prompts, "seeds": seeds}, **form)
        return [args.out]
    paths = []
    for i, picture in enumerate(pictures):
        prompt, seed = prompts[i // len(seeds)], seeds[i % len(seeds)]
        path = args.out / f"{i // len(seeds):04d}-{seed}.png"
        save_png(picture, path, {**facts, "prompt": prompt, "seed": seed}, **form)
        paths.append(path)
    return paths


def _read_pictures(paths: list[Path], *, resolution: int, channels: int):
    """Picture files as one batch [N, channels, resolution, resolution] in [-1, 1]."""
    import numpy as np
    import torch

    from .data.image_reader import premultiplied, read_picture

    arrays = [
        premultiplied(read_picture(path, resolution=resolution, channels=channels))
        for path in paths
    ]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 127.5 - 1


# -- score ----------------------------------------------------------------------------------------


def _add_score(commands, common) -> None:
    c = _command(
        commands, common, "score", run_score, "Let the discriminator rank pictures, best first."
    )
    c.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    _model_options(c)
    c.add_argument("--prompt", help="also judge how well the pictures fit this text")
    c.add_argument("--style", help="the style that the prompt asks for")


def run_score(args: argparse.Namespace) -> dict:
    model = _load(args)
    channels = model.config.generator.channels
    pictures = _read_pictures(args.images, resolution=model.resolution, channels=channels)
    condition = None
    if args.prompt is not None:
        condition = model.encode_text(args.prompt, style=args.style)
    scores = model.score(pictures, condition)
    rows = []
    for rank, i in enumerate(scores.order.tolist(), start=1):
        row = {"rank": rank, "image": str(args.images[i]), "realism": float(scores.realism[i])}
        line = f"{rank:3d}  realism {row['realism']:+.3f}"
        if scores.match is not None:
            row["match"] = float(scores.match[i])
            line += f"  match {row['match']:+.3f}"
        rows.append(row)
        print(f"{line}  {row['image']}")
    return {"model": model.name, "scores": rows}


# -- evaluate -------------------------------------------------------------------------------------


def _add_evaluate(commands, common) -> None:
    c = _command(
        commands, common, "evaluate", run_evaluate,
        "Measure a model on held-out pictures: distances, retrieval, copying, variety, speed.",
    )  # fmt: skip
    _model_options(c)
    c.add_argument("--data", type=Path, required=True, help="a folder made by `imagen data`")
    c.add_argument("--html", type=Path, metavar="FILE", help="also write a page with pictures")


def run_evaluate(args: argparse.Namespace) -> dict:
    from .evaluation.evaluate import evaluate

    stage = partial(print, file=sys.stderr, flush=True)
    result = evaluate(_load(args), args.data, html=args.html, stage=stage)
    print(json.dumps(result, indent=1))
    for line in result["flags"].values() or ["none of the checks found something wrong"]:
        stage(line)
    return result


# -- train ----------------------------------------------------------------------------------------


def _add_train(commands, common) -> None:
    c = _command(
        commands, common, "train", run_train,
        "Train a generator on a folder of pictures. Stop with Ctrl-C and go on with --resume.",
    )  # fmt: skip
    c.add_argument(
        "data", type=Path, help="pictures: captions in metadata.jsonl, .txt or folder names"
    )
    c.add_argument(
        "--out", type=Path, required=True, metavar="RUN", help="where the run is written"
    )
    c.add_argument("--preset", help="nano, small, base, large or dcgan (default nano, or --init's)")
    c.add_argument(
        "--init",
        metavar="MODEL",
        help="begin with a trained model (a bundled name or a file) instead of random weights",
    )
    c.add_argument(
        "--resolution",
        type=int,
        help="pixels a side: 32, 64, 128 or 256; more than --init's: it grows",
    )
    c.add_argument(
        "--stage", choices=("pretrain", "text"), help="default: text if there are captions"
    )
    c.add_argument("--kimg", type=float, default=0.0, help="stop after so many thousand images")
    c.add_argument("--minutes", type=float, default=0.0, help="stop after so many minutes")
    c.add_argument(
        "--text-encoder",
        metavar="FOLDER",
        help="let a CLIP text encoder read the captions, a folder of Hugging Face's (extra clip), "
        "in place of the bundled MiniLM",
    )
    c.add_argument("--batch", type=_positive, help="images a step (default 32, dcgan 128)")
    c.add_argument(
        "--lr",
        type=_above_zero,
        help="learning rate at the start (default: by the preset's width, half of it with --init)",
    )
    c.add_argument("--seed", type=int, help="default 0")
    c.add_argument(
        "--snapshot",
        type=_above_zero,
        metavar="KIMG",
        help="show and keep what the model draws every so many thousand images (default 20, "
        "on a GPU 200)",
    )
    c.add_argument(
        "--keep", type=int, metavar="N", help="keep the newest N snapshots (default all)"
    )
    c.add_argument(
        "--objective",
        choices=("hinge", "rpgan", "non-saturating", "minimax", "wgan-gp"),
        help="the game that is played (default hinge, dcgan non-saturating)",
    )
    c.add_argument(
        "--gamma",
        type=float,
        help="fix the weight of the R1 and R2 penalties; nobody needs to: by default it adapts "
        "itself for rpgan, and the other games have none",
    )
    c.add_argument(
        "--unroll",
        type=int,
        metavar="N",
        help="the generator looks N steps of the discriminator ahead (default 0)",
    )
    c.add_argument(
        "--save-memory",
        action="store_true",
        default=None,
        help="compute the generator's blocks twice instead of keeping them",
    )
    c.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    c.add_argument(
        "--resume",
        action="store_true",
        help="go on where RUN stopped, with its settings where no others are given",
    )
    c.add_argument("--dry-run", action="store_true", help="say what would be done, and end")
    c.add_argument(
        "--accumulate",
        type=_positive,
        metavar="K",
        help="play each batch in K parts: the same training with less memory and a third more "
        "work (default 1)",
    )
    c.add_argument(
        "--compile",
        action="store_true",
        default=None,
        help="compile the networks first (torch.compile; minutes, for long runs)",
    )
    c.add_argument(
        "--penalty",
        choices=("finite-difference", "exact"),
        help="how the penalties are found: probed (default), or exactly, which takes twice as long",
    )


def run_train(args: argparse.Namespace) -> dict:
    from .training.distributed import DistributedContext
    from .training.options import TrainOptions
    from .training.plan import describe, estimate
    from .training.setup import prepare, save_cache

    for number in (signal.SIGINT, signal.SIGTERM):  # a shell ignores the first for background jobs
        signal.signal(number, _stop)
    team = DistributedContext.current()
    if team.is_first and _holds_something(args.out) and not (args.resume or args.dry_run):
        raise ValueError(
            f"{args.out} already holds a run; go on with --resume, or choose another --out"
        )
    choices = TrainOptions(
        **{field.name: getattr(args, field.name) for field in fields(TrainOptions)}
    )
    trainer = prepare(
        args.data,
        args.out,
        choices,
        device=team.device or pick_device(args.device),
        progress=_bar if team.is_first else _no_bar,
        resume=args.resume,
        context=team,
    )
    plan = describe(trainer)
    if args.dry_run:
        plan |= estimate(trainer)
    if team.is_first:
        _print_plan(plan)
    if args.dry_run or not team.is_first:
        if not args.dry_run:
            trainer.run()
        team.close()
        return plan
    _measure_as_it_goes(trainer)
    if args.resume and not trainer.progress.cur_nimg:
        print("nothing saved yet: starting fresh")
    save_cache(trainer)
    finished = _train(trainer)
    team.close()
    if not finished:
        typed = [word for word in args.typed if word != "--resume"]
        print(f"stopped and saved; go on with: {shlex.join(['imagen', *typed, '--resume'])}")
    print(f"trained {trainer.progress.cur_nimg / 1000:.1f} kimg: {args.out / 'latest.safetensors'}")
    return {**plan, "kimg": trainer.progress.cur_nimg / 1000, "seconds": trainer.progress.seconds}


def _holds_something(folder: Path) -> bool:
    return folder.exists() and any(folder.iterdir())


def _print_plan(plan: dict) -> None:
    for name, value in plan.items():
        print(f"{name:>12}: {value}")


def _measure_as_it_goes(trainer) -> None:
    """Figures at every snapshot, where what they need is installed."""
    from .evaluation.training_metrics import TrainingMetrics

    try:
        trainer.metrics = TrainingMetrics(trainer.dataset, trainer.captions)
    except ValueError as error:
        print(f"without figures on the way: {error}")


def _train(trainer) -> bool:
    """Train with a bar; False where the user stopped it after something had been trained."""
    from tqdm import tqdm

    from .training.plan import format_duration

    with tqdm(total=1.0, bar_format="{percentage:3.0f}%|{bar}| {desc}") as bar:

        def show(progress) -> None:
            bar.n = min(progress.fraction, 1.0)
            bar.set_description_str(
                f"{progress.cur_nimg / 1000:.1f} kimg, {progress.img_per_sec:.1f} img/s, "
                f"{format_duration(progress.eta_sec)} left",
                refresh=False,
            )
            bar.update(0)

        try:
            trainer.run(show)
        except KeyboardInterrupt:
            if not trainer.progress.cur_nimg:
                raise
            return False
    return True


def _bar(label: str) -> Callable[[int, int], None]:
    """A progress callback (done, total) drawn as a bar."""
    from tqdm import tqdm

    bar = None

    def show(done: int, total: int) -> None:
        nonlocal bar
        if bar is None:
            bar = tqdm(desc=label, unit="", leave=False, total=total)
            _open_bars.append(bar)
        bar.update(done - bar.n)
        if done == total:
            bar.close()

    return show


_open_bars: list = []  # what a failure leaves on the line where the error will stand


def _no_bar(label: str) -> Callable[[int, int], None]:
    return lambda done, total: None


def _stop(signum: int, frame: object) -> None:
    raise KeyboardInterrupt


# -- data -----------------------------------------------------------------------------------------


def _add_data(commands, common) -> None:
    data = commands.add_parser("data", help="Prepare training pictures.")
    kinds = data.add_subparsers(dest="kind", required=True, metavar="KIND")
    emoji = _command(
        kinds, common, "emoji", run_data_emoji,
        "Build the four-style emoji set (npm fetches about 60 MB of pictures).",
    )  # fmt: skip
    emoji.add_argument(
        "--source", type=Path, help="a node_modules folder with the packages unpacked"
    )
    folder = _command(
        kinds, common, "folder", run_data_folder,
        "Scale a folder of your own: class folders, .txt captions or metadata.jsonl.",
    )  # fmt: skip
    folder.add_argument("--source", type=Path, required=True, help="the folder")
    dicom = _command(
        kinds, common, "dicom", run_data_dicom,
        "Turn CT, MR and other grey DICOM files into pictures without patient data.",
    )  # fmt: skip
    dicom.add_argument(
        "--source", type=Path, nargs="+", required=True, metavar="PATH", help="files and folders"
    )
    dicom.add_argument(
        "--window",
        type=float,
        nargs=2,
        metavar=("CENTER", "WIDTH"),
        help="what is shown from black to white, as -600 1500 for lungs (default: the files' own)",
    )
    shards = _command(
        kinds, common, "shards", run_data_shards,
        "Pack a folder into WebDataset tar files, which `imagen train` reads as well.",
    )  # fmt: skip
    shards.add_argument("folder", type=Path, metavar="FOLDER", help="what `imagen train` reads")
    images = _command(
        kinds, common, "open-images", run_data_open_images,
        "Pack the official Open Images V6 files with Localized Narratives into WebDataset shards.",
    )  # fmt: skip
    images.add_argument("--source", type=Path, required=True, help="the folder with those files")
    images.add_argument(
        "--resolution", type=_positive, help="scale smaller sides to it (default: as they are)"
    )
    for command in (shards, images):
        command.add_argument("--out", type=Path, required=True, help="a new folder")
        command.add_argument(
            "--shard-size", type=_positive, default=256, metavar="MB", help="default 256"
        )
    for command in (emoji, folder, dicom):
        command.add_argument("--out", type=Path, required=True, help="a new folder")
        command.add_argument("--resolution", type=_positive, default=64, help="default 64")


def run_data_emoji(args: argparse.Namespace) -> dict:
    from .data.prepare.emoji import build_emoji

    manifest = build_emoji(
        args.out, resolution=args.resolution, source=args.source, progress=_bar("drawing")
    )
    counts = manifest["pictures"]
    print(f"{args.out}: {counts['train']} pictures to train on, {counts['test']} held out")
    for source in manifest["sources"].values():
        print(f"  {source['package']}: {source['licence']}, {source['attribution']}")
    return manifest


def run_data_folder(args: argparse.Namespace) -> dict:
    from .data.prepare.folder import build_folder

    manifest = build_folder(
        args.source, args.out, resolution=args.resolution, progress=_bar("scaling")
    )
    print(f"{args.out}: {manifest['pictures']} pictures, {manifest['captioned']} with captions")
    for name in ("captions", "source_sizes", "near_duplicates"):
        print(f"  {name.replace('_', ' ')}: {manifest[name]}")
    _print_skipped(manifest["skipped"])
    return manifest


def run_data_dicom(args: argparse.Namespace) -> dict:
    from .data.prepare.dicom import build_dicom

    manifest, skipped = build_dicom(
        args.source,
        args.out,
        resolution=args.resolution,
        window=args.window and tuple(args.window),
        progress=_bar("reading"),
    )
    print(f"{args.out}: {manifest['pictures']} pictures from {manifest['files']} files")
    _print_skipped(skipped)
    return manifest


def run_data_shards(args: argparse.Namespace) -> dict:
    from .data.prepare.shards import build_shards

    manifest = build_shards(
        args.folder, args.out, shard_mb=args.shard_size, progress=_bar("packing")
    )
    print(
        f"{args.out}: {manifest['pictures']} pictures, {manifest['captioned']} with captions, "
        f"{manifest['shards']} shards"
    )
    _print_skipped(manifest["skipped"])
    return manifest


def run_data_open_images(args: argparse.Namespace) -> dict:
    from .data.prepare.open_images import build_open_images

    manifest = build_open_images(
        args.source,
        args.out,
        resolution=args.resolution,
        shard_mb=args.shard_size,
        progress=_bar,
    )
    print(
        f"{args.out}: {manifest['pictures']} pictures in {manifest['shards']} shards, "
        f"{manifest['narrated']} with a narrative, {manifest['spoken']} with its recording"
    )
    _print_skipped(manifest["skipped"])
    return manifest


def _print_skipped(reasons: list[str], *, most: int = 10) -> None:
    """The first few; a count says how many more there are."""
    for reason in reasons[:most]:
        print(f"  skipped {reason}")
    if len(reasons) > most:
        print(f"  and {len(reasons) - most} more")


# -- info -----------------------------------------------------------------------------------------


def _add_info(commands, common) -> None:
    c = _command(
        commands, common, "info", run_info,
        "Show a checkpoint's configuration and card, or how a picture was made.",
    )  # fmt: skip
    c.add_argument("model", help="a bundled name, a .safetensors file, or a .png that was drawn")


def run_info(args: argparse.Namespace) -> dict:
    from .bundled import find_model
    from .checkpoint import read_metadata
    from .storage.provenance import SUFFIXES, read_facts

    path = Path(args.model)
    if path.suffix.lower() in SUFFIXES:
        result: dict = {"file": str(path), **read_facts(path)}
        print(json.dumps(result, indent=1, ensure_ascii=False))
        return result
    path = find_model(args.model)
    metadata = read_metadata(path)
    result = {
        "file": str(path),
        "format": int(metadata["imagen.format"]),
        "config": json.loads(metadata["imagen.config"]),
        "card": json.loads(metadata["imagen.card"]),
    }
    print(json.dumps(result, indent=1, ensure_ascii=False))
    return result


# -- convert --------------------------------------------------------------------------------------


def _add_convert(commands, common) -> None:
    c = _command(
        commands, common, "convert", run_convert,
        "Turn the reference article's generator_N.pth and discriminator_N.pth into a checkpoint.",
    )  # fmt: skip
    c.add_argument("generator", type=Path, metavar="FILE.pth", help="the generator's state dict")
    c.add_argument(
        "--discriminator", type=Path, metavar="FILE.pth", help="default: the one beside it"
    )
    c.add_argument("--out", type=Path, required=True, metavar="M", help="a .safetensors file")


def run_convert(args: argparse.Namespace) -> dict:
    from .convert_dcgan import convert

    card = convert(args.generator, args.out, discriminator=args.discriminator)
    print(args.out)
    return {"file": str(args.out), "card": card}
