"""Sound -> one set of numbers per frame: onsets, loudness, frequency bands, pitch classes.

librosa (extra `audio`) computes them; it is imported when it is first needed. Nothing is random.
The sound is transformed block by block, so memory does not grow with its length.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from ..conditioning.audio import check_amplitude, check_samples
from ..progress import OnProgress

logger = logging.getLogger(__name__)
SOURCES = ("onsets", "loudness", "bass", "mids", "treble", "melody")
FRAME_RATES = (1.0, 120.0)
MAX_FRAMES = 16_384  # eleven minutes at 24 frames a second
SILENCE = 1e-4  # peak amplitude below which a sound counts as silent, 80 dB under full scale
WINDOW_SEC = 0.09
NUM_MELS = 64
BASS_HZ, TREBLE_HZ, TOP_HZ = 250.0, 2000.0, 11_025.0
FULL = 98  # the percentile of a source's values that becomes 1
BLOCK_SEC = 20.0


@dataclass(frozen=True)
class Sound:
    """Levels from 0 to 1 for each of T frames."""

    frame_rate: float
    levels: dict[str, np.ndarray]  # source (without melody) -> [T]
    melody: np.ndarray  # [T, 12] share of each pitch class; rows sum to one

    def __len__(self) -> int:
        return len(self.melody)


def analyze_audio(
    waveform: Tensor, rate: int, *, frame_rate: float = 24.0, progress: OnProgress | None = None
) -> Sound:
    """Levels of a waveform [C, L] at `rate` Hz for each frame of a video of the same length.

    A silent sound gives zeros and a warning. `progress` is called with (done, total) now and then
    and may raise to cancel. ValueError with one line for a sound that is empty, holds NaN or needs
    over MAX_FRAMES frames, and where librosa is missing.
    """
    sound, frames = _checked(waveform, rate, frame_rate)
    librosa = _librosa()
    if float(np.abs(sound).max()) < SILENCE:
        logger.warning("the sound is silent; nothing but time moves the walk")
        zeros = {name: np.zeros(frames, np.float32) for name in SOURCES[:-1]}
        return Sound(frame_rate, zeros, np.full((frames, 12), 1 / 12, np.float32))
    size = 2 ** round(math.log2(WINDOW_SEC * rate))
    hop = max(1, min(size // 4, int(rate / frame_rate)))  # each frame has one window or more
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
    sources = {"onsets": onsets, "loudness": loudness}
    sources |= {name: np.sqrt(mel[rows].sum(axis=0)) for name, rows in bands.items()}
    frame = (np.arange(mel.shape[1]) * hop * frame_rate / rate).astype(int).clip(max=frames - 1)
    levels = {name: _normalized(_frame_max(x, frame, frames)) for name, x in sources.items()}
    melody = np.stack([_frame_max(row, frame, frames) for row in chroma], axis=1) ** 2
    melody = (melody + 1e-12) / (melody + 1e-12).sum(axis=1, keepdims=True)
    return Sound(frame_rate, levels, melody.astype(np.float32))


def _checked(waveform: Tensor, rate: int, frame_rate: float) -> tuple[np.ndarray, int]:
    """The sound [L] with its channels averaged, and its number of frames."""
    if not FRAME_RATES[0] <= frame_rate <= FRAME_RATES[1]:
        low, high = FRAME_RATES
        raise ValueError(f"the frame rate is {frame_rate}; expected {low:g} to {high:g}")
    check_samples(waveform, rate)
    seconds = waveform.shape[1] / rate
    frames = max(1, math.ceil(seconds * frame_rate - 1e-6))
    if frames > MAX_FRAMES:
        raise ValueError(
            f"{seconds:.0f} s of sound at {frame_rate:g} frames a second are {frames} frames; "
            f"expected {MAX_FRAMES} or fewer ({MAX_FRAMES / frame_rate:.0f} s): trim the sound or "
            "lower the frame rate"
        )
    sound = waveform.detach().cpu().float().mean(dim=0).numpy()
    check_amplitude(float(np.abs(sound).max()))
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
    librosa: Any, sound: np.ndarray, rate: int, size: int, hop: int, progress: OnProgress | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """mel power [NUM_MELS, H], chroma [12, H] and loudness [H] of windows `hop` samples apart; the
    first window is centred on the first sample."""
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


def _frame_max(x: np.ndarray, frame: np.ndarray, frames: int) -> np.ndarray:
    """[H] -> [T] the maximum of x in each frame. Window h belongs to frame[h]."""
    most = np.zeros(frames, np.float32)
    np.maximum.at(most, frame, x.astype(np.float32))
    return most


def _normalized(x: np.ndarray) -> np.ndarray:
    """Scaled so that the FULL-th percentile is 1, and clipped there."""
    return (x / max(float(np.percentile(x, FULL)), float(x.max()) / 3, 1e-9)).clip(0, 1)
