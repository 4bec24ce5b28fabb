"""The command `imagen sample`."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from .common import Commands, command, load_model, model_options, positive, read_pictures

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from ..condition import Condition
    from ..inference.upscaler import Upscaler
    from ..model import Model
    from ..storage.credentials import Signer

GRID_COLUMNS = 8  # at most, where all pictures have the same prompt
BUNDLED = Path("emoji-x4")  # the bundled upscaler


def add_command(commands: Commands) -> None:
    c = command(commands, "sample", run)
    model_options(c)
    _add_inputs(c)
    c.add_argument("--seed", type=int, default=0, help="the first seed (default 0)")
    c.add_argument(
        "--num", type=positive, default=1, metavar="N",
        help="pictures a prompt, from consecutive seeds",
    )  # fmt: skip
    c.add_argument(
        "--truncation", type=float, default=1.0, help="1 varied ... 0 the average picture"
    )
    c.add_argument("--tile", choices=("none", "x", "both"), default="none", help="seamless edges")
    c.add_argument(
        "--alpha", choices=("soft", "hard"), default="soft",
        help="hard: each pixel is opaque or transparent (default soft)",
    )  # fmt: skip
    c.add_argument(
        "--colours", type=int, default=0, metavar="N",
        help="quantise to one palette for all pictures and write indexed PNGs (default 0: all)",
    )  # fmt: skip
    c.add_argument("--scale", type=positive, default=1, help="enlarge whole pixels, for looking")
    c.add_argument(
        "--upscale", nargs="?", type=Path, const=BUNDLED, metavar="FILE",
        help="enlarge by a neural network: four times by the bundled one, or by a FILE of `imagen "
        "train-upscaler`",
    )  # fmt: skip
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


def _add_inputs(c: argparse.ArgumentParser) -> None:
    c.add_argument(
        "--prompt", action="append", metavar="TEXT", help="what to generate; repeat for several"
    )
    c.add_argument(
        "--image", action="append", type=Path, metavar="FILE",
        help="a picture of what to generate, transparent or not; repeat for several",
    )  # fmt: skip
    c.add_argument(
        "--audio", action="append", type=Path, metavar="FILE",
        help="a recording of someone saying in English what to generate; repeat for several",
    )  # fmt: skip
    c.add_argument("--style", help="one of the model's styles; without it each seed takes one")


def run(args: argparse.Namespace) -> dict:
    """Generate pictures for prompts."""
    from ..feedback.adapter import apply_adapter, load_adapter
    from ..storage.credentials import Signer
    from ..storage.palette import check_crisp, crisp_batches

    check_crisp(args.alpha, args.colours)
    if _is_grid(args) and args.out.suffix.lower() != ".png":
        raise ValueError(
            f"--out is {args.out}; expected a .png file or a folder (make one first whose name has "
            "a dot)"
        )
    signer = Signer(*args.credentials) if args.credentials else None  # it signs once, as a test
    upscaler = _load_upscaler(args)
    model = load_model(args)
    if args.adapter is not None:
        model = apply_adapter(model, load_adapter(args.adapter), args.strength)
    seeds = [(args.seed + i) % (1 << 64) for i in range(args.num)]
    condition, prompts = _encode_inputs(model, args)  # loads the encoders
    _check_size(model, len(prompts), upscaler, args)
    batches = _generate(model, condition, seeds, args)
    upscaled = _upscaled(batches, model, upscaler, args)
    batches = _Timed(crisp_batches(upscaled, alpha=args.alpha, colours=args.colours))
    paths = []
    facts = _facts(model, upscaler, args)
    for path in _save(batches, prompts, seeds, facts, args, signer):
        print(path)
        paths.append(path)
    count, seconds = len(prompts) * len(seeds), batches.seconds
    per_image = 1000 * seconds / count
    print(f"{count} pictures in {seconds:.2f} s, {per_image:.1f} ms each, {model.device}")
    return {
        "model": model.name,
        "files": [str(p) for p in paths],
        "prompts": prompts,
        "seeds": seeds,
        "seconds": seconds,
        "ms_per_image": per_image,
        "device": str(model.device),
    }


def _encode_inputs(model: Model, args: argparse.Namespace) -> tuple[Condition, list[str]]:
    """The conditions, and a name for each row. Modalities have equal shares in a row; a single
    prompt or file is combined with each of another modality's."""
    from ..condition import Condition, combined

    parts: list[tuple[Condition, list[str]]] = []  # of each modality: rows and their names
    if args.prompt or not (args.image or args.audio):
        texts = args.prompt or [""]
        parts.append((model.encode_text(texts, style=args.style), texts))
    if args.image:
        from ..conditioning.image import INPUT_PX

        pictures = read_pictures(args.image, resolution=INPUT_PX, channels=4)
        condition = model.encode_image(pictures, style=args.style)
        parts.append((condition, [path.name for path in args.image]))
    if args.audio:
        rows = [_encode_recording(model, path, args.style) for path in args.audio]
        parts.append((Condition.cat(rows), [path.name for path in args.audio]))
    condition, names = parts[0]
    for i, (other, other_names) in enumerate(parts[1:], start=1):
        condition = combined(condition, other, 1 / (i + 1))
        columns = (n * len(condition) if len(n) == 1 else n for n in (names, other_names))
        names = [" + ".join(row) for row in zip(*columns, strict=True)]
    return condition, names


