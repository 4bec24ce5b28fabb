"""Sound -> frames: a walk through latents in w that a sound drives.

As in audio-reactive StyleGAN videos, the early blocks (layout), the middle blocks (parts) and the
late blocks (colour and detail) each follow their own source. A push moves along the walk, towards
the next latents, so every frame is an interpolation of the given latents.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..condition import Condition, combined
from ..networks.networks import Networks
from ..progress import OnPictures
from .latent import Latent
from .sampling import BATCH, batches, draw, fitted, into_w, settled
from .sound_analysis import SOURCES, Sound

STYLE_SHARE = 0.2  # of the way between two latents, over which one style fades into the next
BANDS = ("coarse", "middle", "fine")  # of blocks


@dataclass(frozen=True)
class Reactions:
    """How a walk reacts to its sound. Pushes are in steps from one latent to the next.

    A push by melody goes to the latents of the sounding pitch classes instead, completely from 1
    on. Attack and release: the time constants in seconds with which a push grows and falls;
    smoothing: the seconds over which it is averaged.
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
        for name in BANDS:
            source = getattr(self, f"{name}_from")
            if source not in SOURCES:
                known = ", ".join(SOURCES)
                raise ValueError(f"{name}_from is {reprlib.repr(source)}; expected one of {known}")
        limits = {**dict.fromkeys(BANDS, 8), "attack": 10, "release": 10, "smoothing": 10}
        for name, top in limits.items():
            if not 0 <= getattr(self, name) <= top:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 0 to {top}")


# -- from levels to latents -----------------------------------------------------------------------


def followed(x: np.ndarray, frame_rate: float, *, attack: float, release: float) -> np.ndarray:
    """An envelope of x [T]: it rises with one time constant and falls with the other."""
    up, down = (1 - math.exp(-1 / (frame_rate * max(sec, 1e-6))) for sec in (attack, release))
    level, result = 0.0, np.empty_like(x)
    for i, value in enumerate(x.tolist()):
        level += (up if value > level else down) * (value - level)
        result[i] = level
    return result


def smoothed(x: np.ndarray, sigma: float) -> np.ndarray:
    """x [T, ...] convolved with a centred Gaussian of `sigma` frames."""
    reach = min(int(3 * sigma), len(x) - 1)
    if reach < 1:
        return x
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    padded = np.pad(x, [(reach, reach), *[(0, 0)] * (x.ndim - 1)], mode="edge")
    taps = [k * padded[i : i + len(x)] for i, k in enumerate(kernel / kernel.sum())]
    return np.sum(taps, axis=0).astype(x.dtype)


def places(sound: Sound, num_latents: int, *, loop: bool) -> np.ndarray:
    """[T] positions of the walk without pushes: 0 is the first latent, 1 the second, ..."""
    frames = np.arange(len(sound))
    if loop:
        return frames * (num_latents / len(sound))
    return frames * ((num_latents - 1) / max(1, len(sound) - 1))


def shares(place: np.ndarray, num_latents: int) -> np.ndarray:
    """Positions [T] -> weights [T, N] of the latents; the first follows the last."""
    begin = np.floor(place).astype(int)
    part = (place - begin).astype(np.float32)
    rows = np.arange(len(place))
    result = np.zeros((len(place), num_latents), np.float32)
    result[rows, begin % num_latents] = 1 - part
    result[rows, (begin + 1) % num_latents] += part
    return result


def mixtures(sound: Sound, num_latents: int, reactions: Reactions) -> np.ndarray:
    """[T, 3, N] weights of the latents for the coarse, middle and fine blocks of each frame."""
    place, rate = places(sound, num_latents, loop=reactions.loop), sound.frame_rate
    attack, release, smoothing = reactions.attack, reactions.release, reactions.smoothing
    pitches = np.arange(12) * num_latents // 12  # each pitch class's latent
    melody = np.zeros((len(sound), num_latents), np.float32)
    np.add.at(melody.T, pitches, sound.melody.T)
    bands = []
    for name in BANDS:
        gain, source = getattr(reactions, name), getattr(reactions, f"{name}_from")
        level = sound.levels["loudness" if source == "melody" else source]
        envelope = followed(level, rate, attack=attack, release=release)
        push = gain * smoothed(envelope, smoothing * rate)
        if source == "melody":
            target = smoothed(melody, max(release / 2, smoothing) * rate)
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
    """The frames of a video to `sound`: batches of pictures [n, C, H, W] in [-1, 1], on the CPU.

    The walk visits two latents or more in order. One condition serves all latents, or one each:
    then the walk interpolates the conditions too. `progress` is called after each batch and may
    raise to cancel. ValueError for one latent, and for conditions or latents of another model.
    """
    reactions = reactions or Reactions()
    is_single = len(condition) == 1
    condition, latent = fitted(networks, condition, latent)
    if len(latent) < 2:
        raise ValueError("a walk needs 2 latents or more; raise the batch size")
    condition = settled(networks, condition, latent, slice(None)).to("cpu")
    points = into_w(networks, condition, latent, truncation_psi=truncation_psi).values  # [N, B, D]
    mixture = torch.from_numpy(mixtures(sound, len(latent), reactions))
    place = places(sound, len(latent), loop=reactions.loop)
    num_blocks = points.shape[1]
    band = torch.arange(num_blocks) * 3 // num_blocks  # of each block
    for rows in batches(len(sound), BATCH):
        w = torch.einsum("tbn,nbd->tbd", mixture[rows][:, band], points)
        conditions = _conditions_at(condition, place[rows], is_single=is_single)
        pictures = draw(networks, conditions, Latent("w", w, (0,) * len(w)))
        if progress is not None:
            progress(rows.stop, len(sound), pictures)
        yield pictures


def _conditions_at(condition: Condition, place: np.ndarray, *, is_single: bool) -> Condition:
    """The condition at each position [t] of the walk. Styles fade within STYLE_SHARE only, because
    a mixture of two is no style."""
    n = len(condition)
    begin = torch.from_numpy(np.floor(place)).long()
    part = torch.from_numpy(place).float() - begin
    a, b = condition[begin % n], condition[(begin + 1) % n]
    if not is_single:
        a_to_b = [combined(a[i : i + 1], b[i : i + 1], float(part[i])) for i in range(len(part))]
        a = Condition.cat(a_to_b)
    turn = ((part - 0.5) / STYLE_SHARE + 0.5).clamp(0, 1)[:, None]
    return a.with_style(torch.lerp(condition.style[begin % n], b.style, turn))
