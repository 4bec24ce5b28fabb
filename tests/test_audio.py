"""Spoken prompts: any sound is heard or refused, and what was said is what is drawn."""

from __future__ import annotations

import logging
import math
import sys
import wave
from pathlib import Path

import pytest
import torch

import imagen_model as im
from imagen_model.checkpoint import save_checkpoint
from imagen_model.cli import main
from imagen_model.conditioning import audio
from imagen_model.conditioning.audio import (
    batch,
    levelled,
    mel_power,
    mono,
    speech_recognizer,
    trimmed,
)
from imagen_model.conditioning.lexicon import Entry, Lexicon
from imagen_model.networks.efficientnet import lite0_hash
from imagen_model.networks.networks import Networks

SPEECH = Path(__file__).parent / "fixtures" / "speech"
FILES = sorted(SPEECH.glob("*.wav"))


def clip_of(path: Path) -> tuple[torch.Tensor, int]:
    """A 16-bit mono file, by the standard library."""
    with wave.open(str(path)) as file:
        data = bytearray(file.readframes(file.getnframes()))
        return torch.frombuffer(data, dtype=torch.int16).float()[None] / 32768, file.getframerate()


def said_in(path: Path) -> str:
    return path.stem.replace("_", " ")


@pytest.fixture(scope="module")
def red_apple() -> tuple[torch.Tensor, int]:
    return clip_of(SPEECH / "red_apple.wav")


@pytest.fixture(scope="module")
def heard() -> dict[str, str]:
    """What was heard in each file: what was said -> text."""
    return dict(
        zip(map(said_in, FILES), im.transcribe([clip_of(path) for path in FILES]), strict=True)
    )


def resampled(clip: tuple[torch.Tensor, int], rate: int) -> tuple[torch.Tensor, int]:
    """The clip at another rate, by its spectrum: cut, or filled up with zeros."""
    sound, old = clip
    length = round(sound.shape[1] * rate / old)
    spectrum = torch.fft.rfft(sound)
    out = torch.zeros(len(sound), length // 2 + 1, dtype=spectrum.dtype)
    kept = min(out.shape[1], spectrum.shape[1])
    out[:, :kept] = spectrum[:, :kept]
    return torch.fft.irfft(out, length) * (length / sound.shape[1]), rate


def test_voices_that_were_held_out_are_understood(heard):
    assert len(heard) == 8
    assert sum(text == said for said, text in heard.items()) >= 6, heard


def test_what_is_said_draws_what_the_same_words_draw(red_apple):
    model = im.load("emoji")
    spoken, typed = model.encode_audio([red_apple], style="noto"), model.encode_text("red apple")
    assert torch.equal(spoken.pooled, typed.pooled)
    assert torch.equal(spoken.tokens, typed.tokens)
    assert spoken.style.argmax() == model.styles.index("noto")


def test_the_right_sound_matches_its_picture_better_than_a_shuffled_one():
    model = im.load("emoji")
    condition = model.encode_audio([clip_of(path) for path in FILES], style="fluent-3d")
    words = model.encode_text([said_in(path) for path in FILES], style="fluent-3d")
    pictures = model.draw(words, model.latent(range(len(FILES))))
    right = model.score(pictures, condition).match
    shuffled = condition[torch.arange(len(FILES)).roll(3)]
    wrong = model.score(pictures, shuffled).match
    assert (right > wrong).float().mean() >= 0.75


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 44_100, 48_000, 192_000])
def test_the_sample_rate_does_not_change_what_is_heard(red_apple, rate):
    assert im.transcribe([resampled(red_apple, rate)]) == im.transcribe([red_apple])


