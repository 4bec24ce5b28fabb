"""Sound files -> clips, read by soundfile (libsndfile): WAV, FLAC, OGG, MP3 and more."""

from __future__ import annotations

import io
from pathlib import Path

import torch

from ..conditioning.audio import MAX_SEC, Clip

EXPECTED = "WAV, FLAC, OGG, MP3, AIFF or another format of libsndfile"
NEEDS_SOUNDFILE = "reading sound needs soundfile: pip install 'imagen-gan[audio]'"


def read_sound(path: Path, *, content: io.BytesIO | None = None) -> Clip:
    """The first MAX_SEC + 1 seconds of a file as (waveform [C, L], sample rate).

    If `content` is given, the path only names it. ValueError with one line if soundfile is missing
    or can't read the file.
    """
    try:
        import soundfile
    except ImportError:
        raise ValueError(NEEDS_SOUNDFILE) from None
    if content is None and not path.is_file():
        raise ValueError(f"no sound file {path}")
    try:
        with soundfile.SoundFile(content or path) as file:
            rate = file.samplerate
            num_samples = round((MAX_SEC + 1) * rate)  # over MAX_SEC, so that audio.mono warns
            samples = file.read(num_samples, dtype="float32", always_2d=True)  # [L, C]
    except (soundfile.SoundFileError, TypeError, MemoryError) as error:  # TypeError: headerless
        reason = str(getattr(error, "error_string", error)).rstrip(".")
        raise ValueError(f"{path} can't be read as sound: {reason}; expected {EXPECTED}") from None
    return torch.from_numpy(samples).t(), rate
