"""Spoken prompts for the evaluation, in voices that the recogniser was not trained on."""

from __future__ import annotations

import random

from ..conditioning.audio import Clip
from ..data.espeak import HELD_OUT_VOICES, espeak, varied


def held_out_speech(texts: list[str]) -> list[Clip]:
    """Say each text once. The held-out voices take turns, each time at another rate and pitch.

    The same texts get the same voices, except for the flutter of some, which espeak-ng samples
    itself. ValueError with one line if espeak-ng is not installed.
    """
    speaker, rng = espeak(), random.Random(0)
    clips = []
    for i, text in enumerate(texts):
        voice = varied(HELD_OUT_VOICES[i % len(HELD_OUT_VOICES)], rng)
        clips.append((speaker.say(text, voice), speaker.sample_rate))
    return clips
