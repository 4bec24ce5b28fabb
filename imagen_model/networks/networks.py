"""The three networks of one model, built from its configuration."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..condition import Condition
from ..config import DcganDiscriminatorConfig, DcganGeneratorConfig, ModelConfig
from .condition_embedding import ConditionEmbedding
from .dcgan import DcganDiscriminator, DcganGenerator
from .discriminator import Discriminator
from .generator import Generator
from .precision import channels_last


class Networks(nn.Module):
    """Its parameters' names are those in a checkpoint: `generator.*`, `discriminator.*` and
    `conditioning.*`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        cond = config.conditioning
        self.generator: Generator | DcganGenerator
        self.discriminator: Discriminator | DcganDiscriminator
        if isinstance(config.generator, DcganGeneratorConfig):
            self.generator = DcganGenerator(config.generator)
        else:
            self.generator = Generator(config.generator, cond.dim)
            channels_last(self.generator.tail)
        if isinstance(config.discriminator, DcganDiscriminatorConfig):
            self.discriminator = DcganDiscriminator(config.discriminator)
        else:
            self.discriminator = Discriminator(config.discriminator, cond.dim, len(cond.styles))
            channels_last(self.discriminator)
        self.conditioning = ConditionEmbedding(cond)

    def generate(self, z: Tensor, condition: Condition) -> Tensor:
        """z [N, z_dim] and N conditions -> pictures [N, C, H, W] in [-1, 1]."""
        return self.generator(z, *self.conditioning(condition))

    @property
    def device(self) -> torch.device:
        return self.conditioning.null_pooled.device

    def generating(self) -> list[nn.Module]:
        """The modules that the generator's optimiser trains."""
        return [self.generator, self.conditioning]

    @classmethod
    def seeded(cls, config: ModelConfig, seed: int) -> Networks:
        """Initial weights from `seed`; the global random state stays as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(config)
