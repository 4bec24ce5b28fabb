"""`imagen learn`, `imagen ratings`, and `imagen sample` with an adapter."""

from __future__ import annotations

import json

import pytest
from test_cli import one_line, opened
from test_feedback_learn import few_prompts, rated  # noqa: F401 - a fixture for every test here

from imagen_model import load
from imagen_model.cli import main
from imagen_model.feedback import learn as learn_module
from imagen_model.feedback.store import Store


@pytest.fixture
def imagen(capsys):
    """Runs a command; returns its exit code, output and errors."""

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        output = capsys.readouterr()
        return code, output.out, output.err

    return run


@pytest.fixture
def store(tiny_model, tmp_path):
    """A file of twelve ratings."""
    path = tmp_path / "ratings.sqlite"
    with Store(path) as opened_store:
        opened_store.add(rated(tiny_model, 12))
    return path


@pytest.fixture(autouse=True)
def harmless(monkeypatch):
    """What the A/B of an untrained model finds is chance; these tests are not about it."""
    monkeypatch.setattr(learn_module, "objections", lambda ab: [])


def learned(imagen, tiny_checkpoint, store, out, *more):
    command = ("learn", "--model", tiny_checkpoint, "--store", store, "--out", out)
    return imagen(*command, "--method", "best", *more)


def test_learn_writes_an_adapter_that_sample_uses(imagen, tiny_checkpoint, store, tmp_path):
    out, facts = tmp_path / "taste.safetensors", tmp_path / "facts.json"
    code, printed, _ = learned(imagen, tiny_checkpoint, store, out, "--json", facts)
    assert code == 0 and str(out) in printed and "A/B on 20 pictures" in printed
    assert json.loads(facts.read_text())["card"]["ratings"] == {"thumbs": 6, "pairs": 6}
    sample = ("sample", "--model", tiny_checkpoint, "--prompt", "key", "--num", 8, "--out")
    assert imagen(*sample, tmp_path / "plain.png")[0] == 0
    assert imagen(*sample, tmp_path / "liked.png", "--adapter", out)[0] == 0
    assert imagen(*sample, tmp_path / "off.png", "--adapter", out, "--strength", 0)[0] == 0
    plain, liked, off = (opened(tmp_path / f"{n}.png") for n in ("plain", "liked", "off"))
    assert plain.tobytes() == off.tobytes() != liked.tobytes()
    assert json.loads(liked.info["imagen"])["adapter"]["strength"] == 1.0


def test_learn_can_merge_into_a_model_of_its_own(imagen, tiny_checkpoint, store, tmp_path):
    out, merged = tmp_path / "taste.safetensors", tmp_path / "merged.safetensors"
    assert learned(imagen, tiny_checkpoint, store, out, "--merge", merged)[0] == 0
    assert load(merged).card["merged"]["base"]["name"] == "tiny"


def test_an_adapter_that_is_worse_is_not_written_unless_forced(
    imagen, tiny_checkpoint, store, tmp_path, monkeypatch
):
    monkeypatch.setattr(learn_module, "objections", lambda ab: ["diversity falls by 9 %"])
    out = tmp_path / "taste.safetensors"
    code, printed, err = learned(imagen, tiny_checkpoint, store, out)
    assert code == 1 and one_line(err) and "not written: diversity falls" in err
    assert "A/B on" in printed and not out.exists()
    assert learned(imagen, tiny_checkpoint, store, out, "--force")[0] == 0 and out.is_file()


def test_ratings_travel_and_are_forgotten(imagen, store, tmp_path):
    lines, second = tmp_path / "out.jsonl", tmp_path / "second.sqlite"
    code, out, _ = imagen("ratings", "--store", store, "--export", lines)
    assert code == 0 and "exported 12 ratings" in out
    code, out, _ = imagen("ratings", "--store", second, "--import", lines)
    assert code == 0 and "imported 12" in out and "enough for best-of-N" in out
    code, out, _ = imagen("ratings", "--store", second, "--list")
    listed = out.splitlines()[:-1]
    assert len(listed) == 12 and "better than seed" in listed[0] and "red apple" in listed[0]
    code, out, _ = imagen("ratings", "--store", second, "--delete", listed[0].split()[0])
    assert code == 0 and "11 ratings" in out
    code, out, _ = imagen("ratings", "--store", second, "--clear")
    assert code == 0 and "deleted 11" in out and "5 more and a first adapter" in out


def test_mistakes_are_one_line(imagen, tiny_checkpoint, store, tmp_path):
    for arguments, words in (
        (("learn", "--store", tmp_path / "no", "--out", "a.safetensors"), "no ratings"),
        (("learn", "--store", store, "--out", "a.png"), "a.png is no .safetensors file"),
        (("ratings", "--store", tmp_path / "no"), "no ratings"),
        (("ratings", "--store", store, "--delete", "x"), "no rating x"),
        (("sample", "--model", tiny_checkpoint, "--out", "x.png", "--adapter", "no"), "no adapter"),
    ):
        code, _, err = imagen(*arguments)
        assert code == 1 and one_line(err) and words in err
    with Store(store) as kept:
        for rating in kept.ratings()[4:]:
            kept.delete(rating.id)
    code, _, err = learned(imagen, tiny_checkpoint, store, tmp_path / "a.safetensors")
    assert code == 1 and one_line(err) and "there are 4 ratings" in err
