"""`imagen bench`: what it prints and writes, and the one speed that is promised."""

import json

import pytest
import torch

from imagen_model import config as model_config
from imagen_model.bench import EXACT, STEPS, Flops, bench
from imagen_model.cli import main

FAST = "rpgan, finite differences"


@pytest.fixture
def tiny_nano(monkeypatch):
    monkeypatch.setitem(model_config.PRESET_DIMS, "nano", 32)


def test_bench_writes_a_row_a_kind_of_work(tiny_nano, tmp_path, capsys):
    facts = tmp_path / "bench.json"
    arguments = ["bench", "--device", "cpu", "--batch", "2", "--rounds", "1", "--json", str(facts)]
    assert main(arguments) == 0
    result = json.loads(facts.read_text())
    assert result["machine"]["peak_gflops"] > 1
    assert result["machine"]["clock"] in ("wall", "processor")
    assert [row["batch"] for row in result["sampling"]] == [1, 32]
    assert [row["step"] for row in result["training"]] == list(STEPS)
    for row in result["sampling"] + result["training"]:
        assert (row["preset"], row["resolution"]) == ("nano", 32)
        assert row["images_per_sec"] == pytest.approx(1000 / row["ms_per_image"])
        assert 0 < row["peak_fraction"] < 1.5
    assert result["training"][-1]["ratio_to"] == {EXACT: 1.0}
    assert "GFLOP/s in a matrix product" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["--preset", "dcgan"], "expected one of nano"), (["--device", "tpu"], "try --device cpu")],
)
def test_bench_explains_a_mistake_in_one_line(arguments, words, capsys):
    assert main(["bench", *arguments]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


def test_flops_are_those_of_the_textbook():
    a, b = torch.ones(3, 5, requires_grad=True), torch.ones(5, 7)
    with Flops() as counter:
        (a @ b).sum().backward()
    assert counter.total == 2 * 3 * 5 * 7 * 2  # the product, and its gradient to a
    with Flops() as counter:
        torch.nn.functional.conv2d(torch.ones(2, 3, 8, 8), torch.ones(4, 3, 3, 3), padding=1)
    assert counter.total == 2 * (2 * 8 * 8 * 4) * (3 * 3 * 3)


@pytest.mark.slow
def test_finite_differences_are_half_as_fast_again_as_exact_penalties():
    result = bench(torch.device("cpu"), ["nano"], resolution=32, batch=16, rounds=3)
    ratios = {row["step"]: row["ratio_to"][EXACT] for row in result["training"]}
    assert ratios[FAST] >= 1.5
