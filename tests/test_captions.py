"""Which words go with a picture: its caption, a keyword, or nothing, in known shares."""

from pathlib import Path

import pytest
import torch

from imagen_model.conditioning.minilm import text_encoder
from imagen_model.data import captions
from imagen_model.data.captions import (
    OPEN_FROM,
    CaptionSampler,
    EncodedTexts,
    TextsOnDemand,
    encode_all,
)
from imagen_model.data.item import Item

SAMPLES = [
    Item(Path("a"), "red apple", ("fruit", "food"), "noto"),
    Item(Path("b"), "rocket", (), "flat"),
    Item(Path("c"), "", (), ""),
]
DRAWS = 20_000


@pytest.fixture(scope="module")
def sampler():
    return CaptionSampler(SAMPLES, ("flat", "noto"))


def share(sampler: CaptionSampler, condition, word: str) -> float:
    """How many of the rows are about `word`."""
    pooled = sampler.encoded.pooled[sampler.texts.index(word)]
    return float((condition.pooled - pooled).abs().sum(dim=1).lt(1e-6).float().mean())


def test_texts_are_encoded_once_each(sampler):
    assert sorted(sampler.texts) == sorted(
        ["red apple", "a red apple", "fruit", "food", "rocket", "a rocket"]
    )


def test_encoded_texts_are_what_the_encoder_says():
    texts = ["a red apple", "key", "a very long way to say very little indeed"]
    told = []
    encoded = encode_all(texts, text_encoder(), lambda done, total: told.append((done, total)))
    tokens, mask, pooled = text_encoder().encode(texts)
    rows = encoded.rows(torch.arange(3), torch.zeros(3, 0))
    assert torch.equal(rows.mask, mask)
    torch.testing.assert_close(rows.tokens, tokens, atol=1e-3, rtol=1e-3)  # kept as fp16
    torch.testing.assert_close(rows.pooled, pooled, atol=1e-5, rtol=1e-5)
    assert told == [(3, 3)]


def test_a_row_of_minus_one_is_null():
    encoded = EncodedTexts(
        torch.ones(2, 384).half(), torch.tensor([0]), torch.tensor([2]), torch.ones(1, 384)
    )
    rows = encoded.rows(torch.tensor([-1, 0]), torch.zeros(2, 1))
    assert rows.mask.tolist() == [[False, False], [True, True]]
    assert (rows.tokens[0] == 0).all()
    assert (rows.pooled[0] == 0).all()
    assert (rows.pooled[1] == 1).all()


def test_captions_keywords_and_silence_come_in_their_shares(sampler, generator):
    """5 % nothing, 25 % a keyword, the rest the caption, three tenths of it with an article."""
    condition, text, _ = sampler.sample(torch.zeros(DRAWS, dtype=torch.long), generator)
    null = ~condition.mask.any(dim=1)
    assert float(null.float().mean()) == pytest.approx(0.05, abs=0.01)
    for word in ("fruit", "food"):
        assert share(sampler, condition, word) == pytest.approx(0.125, abs=0.01)
    assert share(sampler, condition, "red apple") == pytest.approx(0.7 * 0.7, abs=0.015)
    assert share(sampler, condition, "a red apple") == pytest.approx(0.7 * 0.3, abs=0.015)
    assert torch.equal(text < 0, null)


def test_a_keyword_is_open_where_many_pictures_share_it(generator):
    crowd = [Item(Path(str(i)), f"flag {i}", ("flag", f"rare {i}")) for i in range(OPEN_FROM)]
    sampler = CaptionSampler(crowd, ())
    _, text, is_open = sampler.sample(torch.arange(OPEN_FROM).repeat(200), generator)
    words = {sampler.texts[i] for i, open_ in zip(text, is_open, strict=True) if open_ and i >= 0}
    assert words == {"flag"}
    assert is_open[text < 0].all()


