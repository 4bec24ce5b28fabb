"""Speech synthesis by espeak-ng, a formant synthesiser, called in this process.

The library and voices come from the PyPI package espeakng-loader (extra `speech`), or else from the
system. Call it from one thread at a time: the library keeps its state in globals.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import random
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

MISSING = "speech synthesis needs espeak-ng: pip install 'imagen-gan[speech]'"
_SYNCHRONOUS, _DONT_EXIT, _UTF8, _IPA = 2, 0x8000, 1, 2  # from speak_lib.h
_RATE, _PITCH, _RANGE = 1, 3, 4
_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)


@dataclass(frozen=True)
class Voice:
    """A speaker with its rate, pitch and intonation."""

    name: str  # language and variant: "en-gb-scotland+f2"
    words_a_minute: int = 170
    pitch: int = 50  # 0 to 99
    intonation: int = 50  # 0 flat to 99


# Six accents; espeak-ng's own variants are named m and f, the others come from contributors.
VOICES = (
    "en-us+m1", "en-us+f1", "en-us+m3", "en-us+f2", "en-us+klatt2", "en-us+Andy", "en+m2",
    "en+f3", "en+m4", "en+linda", "en-gb-scotland+m6", "en-gb-scotland+f1",
    "en-gb-x-rp+f5", "en-gb-x-rp+m8", "en-us-nyc+m5", "en-us-nyc+f3", "en-029+m1", "en-029+f2",
)  # fmt: skip
# Not in the training data: four speakers, two of them with an accent that no training voice has.
HELD_OUT_VOICES = ("en-us+f4", "en+m7", "en-gb-x-gbclan+Michael", "en-gb-x-gbcwmd+Annie")


def varied(name: str, rng: random.Random) -> Voice:
    """The speaker `name` at a rate, pitch and intonation sampled from `rng`."""
    return Voice(name, rng.randint(120, 220), rng.randint(25, 75), rng.randint(25, 75))


class Espeak:
    """The library, loaded once a process (`espeak`)."""

    def __init__(self) -> None:
        library, data = _find()
        self._lib = ctypes.CDLL(library)
        self._lib.espeak_TextToPhonemes.restype = ctypes.c_char_p
        self.sample_rate = self._lib.espeak_Initialize(_SYNCHRONOUS, 0, data, _DONT_EXIT)
        if self.sample_rate <= 0:
            raise ValueError(f"espeak-ng could not start; {MISSING}")
        self._samples = bytearray()
        self._callback = _Callback(self._append)  # the library holds a bare pointer to it
        self._lib.espeak_SetSynthCallback(self._callback)
        self._voice = ""

    def _append(self, wave, count: int, _events) -> int:
        if wave:
            self._samples += ctypes.string_at(wave, 2 * count)
        return 0

    def _set_voice(self, name: str) -> None:
        if name == self._voice:
            return
        if self._lib.espeak_SetVoiceByName(name.encode()) != 0:
            raise ValueError(f"espeak-ng has no voice {name!r}")
        self._voice = name

    def say(self, text: str, voice: Voice) -> Tensor:
        """[1, L] float in [-1, 1] at `sample_rate`. ValueError for a text without any sound."""
        self._set_voice(voice.name)
        for parameter, value in (
            (_RATE, voice.words_a_minute), (_PITCH, voice.pitch), (_RANGE, voice.intonation),
        ):  # fmt: skip
            self._lib.espeak_SetParameter(parameter, value, 0)
        self._samples.clear()
        data = text.encode()
        self._lib.espeak_Synth(data, len(data) + 1, 0, 0, 0, _UTF8, None, None)
        if not self._samples:
            raise ValueError(f"espeak-ng has no sound for {text!r}")
        wave = torch.frombuffer(bytearray(self._samples), dtype=torch.int16)
        return wave.float()[None] / 32768

    def phonemes(self, text: str, voice: str = "en-us") -> str:
        """The pronunciation of the text by `voice`, in IPA without stress marks."""
        self._set_voice(voice)
        rest = ctypes.c_char_p(f"{text}\n".encode())  # without \n a one-letter last word is lost
        clauses = []
        while rest.value:
            ipa = self._lib.espeak_TextToPhonemes(ctypes.byref(rest), _UTF8, _IPA)
            clauses.append(ipa.decode())
        return " ".join(clauses).replace("ˈ", "").replace("ˌ", "").strip()


def _find() -> tuple[str, bytes | None]:
    """Paths of the library and of its data (None: the library's default)."""
    try:
        import espeakng_loader
    except ImportError:
        library = ctypes.util.find_library("espeak-ng")
        if library is None:
            raise ValueError(MISSING) from None
        return library, None
    return str(espeakng_loader.get_library_path()), str(espeakng_loader.get_data_path()).encode()


@lru_cache(maxsize=1)
def espeak() -> Espeak:
    """The synthesiser; ValueError with one line if espeak-ng is missing."""
    return Espeak()
