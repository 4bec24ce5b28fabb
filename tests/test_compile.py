"""torch.compile for the trainer: the same numbers, and one line where there is no compiler."""

import logging

import pytest
import torch

from imagen_model.training.compile import why_not, worth_compiling

pytestmark = pytest.mark.filterwarnings("ignore")  # the compiler's own
needs_compiler = pytest.mark.skipif(
    why_not(torch.device("cpu")) is not None, reason="no C++ compiler"
)
EXACT = {"objective": "rpgan", "r1_gamma": 1.0, "r2_gamma": 1.0, "penalty": "exact"}


def step(t) -> dict[str, float]:
    t._update_fraction()
    t._set_lr()
    return {name: float(value) for name, value in t.step().items()}


def test_without_a_compiler_a_line_says_so_and_training_goes_on(trainer, caplog):
    from torch._inductor import config

    with config.patch({"cpp.cxx": ("no-such-compiler",)}), caplog.at_level(logging.WARNING):
        t = trainer(compile=True)
    assert caplog.messages == ["training is not compiled: there is no C++ compiler"]
    assert step(t) == step(trainer())


@needs_compiler
def test_a_cpu_compiles_the_generator_s_blocks_and_nothing_else(trainer):
    t = trainer(compile=True)
    compiled = [n for n, m in t.networks.named_modules() if m._compiled_call_impl is not None]
    assert compiled == [f"generator.blocks.{i}" for i in range(3)]
    assert t.networks.state_dict().keys() == trainer().networks.state_dict().keys()
    assert all(m._compiled_call_impl is None for m in t.ema.module.modules())


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, {"tail", "lite0", "trunk"}),
        (EXACT, {"tail"}),
        (EXACT | {"penalty": "finite-difference"}, {"tail", "lite0", "trunk"}),
        ({"objective": "wgan-gp"}, {"tail"}),
        ({"unrolled_steps": 1}, {"tail", "lite0"}),
    ],
    ids=["hinge", "exact", "finite differences", "wgan-gp", "a look ahead"],
)
def test_a_gpu_compiles_convolutions_but_what_is_differentiated_twice(trainer, settings, expected):
    t = trainer(**settings)
    generator, trunk = t.networks.generator, t.networks.discriminator.trunk
    named = {"tail": generator.tail, "lite0": t.train_step.lite0, "trunk": trunk}
    parts = worth_compiling(t.networks, t.train_step.lite0, t.training, torch.device("cuda"))
    assert parts[:3] == list(generator.blocks)
    assert {name for name, part in named.items() if part in parts[3:]} == expected


@needs_compiler
@pytest.mark.slow
def test_a_compiled_run_has_the_losses_of_a_plain_one(trainer):
    rpgan = {"objective": "rpgan", "r1_gamma": 1e-3, "r2_gamma": 1e-3}
    plain, compiled = trainer(**rpgan), trainer(**rpgan, compile=True)
    for _ in range(3):
        one, other = step(plain), step(compiled)
        # penalties by finite differences divide rounding by their step of 0.0001
        for name, value in one.items():
            rel = 2e-2 if name in ("r1_penalty", "r2_penalty", "d_grad_norm") else 2e-3
            assert other[name] == pytest.approx(value, rel=rel, abs=1e-3), name
