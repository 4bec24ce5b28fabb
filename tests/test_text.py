"""The text encoder: equal to BERT, the same in any batch, and honest about what it can't read."""

import json
import logging
import shutil

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from imagen_model.conditioning.minilm import (
    MAX_TOKENS,
    TEXT_DIR,
    TEXT_FILE,
    TextEncoder,
    text_encoder,
)
from imagen_model.conditioning.text import encode_text
from imagen_model.storage.int8 import dequantized

TEXTS = ["a red apple", "rocket", "flag: Brazil, waving in the wind", "日本 café!"]


@torch.no_grad()
def test_minilm_equals_the_bert_of_transformers():
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(**json.loads((TEXT_DIR / "config.json").read_text()))
    bert = transformers.BertModel(config, add_pooling_layer=False).eval()
    missing = bert.load_state_dict(dequantized(load_file(TEXT_FILE)), strict=False)
    assert not missing.unexpected_keys
    assert not [key for key in missing.missing_keys if "position_ids" not in key]
    tokenizer = text_encoder().tokenizer
    encodings = tokenizer.encode_batch(TEXTS)
    ids = torch.tensor([e.ids for e in encodings])
    mask = torch.tensor([e.attention_mask for e in encodings])
    expected = bert(input_ids=ids, attention_mask=mask).last_hidden_state
    tokens, our_mask, pooled = text_encoder().encode(TEXTS)
    assert torch.equal(our_mask, mask.bool())
    torch.testing.assert_close(tokens[our_mask], expected[our_mask], atol=1e-4, rtol=1e-4)
    mean = (expected * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
    torch.testing.assert_close(pooled, F.normalize(mean, dim=1), atol=1e-4, rtol=1e-4)


def test_words_become_lower_case_pieces_between_cls_and_sep():
    tokenizer = text_encoder().tokenizer
    assert tokenizer.encode("A Red  APPLE").tokens == ["[CLS]", "a", "red", "apple", "[SEP]"]
    assert tokenizer.encode("snowboarders").tokens[1:-1] == ["snow", "##board", "##ers"]


def test_related_words_are_nearer_than_unrelated_ones():
    _, _, (red, green, rocket) = text_encoder().encode(["red apple", "green apple", "rocket"])
    assert red @ green > red @ rocket + 0.2


def test_pooled_vectors_have_unit_length_and_padding_is_zero():
    tokens, mask, pooled = text_encoder().encode(TEXTS)
    torch.testing.assert_close(pooled.norm(dim=1), torch.ones(len(TEXTS)))
    assert not mask.all()
    assert (tokens[~mask] == 0).all()


@pytest.mark.parametrize("empty", ["", "   ", "\n\t"])
def test_an_empty_text_is_the_null_condition(empty):
    tokens, mask, pooled = text_encoder().encode([empty, "a key"])
    assert not mask[0].any()
    assert (tokens[0] == 0).all()
    assert (pooled[0] == 0).all()
    assert mask[1].any()


def test_a_prompt_of_ten_thousand_words_is_cut_with_one_warning(caplog):
    words = ["apple", "rocket", "snail"] * 20
    with caplog.at_level(logging.WARNING):
        tokens, mask, pooled = text_encoder().encode([" ".join(words * 167), "a key"])
    assert len([r for r in caplog.records if "word pieces" in r.message]) == 1
    assert tokens.shape[1] == mask[0].sum() == MAX_TOKENS
    _, _, shorter = text_encoder().encode([" ".join(words)])
    torch.testing.assert_close(pooled[:1], shorter, atol=1e-5, rtol=1e-5)


def test_a_prompt_that_fits_gives_no_warning(caplog):
    text_encoder().encode([" ".join(["apple"] * (MAX_TOKENS - 2))])
    assert not caplog.records


def test_a_text_does_not_depend_on_the_rest_of_the_batch():
    tokens, mask, pooled = text_encoder().encode(TEXTS)
    for i, text in enumerate(TEXTS):
        alone, alone_mask, alone_pooled = text_encoder().encode([text])
        torch.testing.assert_close(tokens[i][mask[i]], alone[alone_mask], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(pooled[i], alone_pooled[0], atol=1e-5, rtol=1e-4)


def test_damaged_weights_are_noticed(tmp_path):
    folder = tmp_path / "minilm"
    shutil.copytree(TEXT_DIR, folder)
    weights = folder / TEXT_FILE.name
    weights.chmod(0o644)
    with weights.open("r+b") as file:
        file.seek(1_000_000)
        byte = file.read(1)
        file.seek(1_000_000)
        file.write(bytes([byte[0] ^ 1]))
    with pytest.raises(ValueError, match=f"{TEXT_FILE.name} is damaged"):
        TextEncoder(folder).encode(["a"])


def test_loading_leaves_the_global_random_state_alone():
    before = torch.get_rng_state()
    TextEncoder().encode(["a"])
    assert torch.equal(torch.get_rng_state(), before)


def test_encode_text_gives_every_row_the_style():
    condition = encode_text(["a", "b"], styles=("flat", "noto"), style="noto")
    assert condition.style.tolist() == [[0, 1], [0, 1]]
    assert len(condition) == 2
