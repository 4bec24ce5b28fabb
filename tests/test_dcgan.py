"""The reference article's networks, repaired, and its files converted."""

import pytest
import torch
from torch import nn

import imagen_model as im
from imagen_model.cli import main
from imagen_model.config import ModelConfig, dcgan, preset
from imagen_model.networks.networks import Networks


@pytest.fixture
def networks() -> Networks:
    return Networks.seeded(dcgan(channels=3, width=4, discriminator_width=4), 0).eval()


def kinds(module: nn.Module) -> list[str]:
    return [type(layer).__name__ for layer in module.layers]


def test_the_layers_are_the_article_s_with_the_missing_one():
    networks = Networks.seeded(preset("dcgan", channels=3), 0)
    block = ["BatchNorm2d", "LeakyReLU"]
    down, up = ["Conv2d", *block], ["ConvTranspose2d", *block]
    ends = ["ConvTranspose2d", "Tanh"]
    assert kinds(networks.generator) == ["Conv2d", "LeakyReLU", *down * 4, *up * 4, *ends]
    assert kinds(networks.discriminator) == ["Conv2d", "LeakyReLU", *down * 3, "Conv2d"]
    convs = [m for m in networks.generator.layers if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))]
    assert [(m.in_channels, m.out_channels) for m in convs] == [
        (1, 64), (64, 128), (128, 256), (256, 512), (512, 1024),
        (1024, 512), (512, 256), (256, 128), (128, 64), (64, 3),
    ]  # fmt: skip
    convs = [m for m in networks.discriminator.layers if isinstance(m, nn.Conv2d)]
    assert [m.out_channels for m in convs] == [16, 32, 64, 128, 1]
    assert {(m.kernel_size, m.stride) for m in convs} == {((4, 4), (2, 2))}


def test_a_configuration_survives_its_dictionary():
    config = preset("dcgan", channels=4)
    assert ModelConfig.from_dict(config.to_dict()) == config
    with pytest.raises(ValueError, match="resolution is 32; expected 64 for preset dcgan"):
        preset("dcgan", resolution=32)


def test_a_model_samples_and_scores_like_any_other(networks, tmp_path):
    from imagen_model.checkpoint import save_checkpoint

    config = dcgan(channels=3, width=4, discriminator_width=4)
    path = tmp_path / "mine.safetensors"
    save_checkpoint(path, config, networks, {"name": "mine"})
    model = im.load(path)
    pictures = model.sample("", seeds=[3, 4])
    assert pictures.shape == (2, 3, 64, 64) and pictures.abs().max() <= 1
    torch.testing.assert_close(model.sample("", seeds=[4]), pictures[1:])
    scores = model.score(pictures)
    assert scores.realism.shape == (2,) and scores.realism_map.shape == (2, 64, 64)
    with pytest.raises(ValueError, match="trained without text"):
        model.sample("an apple")
    with pytest.raises(ValueError, match="a dcgan model generates with 'none' only"):
        model.sample("", tile="both")


def article_files(networks: Networks, folder) -> None:
    """The state dicts under other names, as the article's loop writes them."""
    for kind in ("generator", "discriminator"):
        state = getattr(networks, kind).state_dict()
        torch.save({f"main.{k}": v for k, v in state.items()}, folder / f"{kind}_7.pth")


def test_the_article_s_files_become_a_checkpoint_that_draws_the_same(networks, tmp_path):
    article_files(networks, tmp_path)
    out = tmp_path / "m.safetensors"
    assert main(["convert", str(tmp_path / "generator_7.pth"), "--out", str(out)]) == 0
    model = im.load(out)
    assert model.card["converted_from"] == ["generator_7.pth", "discriminator_7.pth"]
    z = model.latent([5]).values
    with torch.no_grad():
        expected = networks.generator.layers(z.view(1, 1, 64, 64))
    torch.testing.assert_close(model.sample("", seeds=[5]), expected)


def without_last_layer(state: dict) -> dict:
    names = list(state)
    return {name: state[name] for name in names[:-2]}


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda f: (f / "discriminator_7.pth").unlink(), "no file"),
        (lambda f: (f / "generator_7.pth").write_bytes(b"PK"), "not a state dict"),
        (lambda f: torch.save([1], f / "generator_7.pth"), "expected a state dict"),
        (lambda f: torch.save(nn.Linear(2, 2), f / "generator_7.pth"), "weights only"),
        (
            lambda f: torch.save(nn.Linear(2, 2).state_dict(), f / "generator_7.pth"),
            "two convolutional networks",
        ),
        (
            lambda f: torch.save(
                without_last_layer(torch.load(f / "generator_7.pth", weights_only=True)),
                f / "generator_7.pth",
            ),
            "the last layer is missing",
        ),
    ],
)
def test_other_files_are_refused_in_one_line(networks, tmp_path, capsys, spoil, words):
    article_files(networks, tmp_path)
    spoil(tmp_path)
    out = tmp_path / "m.safetensors"
    assert main(["convert", str(tmp_path / "generator_7.pth"), "--out", str(out)]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and words in error
    assert not out.exists()
