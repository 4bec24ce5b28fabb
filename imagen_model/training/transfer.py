"""Networks that start with a checkpoint's weights, perhaps with more styles or pixels."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F

from ..config import ConditioningConfig, GeneratorConfig, ModelConfig
from ..networks.generator import Generator, UpBlock
from ..networks.networks import Networks
from .layout_codes import MAX_BANK

LAYOUT_SIDE = 16  # pixels


def grow(model: ModelConfig, resolution: int, num_fine_blocks: int) -> ModelConfig:
    """The same tokens at another resolution, and fine blocks: the tail gets one more UpBlock per
    doubling, as in progressive growing (1710.10196). ValueError for what the networks cannot have.
    """
    generator = replace(model.generator, resolution=resolution)
    if isinstance(generator, GeneratorConfig):
        generator = replace(generator, num_fine_blocks=num_fine_blocks)
    return replace(
        model,
        generator=generator,
        discriminator=replace(model.discriminator, resolution=resolution),
    )


def with_layout(model: ModelConfig, num_pictures: int) -> ModelConfig:
    """The same with a layout from w and with room for the codes of a data set's pictures, if it can
    have one."""
    generator = model.generator
    if not isinstance(generator, GeneratorConfig):
        return model
    side = generator.layout_side or max(LAYOUT_SIDE, generator.grid)
    bank = min(num_pictures, MAX_BANK)
    return replace(model, generator=replace(generator, layout_side=side, layout_bank=bank))


def transfer_weights(
    source: Networks, config: ModelConfig, requested: ConditioningConfig, seed: int
) -> tuple[Networks, ModelConfig]:
    """The checkpoint's weights in networks that may have more styles, conditions of another width,
    or a higher resolution or fine blocks (those of `config`).

    A new style starts as the mean of the known ones, or at random if there are none; a new UpBlock
    repeats pixels; fine blocks change nothing at first.
    """
    known = config.conditioning
    styles = tuple(dict.fromkeys((*known.styles, *requested.styles)))
    text_encoder = requested.text_encoder or known.text_encoder
    conditioning = replace(requested, styles=styles, text_encoder=text_encoder)
    config = replace(config, conditioning=conditioning)
    networks = Networks.seeded(config, seed)
    state = networks.state_dict()
    for name, axis in (("conditioning.style_embed", 0), ("discriminator.style_in.weight", 1)):
        if name in state:
            wanted, old = state[name], source.state_dict().get(name)
            same_width = old is not None and old.shape[1 - axis] == wanted.shape[1 - axis]
            if old is not None and old.shape[axis] and same_width:
                wanted.copy_(old.mean(dim=axis, keepdim=True).expand_as(wanted))
                wanted.narrow(axis, 0, old.shape[axis]).copy_(old)
    taken = {n: t for n, t in source.state_dict().items() if t.shape == state[n].shape}
    networks.load_state_dict(state | taken)
    before, after = source.generator, networks.generator
    if isinstance(before, Generator) and isinstance(after, Generator):
        for up in after.tail.ups[len(before.tail.ups) :]:
            assert isinstance(up, UpBlock)
            up.repeat_pixels()
        if after.layout is not None and before.layout is None:
            torch.nn.init.zeros_(after.layout.enter.weight)
    return networks, config


def silence_condition(networks: Networks, source: Networks) -> None:
    """Start the condition's path at zero: with any condition, the picture is initially that of the
    null condition.

    Pretraining uses only the null condition, so the two layers that take the condition are
    untrained for text. Their weights are set to zero, and their biases to their outputs for null in
    `source`, whose conditions may have another width.
    """
    before, after, learned = source.generator, networks.generator, source.conditioning.null_pooled
    assert isinstance(before, Generator) and isinstance(after, Generator)
    null = F.rms_norm(learned.detach(), learned.shape)
    with torch.no_grad():
        for old, new in (
            (before.mapping.cond_in, after.mapping.cond_in),
            (before.context_in, after.context_in),
        ):
            new.bias.copy_(old(null))
            new.weight.zero_()
        if after.mapping.num_codes:  # layouts come from captions now
            after.mapping.code_in.weight.zero_()
