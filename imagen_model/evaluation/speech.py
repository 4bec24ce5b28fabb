"""Spoken prompts for the evaluation, in voices that the recogniser was not trained on."""

from __future__ import annotations

import random

from ..conditioning.audio import Clip
from ..data.espeak import HELD_OUT_VOICES, espeak, varied


def held_out_speech(texts: list[str]) -> list[Clip]:
    """Each text said once, the held-out voices in turn, each time at another rate and pitch.

    The same texts get the same voices; only the flutter of some, which espeak-ng draws itself,
    differs a little. ValueError with one line where there is no espeak-ng: leave the measurement
    out then, and say so.
    """
    speaker, chance = espeak(), random.Random(0)
    clips = []
    for i, text in enumerate(texts):
        voice = varied(HELD_OUT_VOICES[i % len(HELD_OUT_VOICES)], chance)
        clips.append((speaker.say(text, voice), speaker.sample_rate))
    return clips
