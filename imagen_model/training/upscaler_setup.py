"""From a folder of pictures to an UpscalerTraining that is ready to run."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..data.folder import read_items, read_notice
from ..data.item import Item
from ..inference.sampling import BATCH, batches
from ..inference.upscaler import as_rgba
from ..model import Model
from ..progress import OnProgress, ProgressFor
from ..storage.files import check_outside
from .run_lock import check_not_locked
from .upscaler import UpscalerOptions, UpscalerTraining
from .upscaler_data import Patches, read_patches

HELD_OUT_SHARE, MAX_HELD_OUT = 1 / 20, 64  # of the pictures, for figures at the end
GENERATED_POOL = 256  # pictures of a model to choose from


class PreparedUpscaler(NamedTuple):
    """A training, what its file will say of the data, and patches of pictures that it never sees:
    none of fewer than 20 pictures."""

    training: UpscalerTraining
    card: dict
    held_out: Patches | None


def prepare_upscaler(
    data: Path,
    out: Path,
    options: UpscalerOptions,
    *,
    device: torch.device,
    progress: ProgressFor,
    model: Model | None = None,
) -> PreparedUpscaler:
    """Read the pictures at their full size; nothing is written yet. Pictures that `model` generates
    for their captions take part.

    What was saved in `out` is continued. ValueError with one line for what cannot be trained on.
    """
    check_outside(out, data)
    check_not_locked(out)
    items = read_items(data)
    order = torch.randperm(len(items), generator=torch.Generator().manual_seed(options.seed))
    items = [items[i] for i in order.tolist()]
    first = min(int(len(items) * HELD_OUT_SHARE), MAX_HELD_OUT)
    read = partial(read_patches, scale=options.scale, seed=options.seed)
    patches = read(items[first:], progress=progress("reading"))
    held_out = read(items[:first], most=MAX_HELD_OUT) if first else None
    generated = None
    if model is not None:
        generated = generated_pictures(model, items[first:], progress("generating"))
    training = UpscalerTraining(patches, options, generated=generated, device=device)
    training.resume(out)
    card = {
        "name": out.name,
        "data": {"name": data.name, "pictures": patches.num_pictures},
        **({"generated_by": model.name} if model is not None else {}),
        **({"notice": notice} if (notice := read_notice(data)) else {}),
    }
    return PreparedUpscaler(training, card, held_out)


def generated_pictures(model: Model, items: list[Item], progress: OnProgress) -> Tensor:
    """RGBA pictures [GENERATED_POOL, 4, H, W] that a model generates for captions of items; without
    captions, for its null condition."""
    texts = [item.text if model.takes_words else "" for item in items]
    parts = []
    for part in batches(GENERATED_POOL, BATCH):
        seeds = range(part.start, part.stop)
        condition = model.encode_text([texts[seed % len(texts)] for seed in seeds])
        parts.append(as_rgba(model.draw(condition, model.latent(seeds)).cpu()))
        progress(part.stop, GENERATED_POOL)
    return torch.cat(parts)
