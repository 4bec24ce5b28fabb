"""The discriminator: five stages, logits per patch, and a condition that enters by projection."""

import pytest
import torch
from conftest import tiny_model_config

from imagen_model.config import DiscriminatorConfig
from imagen_model.networks.discriminator import Bottleneck, DiscriminatorOutput, Trunk
from imagen_model.networks.efficientnet import as_rgb, lite0
from imagen_model.networks.networks import Networks
from imagen_model.training.losses import hinge_d


def judged(networks: Networks, pictures: torch.Tensor) -> DiscriminatorOutput:
    return networks.discriminator(pictures, lite0()(as_rgb(pictures)))


@pytest.fixture
def pictures(generator):
    return torch.rand(4, 4, 32, 32, generator=generator) * 2 - 1


@pytest.fixture
def conds(tiny_networks, generator):
    """Four embedded conditions, and the same with other words."""
    pooled = torch.randn(2, 4, 384, generator=generator)
    style = torch.eye(4)
    embed = tiny_networks.discriminator.embed_condition
    return embed(pooled[0], style), embed(pooled[1], style)


@torch.no_grad()
@pytest.mark.parametrize("resolution", [32, 64, 128, 256])
def test_the_trunk_has_five_stages_down_to_four_by_four(resolution):
    trunk = Trunk(DiscriminatorConfig(resolution=resolution, channels=3, width=16, max_width=16))
    assert len(trunk.stages) == 5
    outputs = []
    for stage in trunk.stages:
        stage.register_forward_hook(lambda module, args, output: outputs.append(output))
    trunk(torch.zeros(1, 3, resolution, resolution))
    sizes = [output.shape[2] for output in outputs]
    assert len(sizes) == 5
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == 4


@torch.no_grad()
@pytest.mark.parametrize("features", [True, False])
def test_every_head_gives_logits_per_patch(features, pictures):
    config = tiny_model_config(features=features)
    discriminator = Networks.seeded(config, 0).eval().discriminator
    levels = lite0()(as_rgb(pictures)) if features else None
    judgement = discriminator(pictures, levels)
    sides = [4, 16, 8, 4, 2] if features else [4]  # trunk; lite0's strides 4, 8, 16, 32 of 64 px
    assert [m.shape for m in judgement.patch_logits] == [(4, side, side) for side in sides]
    cond = discriminator.embed_condition(torch.zeros(4, 384), torch.eye(4))
    assert [x.shape for x in judgement.logits(cond)] == [(4, side**2) for side in sides]
    for logits in judgement.patch_logits:
        assert logits.std(dim=(1, 2)).min() > 0  # patches are judged apart


@torch.no_grad()
def test_the_match_matrix_has_the_matches_on_its_diagonal(tiny_networks, pictures, conds):
    judgement = judged(tiny_networks, pictures)
    matrix = judgement.match_matrix(conds[0])
    assert matrix.shape == (4, 4)
    torch.testing.assert_close(matrix.diagonal(), judgement.match(conds[0]).mean(dim=1))
    rolled = judgement.match(conds[0].roll(-1, dims=0)).mean(dim=1)
    torch.testing.assert_close(matrix.diagonal(offset=1), rolled[:3])


@torch.no_grad()
def test_another_caption_changes_the_match_alone(tiny_networks, pictures, conds):
    """One judgement serves every caption: its logits differ by a product, the same everywhere."""
    judgement = judged(tiny_networks, pictures)
    difference = judgement.match(conds[1]) - judgement.match(conds[0])  # [N, heads]
    assert difference.abs().max() > 1e-2
    pairs = zip(judgement.logits(conds[0]), judgement.logits(conds[1]), strict=True)
    for i, (one, other) in enumerate(pairs):
        torch.testing.assert_close(other - one, difference[:, i : i + 1].expand_as(one))


@torch.no_grad()
def test_a_match_is_a_cosine_times_the_scale(tiny_networks, pictures, conds):
    judgement = judged(tiny_networks, pictures)
    scale = tiny_networks.discriminator.match_scale
    torch.testing.assert_close(judgement.embedding.norm(dim=2), torch.ones(4, 5))
    torch.testing.assert_close(conds[0].norm(dim=2), scale.expand(4, 5))


@torch.no_grad()
def test_style_and_words_both_enter_the_embedded_condition(tiny_networks, generator):
    embed = tiny_networks.discriminator.embed_condition
    pooled = torch.randn(2, 384, generator=generator)
    styles = torch.eye(4)[:2]
    reference = embed(pooled[:1], styles[:1])
    assert (embed(pooled[:1], styles[1:]) - reference).abs().max() > 1e-2
    assert (embed(pooled[1:], styles[:1]) - reference).abs().max() > 1e-2


@torch.no_grad()
def test_a_model_without_styles_judges(pictures):
    networks = Networks.seeded(tiny_model_config(styles=()), 0).eval()
    cond = networks.discriminator.embed_condition(torch.ones(4, 384), torch.zeros(4, 0))
    assert judged(networks, pictures).match(cond).shape == (4, 5)


@torch.no_grad()
def test_a_judgement_does_not_depend_on_the_rest_of_the_batch(tiny_networks, pictures):
    together = judged(tiny_networks, pictures)
    alone = judged(tiny_networks, pictures[2:3])
    torch.testing.assert_close(alone.realism(), together.realism()[2:3], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(alone.embedding, together.embedding[2:3], atol=1e-4, rtol=1e-4)


def test_realism_is_the_mean_over_patches_then_heads():
    heads = (torch.tensor([[[1.0, 3.0]]]), torch.tensor([[[0.0, 0.0, 3.0]]]))
    judgement = DiscriminatorOutput(heads, torch.zeros(1, 2, 4))
    assert judgement.realism().tolist() == [1.5]  # mean of 2 and 1


def test_the_realism_map_lies_where_the_patches_lie():
    patches = torch.tensor([[[4.0, 0.0], [0.0, 0.0]]])
    realism = DiscriminatorOutput((patches,), torch.zeros(1, 1, 4)).realism_map(32)
    assert realism.shape == (1, 32, 32)
    assert realism[0, 0, 0] == 4
    assert realism[0, 31, 31] == 0


def test_residual_blocks_start_at_the_identity(generator):
    x = torch.randn(2, 16, 8, 8, generator=generator)
    torch.testing.assert_close(Bottleneck(16, 16)(x), x)


def test_the_mixer_is_never_trained():
    discriminator = Networks.seeded(tiny_model_config(), 0).discriminator
    assert not any(p.requires_grad for p in discriminator.mixer.parameters())
    assert discriminator.trunk.stem.weight.requires_grad


def test_training_raises_the_logits_of_real_pictures(generator):
    """The sign of everything: high = real."""
    networks = Networks.seeded(tiny_model_config(features=False, channels=1), 0).train()
    discriminator = networks.discriminator
    optimizer = torch.optim.Adam(discriminator.parameters(), lr=1e-3)
    real = torch.rand(8, 1, 32, 32, generator=generator)
    fake = -torch.rand(8, 1, 32, 32, generator=generator)
    for _ in range(20):
        real_logits = discriminator(real, None).patch_logits[0]
        loss = hinge_d(real_logits, discriminator(fake, None).patch_logits[0])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        gap = discriminator(real, None).realism() - discriminator(fake, None).realism()
    assert gap.min() > 0.1
