"""A loaded model: everything a caller needs to draw and to judge, in one object."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .bundled import find_model
from .checkpoint import load_checkpoint
from .condition import Condition
from .config import ModelConfig
from .inference.directions import attribute_directions, directions
from .inference.inversion import STEPS, invert
from .inference.latent import Latent, random_latent
from .inference.sampling import draw, into_w
from .inference.scoring import Scores, score
from .networks.efficientnet import EfficientNetLite, lite0, lite0_hash
from .networks.networks import Networks
from .progress import OnPictures, OnProgress

if TYPE_CHECKING:
    from .conditioning.audio import Clip
    from .conditioning.clip import ClipEncoder
    from .conditioning.encoder import Encoder
    from .inference.audio_reactive import Reactions
    from .inference.sound_analysis import Sound


class Model:
    """Configuration, card and networks of one checkpoint."""

    def __init__(self, name: str, config: ModelConfig, networks: Networks, card: dict) -> None:
        self.name, self.config, self.networks, self.card = name, config, networks, card
        self.lite0 = _own_lite0(name, card) if config.discriminator.features else None
        judge = card.get("judge", {"real": 0.0, "generated": 0.0})
        self._midpoint = (judge["real"] + judge["generated"]) / 2
        self._attributes: dict[str, Tensor] = {}  # measured when first asked for
        self._clip: ClipEncoder | None = None  # with_text_encoder's

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

    @property
    def takes_words(self) -> bool:
        """Whether prompts can be encoded: trained with text, and with the encoder at hand."""
        from .conditioning.clip import is_clip

        trained_on = self.config.conditioning.text_encoder
        return bool(trained_on) and (self._clip is not None or not is_clip(trained_on))

    def with_text_encoder(self, encoder: ClipEncoder) -> Model:
        """This model, shared, with the CLIP text encoder that it was trained on.

        ValueError for another one, and where the model was trained on no CLIP (clip.py).
        """
        from .conditioning.clip import is_clip, refuse_another

        trained_on = self.config.conditioning.text_encoder
        if not is_clip(trained_on):
            raise ValueError(
                f"model {self.name} was not trained on a CLIP text encoder; disconnect clip, or "
                "leave --text-encoder out"
            )
        refuse_another(encoder, trained_on, f"model {self.name}")
        result = copy.copy(self)
        result._clip = encoder
        return result

    def encode_text(
        self,
        texts: Sequence[str] | str,
        *,
        style: str | None = None,
        progress: OnProgress | None = None,
    ) -> Condition:
        """One condition row a text. Empty text asks for anything; with style None a text that names
        one of the styles chooses it, and else the seed.

        `(apple:1.3)` weighs words, and what is not English is read word by word
        (conditioning/prompt.py). `progress` is called with (done, total) now and then and may raise
        to cancel. ValueError for a style that the model does not know, for a text encoder that is
        another or not at hand, and for weights that are not from 0 to 3.
        """
        from .conditioning.text import encode_text

        texts = [texts] if isinstance(texts, str) else list(texts)
        if any(text.strip() for text in texts):
            encoder = self._encoder("give an empty prompt")
            return encode_text(
                texts, styles=self.styles, style=style, progress=progress, encoder=encoder
            )
        from .condition import style_weights

        null = Condition.null(len(texts), self.config.conditioning)
        return null.with_style(style_weights(self.styles, style, len(texts)))

    def how_read(self, texts: Sequence[str] | str, *, style: str | None = None) -> str:
        """What `encode_text` makes of prompts that are not English, for people: the English of each
        and the words that it does not know, or nothing. ValueError for bad weights."""
        from .conditioning.prompt import how_read, read_prompts

        texts = [texts] if isinstance(texts, str) else texts
        return how_read(read_prompts(texts, styles=self.styles, style=style))

    def encode_image(
        self, pictures: Tensor, *, style: str | None = None, progress: OnProgress | None = None
    ) -> Condition:
        """What pictures [N, C, H, W] in [-1, 1] of any size show, as one condition row each.

        Four channels are premultiplied RGBA. style None lets the seed choose. `progress` as in
        encode_text. ValueError for a style that the model does not know, for a model without its
        text encoder, and for what is no picture (conditioning/image.py).
        """
        from .conditioning.image import encode_image

        encoder = self._encoder("it takes no pictures")
        return encode_image(
            pictures, styles=self.styles, style=style, progress=progress, encoder=encoder
        )

    def encode_audio(self, clips: Sequence[Clip], *, style: str | None = None) -> Condition:
        """What is said in clips (waveform [C, L] float, sample rate in Hz), a condition row each.

        English speech; any rate and number of channels, 0.1 to 60 s (of a longer clip the first
        60 count, with a warning). style None lets the seed choose. ValueError for a style that the
        model does not know, for a model without its text encoder, and for silence, NaN or too short
        a clip (conditioning/audio.py).
        """
        from .conditioning.audio import encode_audio

        encoder = self._encoder("it takes no sound")
        return encode_audio(clips, styles=self.styles, style=style, encoder=encoder)

    def _encoder(self, hint: str) -> Encoder:
        """The text encoder that the model was trained with, into whose space the encoders of
        pictures and sound lead as well; ValueError where it is not at hand."""
        from .conditioning.clip import is_clip
        from .conditioning.minilm import text_encoder, text_encoder_hash

        trained_with = self.config.conditioning.text_encoder
        if not trained_with:
            raise ValueError(f"model {self.name} was trained without text; {hint}")
        if is_clip(trained_with):
            if self._clip is None:
                raise ValueError(
                    f"model {self.name} was trained on a CLIP text encoder; connect it to clip of "
                    "Imagen Encode Text, or name it by --text-encoder"
                )
            return self._clip
        if trained_with != text_encoder_hash():
            raise ValueError(
                f"model {self.name} was trained with another text encoder "
                f"({trained_with[:12]}; bundled is {text_encoder_hash()[:12]})"
            )
        return text_encoder()

    def latent(self, seeds: Sequence[int]) -> Latent:
        """One point z a seed."""
        return random_latent(seeds, self.config.generator.z_dim)

    def into_w(
        self,
        condition: Condition,
        latent: Latent,
        *,
        truncation: float = 1.0,
        progress: OnPictures | None = None,
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
        progress: OnPictures | None = None,
    ) -> Latent:
        """The latents in w that draw pictures [N, C, H, W] of any size (inversion.py)."""
        return invert(
            self.networks, self.lite0, pictures, condition, steps=steps, progress=progress
        )

    def direction(self, which: int | str, *, progress: OnPictures | None = None) -> Tensor:
        """[dim] a direction in w: a number, 0 changes the picture most; or a name of ATTRIBUTES.

        A name's first use measures pictures for seconds; `progress` may raise to cancel. ValueError
        for a direction that the model has not.
        """
        if isinstance(which, str):
            return self._attribute_direction(which, progress)
        found = directions(self.networks)
        if not 0 <= which < len(found):
            raise ValueError(f"direction {which}; this model has 0 to {len(found) - 1}")
        return found[which]

    def _attribute_direction(self, name: str, progress: OnPictures | None) -> Tensor:
        if not self._attributes:
            self._attributes = attribute_directions(self.networks, progress=progress)
        if name not in self._attributes:
            known = ", ".join(self._attributes)
            raise ValueError(f"direction {name!r}; this model has the names {known}")
        return self._attributes[name]

    def summary(self) -> str:
        """What a person wants to know of the model, a line each."""
        g, card = self.config.generator, self.card
        millions = sum(p.numel() for p in self.networks.generator.parameters()) / 1e6
        kind = {1: "grey", 3: "RGB", 4: "RGBA"}[g.channels]
        lines = [
            f"{self.name}: {g.resolution} px {kind}, preset {self.config.preset}, "
            f"{millions:.1f}M parameters",
            f"styles: {', '.join(self.styles) or 'none'}",
            f"text: {self._read_by()}",
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

    def _read_by(self) -> str:
        from .conditioning.clip import is_clip

        trained_on = self.config.conditioning.text_encoder
        if not is_clip(trained_on):
            return "yes" if trained_on else "no"
        name = self.card.get("text_encoder", {}).get("name", "?")
        return f"by a CLIP of width {self.config.conditioning.dim} ({name})"

    def draw(
        self,
        condition: Condition,
        latent: Latent,
        *,
        truncation: float = 1.0,
        tile: str = "none",
        progress: OnPictures | None = None,
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

    def audio_walk(
        self,
        condition: Condition,
        latent: Latent,
        sound: Sound,
        reactions: Reactions | None = None,
        *,
        truncation: float = 1.0,
        progress: OnPictures | None = None,
    ) -> Iterator[Tensor]:
        """The frames of a film to a sound that `listen` heard, batch by batch (audio_walk.py)."""
        from .inference.audio_reactive import audio_walk

        return audio_walk(
            self.networks,
            condition,
            latent,
            sound,
            reactions,
            truncation_psi=truncation,
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
        progress: OnPictures | None = None,
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
        progress: OnPictures | None = None,
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
