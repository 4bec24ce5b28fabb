"""A batch that is played in parts: the numbers of the whole batch."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

GOLDEN = json.loads((Path(__file__).parent / "fixtures" / "golden_losses.json").read_text())
RPGAN = {"objective": "rpgan", "r1_gamma": 0.1, "r2_gamma": 0.1}


def step(t) -> dict[str, float]:
    t._update_fraction()
    t._set_lr()
    return {name: float(value) for name, value in t.step().items()}


def gradient(t, network: str) -> torch.Tensor:
    """Of one network's weights, as one vector."""
    weights = getattr(t.networks, network).parameters()
    return torch.cat([p.grad.flatten() for p in weights if p.grad is not None])


def test_twenty_steps_have_the_losses_that_they_always_had(trainer):
    """Other processors round otherwise, and Adam makes more of it with every step: by the 18th two
    processors were 3 % apart."""
    t = trainer(kimg=0.16)
    logs = [step(t) for _ in range(20)]
    for name, golden in GOLDEN.items():
        losses = [log[name] for log in logs]
        assert losses[:5] == pytest.approx(golden[:5], rel=1e-3), name
        assert losses == pytest.approx(golden, rel=0.1), name


@pytest.mark.parametrize(
    ("settings", "rel", "gradient_rel"),
    [
        ({}, 1e-4, 1e-3),
        (RPGAN | {"penalty": "exact"}, 1e-4, 1e-3),
        (RPGAN, 5e-3, 2e-2),  # a probe divides rounding by its step of 0.0001
        ({"objective": "wgan-gp"}, 1e-4, 1e-3),
    ],
    ids=["hinge", "exact", "finite differences", "wgan-gp"],
)
def test_parts_of_a_batch_have_the_gradients_of_the_whole(trainer, settings, rel, gradient_rel):
    whole, parts = trainer(**settings), trainer(**settings, accumulate=4)
    one, other = step(whole), step(parts)
    assert other == pytest.approx(one, rel=rel, abs=1e-5)
    for network in ("discriminator", "generator", "conditioning"):
        expected, found = gradient(whole, network), gradient(parts, network)
        assert (found - expected).norm() <= gradient_rel * expected.norm(), network


def test_parts_go_on_where_they_stopped(trainer):
    def stop(progress):
        if progress.cur_nimg == 16:
            raise KeyboardInterrupt

    trainer("whole", accumulate=2).run()
    with pytest.raises(KeyboardInterrupt):
        trainer("parts", accumulate=2).run(stop)
    parts = trainer("parts", accumulate=2)
    assert parts.resume()
    parts.run()
    one, other = (
        load_file(parts.out.parent / run / "latest.safetensors") for run in ("whole", "parts")
    )
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def test_no_more_than_a_part_is_drawn_with_gradients(trainer):
    t = trainer(accumulate=4)
    rows = []
    t.networks.generator.register_forward_hook(
        lambda module, inputs, drawn: rows.append((len(drawn), drawn.requires_grad))
    )
    t.step()
    assert rows == [(2, False)] * 4 + [(2, True)] * 4


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"accumulate": 3}, "batch is 8; expected a multiple of .* the 3 micro-batches"),
        ({"accumulate": 9}, "accumulate is 9; expected 1 to the batch"),
        ({"accumulate": 2, "unrolled_steps": 1}, "unroll and accumulate exclude each other"),
    ],
)
def test_parts_that_cannot_be_are_refused(trainer, settings, words):
    with pytest.raises(ValueError, match=words):
        trainer(**settings)
