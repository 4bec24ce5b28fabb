"""Words, pictures and sounds as one condition: each steers; leaving out or adding one counts."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from test_audio import FILES, clip_of, said_in

import imagen_model as im
from imagen_model.condition import combined

STYLE, SHOWN = "fluent-3d", "noto"  # the style that is asked for, and that of the picture prompts
DRAWS = 4
Share = Callable[[im.Condition], float]


@pytest.fixture(scope="module")
def model() -> im.Model:
    return im.load("emoji")


@pytest.fixture(scope="module")
def prompts(model) -> dict[str, im.Condition]:
    """The same eight concepts, asked for in three ways."""
    words = [said_in(path) for path in FILES]
    shown = model.draw(model.encode_text(words, style=SHOWN), model.latent(range(100, 108)))
    return {
        "text": model.encode_text(words, style=STYLE),
        "image": model.encode_image(shown, style=STYLE),
        "audio": model.encode_audio([clip_of(path) for path in FILES], style=STYLE),
    }


@pytest.fixture(scope="module")
def share(model, prompts) -> Share:
    """How often a picture matches its own concept's words better than another's, by the
    discriminator; chance is a half."""
    words = prompts["text"]
    n = len(words)

    def measure(condition: im.Condition) -> float:
        wins = []
        for draw in range(DRAWS):
            pictures = model.draw(condition, model.latent([50 * draw + i for i in range(n)]))
            order = torch.arange(n)
            right, *others = (model.score(pictures, words[order.roll(by)]).match for by in range(n))
            wins.append(torch.stack([right > other for other in others]).float().mean())
        return float(torch.stack(wins).mean())

    return measure


@pytest.fixture(scope="module")
def nothing(model, share) -> float:
    """The share for pictures without a prompt."""
    return share(model.encode_text([""] * len(FILES), style=STYLE))


def test_nothing_said_is_chance(nothing):
    assert nothing == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("way", ["text", "image", "audio"])
def test_each_alone_steers_and_something_unrelated_beside_it_distracts(
    prompts, share, nothing, way
):
    alone = share(prompts[way])
    unrelated = prompts["text"][torch.arange(len(FILES)).roll(3)]
    assert alone > nothing + 0.1
    assert share(combined(prompts[way], unrelated, 0.5)) < alone - 0.08
    assert share(unrelated) < nothing


@pytest.mark.parametrize("way", ["text", "audio"])
def test_a_second_way_to_say_the_same_does_no_harm_and_can_be_left_out(prompts, share, way):
    both = share(combined(prompts[way], prompts["image"], 0.5))
    assert both > share(prompts[way]) - 0.05
    assert both > share(prompts["image"])
