"""A loaded model: one object that encodes prompts, generates and scores pictures."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from .bundled import find_model
from .checkpoint import load_checkpoint
from .condition import Condition, style_weights
from .conditioning.audio import Clip, encode_audio
from .conditioning.clip import ClipEncoder, is_clip, refuse_another
from .conditioning.encoder import Encoder
from .conditioning.image import encode_image
from .conditioning.minilm import text_encoder, text_encoder_hash
from .conditioning.prompt import how_read, read_prompts
from .conditioning.text import encode_text
from .config import ModelConfig
from .inference.audio_reactive import Reactions, audio_walk
from .inference.directions import attribute_directions, directions
from .inference.inversion import STEPS, invert
from .inference.latent import Latent, random_latent
from .inference.sampling import batches, draw, fitted, fitting_batch, into_w
from .inference.scoring import Scores, score
from .inference.sound_analysis import Sound
from .networks.efficientnet import EfficientNetLite, lite0, lite0_hash
from .networks.networks import Networks
from .progress import OnPictures, OnProgress


class Model:
    """Configuration, card and networks of one checkpoint."""

    def __init__(self, name: str, config: ModelConfig, networks: Networks, card: dict) -> None:
        self.name, self.config, self.networks, self.card = name, config, networks, card
        self.lite0 = _own_lite0(name, card) if config.discriminator.features else None
        logits = {"real": 0.0, "generated": 0.0, **card.get("judge", {})}
        self._midpoint = (logits["real"] + logits["generated"]) / 2
        self._attributes: dict[str, Tensor] = {}  # computed at the first use
        self._clip: ClipEncoder | None = None  # of with_text_encoder

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
        """Whether prompts can be encoded: trained with text, and with the encoder available."""
        trained_on = self.config.conditioning.text_encoder
        return bool(trained_on) and (self._clip is not None or not is_clip(trained_on))

    def with_text_encoder(self, encoder: ClipEncoder) -> Model:
        """A shallow copy of this model with the CLIP text encoder that it was trained on.

        ValueError for another encoder, and for a model that was not trained on CLIP.
        """
        trained_on = self.config.conditioning.text_encoder
        if not is_clip(trained_on):
            raise ValueError(
                f"model {self.name} was not trained on a CLIP text encoder; disconnect clip, or "
                "leave text-encoder out"
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
        """One condition row per text; an empty text is the null condition. With style None, a text
        that names one of the styles chooses it; otherwise the seed does.

        `(apple:1.3)` weighs words; languages other than English are translated word by word
        (conditioning/prompt.py). `progress` is called with (done, total) now and then and may raise
        to cancel. ValueError for an unknown style, for another or a missing text encoder, and for
        weights outside 0 to 3.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        if any(text.strip() for text in texts):
            encoder = self._encoder("give an empty prompt")
            return encode_text(
                texts, styles=self.styles, style=style, progress=progress, encoder=encoder
            )
        null = Condition.null(len(texts), self.config.conditioning)
        return null.with_style(style_weights(self.styles, style, len(texts)))

    def how_read(self, texts: Sequence[str] | str, *, style: str | None = None) -> str:
        """How `encode_text` translates prompts that are not English, for people: the English of
        each and the unknown words, or an empty text. ValueError for bad weights."""
        texts = [texts] if isinstance(texts, str) else texts
        return how_read(read_prompts(texts, styles=self.styles, style=style))

    def encode_image(
        self, pictures: Tensor, *, style: str | None = None, progress: OnProgress | None = None
    ) -> Condition:
        """One condition row per picture [N, C, H, W] in [-1, 1] of any size, of its content.

        Four channels are premultiplied RGBA. style None lets the seed choose. `progress` as in
        encode_text. ValueError for an unknown style, for a missing text encoder, and for tensors
        that are no pictures (conditioning/image.py).
        """
        encoder = self._encoder("it takes no pictures")
        return encode_image(
            pictures, styles=self.styles, style=style, progress=progress, encoder=encoder
        )

    def encode_audio(self, clips: Sequence[Clip], *, style: str | None = None) -> Condition:
        """One condition row per clip (waveform [C, L] float, sample rate in Hz), of its words.

        English speech; any rate and number of channels, 0.1 to 60 s (a longer clip is cut there,
        with a warning). style None lets the seed choose. ValueError for an unknown style, for a
        missing text encoder, and for silence, NaN or too short a clip (conditioning/audio.py).
        """
        encoder = self._encoder("it takes no sound")
        return encode_audio(clips, styles=self.styles, style=style, encoder=encoder)

    def _encoder(self, hint: str) -> Encoder:
        """The text encoder that the model was trained with, whose embeddings the encoders of
        pictures and sound produce too; ValueError if it is not available."""
        trained_with = self.config.conditioning.text_encoder
        if not trained_with:
            raise ValueError(f"model {self.name} was trained without text; {hint}")
        if is_clip(trained_with):
            if self._clip is None:
                raise ValueError(
                    f"model {self.name} was trained on a CLIP text encoder; connect it to clip of "
                    "Imagen Encode Text, or name it by text-encoder"
                )
            return self._clip
        if trained_with != text_encoder_hash():
            raise ValueError(
                f"model {self.name} was trained with another text encoder "
                f"({trained_with[:12]}; bundled is {text_encoder_hash()[:12]})"
            )
        return text_encoder()

    def latent(self, seeds: Sequence[int]) -> Latent:
        """One z per seed."""
        return random_latent(seeds, self.config.generator.z_dim)

    def into_w(
        self,
        condition: Condition,
        latent: Latent,
        *,
        truncation: float = 1.0,
        progress: OnPictures | None = None,
    ) -> Latent:
        """Latents in w, where they can be mixed and moved (inference/editing.py)."""
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
        """The latents in w of pictures [N, C, H, W] of any size (inference/inversion.py)."""
        return invert(
            self.networks, self.lite0, pictures, condition, steps=steps, progress=progress
        )

    def direction(self, which: int | str, *, progress: OnPictures | None = None) -> Tensor:
        """[dim] a direction in w: a number, 0 changes the picture most; or a name of ATTRIBUTES.

        The first use of a name takes seconds; `progress` may raise to cancel. ValueError for a
        direction that the model lacks.
        """
        if not isinstance(which, str):
            every = directions(self.networks)
            if not 0 <= which < len(every):
                raise ValueError(f"direction {which}; this model has 0 to {len(every) - 1}")
            return every[which]
        if not self._attributes:
            self._attributes = attribute_directions(self.networks, progress=progress)
        if which not in self._attributes:
            known = ", ".join(self._attributes)
            raise ValueError(f"direction {which!r}; this model has the names {known}")
        return self._attributes[which]

    def summary(self) -> str:
        """The model's main facts for people, in lines."""
        g, card = self.config.generator, self.card
        millions = sum(p.numel() for p in self.networks.generator.parameters()) / 1e6
        kind = {1: "grey", 3: "RGB", 4: "RGBA"}[g.channels]
        lines = [
            f"{self.name}: {g.resolution} px {kind}, preset {self.config.preset}, "
            f"{millions:.1f}M parameters",
            f"styles: {', '.join(self.styles) or 'none'}",
            f"text: {self._text_encoder_name()}",
            f"trained: {card.get('kimg', '?')} kimg, stage {card.get('stage', '?')}",
            f"data: {card.get('data', {}).get('name', '?')}",
        ]
        retrieval = card.get("figures", {}).get("retrieval", {}).get("text")
        if retrieval and {"r1", "chance", "ceiling"} <= retrieval.keys():
            lines.append(
                f"prompt retrieval R@1: {retrieval['r1']:.1%} (chance {retrieval['chance']:.1%}, "
                f"real pictures {retrieval['ceiling']:.1%})"
            )
        return "\n".join(lines)

    def _text_encoder_name(self) -> str:
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

    def draw_styles(
        self,
        condition: Condition,
        latent: Latent,
        styles: Sequence[str],
        *,
        truncation: float = 1.0,
        progress: OnPictures | None = None,
    ) -> Tensor:
        """`draw` with each of the styles in place of the condition's: [len(styles) * N, C, H, W],
        style by style. ValueError for no style, and for an unknown one."""
        if not styles:
            raise ValueError("no styles; expected one or more")
        weights = [style_weights(self.styles, style, len(condition)) for style in styles]
        rows = []
        for i, style in enumerate(weights):
            rows.append(self.draw(condition.with_style(style), latent, truncation=truncation))
            if progress is not None:
                progress(i + 1, len(weights), None)
        return torch.cat(rows)

    def draw_batches(
        self,
        condition: Condition,
        latent: Latent,
        *,
        truncation: float = 1.0,
        tile: str = "none",
        progress: OnPictures | None = None,
    ) -> Iterator[Tensor]:
        """The pictures of `draw` in batches, for which no more memory is needed however many they
        are."""
        condition, latent = fitted(self.networks, condition, latent)
        n = len(latent)
        for rows in batches(n, fitting_batch(self.resolution)):
            pictures = self.draw(condition[rows], latent[rows], truncation=truncation, tile=tile)
            if progress is not None:
                progress(rows.stop, n, pictures)
            yield pictures

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
        """The frames of a video to a sound, in batches (inference/audio_reactive.py)."""
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
        """Scores of pictures [N, C, H, W] in [-1, 1], of any size; see inference/scoring.py."""
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

    ValueError with one line for a file that is no checkpoint, or damaged.
    """
    path = find_model(str(name))
    config, networks, card = load_checkpoint(path)
    return Model(path.stem, config, networks, card).to(device)


def _own_lite0(name: str, card: dict) -> EfficientNetLite:
    """A copy of the bundled lite0; ValueError if the checkpoint needs another."""
    if card.get("lite0") != lite0_hash():
        raise ValueError(f"model {name} was trained with another lite0 than the bundled one")
    return copy.deepcopy(lite0())
