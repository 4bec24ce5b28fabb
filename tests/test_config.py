"""Configurations: what they refuse, and that a checkpoint can store them."""

import dataclasses
import json

import pytest
import torch

from imagen_model.config import (
    PRESET_DIMS,
    ConditioningConfig,
    DiscriminatorConfig,
    GeneratorConfig,
    ModelConfig,
    preset,
)
from imagen_model.networks.generator import Generator
from imagen_model.training.config import TrainingConfig
from imagen_model.training.settings import width_aware_lr


@pytest.mark.parametrize("name", PRESET_DIMS)
def test_every_preset_has_twelve_blocks_of_eight_heads(name):
    config = preset(name)
    with torch.device("meta"):  # shapes only
        generator = Generator(config.generator, config.conditioning.dim)
    assert len(generator.blocks) == 12
    for block in generator.blocks:
        assert block.attention.num_heads == block.cross.num_heads == 8


def test_presets_grow_in_width_alone():
    widths = [preset(name).generator.dim for name in ("nano", "small", "base", "large")]
    assert widths == sorted(set(widths))


@pytest.mark.parametrize("resolution", [32, 64, 128, 256])
def test_a_preset_takes_every_resolution_with_tokens_of_eight_pixels(resolution):
    config = preset("nano", resolution=resolution, channels=3, styles=("a", "b"))
    assert config.generator.resolution == config.discriminator.resolution == resolution
    assert config.generator.grid * 8 == resolution
    assert config.conditioning.styles == ("a", "b")


def test_at_512_px_a_token_covers_sixteen_pixels():
    config = preset("nano", resolution=512)
    assert config.generator.resolution == 512 and config.generator.grid == 32


def test_a_configuration_survives_json():
    config = preset("small", channels=1, styles=("flat", "noto"), text_encoder="abc")
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize("part", ["generator", "discriminator", "conditioning"])
def test_an_unknown_field_is_refused_by_name(part):
    values = preset("nano").to_dict()
    values[part]["num_blok"] = 3
    with pytest.raises(ValueError, match="num_blok"):
        ModelConfig.from_dict(values)


@pytest.mark.parametrize("part", ["generator", "discriminator", "conditioning"])
def test_a_missing_part_is_refused_by_name(part):
    values = preset("nano").to_dict()
    del values[part]
    with pytest.raises(ValueError, match=part):
        ModelConfig.from_dict(values)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("resolution", 48),
        ("resolution", 0),
        ("channels", 2),
        ("dim", 100),
        ("dim", 0),
        ("grid", 5),
        ("grid", 0),
        ("grid", 32),
        ("num_heads", 0),
        ("num_blocks", 0),
        ("readout_every", 5),
        ("readout_every", 0),
        ("z_dim", 0),
    ],
)
def test_an_impossible_generator_is_refused_by_field(field, value):
    with pytest.raises(ValueError, match=f"^{field} is {value}; expected"):
        GeneratorConfig(**{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [("resolution", 33), ("channels", 5), ("group_size", 0), ("group_size", 24), ("features", 1)],
)
def test_an_impossible_discriminator_is_refused_by_field(field, value):
    with pytest.raises(ValueError, match=f"^{field} is {value}; expected"):
        DiscriminatorConfig(**{field: value})


@pytest.mark.parametrize(("field", "value"), [("resolution", 64), ("channels", 3)])
def test_both_networks_must_agree_on_the_picture(field, value):
    with pytest.raises(ValueError, match=f"discriminator {field} is {value}"):
        ModelConfig(discriminator=DiscriminatorConfig(**{field: value}))


@pytest.mark.parametrize("value", [True, 7, None, ["x"], {}])
def test_names_must_be_text(value):
    with pytest.raises(ValueError, match=r"^text_encoder is .*; expected text"):
        ConditioningConfig(text_encoder=value)
    with pytest.raises(ValueError, match=r"^preset is .*; expected text"):
        ModelConfig(preset=value)


def test_styles_must_be_distinct():
    with pytest.raises(ValueError, match="styles"):
        ConditioningConfig(styles=("noto", "noto"))


def test_an_unknown_preset_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'huge'; expected nano, small, base, large"):
        preset("huge")


def test_configurations_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        preset("nano").generator.dim = 1


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("stage", "feedback"),
        ("objective", "wasserstein"),
        ("batch", 0),
        ("kimg", -1.0),
        ("minutes", -1.0),
        ("lr", 1e-6),
        ("augment_p", 1.5),
        ("r1_gamma", -1.0),
    ],
)
def test_an_impossible_training_is_refused_by_field(field, value):
    with pytest.raises(ValueError, match=f"^{field} is {value!r}; expected"):
        TrainingConfig(**({"kimg": 1.0} | {field: value}))


def test_a_training_without_a_limit_is_refused():
    with pytest.raises(ValueError, match="when to stop"):
        TrainingConfig()


def test_narrow_generators_take_larger_steps():
    assert width_aware_lr(768) == pytest.approx(2e-4)
    assert width_aware_lr(128) == pytest.approx(6 * width_aware_lr(768))
