"""A loaded model: everything a caller needs to draw and to judge, in one object."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from .bundled import find_model
from .checkpoint import load_checkpoint
from .conditioning import Condition
from .config import ModelConfig
from .features import EfficientNetLite, lite0, lite0_hash
from .inversion import STEPS, invert
from .latent import directions, into_w
from .networks import Networks
from .sampling import Latent, Progress, draw, random_latent
from .scoring import Scores, score


class Model:
    """Configuration, card and networks of one checkpoint."""

    def __init__(self, name: str, config: ModelConfig, networks: Networks, card: dict) -> None:
        self.name, self.config, self.networks, self.card = name, config, networks, card
        self.lite0 = _own_lite0(name, card) if config.discriminator.features else None
        judge = card.get("judge", {"real": 0.0, "generated": 0.0})
        self._midpoint = (judge["real"] + judge["generated"]) / 2

    @property
    def device(self) -> torch.device:
        return self.networks.device

    @property
    def resolution(self) -> int:
        return self.config.generator.resolution

    @property
    def styles(self) -> tuple[str, ...]:
        return self.config.conditioning.styles

    def to(self, device: torch.device | str) -> Model:
        """Move the networks, in place; returns self."""
        self.networks.to(device)
        if self.lite0 is not None:
            self.lite0.to(device)
        return self

    def encode_text(self, texts: Sequence[str] | str, *, style: str | None = None) -> Condition:
        """One condition row a text. Empty text asks for anything; style None lets the seed choose.

        ValueError for a style or a text encoder that the model does not know.
        """
        from .conditioning.text import encode_text, text_encoder_hash

        texts = [texts] if isinstance(texts, str) else list(texts)
        trained_with = self.config.conditioning.text_encoder
        if any(text.strip() for text in texts):
            if not trained_with:
                raise ValueError(
                    f"model {self.name} was trained without text; give an empty prompt"
                )
            if trained_with != text_encoder_hash():
                raise ValueError(
                    f"model {self.name} was trained with another text encoder "
                    f"({trained_with[:12]}; bundled is {text_encoder_hash()[:12]})"
                )
            return encode_text(texts, styles=self.styles, style=style)
        from .conditioning.condition import style_weights

        null = Condition.null(len(texts), self.config.conditioning)
        return null.with_style(style_weights(self.styles, style, len(texts)))

    def latent(self, seeds: Sequence[int]) -> Latent:
        """One point z a seed."""
        return random_latent(seeds, self.config.generator.z_dim)

    def into_w(
        self,
        condition: Condition,
        latent: Latent,
        *,
        truncation: float = 1.0,
        progress: Progress | None = None,
    ) -> Latent:
        """Latents in w, where they can be mixed and moved (latent.py)."""
        return into_w(
            self.networks, condition, latent, truncation_psi=truncation, progress=progress
        )

    def invert(
        self,
        pictures: Tensor,
        condition: Condition,
        *,
        steps: int = STEPS,
        progress: Progress | None = None,
    ) -> Latent:
        """The latents in w that draw pictures [N, C, H, W] of any size (inversion.py)."""
        return invert(
            self.networks, self.lite0, pictures, condition, steps=steps, progress=progress
        )

    def direction(self, index: int) -> Tensor:
        """[dim] the direction in w that changes the picture most (index 0), second most, ..."""
        found = directions(self.networks)
        if not 0 <= index < len(found):
            raise ValueError(f"direction {index}; this model has 0 to {len(found) - 1}")
        return found[index]

    def summary(self) -> str:
        """What a person wants to know of the model, a line each."""
        g, card = self.config.generator, self.card
        millions = sum(p.numel() for p in self.networks.generator.parameters()) / 1e6
        kind = {1: "grey", 3: "RGB", 4: "RGBA"}[g.channels]
        lines = [
            f"{self.name}: {g.resolution} px {kind}, preset {self.config.preset}, "
            f"{millions:.1f}M parameters",
            f"styles: {', '.join(self.styles) or 'none'}",
            f"text: {'yes' if self.config.conditioning.text_encoder else 'no'}",
            f"trained: {card.get('kimg', '?')} kimg, stage {card.get('stage', '?')}",
            f"data: {card.get('data', {}).get('name', '?')}",
        ]
        retrieval = card.get("figures", {}).get("retrieval", {}).get("text")
        if retrieval:
            lines.append(
                f"prompt retrieval R@1: {retrieval['r1']:.1%} (chance {retrieval['chance']:.1%}, "
                f"real pictures {retrieval['ceiling']:.1%})"
            )
        return "\n".join(lines)

    def draw(
        self,
        condition: Condition,
        latent: Latent,
        *,
        truncation: float = 1.0,
        tile: str = "none",
        progress: Progress | None = None,
    ) -> Tensor:
        """Pictures [N, C, H, W] in [-1, 1]; four channels are premultiplied RGBA."""
        return draw(
            self.networks,
            condition,
            latent,
            truncation_psi=truncation,
            tile=tile,
            progress=progress,
        )

    def sample(
        self,
        prompts: Sequence[str] | str,
        *,
        seeds: Sequence[int] = (0,),
        style: str | None = None,
        truncation: float = 1.0,
        tile: str = "none",
        progress: Progress | None = None,
    ) -> Tensor:
        """Every prompt with every seed: [len(prompts) * len(seeds), C, H, W], prompt by prompt."""
        condition = self.encode_text(prompts, style=style)
        rows = torch.arange(len(condition)).repeat_interleave(len(seeds))
        latent = self.latent([*seeds] * len(condition))
        return self.draw(
            condition[rows], latent, truncation=truncation, tile=tile, progress=progress
        )

    def score(
        self,
        pictures: Tensor,
        condition: Condition | None = None,
        *,
        progress: Progress | None = None,
    ) -> Scores:
        """Judge pictures [N, C, H, W] in [-1, 1], of any size; see scoring.Scores."""
        return score(
            self.networks,
            self.lite0,
            pictures,
            condition,
            midpoint=self._midpoint,
            progress=progress,
        )


def load(name: str | Path = "emoji", *, device: torch.device | str = "cpu") -> Model:
    """A bundled model by name (or alias), or a checkpoint by path, on `device`.

    ValueError with one line for whatever is wrong with the file.
    """
    path = find_model(str(name))
    config, networks, card = load_checkpoint(path)
    return Model(path.stem, config, networks, card).to(device)


def _own_lite0(name: str, card: dict) -> EfficientNetLite:
    """A copy of the bundled lite0, if it is the one that the checkpoint names."""
    if card.get("lite0") != lite0_hash():
        raise ValueError(f"model {name} was trained with another lite0 than the bundled one")
    return copy.deepcopy(lite0())
