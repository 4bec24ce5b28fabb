"""Prompts in other languages and prompts that name a style; English ones stay as they are."""

import json
import logging
from pathlib import Path

import pytest
import torch

from imagen_model.conditioning.languages import English, english_phrases, to_english
from imagen_model.conditioning.minilm import text_encoder
from imagen_model.conditioning.text import encode_text

GOLDEN = Path(__file__).parent / "fixtures" / "golden_text.json"
STYLES = ("fluent-3d", "fluent-flat", "noto", "twemoji")
READ = {
    "红苹果": "red apple",
    "一只蓝色的猫": "blue cat",
    "绿色的龙": "green dragon",
    "挥手: 深色肤色": "waving hand : dark skin tone",
    "生日蛋糕": "birthday cake",
    "ein roter Apfel": "red apple",
    "der blaue Hund mit Herz": "blue dog with heart",
    "chat noir": "black cat",
    "un chat rouge": "cat red",
    "紅色的蘋果": "red apple",
    "синяя машина": "blue car",
    "快乐的狗": "happy dog",
    "une pomme verte": "green apple",
    "manzana roja": "red apple",
    "un coche rojo": "automobile red",
    "красное яблоко": "red apple",
    "красная кошка и собака": "red cat and dog",
    "赤いりんご": "red apple",
    "青い車": "blue vehicle",
    "빨간 사과": "red apple",
    "uma maçã vermelha": "red apple",
    "gatto nero": "black cat",
    "czerwone jabłko": "red apple",
    "táo đỏ": "red apple",
    "लाल सेब": "red apple",
    "🍎": "red apple",
    "👋🏿": "waving hand: dark skin tone",
    "a 🚀 in the sky": "a rocket in the sky",
    "photo of a Katze": "photo of a cat",
}


def caption_rows(folder: Path) -> set[str]:
    lines = [
        line
        for path in folder.rglob("metadata.jsonl")
        for line in path.read_text(encoding="utf-8").splitlines()
    ]
    rows = [json.loads(line) for line in lines]
    return {text for row in rows for text in (row["text"], *row["keywords"]) if text}


@pytest.mark.parametrize("prompt", READ)
def test_a_prompt_in_another_language_is_read_in_english(prompt):
    read = to_english([prompt])
    assert read.texts == (READ[prompt],)
    assert not read.unknown


@pytest.mark.parametrize("prompt", READ)
def test_the_condition_is_that_of_the_english_prompt(prompt, caplog):
    foreign, english = (encode_text([p], styles=(), style=None) for p in (prompt, READ[prompt]))
    assert torch.equal(foreign.tokens, english.tokens)
    assert torch.equal(foreign.pooled, english.pooled)
    assert not caplog.records


def test_english_prompts_give_exactly_what_the_encoder_says(emoji_folder):
    captions = sorted(caption_rows(emoji_folder))
    assert len(captions) > 50
    for begin in range(0, len(captions), 32):  # rounding differs from batch to batch
        part = captions[begin : begin + 32]
        condition = encode_text(part, styles=STYLES, style=None)
        tokens, mask, pooled = text_encoder().encode(part)
        assert torch.equal(condition.tokens, tokens)
        assert torch.equal(condition.mask, mask)
        assert torch.equal(condition.pooled, pooled)
        assert not condition.style.any()


def test_english_prompts_give_what_they_gave_before_prompts_were_read():
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    condition = encode_text(list(golden), styles=STYLES, style=None)
    torch.testing.assert_close(
        condition.pooled[:, :8], torch.tensor(list(golden.values())), atol=1e-4, rtol=1e-3
    )


def test_emojis_english_names_and_keywords_stay_to_the_letter():
    phrases = english_phrases()
    assert len(phrases) > 5000
    assert [p for p in phrases if to_english([p]) != English((p,))] == []


