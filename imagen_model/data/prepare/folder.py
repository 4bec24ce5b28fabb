"""`imagen data folder`: a user's folder -> pictures of one size with metadata.jsonl."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image

from ...progress import OnProgress, reported
from ...storage.files import brief, check_outside
from ..folder import list_items, read_notice
from ..image_reader import premultiplied, read_item, warn_of_cropped
from ..statistics import (
    FingerprintCollector,
    describe_captions,
    describe_duplicates,
    describe_sizes,
    near_duplicates,
)
from .output import copied_references, new_folder, write_manifest, write_metadata


def build_folder(
    source: Path,
    out: Path,
    *,
    resolution: int,
    channels: int = 4,
    progress: OnProgress | None = None,
) -> dict:
    """Scale a user's folder into the imagefolder convention; returns the manifest."""
    check_outside(out, source)
    items, left_out = list_items(source)
    with new_folder(out):
        train = out / "train"
        train.mkdir()
        kept, kept_files, skipped, sources = [], [], [], []
        collector = FingerprintCollector()
        for i, item in enumerate(reported(items, len(items), progress)):
            try:
                array, source_facts = read_item(item, resolution=resolution, channels=channels)
            except ValueError as error:
                skipped.append(str(error))
                continue
            path = train / f"{i:07d}.png"
            Image.fromarray(array.squeeze()).save(path)
            kept.append(
                replace(item, path=path, span=None, **copied_references(item, path, skipped))
            )
            kept_files.append(item.path)
            sources.append(source_facts)
            collector.add(premultiplied(array).transpose(2, 0, 1))
        if not kept:
            raise ValueError(f"no readable picture in {source}; the first: {brief(skipped[0])}")
        write_metadata(train, kept)
    cropped = sum(facts.is_cropped for facts in sources)
    warn_of_cropped(cropped, len(kept))
    duplicates = near_duplicates(collector.fingerprints())
    manifest = {
        "source": str(source),
        "resolution": resolution,
        "channels": channels,
        "pictures": len(kept),
        "captioned": sum(bool(item.text) for item in kept),
        "captions": describe_captions([item.text for item in kept]),
        "source_sizes": describe_sizes(torch.tensor([facts.side for facts in sources])),
        "cropped": cropped,
        "near_duplicates": describe_duplicates(duplicates, kept_files),
        "skipped": skipped,
        "left_out": left_out.lines(),
        "styles": dict(Counter(item.style for item in kept if item.style)),
        **({"notice": notice} if (notice := read_notice(source)) else {}),
    }
    write_manifest(out, manifest)
    return manifest
