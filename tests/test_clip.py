"""Models that a CLIP text encoder reads for: trained, asked, and kept apart from all others."""

from __future__ import annotations

import json
import logging
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from clip_folders import random_clip, with_letters
from PIL import Image
from safetensors.torch import load_file, save_file
from test_cli import one_line, opened
from transformers import CLIPTextModel

import imagen_model as im
from imagen_model.cli import main
from imagen_model.conditioning.clip import (
    ClipEncoder,
    ClipFolder,
    is_clip,
    refuse_another,
    signature_distance,
)
from imagen_model.conditioning.minilm import text_encoder
from imagen_model.conditioning.prompt_weights import parse_weights
from imagen_model.feedback.finetune import pool_condition
from imagen_model.training.options import TrainOptions
from imagen_model.training.setup import prepare

TEXTS = ["a red apple", "", "key", "Zwölf 大象"]
SPEECH = Path(__file__).parent / "fixtures" / "speech" / "red_apple.wav"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return with_letters(random_clip(tmp_path_factory.mktemp("clip") / "tiny-clip", 0))


@pytest.fixture(scope="module")
def another(tmp_path_factory) -> Path:
    return with_letters(random_clip(tmp_path_factory.mktemp("clip") / "another", 1))


@pytest.fixture(scope="module")
def clip(folder: Path) -> ClipEncoder:
    return ClipEncoder(ClipFolder(folder))


@pytest.fixture(scope="module")
def command(folder: Path, emoji_folder: Path, tmp_path_factory) -> list[str]:
    """What people type to train on it, without a limit."""
    run = tmp_path_factory.mktemp("runs") / "run"
    typed = ["train", emoji_folder, "--out", run, "--batch", 8, "--text-encoder", folder]
    return [str(word) for word in typed]


@pytest.fixture(scope="module")
def trained(command: list[str]) -> Path:
    """A model after two steps."""
    assert main([*command, "--kimg", "0.016"]) == 0
    return Path(command[3]) / "latest.safetensors"


@pytest.fixture
def imagen(capsys):
    """Runs a command; returns its exit code and errors."""

    def run(*typed: object) -> tuple[int, str]:
        capsys.readouterr()
        return main([str(word) for word in typed]), capsys.readouterr().err

    return run


def copied(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to))


# -- the encoder ----------------------------------------------------------------------------------


def test_tokens_are_transformers_states_without_the_start_token(clip, folder):
    network = CLIPTextModel.from_pretrained(folder, local_files_only=True).eval()
    tokens, mask, pooled = clip.encode(["a red apple", "key"])
    ids = clip.core.tokenizer(["a red apple", "key"], padding=True, return_tensors="pt")
    with torch.no_grad():
        states = network(**ids).last_hidden_state
    assert mask.sum(dim=1).tolist() == [10, 4]  # letters and the end
    torch.testing.assert_close(tokens[0], states[0, 1:], atol=1e-5, rtol=0)
    torch.testing.assert_close(tokens[1, :4], states[1, 1:5], atol=1e-5, rtol=0)
    ends = torch.nn.functional.normalize(torch.stack([states[0, 10], states[1, 4]]), dim=1)
    torch.testing.assert_close(pooled, ends, atol=1e-5, rtol=0)


def test_rows_do_not_depend_on_the_batch_and_an_empty_text_is_null(clip):
    tokens, mask, pooled = clip.encode(TEXTS)
    for i, text in enumerate(TEXTS):
        alone, alone_mask, alone_pooled = clip.encode([text])
        length = alone_mask.shape[1]
        torch.testing.assert_close(tokens[i, :length], alone[0], atol=1e-5, rtol=0)
        assert torch.equal(mask[i, :length], alone_mask[0]) and not mask[i, length:].any()
        torch.testing.assert_close(pooled[i], alone_pooled[0], atol=1e-5, rtol=0)
    assert not mask[1].any() and not tokens[1].any() and not pooled[1].any()


def test_weight_1_is_the_plain_prompt_and_weight_0_as_if_it_had_not_been_written(clip):
    plain = clip.encode(["a red apple"])
    for one, same in zip(clip.weighted(parse_weights("a (red:1.0) apple")), plain, strict=True):
        torch.testing.assert_close(one, same, atol=1e-5, rtol=0)
    tokens, mask, pooled = clip.weighted(parse_weights("a (red:0) apple"))
    without, _, without_pooled = clip.encode(["a apple"])
    torch.testing.assert_close(pooled, without_pooled, atol=1e-5, rtol=0)
    torch.testing.assert_close(tokens[0, :1], without[0, :1], atol=1e-5, rtol=0)
    torch.testing.assert_close(tokens[0, 4:], without[0, 1:], atol=1e-5, rtol=0)
    assert mask.all() and tokens.shape == plain[0].shape


