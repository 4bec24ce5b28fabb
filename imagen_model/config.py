"""What a model is: frozen dataclasses, validated when built, and the presets that name them.

A misspelt or impossible option fails here with one line. `to_dict` and `from_dict` are what a
checkpoint stores (`imagen.config`), so a field may be added with a default but never renamed.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

RESOLUTIONS = (32, 64, 128, 256)
MAX_SIZE = 4096
COND_DIM = 384  # width of MiniLM, and so of conditions where no CLIP reads the text


@dataclass(frozen=True)
class GeneratorConfig:
    """A transformer over a square grid of tokens, then a convolutional tail up to pixels."""

    resolution: int = 32  # pixels a side of the output
    channels: int = 4  # 1 grey, 3 RGB, 4 premultiplied RGBA
    dim: int = 128  # token width, and the width of w
    num_blocks: int = 12
    num_heads: int = 8
    grid: int = 4  # tokens a side; one token covers resolution / grid pixels
    num_registers: int = 4
    z_dim: int = 64
    tail_channels: int = 32  # width of the last convolutions, at full resolution
    readout_every: int = 3  # blocks between the read-outs that the tail sums

    def __post_init__(self) -> None:
        _check(self.resolution in RESOLUTIONS, "resolution", self.resolution, RESOLUTIONS)
        _check(self.channels in (1, 3, 4), "channels", self.channels, (1, 3, 4))
        _check_sizes(
            self,
            "dim",
            "num_blocks",
            "num_heads",
            "grid",
            "z_dim",
            "tail_channels",
            "readout_every",
        )
        _check_sizes(self, "num_registers", low=0)
        _check(self.dim % (4 * self.num_heads) == 0, "dim", self.dim, "a multiple of 4 * num_heads")
        ratio = self.resolution // self.grid
        _check(
            ratio * self.grid == self.resolution and ratio >= 2 and ratio & (ratio - 1) == 0,
            "grid",
            self.grid,
            "resolution divided by a power of two",
        )
        _check(
            self.num_blocks % self.readout_every == 0,
            "readout_every",
            self.readout_every,
            "a divisor of num_blocks",
        )

    @property
    def min_weights(self) -> int:
        """A number of weights that the network has at least."""
        return 22 * self.num_blocks * self.dim**2 + (self.grid**2 + self.num_registers) * self.dim


@dataclass(frozen=True)
class DiscriminatorConfig:
    """Five convolutional stages with per-patch logits; `features` adds frozen lite0 heads."""

    resolution: int = 32
    channels: int = 4
    width: int = 32  # channels of the first stage; doubled at each of the next ones up to max_width
    max_width: int = 128
    blocks_per_stage: int = 1
    group_size: int = 16  # channels a group in the grouped 3x3 convolutions
    embed_dim: int = 128  # space in which a picture and its condition are compared
    features: bool = True  # with the heads on frozen EfficientNet-lite0 features (Projected GAN)
    feature_channels: int = 64

    def __post_init__(self) -> None:
        _check(self.resolution in RESOLUTIONS, "resolution", self.resolution, RESOLUTIONS)
        _check(self.channels in (1, 3, 4), "channels", self.channels, (1, 3, 4))
        _check_sizes(
            self, "width", "max_width", "blocks_per_stage", "group_size", "embed_dim",
            "feature_channels",
        )  # fmt: skip
        _check(
            self.width % self.group_size == 0 and self.max_width % self.group_size == 0,
            "group_size",
            self.group_size,
            "a divisor of width and max_width",
        )

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

    resolution: int = 64
    channels: int = 3
    width: int = 64  # channels after the first convolution, doubled by the next four

    def __post_init__(self) -> None:
        _check(self.resolution == 64, "resolution", self.resolution, "64 for preset dcgan")
        _check(self.channels in (1, 3, 4), "channels", self.channels, (1, 3, 4))
        _check_sizes(self, "width")

    @property
    def z_dim(self) -> int:
        return self.resolution**2

    @property
    def dim(self) -> int:
        return self.z_dim

    @property
    def num_blocks(self) -> int:
        return 1

    @property
    def min_weights(self) -> int:
        return 2 * 16 * (8 * self.width) * (16 * self.width)


@dataclass(frozen=True)
class DcganDiscriminatorConfig:
    """The reference article's discriminator (dcgan.py)."""

    resolution: int = 64
    channels: int = 3
    width: int = 16  # channels after the first convolution, doubled by the next three

    def __post_init__(self) -> None:
        _check_sizes(self, "width")

    @property
    def features(self) -> bool:
        return False

    @property
    def min_weights(self) -> int:
        return 16 * (4 * self.width) * (8 * self.width)


