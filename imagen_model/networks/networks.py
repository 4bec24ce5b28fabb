"""The three networks of one model, built from its configuration."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..condition import Condition
from ..config import DcganDiscriminatorConfig, DcganGeneratorConfig, ModelConfig
from .condition_embedding import ConditionEmbedding
from .dcgan import DcganDiscriminator, DcganGenerator
from .discriminator import Discriminator
from .generator import Generator
from .precision import channels_last


class _WithoutDrawing(TorchFunctionMode):
    """Weights keep what their memory held: drawing them takes as long as reading a file."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        if getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


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
    def to_be_filled(cls, config: ModelConfig) -> Networks:
        """With arbitrary weights, for a `load_state_dict` that replaces all of them."""
        with _WithoutDrawing():
            return cls.seeded(config, 0)

    @classmethod
    def seeded(cls, config: ModelConfig, seed: int) -> Networks:
        """Initial weights from `seed`; the global random state stays as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(config)