def _is_grid(args: argparse.Namespace) -> bool:
    """Whether all pictures go into one file, and not each into its own in a folder."""
    return bool(args.out.suffix) and not args.out.is_dir()


def _encode_recording(model: Model, path: Path, style: str | None) -> Condition:
    """ValueError that names the file, if nothing can be heard in it."""
    from ..data.sound import read_sound

    clip = read_sound(path)  # its messages name the file
    try:
        return model.encode_audio([clip], style=style)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _columns(prompts: int, args: argparse.Namespace) -> int:
    """The columns of a grid: a row a prompt, or several rows of the only one."""
    return args.num if prompts > 1 else min(args.num, GRID_COLUMNS)


def _load_upscaler(args: argparse.Namespace) -> Upscaler | None:
    """The network of --upscale, on the CPU."""
    from ..inference.upscaler import UPSCALER_FILE, load_upscaler

    if args.upscale is None:
        return None
    return load_upscaler(UPSCALER_FILE if args.upscale == BUNDLED else args.upscale)


def _check_size(
    model: Model, prompts: int, upscaler: Upscaler | None, args: argparse.Namespace
) -> None:
    """ValueError, before the work, where a file would have too many pixels."""
    from ..storage.images import check_written_size

    side = model.resolution * args.scale * (upscaler.config.scale if upscaler else 1)
    columns = _columns(prompts, args) if _is_grid(args) else 1
    rows = -(-prompts * args.num // columns) if _is_grid(args) else 1
    check_written_size(columns * side, rows * side, "lower --scale or --num, or give a folder")


class _Timed:
    """An iterator, and the seconds that its items took so far."""

    def __init__(self, items: Iterator[Tensor]) -> None:
        self._items, self.seconds = items, 0.0

    def __iter__(self) -> _Timed:
        return self

    def __next__(self) -> Tensor:
        started = time.perf_counter()
        try:
            return next(self._items)
        finally:
            self.seconds += time.perf_counter() - started


def _generate(
    model: Model, condition: Condition, seeds: list[int], args: argparse.Namespace
) -> Iterator[Tensor]:
    """Every row of the condition with every seed, in batches [N, C, H, W]."""
    import torch

    from ..inference.sampling import BATCH, batches

    for part in batches(len(condition) * len(seeds), BATCH):
        index = torch.arange(part.start, part.stop)
        latent = model.latent([seeds[i] for i in (index % len(seeds)).tolist()])
        rows = condition[index // len(seeds)]
        yield model.draw(rows, latent, truncation=args.truncation, tile=args.tile)


def _upscaled(
    batches: Iterator[Tensor], model: Model, upscaler: Upscaler | None, args: argparse.Namespace
) -> Iterator[Tensor]:
    """The pictures with --upscale."""
    from ..inference.upscaler import upscale

    if upscaler is None:
        yield from batches
        return
    upscaler.to(model.device)
    for pictures in batches:
        yield upscale(pictures, network=upscaler, device=model.device, tile=args.tile)


def _as_written(pictures: Tensor, args: argparse.Namespace) -> Iterator[Tensor | Image]:
    """Each picture, with --colours as an indexed image, all of one palette."""
    from ..storage.palette import indexed_image, palette_of

    if not args.colours:
        yield from pictures
        return
    palette = palette_of(pictures)
    for picture in pictures:
        yield indexed_image(picture, palette)


def _facts(model: Model, upscaler: Upscaler | None, args: argparse.Namespace) -> dict:
    """How every picture was made, but for its prompt and seed."""
    from ..storage.provenance import model_facts

    facts = model_facts(model.name, model.card) | {
        "style": args.style, "truncation": args.truncation, "tile": args.tile,
    }  # fmt: skip
    if upscaler:
        facts["upscaled"] = True
        if args.upscale != BUNDLED:
            facts["upscaler"] = {key: upscaler.card.get(key) for key in ("name", "sha256")}
    if args.alpha != "soft":
        facts["alpha"] = args.alpha
    if args.colours:
        facts["colours"] = args.colours
    return facts


def _save(
    batches: Iterator[Tensor],
    prompts: list[str],
    seeds: list[int],
    facts: dict,
    args: argparse.Namespace,
    signer: Signer | None,
) -> Iterator[Path]:
    """Write a grid with a row a prompt, or one file each as soon as it is generated, and yield the
    paths; every file says how it was made."""
    import torch

    from ..storage.contact_sheet import picture_grid
    from ..storage.images import save_png

    form = {"scale": args.scale, "deep": "notice" in facts, "signer": signer}
    if _is_grid(args):
        grid = picture_grid(torch.cat([*batches]), columns=_columns(len(prompts), args))
        [image] = _as_written(grid[None], args)
        save_png(image, args.out, {**facts, "prompts": prompts, "seeds": seeds}, **form)
        yield args.out
        return
    for i, picture in enumerate(p for batch in batches for p in _as_written(batch, args)):
        prompt, seed = prompts[i // len(seeds)], seeds[i % len(seeds)]
        path = args.out / f"{i // len(seeds):04d}-{seed}.png"
        save_png(picture, path, {**facts, "prompt": prompt, "seed": seed}, **form)
        yield path