def test_the_name_of_a_class_is_open_where_many_pictures_have_it(generator):
    crowd = [Item(Path(str(i)), "cat") for i in range(OPEN_FROM)]
    sampler = CaptionSampler([*crowd, Item(Path("b"), "black swan", ("cat", "cat"))], ())
    _, text, is_open = sampler.sample(torch.arange(OPEN_FROM + 1).repeat(50), generator)
    words = {sampler.texts[i] for i, open_ in zip(text, is_open, strict=True) if open_ and i >= 0}
    assert words == {"cat", "a cat"}
    assert sampler.num_sharing[sampler.texts.index("cat")] == OPEN_FROM + 1


def test_without_keywords_only_silence_is_open(sampler, generator):
    condition, _, is_open = sampler.sample(torch.ones(DRAWS, dtype=torch.long), generator)
    assert torch.equal(is_open, ~condition.mask.any(dim=1))
    assert float(is_open.float().mean()) == pytest.approx(0.05, abs=0.01)


def test_a_picture_without_words_is_always_open(sampler, generator):
    condition, _, is_open = sampler.sample(torch.full((50,), 2), generator)
    assert is_open.all()
    assert not condition.mask.any()
    assert (condition.style == 0).all()


def test_the_style_stays_with_the_picture(sampler, generator):
    condition = sampler.sample(torch.tensor([0, 1, 2, 0]), generator).condition
    assert condition.style.tolist() == [[0, 1], [1, 0], [0, 0], [0, 1]]


def test_draws_follow_the_generator(sampler):
    index = torch.arange(3).repeat(20)
    first, second = (
        sampler.sample(index, torch.Generator().manual_seed(seed))[0].pooled for seed in (5, 5)
    )
    assert torch.equal(first, second)
    other = sampler.sample(index, torch.Generator().manual_seed(6)).condition
    assert not torch.equal(other.pooled, first)


def test_plain_captions_have_no_article_and_no_keyword(sampler):
    condition = sampler.captions(torch.tensor([1, 0, 2]))
    assert share(sampler, condition[:1], "rocket") == 1
    assert share(sampler, condition[1:2], "red apple") == 1
    assert not condition.mask[2].any()


def test_pictures_without_any_words_are_null_and_open(generator):
    sampler = CaptionSampler([Item(Path("a")), Item(Path("b"))], ())
    condition, _, is_open = sampler.sample(torch.tensor([0, 1, 1]), generator)
    assert is_open.all()
    assert not condition.mask.any()
    assert len(sampler.captions(torch.tensor([1, 0]))) == 2


def test_texts_encoded_on_demand_are_those_encoded_beforehand(monkeypatch):
    """With reference pictures, whose rows come after the texts, and with null rows."""
    texts = ["a red apple", "rocket", "the dog that slept on the blue chair"]
    pictures = torch.randn(2, 8, 384).half(), torch.randn(2, 384)
    before = encode_all(texts, text_encoder()).with_pictures(*pictures)
    demand = TextsOnDemand(texts, text_encoder()).with_pictures(*pictures)
    for index in ([2, -1, 4, 0, 2, 3, 1], [-1], [3], [1, 1]):
        index = torch.tensor(index)
        style = torch.rand(len(index), 3)
        ours, theirs = demand.rows(index, style), before.rows(index, style)
        for a, b in ((ours.tokens, theirs.tokens), (ours.pooled, theirs.pooled)):
            length = min(a.shape[1], b.shape[1])
            torch.testing.assert_close(a[:, :length], b[:, :length], atol=2e-3, rtol=2e-3)
        assert torch.equal(ours.mask.sum(dim=1), theirs.mask.sum(dim=1))
        assert torch.equal(ours.style, style)
    monkeypatch.setattr(captions, "MAX_ENCODED", 2)
    sampler = CaptionSampler([Item(Path("a"), "red apple"), Item(Path("b"), "rocket")], ())
    assert isinstance(sampler.encoded, TextsOnDemand)
    assert sampler.captions(torch.tensor([1, 0])).mask.any(dim=1).all()
