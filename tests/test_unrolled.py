"""The discriminator that the generator looks ahead to."""

from types import SimpleNamespace

import torch
from conftest import tiny_model_config

from imagen_model.condition import Condition
from imagen_model.networks.networks import Networks
from imagen_model.training.losses import rpgan_d, rpgan_g
from imagen_model.training.step import over_heads
from imagen_model.training.unrolled import UnrolledDiscriminator

CONFIG = tiny_model_config(features=False, channels=3)


def loss(real, fake):
    return over_heads(rpgan_d, real, fake)


def game(steps: int):
    """A discriminator after one Adam step, and a batch of noise."""
    generator = torch.Generator().manual_seed(0)
    discriminator = Networks.seeded(CONFIG, 0).discriminator.double().eval()
    batch = SimpleNamespace(
        real=torch.rand(4, 3, 32, 32, generator=generator, dtype=torch.double) * 2 - 1,
        generated=torch.rand(4, 3, 32, 32, generator=generator, dtype=torch.double) * 2 - 1,
        real_levels=[],
        generated_levels=[],
        condition=Condition.null(4, CONFIG.conditioning).to(torch.double),
    )
    optimizer = torch.optim.Adam(discriminator.parameters(), lr=2e-3, betas=(0.0, 0.99))
    unrolled = UnrolledDiscriminator(discriminator, optimizer, loss, steps=steps)
    now = UnrolledDiscriminator(discriminator, optimizer, loss, steps=0)
    cond = discriminator.embed_condition(batch.condition.pooled, batch.condition.style)
    judged = [discriminator(x, []).logits(cond) for x in (batch.real, batch.generated)]
    loss(*judged).backward()
    optimizer.step()
    return discriminator, batch, unrolled, now


def test_no_steps_ahead_is_the_discriminator_itself():
    discriminator, batch, _, now = game(0)
    cond = discriminator.embed_condition(batch.condition.pooled, batch.condition.style)
    for ahead, x in zip(now.logits(batch), (batch.real, batch.generated), strict=True):
        torch.testing.assert_close(ahead, discriminator(x, []).logits(cond))


def test_the_discriminator_ahead_tells_better_and_the_real_one_stays():
    discriminator, batch, unrolled, now = game(3)
    before = {name: p.clone() for name, p in discriminator.named_parameters()}
    assert loss(*unrolled.logits(batch)) < loss(*now.logits(batch))
    assert all(torch.equal(p, before[name]) for name, p in discriminator.named_parameters())
    assert all(not p.grad_fn for p in discriminator.parameters())


def test_the_generator_s_gradient_goes_through_the_steps():
    """Against central differences of the unrolled loss along one direction, with second moments
    so large that they stay what they are."""
    _, batch, unrolled, now = game(2)
    for state in unrolled.optimizer.state.values():
        state["exp_avg_sq"].fill_(1e8)
        state["step"].fill_(1e6)
    unrolled.optimizer.param_groups[0]["lr"] = 1e4
    fake = batch.generated.clone()
    direction = torch.randn(fake.shape, generator=torch.Generator().manual_seed(1)).double()

    def at(x):
        batch.generated = x
        return over_heads(rpgan_g, *unrolled.logits(batch))

    moving = fake.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(at(moving), moving)
    step = 1e-6  # leaky ReLUs bend within 1e-4
    expected = (at(fake + step * direction) - at(fake - step * direction)) / (2 * step)
    torch.testing.assert_close((slope * direction).sum(), expected.detach(), rtol=1e-5, atol=0)
    batch.generated = moving
    (still,) = torch.autograd.grad(over_heads(rpgan_g, *now.logits(batch)), moving)
    assert not torch.allclose(slope, still, rtol=0.01)
