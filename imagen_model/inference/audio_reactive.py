"""Sound -> frames: a walk through latents in w that the sound pushes.

As in audio-reactive StyleGAN films, the early blocks (layout), the middle ones (parts) and the late
ones (colour and detail) each follow a source of their own. A push goes along the walk itself,
towards the latents that come next, so every frame stays among points that the generator knows.
Frames are generated a batch at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..condition import Condition, combined
from ..networks.networks import Networks
from ..progress import OnPictures
from .latent import Latent
from .sampling import BATCH, draw, fitted, into_w, settled
from .sound_analysis import SOURCES, Sound

STYLE_SHARE = 0.2  # of the way between two latents, in which one style gives way to the next


@dataclass(frozen=True)
class Reactions:
    """How a walk answers its sound. Pushes are in steps from one latent to the next.

    A push by melody goes to the latents that the sounding pitch classes stand for instead, all the
    way from 1 on. Attack and release: seconds in which a push grows and dies; smoothing: seconds
    over which it is averaged.
    """

    coarse: float = 0.7
    middle: float = 0.7
    fine: float = 0.7
    coarse_from: str = "bass"
    middle_from: str = "melody"
    fine_from: str = "onsets"
    attack: float = 0.02
    release: float = 0.3
    smoothing: float = 0.03
    loop: bool = True

    def __post_init__(self) -> None:
        for name in ("coarse_from", "middle_from", "fine_from"):
            if getattr(self, name) not in SOURCES:
                known = ", ".join(SOURCES)
                raise ValueError(f"{name} is {getattr(self, name)!r}; expected one of {known}")
        limits = {"coarse": 8, "middle": 8, "fine": 8, "attack": 10, "release": 10, "smoothing": 10}
        for name, top in limits.items():
            if not 0 <= getattr(self, name) <= top:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 0 to {top}")


# -- from what is heard to latents ----------------------------------------------------------------


def followed(x: np.ndarray, frame_rate: float, *, attack: float, release: float) -> np.ndarray:
    """An envelope of x [T]: it rises with one time constant and falls with the other."""
    up, down = (1 - math.exp(-1 / (frame_rate * max(sec, 1e-6))) for sec in (attack, release))
    level, result = 0.0, np.empty_like(x)
    for i, value in enumerate(x.tolist()):
        level += (up if value > level else down) * (value - level)
        result[i] = level
    return result


def smoothed(x: np.ndarray, sigma: float) -> np.ndarray:
    """x [T, ...] under a Gaussian of `sigma` frames, which shifts nothing in time."""
    reach = min(int(3 * sigma), len(x) - 1)
    if reach < 1:
        return x
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    padded = np.pad(x, [(reach, reach), *[(0, 0)] * (x.ndim - 1)], mode="edge")
    taps = [k * padded[i : i + len(x)] for i, k in enumerate(kernel / kernel.sum())]
    return np.sum(taps, axis=0).astype(x.dtype)


def places(sound: Sound, num_latents: int, *, loop: bool) -> np.ndarray:
    """[T] where the walk would be in silence: 0 is the first latent, 1 the second, ..."""
    frames = np.arange(len(sound))
    if loop:
        return frames * (num_latents / len(sound))
    return frames * ((num_latents - 1) / max(1, len(sound) - 1))


def shares(place: np.ndarray, num_latents: int) -> np.ndarray:
    """[T] -> [T, N] how much of each latent; after the last comes the first again."""
    begin = np.floor(place).astype(int)
    part = (place - begin).astype(np.float32)
    rows = np.arange(len(place))
    result = np.zeros((len(place), num_latents), np.float32)
    result[rows, begin % num_latents] = 1 - part
    result[rows, (begin + 1) % num_latents] += part
    return result


def mixtures(sound: Sound, num_latents: int, reactions: Reactions) -> np.ndarray:
    """[T, 3, N] how much of each latent the coarse, middle and fine blocks get in each frame."""
    place = places(sound, num_latents, loop=reactions.loop)
    pitches = np.arange(12) * num_latents // 12  # the latent that a pitch class stands for
    melody = np.zeros((len(sound), num_latents), np.float32)
    np.add.at(melody.T, pitches, sound.melody.T)
    bands = []
    for name in ("coarse", "middle", "fine"):
        gain, source = getattr(reactions, name), getattr(reactions, f"{name}_from")
        level = sound.levels["loudness" if source == "melody" else source]
        push = gain * smoothed(
            followed(level, sound.frame_rate, attack=reactions.attack, release=reactions.release),
            reactions.smoothing * sound.frame_rate,
        )
        if source == "melody":
            target = smoothed(
                melody, max(reactions.release / 2, reactions.smoothing) * sound.frame_rate
            )
            share = push.clip(max=1)[:, None]
            bands.append((1 - share) * shares(place, num_latents) + share * target)
        else:
            bands.append(shares(place + push, num_latents))
    return np.stack(bands, axis=1)


def audio_walk(
    networks: Networks,
    condition: Condition,
    latent: Latent,
    sound: Sound,
    reactions: Reactions | None = None,
    *,
    truncation_psi: float = 1.0,
    progress: OnPictures | None = None,
) -> Iterator[Tensor]:
    """The frames of a film to `sound`: batches of pictures [n, C, H, W] in [-1, 1], on the CPU.

    Two latents or more, visited in order. One condition serves all, or one each: then the walk goes
    from condition to condition, too. `progress` is called after each batch and may raise to cancel.
    ValueError for one latent, and for conditions or latents of another model.
    """
    reactions = reactions or Reactions()
    one_wish = len(condition) == 1
    condition, latent = fitted(networks, condition, latent)
    if len(latent) < 2:
        raise ValueError("a walk needs 2 latents or more; raise the batch size")
    condition = settled(networks, condition, latent, slice(None)).to("cpu")
    points = into_w(networks, condition, latent, truncation_psi=truncation_psi).values  # [N, B, D]
    mixture = torch.from_numpy(mixtures(sound, len(latent), reactions))
    place = places(sound, len(latent), loop=reactions.loop)
    num_blocks = points.shape[1]
    band = torch.arange(num_blocks) * 3 // num_blocks  # of each block
    for begin in range(0, len(sound), BATCH):
        rows = slice(begin, begin + BATCH)
        w = torch.einsum("tbn,nbd->tbd", mixture[rows][:, band], points)
        wishes = _conditions_at(condition, place[rows], one_wish=one_wish)
        pictures = draw(networks, wishes, Latent("w", w, (0,) * len(w)), batch_size=BATCH)
        if progress is not None:
            progress(min(begin + BATCH, len(sound)), len(sound), pictures)
        yield pictures


def _conditions_at(condition: Condition, place: np.ndarray, *, one_wish: bool) -> Condition:
    """The condition at each place [t] of the walk. A style, unlike the rest, is not blended for
    long: half-way between two there is no style."""
    n = len(condition)
    begin = torch.from_numpy(np.floor(place)).long()
    part = torch.from_numpy(place).float() - begin
    a, b = condition[begin % n], condition[(begin + 1) % n]
    if not one_wish:
        a_to_b = [combined(a[i : i + 1], b[i : i + 1], float(part[i])) for i in range(len(part))]
        a = Condition.cat(a_to_b)
    turn = ((part - 0.5) / STYLE_SHARE + 0.5).clamp(0, 1)[:, None]
    return a.with_style(torch.lerp(condition.style[begin % n], b.style, turn))
