"""Sound -> Condition: a small frozen speech recogniser, and then the text encoder.

Log-mel -> two strided convolutions and a transformer (as Whisper's encoder, 2212.04356, but far
smaller) -> phonemes by CTC -> words (lexicon.py) -> text.py. So every model that takes text takes
speech, and the transcript can be read. The recogniser was trained on synthetic speech
(tools/train_speech_encoder.py, git history).
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from ..condition import Condition
from ..progress import OnProgress
from ..storage.files import WEIGHTS_DIR, checked_sha256
from ..storage.int8 import dequantized, frozen
from ..storage.tensor_file import read_tensors
from .encoder import Encoder
from .lexicon import Entry, Lexicon
from .text import encode_text

logger = logging.getLogger(__name__)

SPEECH_FILE = WEIGHTS_DIR / "speech" / "speech-v1.safetensors"
MIN_SEC, MAX_SEC = 0.1, 60.0
RATES_HZ = (2_000, 768_000)
SILENCE = 1e-4  # a sound whose samples are all smaller is silent: 80 dB below full scale
NUM_MELS = 64
TOP_HZ = 8000.0
WINDOW_SEC, HOP_SEC = 0.032, 0.010
RANGE_DB = 50.0  # below the loudest value; fainter ones are clamped
TRIM_DB = 40.0  # below the loudest frame; fainter frames at both ends are cut off
MIN_FRAMES = 16
BLOCK = 1024  # frames transformed at a time

Clip = tuple[Tensor, int]  # waveform [C, L] float, sample rate in Hz


def speech_recognizer_hash() -> str:
    """sha256 of the bundled recogniser's file."""
    return checked_sha256(SPEECH_FILE)


def check_samples(waveform: Tensor, rate: int) -> None:
    """ValueError unless the waveform is [C, L] with samples, and the rate within RATES_HZ."""
    if waveform.ndim != 2 or not waveform.numel():
        raise ValueError(
            f"the sound is empty (shape {list(waveform.shape)}; expected [channels, samples])"
        )
    if not RATES_HZ[0] <= rate <= RATES_HZ[1]:
        raise ValueError(
            f"the sample rate is {rate} Hz; expected {RATES_HZ[0]} to {RATES_HZ[1]} Hz"
        )


def mixed(waveform: Tensor) -> Tensor:
    """[C, L] -> [L] fp32 on the CPU: the mean of the channels without their constant offsets.

    A channel whose phase is opposite to the loudest one's is inverted, which is inaudible, so that
    the two do not cancel out. Peaks over 1 are scaled to 1. ValueError for NaN or infinite samples.
    """
    sound = waveform.detach().cpu().float()
    peak = max(map(abs, map(float, sound.aminmax())))
    if not math.isfinite(peak):
        raise ValueError("the sound holds NaN or infinite samples")
    sound = sound / max(peak, 1)
    sound -= sound.mean(dim=1, keepdim=True)
    loudest = sound[torch.linalg.vector_norm(sound, dim=1).argmax()]
    sound[sound @ loudest < 0] *= -1
    return sound.mean(dim=0)


def mono(waveform: Tensor, rate: int) -> Tensor:
    """[C, L] -> [L] fp32 on the CPU: the channels `mixed`, cut to MAX_SEC.

    ValueError for no samples, less than MIN_SEC, NaN, or silence.
    """
    check_samples(waveform, rate)
    seconds = waveform.shape[1] / rate
    if seconds < MIN_SEC:
        raise ValueError(f"the sound is {seconds:.3f} s long; expected {MIN_SEC} s or more")
    if seconds > MAX_SEC:
        logger.warning("a sound is over %d s long; the rest is ignored", MAX_SEC)
    # cut first, so that a long sound costs no more than MAX_SEC
    sound = mixed(waveform[:, : round(MAX_SEC * rate)])
    if float(sound.abs().max()) < SILENCE:
        raise ValueError("the sound is silent")
    return sound


