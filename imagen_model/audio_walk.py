"""Sound -> frames: a walk through latents in w whose blocks are pushed by what is heard.

As in audio-reactive StyleGAN films, the early blocks (what is where), the middle ones (its parts)
and the late ones (colour and detail) each listen to something of their own. A push goes along the
walk itself, towards the latents that come next, so that every frame stays among points which the
generator knows. The sound is described by librosa (extra `audio`), imported when one is heard.

Nothing is random, and frames are drawn a batch at a time: what is kept of a sound, however long,
are a few numbers a frame.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .conditioning import Condition, combined
from .conditioning.condition import Progress as Told
from .latent import into_w
from .networks import Networks
from .sampling import BATCH, Latent, Progress, draw, fitted, settled

logger = logging.getLogger(__name__)

SOURCES = ("onsets", "loudness", "bass", "mids", "treble", "melody")
FRAME_RATES = (1.0, 120.0)
MAX_FRAMES = 16_384  # eleven minutes at 24 frames a second
RATES_HZ = (2_000, 768_000)
SILENCE = 1e-4  # the loudest sample of what counts as silence, 80 dB under full scale
WINDOW_SEC = 0.09
NUM_MELS = 64
BASS_HZ, TREBLE_HZ, TOP_HZ = 250.0, 2000.0, 11_025.0
FULL = 98  # the percentile of a source that counts as all of it
BLOCK_SEC = 20.0  # of sound transformed at a time
STYLE_SHARE = 0.2  # of the way between two latents, in which one style gives way to the next


@dataclass(frozen=True)
class Sound:
    """What is heard while each of T frames is shown, all of it from 0 to 1."""

    frame_rate: float
    levels: dict[str, np.ndarray]  # source (without melody) -> [T]
    melody: np.ndarray  # [T, 12] how much of each pitch class; rows sum to one

    def __len__(self) -> int:
        return len(self.melody)


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


def listen(
    waveform: Tensor,
    rate: int,
    *,
    frame_rate: float = 24.0,
    progress: Told | None = None,
) -> Sound:
    """A waveform [C, L] at `rate` Hz, described for each frame of a film as long as it.

    Silence is heard as nothing, with a warning. `progress` is called with (done, total) now and
    then and may raise to cancel. ValueError with one line for a sound that is
    empty, holds NaN or needs over MAX_FRAMES frames, and where librosa is missing.
    """
    sound, frames = _checked(waveform, rate, frame_rate)
    librosa = _librosa()
    if float(np.abs(sound).max()) < SILENCE:
        logger.warning("the sound is silent; nothing but time moves the walk")
        nothing = {name: np.zeros(frames, np.float32) for name in SOURCES[:-1]}
        return Sound(frame_rate, nothing, np.full((frames, 12), 1 / 12, np.float32))
    size = 2 ** round(math.log2(WINDOW_SEC * rate))
    hop = max(1, min(size // 4, int(rate / frame_rate)))  # each frame hears one window or more
    mel, chroma, loudness = _spectra(librosa, sound, rate, size, hop, progress)
    onsets = librosa.onset.onset_strength(
        S=librosa.power_to_db(mel), sr=rate, hop_length=hop, n_fft=size
    )
    hz = librosa.mel_frequencies(NUM_MELS + 2, fmax=_top_hz(rate))[1:-1]
    bands = {
        "bass": hz < BASS_HZ,
        "mids": (hz >= BASS_HZ) & (hz < TREBLE_HZ),
        "treble": hz >= TREBLE_HZ,
    }
    heard = {"onsets": onsets, "loudness": loudness}
    heard |= {name: np.sqrt(mel[rows].sum(axis=0)) for name, rows in bands.items()}
    frame = (np.arange(mel.shape[1]) * hop * frame_rate / rate).astype(int).clip(max=frames - 1)
    levels = {name: _levelled(_while_shown(x, frame, frames)) for name, x in heard.items()}
    melody = np.stack([_while_shown(row, frame, frames) for row in chroma], axis=1) ** 2
    melody = (melody + 1e-12) / (melody + 1e-12).sum(axis=1, keepdims=True)
    return Sound(frame_rate, levels, melody.astype(np.float32))


def _checked(waveform: Tensor, rate: int, frame_rate: float) -> tuple[np.ndarray, int]:
    """The sound [L] with its channels averaged, and how many frames it takes."""
    if not FRAME_RATES[0] <= frame_rate <= FRAME_RATES[1]:
        low, high = FRAME_RATES
        raise ValueError(f"the frame rate is {frame_rate}; expected {low:g} to {high:g}")
    if waveform.ndim != 2 or not waveform.numel():
        raise ValueError(
            f"the sound is empty (shape {list(waveform.shape)}; expected [channels, samples])"
        )
    if not RATES_HZ[0] <= rate <= RATES_HZ[1]:
        raise ValueError(
            f"the sample rate is {rate} Hz; expected {RATES_HZ[0]} to {RATES_HZ[1]} Hz"
        )
    seconds = waveform.shape[1] / rate
    frames = max(1, math.ceil(seconds * frame_rate - 1e-6))
    if frames > MAX_FRAMES:
        raise ValueError(
            f"{seconds:.0f} s of sound at {frame_rate:g} frames a second are {frames} frames; "
            f"expected {MAX_FRAMES} or fewer ({MAX_FRAMES / frame_rate:.0f} s): trim the sound or "
            "lower the frame rate"
        )
    sound = waveform.detach().cpu().float().mean(dim=0).numpy()
    if not math.isfinite(float(sound.sum(dtype=np.float64))):
        raise ValueError("the sound holds NaN or infinite samples")
    return sound, frames


def _librosa() -> Any:
    try:
        import librosa
    except ImportError:
        raise ValueError("walks to a sound need librosa: pip install librosa") from None
    return librosa


def _top_hz(rate: int) -> float:
    return min(TOP_HZ, rate / 2)


def _spectra(
    librosa: Any,
    sound: np.ndarray,
    rate: int,
    size: int,
    hop: int,
    progress: Told | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """mel power [NUM_MELS, H], chroma [12, H] and loudness [H] of windows `hop` samples apart.

    The first window's middle is the first sample. The sound is transformed a block at a time.
    """
    to_mel = librosa.filters.mel(sr=rate, n_fft=size, n_mels=NUM_MELS, fmax=_top_hz(rate))
    to_chroma = librosa.filters.chroma(sr=rate, n_fft=size)
    padded = np.pad(sound, size // 2)
    count = 1 + (len(padded) - size) // hop
    block = max(1, int(BLOCK_SEC * rate / hop))
    parts = []
    for first in range(0, count, block):
        windows = min(block, count - first)
        piece = padded[first * hop : (first + windows - 1) * hop + size]
        power = np.abs(librosa.stft(piece, n_fft=size, hop_length=hop, center=False)) ** 2
        parts.append((to_mel @ power, to_chroma @ power, np.sqrt(power.sum(axis=0))))
        if progress is not None:
            progress(first + windows, count)
    mel, chroma, loudness = zip(*parts, strict=True)
    return np.concatenate(mel, 1), np.concatenate(chroma, 1), np.concatenate(loudness)


def _while_shown(x: np.ndarray, frame: np.ndarray, frames: int) -> np.ndarray:
    """[H] -> [T] the most of x while a frame is shown. Window h belongs to frame[h]."""
    most = np.zeros(frames, np.float32)
    np.maximum.at(most, frame, x.astype(np.float32))
    return most


def _levelled(x: np.ndarray) -> np.ndarray:
    """Scaled so that the FULL-th percentile is 1, and cut there."""
    return (x / max(float(np.percentile(x, FULL)), float(x.max()) / 3, 1e-9)).clip(0, 1)


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
    batch_size: int = BATCH,
    progress: Progress | None = None,
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
    for begin in range(0, len(sound), batch_size):
        rows = slice(begin, begin + batch_size)
        w = torch.einsum("tbn,nbd->tbd", mixture[rows][:, band], points)
        wishes = _conditions_at(condition, place[rows], one_wish=one_wish)
        pictures = draw(networks, wishes, Latent("w", w, (0,) * len(w)), batch_size=batch_size)
        if progress is not None:
            progress(min(begin + batch_size, len(sound)), len(sound), pictures)
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