def test_a_long_prompt_is_cut_with_one_warning(clip, caplog):
    with caplog.at_level(logging.WARNING):
        tokens, mask, _ = clip.encode(["x " * 5000, "key"])
    assert mask.sum(dim=1).tolist() == [76, 4]
    torch.testing.assert_close(tokens[:1], clip.encode(["x " * 75])[0], atol=1e-5, rtol=0)
    assert [r.message for r in caplog.records] == [
        "a prompt is over 75 word pieces; the rest is ignored"
    ]
    assert clip.weighted([("x " * 5000, 1.0), ("y", 2.0)])[1].shape == (1, 76)


# -- its identity ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_identity_survives_other_precisions(clip, tmp_path, dtype):
    cast = ClipEncoder(ClipFolder(with_letters(random_clip(tmp_path / "x", 0, dtype=dtype))))
    refuse_another(cast, clip.identity, "it")
    assert signature_distance(cast.identity, clip.identity) < 0.03


def test_another_encoder_is_refused_in_one_line(clip, another, tmp_path):
    assert is_clip(clip.identity) and not is_clip(text_encoder().identity)
    with pytest.raises(ValueError, match=r"^it was trained on another CLIP .* \([3-7]\d% of their"):
        refuse_another(ClipEncoder(ClipFolder(another)), clip.identity, "it")
    wide = with_letters(random_clip(tmp_path / "wide", 0, hidden_size=64))
    with pytest.raises(ValueError, match="of width 32; this is 64"):
        refuse_another(ClipEncoder(ClipFolder(wide)), clip.identity, "it")


def test_a_whole_clip_with_its_names_is_the_same_encoder(clip, folder, tmp_path):
    whole = copied(folder, tmp_path / "whole")
    text = json.loads((folder / "config.json").read_text())
    (whole / "config.json").write_text(json.dumps({"model_type": "clip", "text_config": text}))
    state = load_file(folder / "model.safetensors")
    bare = {name.removeprefix("text_model."): t for name, t in state.items()}
    save_file({**state, "logit_scale": torch.ones(1)}, whole / "model.safetensors")
    assert ClipEncoder(ClipFolder(whole)).identity == clip.identity
    save_file(bare, whole / "model.safetensors")  # as transformers 5 names them
    (tmp_path / "tokenizer").mkdir()
    for name in ("vocab.json", "merges.txt"):  # as in a pipeline's folder
        (whole / name).rename(tmp_path / "tokenizer" / name)
    assert ClipEncoder(ClipFolder(whole)).identity == clip.identity


def spoilt(how: str, folder: Path) -> None:
    weights, config = folder / "model.safetensors", folder / "config.json"
    if how == "no folder":
        shutil.rmtree(folder)
    elif how == "another model":
        config.write_text(json.dumps({"model_type": "t5"}))
    elif how == "pickled":
        weights.rename(folder / "pytorch_model.bin")
    elif how == "damaged":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif how == "a layer short":
        state = load_file(weights)
        save_file({k: v for k, v in state.items() if "layers.1." not in k}, weights)
    elif how == "NaN":
        save_file({k: v * torch.nan for k, v in load_file(weights).items()}, weights)
    else:
        (folder / "vocab.json").unlink()


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("no folder", "is not the folder of a CLIP text encoder"),
        ("another model", "holds a t5; expected a CLIP text encoder"),
        ("pickled", "has no model.safetensors"),
        ("damaged", "does not fit its config.json"),
        ("a layer short", "does not fit its config.json: .*layers.1."),
        ("NaN", "answers with NaN"),
        ("no tokenizer", "has no tokenizer"),
    ],
)
def test_a_folder_that_is_no_clip_is_one_line(imagen, folder, emoji_folder, tmp_path, how, words):
    wrong = copied(folder, tmp_path / "wrong")
    spoilt(how, wrong)
    typed = ("train", emoji_folder, "--out", tmp_path / "run", "--kimg", 1, "--text-encoder", wrong)
    code, err = imagen(*typed)
    assert code == 1 and one_line(err)
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match=words):
        ClipEncoder(ClipFolder(wrong)).identity  # noqa: B018


def test_without_transformers_one_line_says_what_to_install(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match=r"pip install 'imagen-gan\[clip\]'"):
        ClipFolder(folder)


# -- models ---------------------------------------------------------------------------------------