@dataclass(frozen=True)
class ConditioningConfig:
    """What may steer the picture. `styles` are in the order of the style weights."""

    dim: int = COND_DIM
    styles: tuple[str, ...] = ()
    text_encoder: str = ""  # MiniLM's sha256, or a CLIP's identity (clip.py); empty: no text

    def __post_init__(self) -> None:
        object.__setattr__(self, "styles", tuple(self.styles))  # JSON gives lists
        _check_sizes(self, "dim")
        named = all(isinstance(style, str) for style in self.styles)
        _check(named and len(self.styles) <= MAX_SIZE, "styles", self.styles, "names")
        _check(len(set(self.styles)) == len(self.styles), "styles", self.styles, "distinct names")

    @property
    def min_weights(self) -> int:
        return (1 + len(self.styles)) * self.dim


@dataclass(frozen=True)
class ModelConfig:
    """All that is needed to build the three networks of a checkpoint."""

    preset: str = "nano"
    generator: GeneratorConfig | DcganGeneratorConfig = field(default_factory=GeneratorConfig)
    discriminator: DiscriminatorConfig | DcganDiscriminatorConfig = field(
        default_factory=DiscriminatorConfig
    )
    conditioning: ConditioningConfig = field(default_factory=ConditioningConfig)
    architecture: str = "transformer"  # or dcgan

    def __post_init__(self) -> None:
        _check(
            self.architecture in ARCHITECTURES,
            "architecture",
            self.architecture,
            ", ".join(ARCHITECTURES),
        )
        for name in ("resolution", "channels"):
            ours, theirs = getattr(self.generator, name), getattr(self.discriminator, name)
            _check(ours == theirs, f"discriminator {name}", theirs, f"the generator's {ours}")

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

# Every transformer preset has the same 12 blocks of 8 heads; width is what grows.
PRESET_DIMS = {"nano": 128, "small": 192, "base": 256, "large": 384}
PRESET_RESOLUTIONS = {"nano": 32, "small": 64, "base": 64, "large": 64}
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
    """The configuration called `name` for one kind of picture: nano, small, base or large, or the
    reference article's networks, dcgan, which know no styles and no text."""
    _check(name in PRESETS, "preset", name, ", ".join(PRESETS))
    if name == DCGAN:
        return dcgan(channels=channels, resolution=resolution)
    dim, resolution = PRESET_DIMS[name], resolution or PRESET_RESOLUTIONS[name]
    return ModelConfig(
        preset=name,
        generator=GeneratorConfig(
            resolution=resolution,
            channels=channels,
            dim=dim,
            # A token covers 8x8 pixels: attention costs the square of the tokens, and the
            # convolutional tail draws detail for less (docs/experiments.md, "tokens").
            grid=resolution // 8,
            tail_channels=dim // 4,
        ),
        discriminator=DiscriminatorConfig(
            resolution=resolution,
            channels=channels,
            width=16,  # a small trunk: lite0's heads do most of the judging
            max_width=dim,
        ),
        conditioning=ConditioningConfig(cond_dim, styles, text_encoder),
    )


def dcgan(
    *, channels: int, resolution: int | None = None, width: int = 64, judge_width: int = 16
) -> ModelConfig:
    """The reference article's two networks (dcgan.py), as wide as it has them."""
    side = resolution or 64
    return ModelConfig(
        preset=DCGAN,
        generator=DcganGeneratorConfig(side, channels, width),
        discriminator=DcganDiscriminatorConfig(side, channels, judge_width),
        architecture=DCGAN,
    )


def _check_sizes(config: object, *names: str, low: int = 1) -> None:
    """Whole numbers from `low` to MAX_SIZE, which no network of these kinds needs."""
    for name in names:
        value = getattr(config, name)
        whole = isinstance(value, int) and not isinstance(value, bool)
        _check(whole and low <= value <= MAX_SIZE, name, value, f"{low} to {MAX_SIZE}")


def _check(ok: bool, what: str, got: object, expected: object) -> None:
    if not ok:
        raise ValueError(f"{what} is {got!r}; expected {expected}")