@lru_cache(maxsize=8)
def mel_filters(rate: int) -> Tensor:
    """[bins, NUM_MELS] triangles on the mel scale up to TOP_HZ, for a spectrum at `rate`.

    Filters above the Nyquist frequency are empty.
    """
    top_mel = 2595 * math.log10(1 + TOP_HZ / 700)
    edges = 700 * (10 ** (torch.linspace(0, top_mel, NUM_MELS + 2) / 2595) - 1)  # Hz
    size = _transform_size(_window_size(rate))
    bins = torch.arange(size // 2 + 1) * (rate / size)  # Hz
    bins = bins[bins <= TOP_HZ][:, None]
    low, middle, high = edges[:-2], edges[1:-1], edges[2:]
    rising, falling = (bins - low) / (middle - low), (high - bins) / (high - middle)
    return torch.minimum(rising, falling).clamp(min=0)


def _window_size(rate: int) -> int:
    return 2 * round(WINDOW_SEC * rate / 2)


def _transform_size(window: int) -> int:
    """The next power of two: many rates give sizes with large prime factors, which are slow."""
    return 1 << (window - 1).bit_length()


def mel_power(sound: Tensor, rate: int) -> Tensor:
    """[L] -> [T, NUM_MELS] power. Windows have the same length in seconds and filters the same
    frequencies at every rate, so no sound is resampled."""
    size, hop = _window_size(rate), max(1, round(HOP_SEC * rate))
    filters = mel_filters(rate)
    window, transform = torch.hann_window(size), _transform_size(size)
    padded = torch.nn.functional.pad(sound, (size // 2, size // 2))
    blocks = [
        torch.fft.rfft(frames * window, transform)[:, : len(filters)].abs().square() @ filters
        for frames in padded.unfold(0, size, hop).split(BLOCK)
    ]
    return torch.cat(blocks)


def trimmed(power: Tensor) -> Tensor:
    """[T, NUM_MELS] without the quiet ends, padded to MIN_FRAMES."""
    loudness = power.sum(dim=1)
    loud = (loudness > loudness.max() * 10 ** (-TRIM_DB / 10)).nonzero()
    power = power[int(loud[0]) : int(loud[-1]) + 1]
    return torch.nn.functional.pad(power, (0, 0, 0, max(0, MIN_FRAMES - len(power))))


def levelled(power: Tensor) -> Tensor:
    """Power [..., T, NUM_MELS] -> the network's input, about [-1, 1] at any loudness."""
    loudest = power.amax(dim=(-2, -1), keepdim=True).clamp(min=1e-30)
    decibel = 10 * torch.log10((power / loudest).clamp(min=10 ** (-RANGE_DB / 10)))
    return 1 + decibel / (RANGE_DB / 2)


class PhonemeRecognizer(nn.Module):
    """Log-mel frames -> phoneme probabilities every 40 ms. 1.1 M parameters.

    Rows are independent.
    """

    def __init__(
        self, num_phonemes: int, *, width: int = 192, num_layers: int = 3, num_heads: int = 4
    ) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            [nn.Conv1d(NUM_MELS, 128, 5, 2, 2), nn.Conv1d(128, width, 5, 2, 2)]
        )
        self.norms = nn.ModuleList([nn.LayerNorm(128), nn.LayerNorm(width)])
        layer = nn.TransformerEncoderLayer(
            width, num_heads, 2 * width, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, num_layers, enable_nested_tensor=False)
        self.to_phonemes = nn.Linear(width, num_phonemes + 1)  # 0 is CTC's blank

    def forward(self, mel: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """mel [N, T, NUM_MELS] from `levelled`, mask [N, T] -> log probabilities [N, L, 1 + P] and
        their mask [N, L]."""
        x = mel
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = (x * mask[:, :, None]).transpose(
                1, 2
            )  # padding of rows in a batch is 0, as a convolution's
            x = nn.functional.gelu(norm(convolution(x).transpose(1, 2)))
            mask = mask[:, ::2]
        x = self.layers(x + _positions(*x.shape[1:]), src_key_padding_mask=~mask)
        return self.to_phonemes(x).log_softmax(dim=2), mask


@lru_cache(maxsize=64)
def _positions(length: int, width: int) -> Tensor:
    """[length, width] sines and cosines of the position (1706.03762)."""
    rate = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000) / width))
    angle = torch.arange(length)[:, None] * rate
    return torch.cat([angle.sin(), angle.cos()], dim=1)


def batch(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """[T, NUM_MELS] each -> mel [N, longest, NUM_MELS] and its mask [N, longest]."""
    length = torch.tensor([len(row) for row in rows])
    mel = pad_sequence(list(rows), batch_first=True)
    return mel, torch.arange(mel.shape[1]) < length[:, None]


class SpeechRecognizer:
    """The bundled recogniser and its `card` (data, voices, figures)."""

    def __init__(self) -> None:
        speech_recognizer_hash()
        state, metadata = read_tensors(SPEECH_FILE)
        self.card = json.loads(metadata["card"])
        phonemes = metadata["phonemes"]
        self.lexicon = Lexicon(phonemes, [Entry(*row) for row in json.loads(metadata["lexicon"])])
        self.network = frozen(lambda: PhonemeRecognizer(len(phonemes)), dequantized(state))

    @torch.no_grad()
    def transcribe(self, clips: Sequence[Clip], progress: OnProgress | None = None) -> list[str]:
        """One text for each clip; `progress` counts the frames of each clip. ValueError as `mono`,
        and for no words."""
        texts = []
        for wave, rate in clips:
            mel, mask = batch([levelled(trimmed(mel_power(mono(wave, rate), rate)))])
            log_probs = self.network(mel, mask)[0][0]  # [L, 1 + P]
            words = self.lexicon.best(log_probs, progress=progress)
            # a short unclear word may not be worth its cost
            words = words or self.lexicon.best(log_probs, free=True, progress=progress)
            if not words:
                raise ValueError("no words were recognized in the sound")
            texts.append(" ".join(words))
        return texts


@lru_cache(maxsize=1)
def speech_recognizer() -> SpeechRecognizer:
    """The bundled recogniser, loaded once a process."""
    return SpeechRecognizer()


def transcribe(clips: Sequence[Clip], *, progress: OnProgress | None = None) -> list[str]:
    """Transcribe English speech: clips (waveform [C, L] float, sample rate in Hz) -> a text each.

    Clips have a rate from 2 to 768 kHz, any number of channels, and 0.1 to 60 s; longer ones are
    cut with a warning. `progress` is called with (done, total) frames of each clip, and may raise
    to cancel. ValueError for silence, NaN, a clip that is too short or wordless, and for no
    clips.
    """
    if not clips:
        raise ValueError("there is no sound")
    return speech_recognizer().transcribe(clips, progress)


def encode_audio(
    clips: Sequence[Clip],
    *,
    styles: tuple[str, ...],
    style: str | None,
    encoder: Encoder | None = None,
) -> Condition:
    """One condition row a clip from its transcript, all in `style` (None: the seed chooses), by the
    text `encoder` (None: the bundled one). ValueError as `transcribe`."""
    return encode_text(transcribe(clips), styles=styles, style=style, encoder=encoder)