def test_the_loudness_and_the_number_of_channels_do_not_change_what_is_heard(red_apple):
    sound, rate = red_apple
    six = (sound * 0.01).expand(6, -1)
    quiet_ends = torch.nn.functional.pad(sound, (rate, rate // 2))
    assert im.transcribe([(six, rate), (quiet_ends, rate)]) == im.transcribe([red_apple, red_apple])


CHANGED = {
    "a constant offset": lambda sound: sound + 0.5,
    "offsets of both channels": lambda sound: torch.cat([sound - 0.3, sound + 0.6]),
    "opposite phases": lambda sound: torch.cat([sound, -sound]),
    "almost opposite phases": lambda sound: torch.cat([sound, -0.9 * sound, 0 * sound]),
    "a huge amplitude": lambda sound: sound * 1e19,
    "the largest amplitude": lambda sound: sound / sound.abs().max() * 3e38,
}


@pytest.mark.parametrize("name", CHANGED)
def test_what_is_inaudible_does_not_change_what_is_heard(red_apple, name):
    sound, rate = red_apple
    assert im.transcribe([(CHANGED[name](sound), rate)]) == im.transcribe([red_apple])


def test_a_constant_is_silent(red_apple):
    with pytest.raises(ValueError, match="the sound is silent"):
        im.transcribe([(torch.full((2, 16_000), 0.7), 16_000)])


def test_a_tone_falls_into_the_same_filter_at_every_rate():
    places = set()
    for rate in (8_000, 22_050, 44_100, 96_000):
        tone = torch.sin(2 * math.pi * 1000 * torch.arange(rate) / rate)
        places.add(int(mel_power(tone, rate)[50].argmax()))
    assert len(places) == 1


def test_rows_do_not_depend_on_the_batch(red_apple, generator):
    rows = [levelled(trimmed(mel_power(mono(*clip_of(path)), 22_050))) for path in FILES[:3]]
    network = speech_recognizer().network
    together, mask = network(*batch(rows))
    for i, row in enumerate(rows):
        (alone,), _ = network(*batch([row]))
        torch.testing.assert_close(together[i, mask[i]], alone, atol=1e-4, rtol=1e-4)


def test_the_same_sound_is_heard_the_same_and_draws_nothing_from_the_global_generator(red_apple):
    state = torch.random.get_rng_state()
    speech_recognizer.cache_clear()
    first = im.transcribe([red_apple])
    assert im.transcribe([red_apple]) == first
    assert torch.equal(torch.random.get_rng_state(), state)


REFUSED = {
    "silence": (torch.zeros(1, 16_000), 16_000, "silent"),
    "nearly silence": (torch.full((2, 16_000), 1e-5), 16_000, "silent"),
    "NaN": (torch.full((1, 16_000), float("nan")), 16_000, "NaN or infinite"),
    "infinite": (torch.full((1, 16_000), float("inf")), 16_000, "NaN or infinite"),
    "zero length": (torch.zeros(1, 0), 16_000, "empty"),
    "no channel": (torch.zeros(0, 16_000), 16_000, "empty"),
    "too short": (torch.ones(1, 1_599), 16_000, "0.100 s long; expected 0.1 s or more"),
    "no channels' axis": (torch.ones(16_000), 16_000, r"\[channels, samples\]"),
    "no rate": (torch.ones(1, 16_000), 0, "rate is 0 Hz; expected 2000 to 768000"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_heard_is_refused_in_one_line(name):
    waveform, rate, words = REFUSED[name]
    with pytest.raises(ValueError, match=words) as error:
        im.transcribe([(waveform, rate)])
    assert "\n" not in str(error.value)


def test_no_sounds_are_refused():
    with pytest.raises(ValueError, match="there is no sound"):
        im.transcribe([])


def test_a_tenth_of_a_second_is_enough_and_no_words_are_one_line(monkeypatch, red_apple):
    sound, rate = red_apple
    mel, mask = batch([levelled(trimmed(mel_power(mono(sound[:, : rate // 10], rate), rate)))])
    assert speech_recognizer().network(mel, mask)[0].isfinite().all()
    monkeypatch.setattr(Lexicon, "best", lambda self, heard, **_: [])
    with pytest.raises(ValueError, match="no words were recognized in the sound"):
        im.transcribe([red_apple])


def test_an_hour_is_cut_to_a_minute_before_anything_else(monkeypatch, caplog, red_apple):
    """An hour of six channels, which one row of memory stands for."""
    seen = []
    monkeypatch.setattr(
        audio.SpeechRecognizer, "transcribe", lambda self, clips, *_: [mono(*c) for c in clips]
    )
    monkeypatch.setattr(torch.Tensor, "float", counted(torch.Tensor.float, seen))
    hour = torch.tensor([0, 1], dtype=torch.uint8).repeat(1800 * 44_100).expand(6, -1)
    with caplog.at_level(logging.WARNING):
        (sound,) = im.transcribe([(hour, 44_100)])
    assert sound.shape == (60 * 44_100,)
    assert max(seen) == 6 * 60 * 44_100  # nothing of the hour was copied
    assert [r.getMessage() for r in caplog.records] == [
        "a sound is over 60 s long; the rest is ignored"
    ]


def counted(method, seen):
    def call(tensor):
        seen.append(tensor.numel())
        return method(tensor)

    return call


def test_a_model_without_text_takes_no_sound(tiny_config, tmp_path, red_apple):
    for encoder, words in (("", "without text; it takes no sound"), ("0" * 64, "another text")):
        conditioning = tiny_config.conditioning.__class__(
            styles=tiny_config.conditioning.styles, text_encoder=encoder
        )
        config = tiny_config.__class__(**{**vars(tiny_config), "conditioning": conditioning})
        path = tmp_path / f"{encoder[:4] or 'none'}.safetensors"
        save_checkpoint(path, config, Networks.seeded(config, 0), {"lite0": lite0_hash()})
        with pytest.raises(ValueError, match=words):
            im.load(path).encode_audio([red_apple])


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("silent.wav", torch.zeros(16_000), "silent.wav: the sound is silent"),
        ("nan.wav", torch.full((16_000,), float("nan")), "nan.wav: the sound holds NaN"),
        ("short.wav", torch.ones(100), "short.wav: the sound is 0.006 s long"),
        ("x.m4a", b"\0\0\0\x20ftypM4A ", "x.m4a can't be read as sound"),
        ("x.raw", b"\0" * 1000, "x.raw can't be read as sound"),
    ],
    ids=["silent", "NaN", "short", "m4a", "raw"],
)
def test_the_file_of_a_sound_that_cannot_be_heard_is_named(tmp_path, capsys, name, content, words):
    soundfile = pytest.importorskip("soundfile")
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
        words = (words, "; expected WAV, FLAC, OGG, MP3")
    else:
        soundfile.write(tmp_path / name, content.numpy(), 16_000, subtype="FLOAT")
        words = (words,)
    good = SPEECH / "red_apple.wav"
    command = ["sample", "--audio", good, "--audio", tmp_path / name, "--out", tmp_path / "x.png"]
    assert main([str(word) for word in command]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert all(part in error for part in words), error


# the lexicon


def certain(labels: list[int], num_phonemes: int) -> torch.Tensor:
    """Log probabilities of a recogniser that is sure of `labels`, a frame each."""
    logits = torch.full((len(labels), 1 + num_phonemes), -5.0)
    logits[torch.arange(len(labels)), torch.tensor(labels)] = 5.0
    return logits.log_softmax(dim=1)


LEXICON = Lexicon(
    "abc",
    [
        Entry("cab", "cab", 1.0),
        Entry("a", "a", 1.0),
        Entry("baa", "baa", 1.0),
        Entry("bc", "bc", 9),
    ],
)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([0, 3, 3, 0, 1, 2, 2, 0], ["cab"]),
        ([1, 0, 3, 1, 2], ["a", "cab"]),
        ([2, 1, 0, 1, 1], ["baa"]),  # the same phoneme twice, with the blank between
        ([3, 1, 2, 0, 0, 2, 1, 0, 1], ["cab", "baa"]),
        ([0, 0, 0], []),
    ],
)
def test_the_lexicon_finds_the_words_that_were_said(labels, words):
    assert LEXICON.best(certain(labels, 3)) == words


def test_a_phoneme_that_lasts_is_not_two():
    assert LEXICON.best(certain([2, 1, 1, 1], 3)) != ["baa"]


def test_a_dear_entry_has_to_fit_much_better():
    unsure = certain([2, 3], 3) * 0.3
    assert LEXICON.best(unsure) == []
    assert LEXICON.best(unsure, free=True) == ["bc"]
    assert LEXICON.best(certain([2, 3], 3)) == ["bc"]


# the command


def test_a_spoken_prompt_is_sampled_alone_and_with_a_typed_one(tmp_path, capsys):
    pytest.importorskip("soundfile")
    out, again = tmp_path / "spoken.png", tmp_path / "typed.png"
    apple = str(SPEECH / "red_apple.wav")
    assert main(["sample", "--audio", apple, "--seed", "3", "--out", str(out)]) == 0
    assert main(["sample", "--prompt", "red apple", "--seed", "3", "--out", str(again)]) == 0
    assert pixels(out) == pixels(again)
    both = ["sample", "--audio", apple, "--prompt", "rocket", "--num", "2"]
    assert main([*both, "--out", str(tmp_path / "both")]) == 0
    assert len(list((tmp_path / "both").glob("*.png"))) == 2


def pixels(path: Path) -> bytes:
    from PIL import Image

    return Image.open(path).tobytes()


def test_a_file_that_is_no_sound_is_one_clear_line(tmp_path, capsys):
    pytest.importorskip("soundfile")
    bad = tmp_path / "bad.wav"
    bad.write_bytes(b"RIFF no sound")
    out = ["--out", str(tmp_path / "x.png")]
    assert main(["sample", "--audio", str(bad), *out]) == 1
    assert main(["sample", "--audio", str(tmp_path / "gone.wav"), *out]) == 1
    first, second = capsys.readouterr().err.strip().splitlines()
    assert "bad.wav can't be read as sound" in first
    assert second.endswith("gone.wav") and "no sound file" in second


# synthesis, where espeak-ng is there


def test_the_evaluation_speaks_in_held_out_voices_that_are_understood():
    pytest.importorskip("espeakng_loader")
    from imagen_model.evaluation.speech import held_out_speech

    texts = ["red apple", "rocket", "cat face", "snail", "guitar", "umbrella"]
    clips = held_out_speech(texts)
    assert sum(a == b for a, b in zip(im.transcribe(clips), texts, strict=True)) >= 4
    lengths = [sound.shape[1] for sound, _ in clips]
    for length, (sound, _) in zip(lengths, held_out_speech(texts), strict=True):
        assert sound.shape[1] == pytest.approx(length, rel=0.1)  # the same voice at the same rate


def test_without_espeak_the_line_says_what_to_install(monkeypatch):
    from imagen_model.data import espeak

    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    monkeypatch.setattr(espeak.ctypes.util, "find_library", lambda name: None)
    with pytest.raises(ValueError, match=r"needs espeak-ng: pip install 'imagen-gan\[speech\]'"):
        espeak.Espeak()


def test_held_out_voices_are_not_among_the_voices_of_the_training():
    from imagen_model.data.espeak import HELD_OUT_VOICES, VOICES

    assert len(set(VOICES)) >= 14 and len(set(HELD_OUT_VOICES)) >= 3
    assert not set(VOICES) & set(HELD_OUT_VOICES)
    assert speech_recognizer().card["voices"] == list(VOICES)
    assert "synthetic (espeak-ng)" in speech_recognizer().card["speech"]
