"""Conversions between the store's recipes of pictures (plain data) and tensors."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..condition import Condition
from ..data.image_reader import DAMAGE
from ..inference.latent import Latent
from ..inference.sampling import fitted
from ..model import Model
from ..progress import OnPictures
from ..storage.images import as_model_pictures
from ..version import __version__
from .store import Picture

DAMAGED = "a rated picture has damaged numbers; delete its ratings"


def pictures_of(
    model: Model,
    condition: Condition,
    latent: Latent,
    generated: Tensor | None = None,
    *,
    texts: Sequence[str] | None = None,
    style: str | None = None,
    truncation: float = 1.0,
) -> list[Picture]:
    """The recipes of the pictures of one call of `model.draw`, with the pictures where given.

    `texts` and `style` gave the condition; without them its numbers are kept.
    """
    condition, latent = fitted(model.networks, condition, latent)
    if texts is not None and len(texts) != len(latent):
        raise ValueError(f"{len(texts)} texts do not fit {len(latent)} pictures")
    if generated is not None and len(generated) != len(latent):
        raise ValueError(
            f"{len(generated)} pictures and {len(latent)} latents; link the pictures' own latents"
        )
    known = model.latent(latent.seeds).values if latent.space == "z" else None
    adapter = model.card.get("adapter")
    adapter = adapter and {key: adapter.get(key) for key in ("sha256", "strength")}
    pictures = []
    for i, seed in enumerate(latent.seeds):
        from_seed = known is not None and torch.equal(latent.values[i].cpu().float(), known[i])
        pictures.append(
            Picture(
                model=model_hash(model),
                seed=seed,
                text="" if texts is None else texts[i],
                style=style,
                truncation=truncation,
                space=latent.space,
                values=None if from_seed else packed(latent.values[i]),
                condition=packed_condition(condition, i) if texts is None else None,
                adapter=adapter,
                code_version=__version__,
                png=None if generated is None else to_png(generated[i]),
            )
        )
    return pictures


def model_hash(model: Model) -> str:
    """The sha256 of the model's tensors, from its card."""
    known = model.card.get("sha256")
    if not known:
        raise ValueError(f"model {model.name} has no hash; save it first")
    return known


def regenerated(
    model: Model, pictures: Sequence[Picture], progress: OnPictures | None = None
) -> list[Tensor | None]:
    """The pictures [C, H, W], from their kept pixels or generated again; None for a picture of
    another model or of an adapter whose pixels were not kept."""
    own_hash = model_hash(model)
    config = model.config.generator
    result: list[Tensor | None] = []
    for done, picture in enumerate(pictures):
        if progress is not None:
            progress(done, len(pictures), None)
        if picture.png is not None:
            result.append(from_png(picture.png, config.resolution, config.channels))
        elif picture.model == own_hash and picture.adapter is None:
            condition, latent = inputs_of(model, picture)
            result.append(model.draw(condition, latent, truncation=picture.truncation)[0])
        else:
            result.append(None)
    return result


def inputs_of(model: Model, picture: Picture) -> tuple[Condition, Latent]:
    """Condition and latent, one row each, as `model.draw` takes them."""
    if picture.condition is None:
        condition = model.encode_text(picture.text, style=picture.style)
    else:
        condition = unpacked_condition(picture.condition)
    latent = model.latent([picture.seed])
    if picture.values is not None:
        latent = Latent(picture.space, unpacked(picture.values)[None], latent.seeds)
    return condition, latent


def packed(values: Tensor) -> dict:
    """A tensor as plain data, fp32 to the bit."""
    array = values.detach().float().cpu().contiguous().numpy()
    return {"shape": list(array.shape), "float32": base64.b64encode(array.tobytes()).decode()}


def unpacked(plain: Any) -> Tensor:
    """ValueError for anything but what `packed` gives."""
    try:
        array = np.frombuffer(base64.b64decode(plain["float32"]), dtype="<f4")
        return torch.from_numpy(array.copy()).view(plain["shape"])
    except (ValueError, TypeError, LookupError, RuntimeError):
        raise ValueError(DAMAGED) from None


def packed_condition(condition: Condition, row: int) -> dict:
    """One row; masked tokens are left out."""
    return {
        "tokens": packed(condition.tokens[row][condition.mask[row]]),
        "pooled": packed(condition.pooled[row]),
        "style": packed(condition.style[row]),
    }


def unpacked_condition(plain: dict) -> Condition:
    tokens, pooled, style = (unpacked(plain.get(name)) for name in ("tokens", "pooled", "style"))
    if [t.ndim for t in (tokens, pooled, style)] != [2, 1, 1] or tokens.shape[1] != len(pooled):
        raise ValueError(DAMAGED)
    mask = torch.ones(1, max(len(tokens), 1), dtype=torch.bool)
    if not len(tokens):  # the null condition: a single masked token
        tokens, mask = tokens.new_zeros(1, tokens.shape[1]), ~mask
    return Condition(tokens[None], mask, pooled[None], style[None])


def to_png(picture: Tensor) -> bytes:
    """[C, H, W] in [-1, 1] -> a PNG file; RGBA stays premultiplied."""
    array = ((picture.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0)
    image = Image.fromarray(np.ascontiguousarray(array.cpu().squeeze(2).numpy()))
    file = io.BytesIO()
    image.save(file, format="PNG")
    return file.getvalue()


def from_png(png: bytes, resolution: int, channels: int) -> Tensor:
    """The file of `to_png` -> [C, H, W] in [-1, 1], of the model's size and channels."""
    try:
        with Image.open(io.BytesIO(png), formats=("PNG",)) as image:
            array = torch.from_numpy(np.array(image)).float() / 127.5 - 1
    except DAMAGE as error:
        raise ValueError(f"a rated picture is no readable PNG ({error}); delete it") from None
    picture = array.view(*array.shape[:2], -1).permute(2, 0, 1)[None]
    return as_model_pictures(picture, resolution=resolution, channels=channels)[0]
