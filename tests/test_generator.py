"""The generator: shapes, range, modulation block by block, and seamless edges."""

from dataclasses import replace

import pytest
import torch
from conftest import tiny_model_config
from torch.utils._python_dispatch import TorchDispatchMode

from imagen_model.condition import Condition
from imagen_model.config import preset
from imagen_model.inference.latent import random_latent
from imagen_model.networks.generator import Tail
from imagen_model.networks.networks import Networks


class CountedOperations(TorchDispatchMode):
    total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.total += 1
        return func(*args, **(kwargs or {}))


def random_condition(networks: Networks, n: int, generator: torch.Generator) -> Condition:
    styles = len(networks.conditioning.config.styles)
    return Condition(
        torch.randn(n, 3, 384, generator=generator),
        torch.ones(n, 3, dtype=torch.bool),
        torch.nn.functional.normalize(torch.randn(n, 384, generator=generator)),
        torch.eye(styles)[torch.arange(n) % styles] if styles else torch.zeros(n, 0),
    )


def test_fine_blocks_change_nothing_at_first_and_then_all_places_by_words_and_w(generator):
    plain = tiny_model_config(resolution=64)
    config = replace(plain, generator=replace(plain.generator, num_fine_blocks=2))
    networks, without = Networks.seeded(config, 0).eval(), Networks.seeded(plain, 0).eval()
    networks.load_state_dict(without.state_dict(), strict=False)
    z, condition = torch.randn(2, 16, generator=generator), random_condition(networks, 2, generator)
    with torch.no_grad():
        picture = without.generate(z, condition)
        assert torch.equal(networks.generate(z, condition), picture)
        fine = networks.generator.fine
        fine.leave.weight.normal_(std=0.3, generator=generator)
        changed = networks.generate(z, condition)
        assert ((changed - picture).abs().amax(dim=(1, 2, 3)) > 0.01).all()
        # each of the 16 x 16 places of four pixels
        places = (changed - picture).abs().amax(dim=1).unfold(1, 4, 4).unfold(2, 4, 4)
        assert (places.amax(dim=(3, 4)) > 1e-4).all()
        # what they add depends on the condition and on w
        seen = []
        fine.register_forward_hook(lambda module, given, x: seen.append(x - given[0]))
        other = random_condition(networks, 2, generator)
        w = networks.generator.mapping(z, networks.conditioning(condition)[2])
        w = w[:, None].repeat(1, config.generator.num_blocks, 1)
        for tokens in (condition, other):
            networks.generator.synthesis(w, *networks.conditioning(tokens)[:2])
        w[:, -1] += 1
        networks.generator.synthesis(w, *networks.conditioning(condition)[:2])
    assert not torch.allclose(seen[0], seen[1]) and not torch.allclose(seen[0], seen[2])


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("resolution", [32, 64])
def test_pictures_have_the_configured_shape(resolution, channels, generator):
    config = tiny_model_config(resolution=resolution, channels=channels)
    networks = Networks.seeded(config, 0)
    z = torch.randn(2, 16, generator=generator)
    drawn = networks.generate(z, random_condition(networks, 2, generator))
    assert drawn.shape == (2, channels, resolution, resolution)
    assert drawn.isfinite().all()


@torch.no_grad()
def test_the_nano_preset_draws(generator):
    networks = Networks.seeded(preset("nano"), 0)
    drawn = networks.generate(
        torch.randn(1, 64, generator=generator), random_condition(networks, 1, generator)
    )
    assert drawn.shape == (1, 4, 32, 32)


@torch.no_grad()
def test_pictures_stay_in_range_whatever_the_weights(tiny_config, generator):
    networks = Networks.seeded(tiny_config, 0)
    networks.generator.tail.out.weight *= 1e3
    drawn = networks.generate(
        torch.randn(4, 16, generator=generator), random_condition(networks, 4, generator)
    )
    assert drawn.min() < -0.99
    assert drawn.max() > 0.99
    assert drawn.abs().max() <= 1


@torch.no_grad()
def test_w_given_per_block_equals_w_given_once(tiny_networks, generator):
    condition = random_condition(tiny_networks, 2, generator)
    tokens, mask, pooled = tiny_networks.conditioning(condition)
    z = torch.randn(2, 16, generator=generator)
    w = tiny_networks.generator.mapping(z, pooled)
    drawn = tiny_networks.generator.synthesis(torch.stack([w] * 3, dim=1), tokens, mask)
    torch.testing.assert_close(drawn, tiny_networks.generate(z, condition))


@torch.no_grad()
@pytest.mark.parametrize("block", [0, 1, 2])
def test_every_block_listens_to_its_own_w(tiny_networks, generator, block):
    tokens, mask, _ = tiny_networks.conditioning(random_condition(tiny_networks, 1, generator))
    w = torch.randn(1, 3, 32, generator=generator)
    before = tiny_networks.generator.synthesis(w, tokens, mask)
    w[:, block] += 1
    after = tiny_networks.generator.synthesis(w, tokens, mask)
    assert (after - before).abs().max() > 1e-4