def test_the_checkpoint_names_the_encoder(imagen, trained, clip, tmp_path):
    code, _ = imagen("info", trained, "--json", tmp_path / "info.json")
    info = json.loads((tmp_path / "info.json").read_text())
    conditioning, card = info["config"]["conditioning"], info["card"]["text_encoder"]
    assert code == 0 and conditioning["dim"] == 32
    assert conditioning["text_encoder"] == clip.identity
    assert card["name"] == "tiny-clip" and len(card["sha256"]) == 64
    assert "text: by a CLIP of width 32 (tiny-clip)" in im.load(trained).summary()


def test_sample_asks_in_words_pictures_and_speech(imagen, trained, folder, emoji_folder, tmp_path):
    picture = emoji_folder / "train" / "noto" / "1F34E.png"
    asked = {
        "empty": (),
        "text": ("--prompt", "a red apple"),
        "weighted": ("--prompt", "a (red:0.2) apple"),
        "picture": ("--image", picture),
        "speech": ("--audio", SPEECH),
    }
    drawn = {}
    for name, words in asked.items():
        out = tmp_path / f"{name}.png"
        code, err = imagen(
            "sample", "--model", trained, "--text-encoder", folder, *words, "--style", "noto",
            "--out", out,
        )  # fmt: skip
        assert code == 0, err
        drawn[name] = np.asarray(opened(out))
    assert len({pixels.tobytes() for pixels in drawn.values()}) == len(asked)


def test_a_prompt_without_the_encoder_or_with_another_is_one_line(
    imagen, trained, another, folder, tiny_checkpoint, tmp_path
):
    def refused(model: Path, *words: object) -> str:
        out = ("--out", tmp_path / "x.png")
        code, err = imagen("sample", "--model", model, "--prompt", "key", *out, *words)
        assert code == 1 and one_line(err) and not (tmp_path / "x.png").exists()
        return err

    told = refused(trained)
    assert "was trained on a CLIP text encoder; connect it to clip" in told
    assert "name it by text-encoder" in told
    assert "another CLIP" in refused(trained, "--text-encoder", another)
    assert "was not trained on a CLIP" in refused(tiny_checkpoint, "--text-encoder", folder)
    code, _ = imagen("sample", "--model", trained, "--out", tmp_path / "anything.png")
    assert code == 0  # nothing is asked for


def test_a_run_goes_on_with_its_encoder_and_no_other(imagen, command, trained, another):
    plain = command[: command.index("--text-encoder")]
    further = ("--kimg", 0.024, "--resume")
    code, err = imagen(*plain, *further)
    assert code == 1 and "name it by text-encoder" in err and one_line(err)
    code, err = imagen(*plain, *further, "--text-encoder", another)
    assert code == 1 and "was trained on another CLIP" in err and one_line(err)
    code, err = imagen(*command, *further)
    assert code == 0, err
    assert im.load(trained).card["text_encoder"]["name"] == "tiny-clip"


def test_a_model_of_the_bundled_encoder_does_not_change_to_a_clip(
    imagen, emoji_folder, folder, tiny_checkpoint, tmp_path
):
    typed = ("train", emoji_folder, "--out", tmp_path / "run", "--kimg", 1)
    code, err = imagen(*typed, "--text-encoder", folder, "--init", tiny_checkpoint)
    assert code == 1 and one_line(err) and "leave text-encoder out" in err
    code, err = imagen(*typed, "--text-encoder", folder, "--stage", "pretrain")
    assert code == 1 and one_line(err) and "is for captions" in err


def test_words_of_a_clip_begin_where_pretraining_without_words_ended(
    emoji_folder, folder, clip, tmp_path
):
    bare = tmp_path / "bare"
    bare.mkdir()
    Image.new("RGBA", (32, 32), (200, 9, 9, 255)).save(bare / "a.png")
    assert main(["train", str(bare), "--out", str(tmp_path / "p"), "--kimg", "0.032"]) == 0
    begun = tmp_path / "p" / "latest.safetensors"
    trainer = prepare(
        emoji_folder,
        tmp_path / "q",
        TrainOptions(init=str(begun), kimg=1.0, text_encoder=str(folder)),
        device=torch.device("cpu"),
        progress=lambda label: lambda done, total: None,
    )
    assert trainer.model.conditioning.dim == 32
    before = im.load(begun)
    z = before.latent(range(4)).values
    asked = trainer.captions.captions(torch.arange(4))
    with torch.no_grad():
        expected = before.networks.generate(z, before.encode_text([""] * 4))
        words = trainer.networks.generate(z, asked)
    torch.testing.assert_close(words, expected, atol=1e-5, rtol=0)


def test_learning_asks_for_anything_where_the_encoder_is_not_at_hand(trained, clip):
    model = im.load(trained)
    assert not pool_condition(model).mask.any()
    words = pool_condition(model.with_text_encoder(clip))
    assert words.mask.any(dim=1).all() and words.tokens.shape[2] == 32
