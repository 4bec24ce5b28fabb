"""The Condition type: null rows, styles that settle with the seed, and rows of several."""

import pytest
import torch
import torch.nn.functional as F

from imagen_model.condition import Condition, combined, settle_styles, style_weights
from imagen_model.config import ConditioningConfig
from imagen_model.inference.latent import random_latent
from imagen_model.networks.condition_embedding import ConditionEmbedding

CONFIG = ConditioningConfig(dim=8, styles=("a", "b", "c", "d"))
FIELDS = ("tokens", "mask", "pooled", "style")


def condition_of(n: int, length: int, generator: torch.Generator) -> Condition:
    return Condition(
        torch.randn(n, length, 8, generator=generator),
        torch.ones(n, length, dtype=torch.bool),
        torch.randn(n, 8, generator=generator),
        torch.eye(4)[:n],
    )


def test_seeds_choose_styles_uniformly():
    z = random_latent(range(4000), 16).values
    settled = settle_styles(torch.zeros(4000, 4), z)
    torch.testing.assert_close(settled.sum(dim=1), torch.ones(4000))
    counts = settled.argmax(dim=1).bincount(minlength=4)
    assert (counts - 1000).abs().max() < 137  # five standard deviations of a binomial
    assert (settled.max(dim=1).values > 0.95).float().mean() > 0.9  # and firmly


def test_a_seed_chooses_the_same_style_every_time():
    z = random_latent(range(8), 16).values
    every = settle_styles(torch.zeros(8, 4), z)
    torch.testing.assert_close(settle_styles(torch.zeros(1, 4), z[5:6]), every[5:6])


def test_a_given_style_stays():
    style = torch.tensor([[0.0, 1, 0, 0], [0, 0, 0, 0], [0.5, 0, 0.5, 0]])
    settled = settle_styles(style, random_latent(range(3), 16).values)
    assert torch.equal(settled[[0, 2]], style[[0, 2]])
    assert settled[1].sum() == pytest.approx(1)


def test_a_walk_passes_from_style_to_style_without_a_jump():
    z = random_latent([0, 2], 16).values  # of different styles
    t = torch.linspace(0, 1, 2001)[:, None]
    settled = settle_styles(torch.zeros(2001, 4), torch.lerp(z[:1], z[1:], t))
    assert settled[0].argmax() != settled[-1].argmax()
    assert settled.diff(dim=0).abs().max() < 0.05


def test_a_model_without_styles_has_none_to_settle():
    assert settle_styles(torch.zeros(3, 0), torch.zeros(3, 16)).shape == (3, 0)


@pytest.mark.parametrize("anything", [None, "", "any"])
def test_no_style_is_a_row_of_zeros(anything):
    assert style_weights(("a", "b"), anything, 2).tolist() == [[0, 0], [0, 0]]


def test_a_style_is_one_hot_in_the_models_order():
    assert style_weights(("a", "b"), "b", 2).tolist() == [[0, 1], [0, 1]]


def test_an_unknown_style_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'noto'; this model knows: a, b"):
        style_weights(("a", "b"), "noto", 1)
    with pytest.raises(ValueError, match="no styles"):
        style_weights((), "noto", 1)


def test_rows_of_several_conditions_are_padded_to_the_longest(generator):
    short, long = condition_of(1, 2, generator), condition_of(2, 5, generator)
    both = Condition.cat([short, long, Condition.null(1, CONFIG)])
    assert both.tokens.shape == (4, 5, 8)
    assert both.mask.sum(dim=1).tolist() == [2, 5, 5, 0]
    assert torch.equal(both[0:1].tokens[:, :2], short.tokens)
    assert torch.equal(both[1:3].tokens, long.tokens)
    assert torch.equal(both.pooled[:3], torch.cat([short.pooled, long.pooled]))
    assert both.style.sum(dim=1).tolist() == [1, 1, 1, 0]


def test_padding_does_not_change_what_the_networks_see(generator):
    module = ConditionEmbedding(CONFIG)
    short, long = condition_of(1, 2, generator), condition_of(1, 5, generator)
    tokens, mask, pooled = module(Condition.cat([short, long]))
    alone, alone_mask, alone_pooled = module(short)
    assert torch.equal(tokens[0][mask[0]], alone[0][alone_mask[0]])
    assert torch.equal(pooled[:1], alone_pooled)


def test_every_row_has_the_pooled_vector_and_the_style_to_look_at(generator):
    module = ConditionEmbedding(CONFIG)
    condition = condition_of(2, 3, generator)
    tokens, mask, pooled = module(condition)
    assert tokens.shape == (2, 5, 8)
    assert mask[:, :2].all()
    assert torch.equal(tokens[:, 0], pooled)
    torch.testing.assert_close(tokens[:, 1], module.style_embed[:2])
    torch.testing.assert_close(pooled, condition.pooled + module.style_embed[:2])


