"""Model configuration: frozen dataclasses, validated when built, and named presets.

A misspelt or impossible option fails here with one line. Checkpoints store `to_dict` (as
`imagen.config`), so a field may be added with a default but never renamed.
"""

from __future__ import annotations

import dataclasses
import reprlib
from dataclasses import dataclass, field
from typing import ClassVar

RESOLUTIONS = (32, 64, 128, 256, 512)
MAX_SIZE = 4096  # of whatever a configuration counts; no network of these kinds needs more
MAX_STYLE_LENGTH = 200  # characters
CHANNELS = (1, 3, 4)  # grey, RGB, premultiplied RGBA
COND_DIM = 384  # width of MiniLM, and so of conditions without a CLIP text encoder


@dataclass(frozen=True)
class GeneratorConfig:
    """A transformer over a square grid of tokens, then a convolutional tail up to pixels."""

    resolution: int = 32  # pixels a side of the output
    channels: int = 4
    dim: int = 128  # token width, and the width of w
    num_blocks: int = 12
    num_heads: int = 8
    grid: int = 4  # tokens a side; one token covers resolution / grid pixels
    num_registers: int = 4
    z_dim: int = 64
    tail_channels: int = 32  # width of the last convolutions, at full resolution
    readout_every: int = 3  # blocks between the readouts that the tail sums
    num_fine_blocks: int = 0  # in the tail, at twice the tokens a side
    layout_side: int = 0  # pixels a side of the layout that w gives to the tokens; 0: none
    layout_bank: int = 0  # how many training pictures' layouts are kept

    def __post_init__(self) -> None:
        _check_one_of(self, "resolution", RESOLUTIONS)
        _check_one_of(self, "channels", CHANNELS)
        _check_sizes(self, "dim", "num_blocks", "num_heads", "grid", "z_dim", "tail_channels")
        _check_sizes(self, "readout_every")
        _check_sizes(self, "num_registers", "num_fine_blocks", "layout_side", low=0)
        _check_sizes(self, "layout_bank", low=bool(self.layout_side))
        is_multiple = self.dim % (4 * self.num_heads) == 0
        _check_field(self, "dim", is_multiple, "a multiple of 4 * num_heads")
        ratio = self.resolution // self.grid
        fits = ratio * self.grid == self.resolution and ratio >= 2 and ratio & (ratio - 1) == 0
        _check_field(self, "grid", fits, "resolution divided by a power of two")
        _check_field(self, "layout_side", self.layout_side % self.grid == 0, "a multiple of grid")
        divides = self.num_blocks % self.readout_every == 0
        _check_field(self, "readout_every", divides, "a divisor of num_blocks")

    @property
    def min_weights(self) -> int:
        """A number of weights that the network has at least."""
        blocks = self.num_blocks + self.num_fine_blocks
        return 22 * blocks * self.dim**2 + (self.grid**2 + self.num_registers) * self.dim

    @property
    def num_codes(self) -> int:
        """How many numbers of z, its last ones, describe the layout."""
        return min(self.z_dim * 3 // 4, self.dim // 2) if self.layout_side else 0

    @property
    def tail_widths(self) -> list[int]:
        """Channels of the tail's maps, from the tokens' grid to the full resolution."""
        doublings = (self.resolution // self.grid).bit_length() - 1
        widths = [max(self.tail_channels, self.dim >> i) for i in range(doublings)]
        return [self.dim, *widths[1:], self.tail_channels]


@dataclass(frozen=True)
class DiscriminatorConfig:
    """Five convolutional stages with per-patch logits; `features` adds heads on frozen lite0."""

    resolution: int = 32
    channels: int = 4
    width: int = 32  # channels of the first stage; each next one doubles them up to max_width
    max_width: int = 128
    blocks_per_stage: int = 1
    group_size: int = 16  # channels a group in the grouped 3x3 convolutions
    embed_dim: int = 128  # of the space in which a picture and its condition are compared
    features: bool = True  # heads on frozen EfficientNet-lite0 features (Projected GAN)
    feature_channels: int = 64

    def __post_init__(self) -> None:
        _check_one_of(self, "resolution", RESOLUTIONS)
        _check_one_of(self, "channels", CHANNELS)
        _check_sizes(self, "width", "max_width", "blocks_per_stage", "group_size", "embed_dim")
        _check_sizes(self, "feature_channels")
        _check_field(self, "features", isinstance(self.features, bool), "true or false")
        divides = self.width % self.group_size == 0 and self.max_width % self.group_size == 0
        _check_field(self, "group_size", divides, "a divisor of width and max_width")

    @property
    def min_weights(self) -> int:
        """A number of weights that the network has at least."""
        last = min(self.width << 4, self.max_width)
        heads = self.max_width * (9 * last + self.embed_dim)
        heads += 36 * self.feature_channels**2 if self.features else 0
        return 4 * last**2 * self.blocks_per_stage + heads


@dataclass(frozen=True)
class DcganGeneratorConfig:
    """The reference article's generator (dcgan.py); z is a noise image, and w is z."""

    num_blocks: ClassVar[int] = 1
    num_fine_blocks: ClassVar[int] = 0
    resolution: int = 64
    channels: int = 3
    width: int = 64  # channels after the first convolution, doubled by the next four

    def __post_init__(self) -> None:
        _check_field(self, "resolution", self.resolution == 64, "64 for preset dcgan")
        _check_one_of(self, "channels", CHANNELS)
        _check_sizes(self, "width")

    @property
    def z_dim(self) -> int:
        return self.resolution**2

    dim = z_dim

    @property
    def min_weights(self) -> int:
        return 2 * 16 * (8 * self.width) * (16 * self.width)


@dataclass(frozen=True)
class DcganDiscriminatorConfig:
    """The reference article's discriminator (dcgan.py)."""

    features: ClassVar[bool] = False
    resolution: int = 64
    channels: int = 3
    width: int = 16  # channels after the first convolution, doubled by the next three

    def __post_init__(self) -> None:
        _check_sizes(self, "width")

    @property
    def min_weights(self) -> int:
        return 16 * (4 * self.width) * (8 * self.width)


@dataclass(frozen=True)
class ConditioningConfig:
    """The model's conditions. `styles` are in the order of the style weights."""

    dim: int = COND_DIM
    styles: tuple[str, ...] = ()
    text_encoder: str = ""  # MiniLM's sha256, or a CLIP's identity (clip.py); "": no text

    def __post_init__(self) -> None:
        object.__setattr__(self, "styles", tuple(self.styles))  # JSON gives lists
        _check_sizes(self, "dim")
        named = all(isinstance(s, str) and len(s) <= MAX_STYLE_LENGTH for s in self.styles)
        _check_field(self, "styles", named and len(self.styles) <= MAX_SIZE, "names")
        _check_field(self, "text_encoder", isinstance(self.text_encoder, str), "text")
        _check_field(self, "styles", len(set(self.styles)) == len(self.styles), "distinct names")

    @property
    def min_weights(self) -> int:
        return (1 + len(self.styles)) * self.dim


@dataclass(frozen=True)
class ModelConfig:
    """Everything needed to build the three networks of a checkpoint."""

    preset: str = "nano"
    generator: GeneratorConfig | DcganGeneratorConfig = field(default_factory=GeneratorConfig)
    discriminator: DiscriminatorConfig | DcganDiscriminatorConfig = field(
        default_factory=DiscriminatorConfig
    )
    conditioning: ConditioningConfig = field(default_factory=ConditioningConfig)
    architecture: str = "transformer"  # or dcgan

    def __post_init__(self) -> None:
        known = self.architecture in ARCHITECTURES
        _check_field(self, "architecture", known, ", ".join(ARCHITECTURES))
        _check_field(self, "preset", isinstance(self.preset, str), "text")
        for name in ("resolution", "channels"):
            ours, theirs = getattr(self.generator, name), getattr(self.discriminator, name)
            _check(f"discriminator {name}", theirs, ours == theirs, f"the generator's {ours}")

    @property
    def min_weights(self) -> int:
        """A number of weights that a checkpoint has at least: one with fewer is refused before any
        network is built."""
        parts = (self.generator, self.discriminator, self.conditioning)
        return sum(part.min_weights for part in parts)

    def to_dict(self) -> dict:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> ModelConfig:
        """Rebuild from `to_dict`; raises ValueError for unknown fields or bad values."""
        try:
            parts = dict(values)
            generator, discriminator = ARCHITECTURES[parts.get("architecture", "transformer")]
            return cls(
                generator=generator(**parts.pop("generator")),
                discriminator=discriminator(**parts.pop("discriminator")),
                conditioning=ConditioningConfig(**parts.pop("conditioning")),
                **parts,
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a model configuration of this version: {error}") from error


ARCHITECTURES: dict[str, tuple] = {
    "transformer": (GeneratorConfig, DiscriminatorConfig),
    "dcgan": (DcganGeneratorConfig, DcganDiscriminatorConfig),
}

# Transformer presets differ in width alone; all have 12 blocks of 8 heads.
PRESET_DIMS = {"nano": 128, "small": 192, "base": 256, "large": 384}
PRESET_RESOLUTIONS = {"nano": 32, "small": 64, "base": 64, "large": 64}
MAX_PRESET_GRID = 32  # tokens a side
DCGAN = "dcgan"
PRESETS = (*PRESET_DIMS, DCGAN)


def preset(
    name: str,
    *,
    resolution: int | None = None,
    channels: int = 4,
    styles: tuple[str, ...] = (),
    text_encoder: str = "",
    cond_dim: int = COND_DIM,
) -> ModelConfig:
    """The configuration called `name`: nano, small, base, large, or dcgan (the reference article's
    networks, without styles and text)."""
    _check("preset", name, name in PRESETS, ", ".join(PRESETS))
    if name == DCGAN:
        return dcgan(channels=channels, resolution=resolution)
    dim, resolution = PRESET_DIMS[name], resolution or PRESET_RESOLUTIONS[name]
    return ModelConfig(
        preset=name,
        generator=GeneratorConfig(
            resolution=resolution,
            channels=channels,
            dim=dim,
            # A token covers 8x8 pixels, and more above 256 px: attention is quadratic in tokens,
            # and the tail generates detail for less (docs/log/experiments.md, "tokens").
            grid=min(resolution // 8, MAX_PRESET_GRID),
            tail_channels=dim // 4,
        ),
        discriminator=DiscriminatorConfig(
            resolution=resolution,
            channels=channels,
            width=16,  # a small trunk suffices: the lite0 heads contribute most
            max_width=dim,
        ),
        conditioning=ConditioningConfig(cond_dim, styles, text_encoder),
    )


def dcgan(
    *, channels: int, resolution: int | None = None, width: int = 64, discriminator_width: int = 16
) -> ModelConfig:
    """The reference article's two networks (dcgan.py), by default of its widths."""
    side = resolution or 64
    return ModelConfig(
        preset=DCGAN,
        generator=DcganGeneratorConfig(side, channels, width),
        discriminator=DcganDiscriminatorConfig(side, channels, discriminator_width),
        architecture=DCGAN,
    )


def _check_sizes(config: object, *names: str, low: int = 1) -> None:
    """Whole numbers from `low` to MAX_SIZE."""
    for name in names:
        value = getattr(config, name)
        whole = isinstance(value, int) and not isinstance(value, bool)
        _check_field(config, name, whole and low <= value <= MAX_SIZE, f"{low} to {MAX_SIZE}")


def _check(what: str, got: object, ok: bool, expected: object) -> None:
    if not ok:
        raise ValueError(f"{what} is {reprlib.repr(got)}; expected {expected}")


def _check_field(config: object, name: str, ok: bool, expected: object) -> None:
    _check(name, getattr(config, name), ok, expected)


def _check_one_of(config: object, name: str, values: tuple) -> None:
    _check_field(config, name, getattr(config, name) in values, values)
