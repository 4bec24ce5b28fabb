"""The commands `imagen data ...`."""

from __future__ import annotations

import argparse
from pathlib import Path

from .common import Commands, command, positive, print_skipped, progress_bar


def add_command(commands: Commands) -> None:
    data = commands.add_parser("data", help="Prepare training pictures.")
    kinds = data.add_subparsers(dest="kind", required=True, metavar="KIND")
    emoji = command(kinds, "emoji", _run_emoji)
    emoji.add_argument(
        "--source", type=Path, help="a node_modules folder with the packages unpacked"
    )
    emoji.add_argument(
        "--styles", type=_names, metavar="STYLE,...",
        help="default all: fluent-3d, fluent-flat, noto, twemoji, noto-v1, emojione, fxemoji, "
        "streamline",
    )  # fmt: skip
    folder = command(kinds, "folder", _run_folder)
    folder.add_argument("--source", type=Path, required=True, help="the folder")
    dicom = command(kinds, "dicom", _run_dicom)
    dicom.add_argument(
        "--source", type=Path, nargs="+", required=True, metavar="PATH", help="files and folders"
    )
    dicom.add_argument(
        "--window", type=float, nargs=2, metavar=("CENTER", "WIDTH"),
        help="what is shown from black to white, as -600 1500 for lungs (default: the files' own)",
    )  # fmt: skip
    shards = command(kinds, "shards", _run_shards)
    shards.add_argument("folder", type=Path, metavar="FOLDER", help="what `imagen train` reads")
    images = command(kinds, "open-images", _run_open_images)
    images.add_argument("--source", type=Path, required=True, help="the folder with those files")
    images.add_argument(
        "--resolution", type=positive, help="scale smaller sides to it (default: as they are)"
    )
    for c in (emoji, folder, dicom, shards, images):
        c.add_argument("--out", type=Path, required=True, help="a new folder")
    for c in (emoji, folder, dicom):
        c.add_argument("--resolution", type=positive, default=64, help="default 64")
    for c in (shards, images):
        c.add_argument("--shard-size", type=positive, default=256, metavar="MB", help="default 256")


def _run_emoji(args: argparse.Namespace) -> dict:
    """Build the emoji set in eight styles (npm fetches about 30 MB of pictures)."""
    from ..data.prepare.emoji import STYLES, build_emoji

    manifest = build_emoji(
        args.out,
        resolution=args.resolution,
        styles=args.styles or tuple(STYLES),
        source=args.source,
        progress=progress_bar("rendering"),
    )
    counts = manifest["pictures"]
    print(f"{args.out}: {counts['train']} pictures to train on, {counts['test']} held out")
    for source in manifest["sources"].values():
        print(f"  {source['package']}: {source['licence']}, {source['attribution']}")
    for style, names in manifest["unmapped"].items():
        print(f"  left out of {style}, because their names mean no emoji or several: {len(names)}")
    return manifest


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for name in text.split(",") if name)


def _run_folder(args: argparse.Namespace) -> dict:
    """Scale a folder of your own: class folders, .txt captions or metadata.jsonl."""
    from ..data.prepare.folder import build_folder
    from ..data.reading import left_out_text

    manifest = build_folder(
        args.source, args.out, resolution=args.resolution, progress=progress_bar("scaling")
    )
    print(
        f"{args.out}: {manifest['pictures']} pictures, {manifest['captioned']} with captions"
        f"{left_out_text(manifest['left_out'])}"
    )
    for name in ("captions", "source_sizes", "near_duplicates"):
        print(f"  {name.replace('_', ' ')}: {manifest[name]}")
    print_skipped(manifest["skipped"])
    return manifest


def _run_dicom(args: argparse.Namespace) -> dict:
    """Turn CT, MR and other grey DICOM files into pictures without patient data."""
    from ..data.prepare.dicom import build_dicom

    manifest, skipped, left_out = build_dicom(
        args.source,
        args.out,
        resolution=args.resolution,
        window=args.window and tuple(args.window),
        progress=progress_bar("reading"),
    )
    print(f"{args.out}: {manifest['pictures']} pictures from {manifest['files']} files{left_out}")
    print_skipped(skipped)
    return manifest


def _run_shards(args: argparse.Namespace) -> dict:
    """Pack a folder into WebDataset tar files, which `imagen train` reads as well."""
    from ..data.prepare.shards import build_shards
    from ..data.reading import left_out_text

    manifest = build_shards(
        args.folder, args.out, shard_mb=args.shard_size, progress=progress_bar("packing")
    )
    print(
        f"{args.out}: {manifest['pictures']} pictures, {manifest['captioned']} with captions, "
        f"{manifest['shards']} shards{left_out_text(manifest['left_out'])}"
    )
    print_skipped(manifest["skipped"])
    return manifest


def _run_open_images(args: argparse.Namespace) -> dict:
    """Pack the official Open Images V6 files with Localized Narratives into WebDataset shards."""
    from ..data.prepare.open_images import build_open_images

    manifest = build_open_images(
        args.source,
        args.out,
        resolution=args.resolution,
        shard_mb=args.shard_size,
        progress=progress_bar,
    )
    print(
        f"{args.out}: {manifest['pictures']} pictures in {manifest['shards']} shards, "
        f"{manifest['narrated']} with a narrative, {manifest['spoken']} with its recording"
    )
    print_skipped(manifest["skipped"])
    return manifest
