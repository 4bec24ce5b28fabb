"""Write the ten seconds of music that the example music_to_video.json plays.

    python tools/make_music.py

Everything in it is computed here: a kick, a bass, a plucked melody and hats at 120 beats a minute.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

OUT = Path(__file__).resolve().parent.parent / "example_workflows" / "inputs" / "imagen_music.ogg"
RATE = 44_100
SECONDS = 10.0
BEAT = 0.5  # seconds
CHORDS = ((57, 60, 64), (53, 57, 60), (48, 52, 55), (55, 59, 62), (57, 60, 64))  # Am F C G Am
TUNE = (0, 2, 1, 2, 0, 2, 1, 2)  # which note of the chord, on every half beat


def hz(midi: float) -> float:
    return 440.0 * 2 ** ((midi - 69) / 12)


def add(mix: np.ndarray, at: float, sound: np.ndarray) -> None:
    """Mix a sound in at a time in seconds; what reaches over the end is cut."""
    begin = int(at * RATE)
    sound = sound[: len(mix) - begin]
    mix[begin : begin + len(sound)] += sound


def time_of(seconds: float) -> np.ndarray:
    return np.arange(int(seconds * RATE)) / RATE


def kick() -> np.ndarray:
    t = time_of(0.35)
    return 0.9 * np.sin(2 * np.pi * (50 * t + 6 * (1 - np.exp(-30 * t)))) * np.exp(-9 * t)


def bass(note: float) -> np.ndarray:
    t = time_of(0.45)
    return 0.35 * np.tanh(3 * np.sin(2 * np.pi * hz(note) * t)) * np.exp(-4 * t)


def pluck(note: float) -> np.ndarray:
    t = time_of(0.6)
    tones = [np.sin(2 * np.pi * hz(note) * k * t) / k**1.5 for k in (1, 2, 3, 4)]
    return 0.22 * np.sum(tones, axis=0) * np.exp(-6 * t) * (1 - np.exp(-400 * t))


def hat(random: np.random.Generator) -> np.ndarray:
    t = time_of(0.08)
    return 0.12 * np.diff(random.standard_normal(len(t) + 1)) * np.exp(-60 * t)


def music() -> np.ndarray:
    """[samples, 2] of stereo between -1 and 1."""
    random = np.random.default_rng(0)
    left, right = np.zeros((2, int(SECONDS * RATE)))
    for beat in range(int(SECONDS / BEAT)):
        at, chord = beat * BEAT, CHORDS[beat // 4]
        for side in (left, right):
            if beat >= 4:  # the drums come in after a bar
                add(side, at, kick())
                add(side, at + BEAT / 2, hat(random))
            add(side, at, bass(chord[0] - 24))
        for half in (0, 1):
            note = chord[TUNE[(2 * beat + half) % len(TUNE)]] + 12
            near, far = (left, right) if half else (right, left)
            add(near, at + half * BEAT / 2, pluck(note))
            add(far, at + half * BEAT / 2, 0.5 * pluck(note))
    mix = np.stack([left, right], axis=1)
    return 0.9 * mix / np.abs(mix).max()


def main() -> None:
    OUT.parent.mkdir(exist_ok=True)
    soundfile.write(OUT, music(), RATE, format="OGG", subtype="VORBIS")
    print(f"{OUT}  {OUT.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