@pytest.mark.parametrize(
    "prompt",
    [
        "A photo of a dog on a skateboard, wearing sunglasses",
        "the king's crown; gold & rubies!",
        "a photo of Pikachu",
        "cyberpunk cat with neon",
        "flag: Côte d’Ivoire",
        "3 cats",
        "la la land",
        "El Salvador",
        "un flag",
        "Los Angeles at night",
        "le mans race car",
        "",
    ],
)
def test_other_english_stays_to_the_letter(prompt):
    assert to_english([prompt]) == English((prompt,))


@pytest.mark.parametrize(
    ("prompt", "unknown"),
    [
        ("在海边奔跑的马", "海边"),
        ("🍎 auf dem tisch", "tisch"),
        ("μήλο κόκκινο", "μήλο, κόκκινο"),
        ("تفاحة حمراء", "تفاحة, حمراء"),
        ("qhatu hatun wasi", "qhatu, hatun, wasi"),
    ],
)
def test_one_warning_names_the_words_that_no_english_is_known_for(prompt, unknown, caplog):
    with caplog.at_level(logging.WARNING):
        encode_text([prompt, "a red apple"], styles=(), style=None)
    assert [r.message for r in caplog.records] == [f"no English is known for: {unknown}"]


def test_a_warning_names_ten_words_and_counts_the_rest(caplog):
    words = [f"qhatu{letter}" for letter in "abcdefghijklm"]
    encode_text(words, styles=(), style=None)
    assert caplog.records[0].message.endswith("qhatui, qhatuj and 3 more")


def test_the_model_tells_how_it_read_a_prompt(tiny_model):
    assert tiny_model.how_read(["红苹果", "a key"]) == "read as: red apple"
    told = tiny_model.how_read("在海边奔跑的马").splitlines()
    assert told[0].startswith("read as: ")
    assert told[1] == "no English is known for: 海边"
    assert tiny_model.how_read(["a (red:1.3) apple, noto", ""]) == ""


def test_weights_hold_in_other_languages():
    foreign, english = (
        encode_text([p], styles=(), style=None) for p in ("(红色:1.5)的猫", "(red:1.5) cat")
    )
    torch.testing.assert_close(foreign.pooled, english.pooled)


@pytest.mark.parametrize(
    "prompt",
    [
        "a red apple, noto",
        "noto, a red apple",
        "Noto a red apple",
        "a red apple in noto",
        "a red apple in the NOTO style",
        "noto style a red apple",
        "a red noto apple",
    ],
)
def test_a_prompt_that_names_a_style_is_drawn_in_it(prompt):
    named = encode_text([prompt, "rocket"], styles=STYLES, style=None)
    chosen = encode_text(["a red apple", "rocket"], styles=STYLES, style="noto")
    assert torch.equal(named.tokens, chosen.tokens)
    assert torch.equal(named.style[0], chosen.style[0])
    assert not named.style[1].any()


@pytest.mark.parametrize("name", ["fluent 3d", "Fluent-3D", "fluent_3d", "fluent3d"])
def test_a_styles_name_may_be_spelt_as_people_do(name):
    condition = encode_text([f"snail, {name}"], styles=STYLES, style="")
    assert condition.style.tolist() == [[1, 0, 0, 0]]


def test_a_given_style_is_not_overruled_by_the_prompt():
    condition = encode_text(["snail, twemoji"], styles=STYLES, style="noto")
    assert condition.style.tolist() == [[0, 0, 1, 0]]


def test_two_styles_in_a_prompt_choose_neither():
    assert not encode_text(["snail, noto, twemoji"], styles=STYLES, style=None).style.any()


@pytest.mark.parametrize("prompt", ["flat tire", "notorious", "a fluent speaker", "3d glasses"])
def test_words_that_are_only_like_a_styles_name_choose_none(prompt):
    condition = encode_text([prompt], styles=STYLES, style=None)
    assert not condition.style.any()
    assert torch.equal(condition.tokens, text_encoder().encode([prompt])[0])


def test_a_style_that_is_called_like_a_thing_is_chosen_only_apart_from_it():
    inside, apart = (
        encode_text([prompt], styles=("red",), style=None).style.item()
        for prompt in ("a red apple", "an apple, red")
    )
    assert (inside, apart) == (0, 1)