@torch.no_grad()
def test_words_behind_the_mask_change_nothing(tiny_networks, generator):
    condition = random_condition(tiny_networks, 1, generator)
    condition.mask[:, 2] = False
    z = torch.randn(1, 16, generator=generator)
    before = tiny_networks.generate(z, condition)
    condition.tokens[:, 2] = 1e3
    torch.testing.assert_close(tiny_networks.generate(z, condition), before)
    condition.tokens[:, 1] = -condition.tokens[:, 1]
    assert (tiny_networks.generate(z, condition) - before).abs().max() > 1e-5


@torch.no_grad()
def test_seed_and_words_and_style_each_change_the_picture(tiny_networks, generator):
    condition = random_condition(tiny_networks, 2, generator)
    z = torch.randn(2, 16, generator=generator)
    first = condition[:1]
    drawn = tiny_networks.generate(z[:1], first)
    other_words = condition[1:].with_style(first.style)
    other_style = first.with_style(condition.style[1:])
    for changed in (
        tiny_networks.generate(z[1:], first),
        tiny_networks.generate(z[:1], other_words),
        tiny_networks.generate(z[:1], other_style),
    ):
        assert (changed - drawn).abs().max() > 1e-4


@torch.no_grad()
def test_places_differ_because_tokens_know_where_they_are(tiny_networks, generator):
    drawn = tiny_networks.generate(
        torch.randn(1, 16, generator=generator), random_condition(tiny_networks, 1, generator)
    )
    quarters = drawn.unfold(2, 16, 16).unfold(3, 16, 16)  # [1, C, 2, 2, 16, 16]
    assert (quarters[:, :, 0, 0] - quarters[:, :, 1, 1]).abs().mean() > 1e-2


@torch.no_grad()
@pytest.mark.parametrize(
    ("tile", "dims", "seamless"),
    [
        ("x", 3, True),
        ("x", 2, False),
        ("both", 3, True),
        ("both", 2, True),
        ("none", 3, False),
        ("none", 2, False),
    ],
)
def test_a_tiled_tail_moves_with_its_input_across_the_edge(generator, tile, dims, seamless):
    """Where edges are joined, rolling the tokens by one rolls the picture by a token's pixels."""
    torch.manual_seed(0)
    tail = Tail(tiny_model_config().generator)
    features = torch.randn(1, 32, 4, 4, generator=generator)
    rolled = tail(features.roll(1, dims=dims), tile)
    difference = (rolled - tail(features, tile).roll(8, dims=dims)).abs().max()
    assert (difference < 1e-5) == seamless


@torch.no_grad()
def test_a_tiled_edge_looks_like_any_boundary_between_tokens(tiny_networks, generator):
    """Steps across a joined edge are as large as those inside; across a cut one smaller."""
    z = random_latent(range(32), 16).values
    condition = random_condition(tiny_networks, 32, generator)
    tokens, mask, pooled = tiny_networks.conditioning(condition)
    w = torch.stack([tiny_networks.generator.mapping(z, pooled)] * 3, dim=1)

    def seam(tile: str, dim: int) -> float:
        drawn = tiny_networks.generator.synthesis(w, tokens, mask, tile=tile)
        steps = (drawn - drawn.roll(1, dims=dim)).abs().mean(dim=(0, 1, 5 - dim))  # [R]
        return float(steps[0] / steps[[8, 16, 24]].mean())  # 1: like the boundaries inside

    for tile, dim in (("x", 3), ("both", 3), ("both", 2)):
        assert seam(tile, dim) == pytest.approx(1, abs=0.1)
    assert seam("none", 3) < 0.8  # zero padding blends both edges towards one colour


@torch.no_grad()
def test_a_cpu_generates_the_same_pictures_in_fewer_operations(generator):
    """In `eval` and without gradients, fused.py runs the blocks of ModulatedBlock."""
    config = tiny_model_config(resolution=64)
    deep = replace(config.generator, num_blocks=12, num_fine_blocks=2)
    config = replace(config, generator=deep)
    networks = Networks.seeded(config, 0)
    for name, parameter in networks.generator.named_parameters():
        if "norm" in name or "leave" in name:
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    condition = random_condition(networks, 3, generator)
    condition.mask[1, 1:] = False
    z = torch.randn(3, 16, generator=generator)
    counts, pictures = [], []
    for training in (True, False):
        with CountedOperations() as counted:
            pictures.append(networks.train(training).generate(z, condition))
        counts.append(counted.total)
    torch.testing.assert_close(pictures[0], pictures[1], atol=1e-5, rtol=0)
    assert counts[1] < 0.7 * counts[0], counts