def test_a_null_row_is_the_learned_null_whatever_it_holds(generator):
    module = ConditionEmbedding(CONFIG)
    condition = condition_of(2, 3, generator)
    condition.mask[0] = False
    _, mask, pooled = module(condition)
    torch.testing.assert_close(pooled[0], module.null_pooled + module.style_embed[0])
    torch.testing.assert_close(pooled[1], condition.pooled[1] + module.style_embed[1])
    assert mask[0].tolist() == [True, True, False, False, False]


def test_rows_are_taken_by_slice_and_by_index(generator):
    condition = condition_of(3, 2, generator)
    assert len(condition[1:]) == 2
    repeated = condition[torch.tensor([2, 2, 0])]
    assert torch.equal(repeated.pooled, condition.pooled[[2, 2, 0]])


def test_moving_keeps_the_mask_boolean(generator):
    moved = condition_of(1, 2, generator).to(dtype=torch.float64)
    assert moved.tokens.dtype == moved.pooled.dtype == moved.style.dtype == torch.float64
    assert moved.mask.dtype == torch.bool


def test_weights_0_and_1_give_exactly_one_of_two_conditions(generator):
    a, b = condition_of(2, 3, generator), condition_of(2, 5, generator)
    for weight, whole in ((0, a), (1.0, b)):
        result = combined(a, b, weight)
        assert all(torch.equal(getattr(result, k), getattr(whole, k)) for k in FIELDS)


def test_a_combination_with_itself_changes_nothing(generator):
    a = condition_of(2, 4, generator)
    result = combined(a, a, 0.3)
    for name in FIELDS:
        torch.testing.assert_close(getattr(result, name), getattr(a, name))


def test_between_two_conditions_everything_moves_with_the_weight(generator):
    a, b = condition_of(1, 3, generator), condition_of(1, 6, generator)
    b = b.with_style(torch.tensor([[0.0, 0, 1, 0]]))
    steps = [combined(a, b, weight) for weight in (0.25, 0.5, 0.75)]
    assert [step.style.tolist()[0] for step in steps] == [
        [0.75, 0, 0.25, 0],
        [0.5, 0, 0.5, 0],
        [0.25, 0, 0.75, 0],
    ]
    torch.testing.assert_close(steps[1].tokens[0, 1], (a.tokens[0, 0] + b.tokens[0, 1]) / 2)
    torch.testing.assert_close(steps[1].tokens[0, 5], (a.tokens[0, 2] + b.tokens[0, 5]) / 2)
    near = [F.cosine_similarity(step.pooled, b.pooled).item() for step in steps]
    assert near == sorted(near)
    mean = (a.pooled.norm() + b.pooled.norm()) / 2
    torch.testing.assert_close(steps[1].pooled.norm(), mean)  # half-way is not half as long


def test_what_one_condition_leaves_open_the_other_decides(generator):
    a = condition_of(1, 3, generator)
    null = Condition.null(1, CONFIG)
    for result in (combined(a, null, 0.4), combined(null, a, 0.4)):
        assert torch.equal(result.mask, a.mask)
        for name in FIELDS:
            torch.testing.assert_close(getattr(result, name), getattr(a, name))
    assert not combined(null, null, 0.5).mask.any()


def test_a_row_combines_alike_whatever_else_is_in_the_batch(generator):
    short, long, other = (condition_of(1, length, generator) for length in (2, 7, 4))
    together = combined(Condition.cat([short, long]), other, 0.5)
    alone = combined(short, other, 0.5)
    assert together.mask.sum(dim=1).tolist() == [4, 7]
    torch.testing.assert_close(together.tokens[:1, :4], alone.tokens)
    torch.testing.assert_close(together.pooled[:1], alone.pooled)


def test_what_can_not_be_combined_is_one_line(generator):
    a, b = condition_of(2, 3, generator), condition_of(3, 3, generator)
    with pytest.raises(ValueError, match="2 and 3 conditions; expected equal counts, or one"):
        combined(a, b, 0.5)
    with pytest.raises(ValueError, match=r"weight is 1\.5; expected 0 to 1"):
        combined(a, a, 1.5)
    with pytest.raises(ValueError, match=r"different models \(4 and 2 styles\)"):
        combined(a, a.with_style(torch.zeros(2, 2)), 0.0)
    with pytest.raises(ValueError, match=r"torch\.float32 and torch\.float64; expected one type"):
        combined(a, a.to(torch.float64), 0.5)
    wide = Condition.null(2, ConditioningConfig(dim=16, styles=CONFIG.styles))
    with pytest.raises(ValueError, match=r"different models \(8 and 16 numbers a token\)"):
        combined(a, wide, 0.5)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float16])
def test_a_style_of_another_type_is_one_line(generator, dtype):
    condition = condition_of(2, 3, generator)
    with pytest.raises(ValueError, match="expected one floating-point type"):
        condition.with_style(condition.style.to(dtype))
