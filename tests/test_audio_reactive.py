"""A walk to a sound: what is heard, how the walk answers, and what it refuses."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import torch

import imagen_model as im
from imagen_model.inference import sound_analysis as walk_module
from imagen_model.inference.audio_reactive import Reactions, followed, mixtures, smoothed
from imagen_model.inference.sound_analysis import MAX_FRAMES, SOURCES, Sound, analyze_audio

RATE = 22_050


def tone(hz: float, seconds: float, *, rate: int = RATE, channels: int = 1) -> torch.Tensor:
    t = torch.arange(int(seconds * rate)) / rate
    return (0.5 * (2 * math.pi * hz * t).sin()).expand(channels, -1).clone()


def quiet(frames: int, **levels: np.ndarray) -> Sound:
    """A sound of which only `levels` are heard."""
    nothing = {name: np.zeros(frames, np.float32) for name in SOURCES[:-1]}
    return Sound(24.0, nothing | levels, np.full((frames, 12), 1 / 12, np.float32))


@pytest.fixture(scope="module")
def librosa():
    return pytest.importorskip("librosa")


# -- what is heard --------------------------------------------------------------------------------


@pytest.mark.usefixtures("librosa")
@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 192_000])
def test_a_click_is_an_onset_in_its_own_frame_at_any_rate(rate):
    wave = torch.zeros(2, 2 * rate)
    for second in (0.5, 1.25):
        at = int(second * rate)
        burst = torch.randn(2, rate // 50, generator=torch.Generator().manual_seed(0))
        wave[:, at : at + rate // 50] = 0.5 * burst
    onsets = analyze_audio(wave, rate, frame_rate=20).levels["onsets"]
    assert len(onsets) == 40
    for frame in (10, 25):
        assert onsets[frame - 1 : frame + 2].max() > 0.9
    assert onsets[14:23].max() < 0.2 and onsets[29:].max() < 0.2


@pytest.mark.usefixtures("librosa")
@pytest.mark.parametrize(("hz", "band"), [(80, "bass"), (800, "mids"), (6000, "treble")])
def test_a_tone_is_heard_in_its_band(hz, band):
    wave = torch.cat([torch.zeros(1, RATE), tone(hz, 1.0)], dim=1)
    sound = analyze_audio(wave, RATE, frame_rate=10)
    assert sound.levels[band][12:19].min() > 0.8
    assert sound.levels[band][:8].max() < 0.1
    assert sound.levels["loudness"][12:19].min() > 0.8


@pytest.mark.usefixtures("librosa")
@pytest.mark.parametrize(("hz", "pitch"), [(261.63, 0), (440.0, 9), (880.0, 9), (493.88, 11)])
def test_a_melody_is_the_pitch_class_that_sounds(hz, pitch):
    melody = analyze_audio(tone(hz, 1.0), RATE, frame_rate=10).melody
    assert (melody[2:8].argmax(axis=1) == pitch).all()
    np.testing.assert_allclose(melody.sum(axis=1), 1, rtol=1e-5)


@pytest.mark.usefixtures("librosa")
def test_what_is_heard_does_not_depend_on_the_block_that_is_transformed(monkeypatch):
    wave = tone(220, 3.0) * torch.linspace(0, 1, 3 * RATE)
    whole = analyze_audio(wave, RATE)
    monkeypatch.setattr(walk_module, "BLOCK_SEC", 0.3)
    pieces = analyze_audio(wave, RATE)
    for name, level in whole.levels.items():
        np.testing.assert_allclose(pieces.levels[name], level, atol=1e-5)
    np.testing.assert_allclose(pieces.melody, whole.melody, atol=1e-5)


@pytest.mark.usefixtures("librosa")
@pytest.mark.parametrize(("seconds", "frames"), [(1.0, 24), (1.01, 25), (0.001, 1)])
def test_a_film_covers_the_whole_sound(seconds, frames):
    assert len(analyze_audio(tone(440, seconds), RATE)) == frames


@pytest.mark.usefixtures("librosa")
def test_silence_moves_nothing_and_says_so(caplog):
    sound = analyze_audio(torch.zeros(6, RATE), RATE)
    assert all((level == 0).all() for level in sound.levels.values())
    assert "the sound is silent" in caplog.text


@pytest.mark.parametrize(
    ("wave", "rate", "words"),
    [
        (torch.zeros(1, 0), RATE, "the sound is empty"),
        (torch.zeros(RATE), RATE, "the sound is empty"),
        (torch.full((2, RATE), math.nan), RATE, "holds NaN"),
        (torch.full((2, RATE), math.inf), RATE, "holds NaN or infinite"),
        (torch.zeros(1, 1).expand(1, 3600 * RATE), RATE, r"3600 s .* 86400 frames; expected 16384"),
        (torch.zeros(1, RATE), 0, "sample rate is 0 Hz"),
    ],
    ids=["nothing", "no channels", "NaN", "infinite", "an hour", "no rate"],
)
def test_a_sound_that_cannot_be_walked_to_is_refused_in_one_line(wave, rate, words):
    with pytest.raises(ValueError, match=words) as caught:
        analyze_audio(wave, rate)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changed",
    [lambda x: x + 0.5, lambda x: torch.cat([x, -x]), lambda x: x * 1e19, lambda x: x * 3e38],
    ids=["offset", "opposite phases", "huge", "largest"],
)
def test_offsets_phases_and_amplitudes_leave_a_film_as_it_is(changed, librosa):
    time = torch.arange(16_000) / 16_000
    wave = (torch.sin(2 * math.pi * 200 * time) * (time % 0.25 < 0.1))[None]
    plain, other = im.analyze_audio(wave, 16_000), im.analyze_audio(changed(wave), 16_000)
    for name, levels in plain.levels.items():
        np.testing.assert_allclose(other.levels[name], levels, atol=0.02, err_msg=name)
    np.testing.assert_allclose(other.melody, plain.melody, atol=0.02)


def test_without_librosa_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "librosa", None)
    with pytest.raises(ValueError, match="pip install librosa"):
        analyze_audio(tone(440, 0.5), RATE)


def test_a_wrong_frame_rate_or_reaction_is_refused():
    with pytest.raises(ValueError, match="frame rate is 0"):
        analyze_audio(tone(440, 0.5), RATE, frame_rate=0)
    with pytest.raises(ValueError, match="fine_from is 'drums'; expected one of onsets"):
        Reactions(fine_from="drums")
    with pytest.raises(ValueError, match="coarse is nan; expected 0 to 8"):
        Reactions(coarse=math.nan)


# -- how it answers -------------------------------------------------------------------------------


def test_an_envelope_rises_by_attack_and_falls_by_release():
    step = np.r_[np.zeros(5), np.ones(50), np.zeros(100)].astype(np.float32)
    level = followed(step, 100.0, attack=0.1, release=0.5)
    assert level[4] == 0
    assert level[5 + 9] == pytest.approx(1 - math.exp(-1), rel=1e-3)  # one time constant later
    assert level[55 + 49] / level[54] == pytest.approx(math.exp(-1), rel=1e-3)
    np.testing.assert_array_equal(followed(step, 100.0, attack=0, release=0), step)


def test_smoothing_keeps_the_sum_and_the_place():
    click = np.zeros(41, np.float32)
    click[20] = 1
    soft = smoothed(click, 3.0)
    assert soft.argmax() == 20 and soft.sum() == pytest.approx(1, rel=1e-5)
    np.testing.assert_allclose(soft, soft[::-1], atol=1e-6)


def test_in_silence_the_walk_passes_every_latent_at_an_even_pace():
    mixture = mixtures(quiet(12), 4, Reactions(loop=True))
    assert mixture.shape == (12, 3, 4)
    for i in range(4):
        np.testing.assert_allclose(mixture[3 * i, 0], np.eye(4)[i], atol=1e-6)
    np.testing.assert_allclose(mixture.sum(axis=2), 1, rtol=1e-6)
    np.testing.assert_array_equal(mixture[:, 0], mixture[:, 2])
    there = mixtures(quiet(12), 4, Reactions(loop=False))
    np.testing.assert_allclose(there[-1, 0], np.eye(4)[3], atol=1e-6)


def test_each_band_of_blocks_is_pushed_by_its_own_source_alone():
    hit = np.zeros(24, np.float32)
    hit[8] = 1  # where the second latent is reached
    still = mixtures(quiet(24), 3, Reactions())
    quick = {"attack": 0, "release": 0, "smoothing": 0}
    for band, name in enumerate(("coarse", "middle", "fine")):
        gains = dict.fromkeys(("coarse", "middle", "fine"), 0.0)
        reactions = Reactions(**gains | {name: 1.0, f"{name}_from": "treble"}, **quick)
        moved = np.abs(mixtures(quiet(24, treble=hit), 3, reactions) - still).sum(axis=2)
        assert moved[8, band] == pytest.approx(2, rel=1e-5)  # one whole latent further
        moved[8, band] = 0
        assert moved.max() < 1e-5


def test_a_melody_leads_to_the_latent_of_its_pitch():
    loud = quiet(8, loudness=np.ones(8, np.float32))
    loud.melody[:] = np.eye(12, dtype=np.float32)[9]
    reactions = Reactions(middle=1.0, coarse=0, fine=0, attack=0, smoothing=0)
    mixture = mixtures(loud, 4, reactions)
    np.testing.assert_allclose(mixture[:, 1], np.tile(np.eye(4)[3], (8, 1)), atol=1e-6)


# -- frames ---------------------------------------------------------------------------------------


def frames_of(model: im.Model, sound: Sound, prompts="rocket", latents: int = 3, **options):
    condition = model.encode_text(prompts, style="noto")
    batches = model.audio_walk(condition, model.latent(range(latents)), sound, **options)
    return torch.cat(list(batches))


def test_in_silence_frames_are_those_of_an_interpolation_in_w(tiny_model):
    condition = tiny_model.encode_text("rocket", style="noto")
    points = tiny_model.into_w(condition, tiny_model.latent(range(3)))
    expected = tiny_model.draw(condition, im.walk(points, 9, loop=True))
    frames = frames_of(tiny_model, quiet(9))
    torch.testing.assert_close(frames, expected, atol=1e-5, rtol=1e-4)


def test_a_hit_changes_its_own_frame_and_the_same_sound_gives_the_same_film(tiny_model):
    hit = np.zeros(12, np.float32)
    hit[6] = 1
    reactions = Reactions(attack=0, release=0, smoothing=0)
    still, moved, again = (
        frames_of(tiny_model, sound, reactions=reactions)
        for sound in (quiet(12), quiet(12, bass=hit), quiet(12, bass=hit))
    )
    changed = (still - moved).abs().amax(dim=(1, 2, 3)) > 1e-4
    assert changed.nonzero().flatten().tolist() == [6]
    assert torch.equal(moved, again)


def test_frames_do_not_depend_on_the_batch_and_few_wait_at_a_time(tiny_model, monkeypatch):
    from imagen_model.inference import audio_reactive

    condition = tiny_model.encode_text("rocket", style="noto")
    loudness = np.linspace(0, 1, 10, dtype=np.float32)
    sound = quiet(10, bass=loudness, onsets=loudness)
    told = []
    monkeypatch.setattr(audio_reactive, "BATCH", 4)
    small = tiny_model.audio_walk(
        condition,
        tiny_model.latent(range(2)),
        sound,
        progress=lambda done, total, pictures: told.append((done, total, len(pictures))),
    )
    first = next(small)
    assert len(first) == 4 and told == [(4, 10, 4)]  # the rest is drawn when it is asked for
    frames = torch.cat([first, *small])
    assert told == [(4, 10, 4), (8, 10, 4), (10, 10, 2)]
    monkeypatch.undo()
    whole = frames_of(tiny_model, sound, latents=2)
    torch.testing.assert_close(frames, whole, atol=1e-5, rtol=1e-4)


def test_a_prompt_a_latent_leads_from_prompt_to_prompt(tiny_model):
    prompts = ["rocket", "red apple", "key"]
    frames = frames_of(tiny_model, quiet(9), prompts)
    condition = tiny_model.encode_text(prompts, style="noto")
    alone = tiny_model.draw(condition, tiny_model.latent(range(3)))
    torch.testing.assert_close(frames[::3], alone, atol=1e-4, rtol=1e-3)
    assert (frames[1] - frames[0]).abs().max() > 1e-3


def test_an_open_style_is_settled_once_for_every_latent(tiny_model):
    condition = tiny_model.encode_text("rocket")
    latent = tiny_model.latent(range(3))
    frames = torch.cat(list(tiny_model.audio_walk(condition, latent, quiet(6))))
    alone = tiny_model.draw(condition, latent)
    torch.testing.assert_close(frames[::2], alone, atol=1e-4, rtol=1e-3)


def test_one_latent_or_another_model_s_is_refused(tiny_model):
    with pytest.raises(ValueError, match="2 latents or more"):
        frames_of(tiny_model, quiet(4), latents=1)
    condition = tiny_model.encode_text("rocket", style="noto")
    latent = im.Latent("z", torch.zeros(2, 5), (0, 1))
    with pytest.raises(ValueError, match="do not fit this model"):
        next(tiny_model.audio_walk(condition, latent, quiet(4)))


def test_the_longest_film_is_refused_by_one_frame_more():
    rate = 2_000
    fits = torch.zeros(1, 1).expand(1, int(MAX_FRAMES * rate / 100))
    with pytest.raises(ValueError, match=f"{MAX_FRAMES + 1} frames; expected {MAX_FRAMES}"):
        analyze_audio(torch.zeros(1, 1).expand(1, fits.shape[1] + 1), rate, frame_rate=100)
