"""torch.compile for the trainer: the same numbers, and one line where there is no compiler."""

import logging

import pytest
import torch

from imagen_model.training.compiled import why_not

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
    assert caplog.messages == ["training without --compile: there is no C++ compiler"]
    assert step(t) == step(trainer())


@needs_compiler
@pytest.mark.parametrize(
    ("settings", "compiled"),
    [
        ({}, [True, True, True]),
        (EXACT, [True, False, False]),
        (EXACT | {"penalty": "finite-difference"}, [True, True, True]),
        ({"objective": "wgan-gp"}, [True, False, False]),
        ({"unrolled_steps": 1}, [True, False, True]),
    ],
    ids=["hinge", "exact", "finite differences", "wgan-gp", "a look ahead"],
)
def test_what_is_differentiated_twice_is_not_compiled(trainer, settings, compiled):
    t = trainer(**settings, compile=True)
    parts = (t.networks.generator.blocks[0], t.networks.discriminator.trunk, t.game.lite0)
    assert [part._compiled_call_impl is not None for part in parts] == compiled
    plain = trainer()
    assert t.networks.state_dict().keys() == plain.networks.state_dict().keys()
    assert plain.game.lite0._compiled_call_impl is None  # the one that all of a process share


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
