"""Weights in prompts: ComfyUI's own syntax, and a colour that follows its weight."""

import ast
import importlib
import random
import sys

import pytest
import torch

import imagen_model as im
from imagen_model.bundled import bundled_models
from imagen_model.conditioning.minilm import text_encoder
from imagen_model.conditioning.prompt_weights import MAX_WEIGHT, parse_weights
from imagen_model.conditioning.text import encode_text
from studio.host import find_host

CASES = {
    "a red apple": [("a red apple", 1.0)],
    "a (red) apple": [("a ", 1.0), ("red", 1.1), (" apple", 1.0)],
    "a (red:1.4) apple": [("a ", 1.0), ("red", 1.4), (" apple", 1.0)],
    "((red)) apple": [("red", 1.1 * 1.1), (" apple", 1.0)],
    "(a (red:0.5) apple:2)": [("a ", 2.0), ("red", 0.5), (" apple", 2.0)],
    "(flag: Brazil)": [("flag: Brazil", 1.1)],
    "(flag: Brazil:0)": [("flag: Brazil", 0.0)],
    r"smile :\) \(red:1.4\)": [("smile :) (red:1.4)", 1.0)],
    "a (red apple": [("a ", 1.0), ("(red apple", 1.0)],
    "red) apple": [("red) apple", 1.0)],
    "(red:1.2)(apple:.8)": [("red", 1.2), ("apple", 0.8)],
    "(red: 1.3 )": [("red", 1.3)],
    "(红:1.3)苹果": [("红", 1.3), ("苹果", 1.0)],
    "()": [],
    "": [],
}
COMFYUI = {"parse_parentheses", "token_weights", "escape_important", "unescape_important"}


@pytest.mark.parametrize("prompt", CASES)
def test_brackets_weigh_words_as_they_do_in_comfyui(prompt):
    assert parse_weights(prompt) == CASES[prompt]


@pytest.mark.comfyui
def test_the_syntax_is_comfyuis_to_the_last_bracket(tmp_path, monkeypatch):
    """Against the host's own functions, on the table and on 5,000 heaps of brackets."""
    source = find_host(sys.executable).directory / "comfy" / "sd1_clip.py"
    functions = [
        node
        for node in ast.parse(source.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and node.name in COMFYUI
    ]
    assert len(functions) == len(COMFYUI)
    code = ast.unparse(ast.Module(functions, []))
    (tmp_path / "comfyui_weights.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    host = importlib.import_module("comfyui_weights")
    chance = random.Random(0)
    marks = ["(", ")", ":", "a", "b c", "1.2", ":0.5)", " ", r"\(", r"\)", "(x"]
    heaps = ["".join(chance.choices(marks, k=chance.randrange(14))) for _ in range(5000)]
    for prompt in [*CASES, *heaps]:
        theirs = host.token_weights(host.escape_important(prompt), 1.0)
        theirs = [(host.unescape_important(text), weight) for text, weight in theirs]
        assert parse_weights(prompt) == theirs, prompt


@pytest.mark.parametrize("weight", ["-1", "3.1", "1e9", "nan", "inf", "-inf"])
def test_a_weight_that_means_nothing_is_one_clear_line(weight):
    with pytest.raises(ValueError, match=rf"weight of 'red' is .*; expected 0 to {MAX_WEIGHT:g}"):
        encode_text([f"a (red:{weight}) apple"], styles=(), style=None)


def test_brackets_a_thousand_deep_are_refused_in_one_line():
    with pytest.raises(ValueError, match="brackets more than 50 deep"):
        encode_text(["(" * 1000 + "red" + ")" * 1000], styles=(), style=None)


def test_a_million_brackets_are_cut_like_any_long_prompt():
    condition = encode_text(["(red) " * 200_000], styles=(), style=None)
    assert condition.mask.all()


@pytest.mark.parametrize("prompt", ["a (red:1) apple", "(a red apple:1.0)"])
def test_weights_of_one_change_nothing(prompt):
    condition = encode_text([prompt], styles=(), style=None)
    tokens, _, pooled = text_encoder().encode(["a red apple"])
    assert torch.equal(condition.tokens, tokens)
    assert torch.equal(condition.pooled, pooled)


def test_a_weighted_prompt_leaves_the_others_of_its_batch_alone():
    together = encode_text(["rocket", "a (red:1.5) apple", ""], styles=("noto",), style=None)
    plain = encode_text(["rocket", "a red apple", ""], styles=("noto",), style=None)
    alone = encode_text(["a (red:1.5) apple"], styles=("noto",), style=None)
    for row in (0, 2):
        kept = plain.mask[row]
        assert torch.equal(together.tokens[row, : len(kept)], plain.tokens[row])
        assert torch.equal(together.pooled[row], plain.pooled[row])
    torch.testing.assert_close(together.pooled[1:2], alone.pooled)
    assert not torch.allclose(together.pooled[1], plain.pooled[1], atol=1e-3)


def test_a_span_of_no_weight_is_as_if_it_had_not_been_written():
    without, plain, twice = (
        encode_text([text], styles=(), style=None).pooled[0]
        for text in ("a (red:0) apple", "a red apple", "a (red:2) apple")
    )
    apple, red = text_encoder().encode(["a apple", "red"])[2]
    assert without @ apple > plain @ apple > twice @ apple
    assert without @ red < plain @ red < twice @ red


def test_more_weight_on_blue_makes_a_bluer_picture():
    """The bundled model, 16 seeds: how much more blue than red and green the pictures are."""
    model = im.load(next(iter(bundled_models())))
    latent = model.latent(range(16))

    def blueness(prompt: str) -> float:
        condition = model.encode_text(prompt)[torch.zeros(16, dtype=torch.long)]
        pictures = (model.draw(condition, latent) + 1) / 2  # premultiplied RGBA
        red, green, blue, alpha = pictures.sum(dim=(2, 3)).unbind(dim=1)
        return float(((blue - (red + green) / 2) / alpha.clamp(min=1)).mean())

    for thing in ("car", "bird"):
        little, plain, much = (blueness(f"(blue:{weight}) {thing}") for weight in (0.4, 1, 1.6))
        assert little + 0.02 < plain
        assert plain + 0.02 < much
