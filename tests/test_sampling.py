"""From seeds to pictures: the same seed means the same picture, whatever surrounds it."""

import numpy as np
import pytest
import torch
from conftest import tiny_model_config

import imagen_model as im
from imagen_model.inference.latent import Latent, noise, random_latent
from imagen_model.inference.sampling import BATCH, average_w, draw, fitting_batch, to_w
from imagen_model.networks.networks import Networks

TOP = 2**64 - 1


def test_noise_is_the_philox_stream():
    """Golden numbers of Philox4x64-10 (key = seed, counter from 1) through Box-Muller, computed
    once with integers of unlimited size."""
    golden = {
        0: [-2.74576, -1.685446, -0.3615508, -1.176225, -0.02520182, 2.06351],
        1: [1.514719, 0.463957, 1.824982, 0.2998762, -0.3358903, 0.6192847],
        TOP: [-0.3593381, -0.4798129, 0.1078643, -1.663644, 0.658993, -1.328844],
    }
    for seed, numbers in golden.items():
        np.testing.assert_allclose(noise(seed, 6), numbers, rtol=1e-5)


def test_noise_is_standard_normal():
    numbers = np.stack([noise(seed, 64) for seed in range(2000)]).astype(np.float64)
    assert abs(numbers.mean()) < 0.015  # five standard errors of 128,000 numbers
    assert numbers.std() == pytest.approx(1, abs=0.01)
    assert (numbers**4).mean() == pytest.approx(3, abs=0.15)
    assert (np.abs(numbers) < 1.96).mean() == pytest.approx(0.95, abs=0.005)
    between = np.corrcoef(numbers[:, :32].ravel(), numbers[:, 32:].ravel())[0, 1]
    along = np.corrcoef(numbers[:-1].ravel(), numbers[1:].ravel())[0, 1]
    assert abs(between) < 0.025  # the two halves share a radius
    assert abs(along) < 0.015  # neighbouring seeds share nothing


@pytest.mark.parametrize("count", [1, 2, 7, 64])
def test_noise_has_as_many_numbers_as_asked_for(count):
    numbers = noise(3, count)
    assert numbers.shape == (count,)
    assert numbers.dtype == np.float32
    assert np.isfinite(numbers).all()


def test_seeds_are_taken_modulo_two_to_the_sixty_four():
    latent = random_latent([0, 2**64, -1, TOP], 16)
    assert latent.seeds == (0, 0, TOP, TOP)
    assert torch.equal(latent.values[0], latent.values[1])
    assert torch.equal(latent.values[2], latent.values[3])


def test_seeds_that_differ_in_their_high_bits_differ():
    values = random_latent([5, 5 + 2**32, 5 + 2**63], 16).values
    distances = torch.cdist(values, values)
    assert distances[~torch.eye(3, dtype=torch.bool)].min() > 1


@pytest.mark.parametrize("order", [[7, 8, 9], [9, 8, 7]])
def test_a_row_of_latents_depends_on_its_seed_alone(order):
    values = random_latent(order, 16).values
    assert torch.equal(values[1:2], random_latent([8], 16).values)


def test_image_i_does_not_depend_on_batch_size(tiny_model):
    condition = tiny_model.encode_text("a red apple")
    latent = tiny_model.latent(range(5))
    together = draw(tiny_model.networks, condition, latent, batch_size=5)
    for batch_size in (1, 2):
        apart = draw(tiny_model.networks, condition, latent, batch_size=batch_size)
        torch.testing.assert_close(apart, together, atol=1e-5, rtol=1e-5)
    alone = tiny_model.draw(condition, tiny_model.latent([3]))
    torch.testing.assert_close(alone, together[3:4], atol=1e-5, rtol=1e-5)


def test_the_same_seed_draws_the_same_picture_and_another_seed_another(tiny_model):
    drawn = tiny_model.sample("a key", seeds=[TOP, 4, TOP], style="noto")
    torch.testing.assert_close(drawn[0], drawn[2], atol=1e-5, rtol=1e-5)
    assert (drawn[0] - drawn[1]).abs().max() > 1e-3


def test_sample_draws_prompt_by_prompt(tiny_model):
    drawn = tiny_model.sample(["a key", "rocket"], seeds=[1, 2, 3], style="noto")
    assert drawn.shape == (6, 4, 32, 32)
    assert drawn.dtype == torch.float32
    assert drawn.device.type == "cpu"
    alone = tiny_model.sample("rocket", seeds=[2], style="noto")
    torch.testing.assert_close(drawn[4:5], alone, atol=1e-5, rtol=1e-5)


def test_words_and_styles_steer(tiny_model):
    drawn = tiny_model.sample(["a key", "rocket"], seeds=[1], style="noto")
    assert (drawn[0] - drawn[1]).abs().max() > 1e-4
    other = tiny_model.sample("a key", seeds=[1], style="twemoji")
    assert (other - drawn[:1]).abs().max() > 1e-4


def test_without_a_style_a_seed_takes_one(tiny_model):
    """Seed by seed, the picture is that of a style, or of a blend near it."""
    styles = tiny_model.styles
    z = random_latent(range(6), 16).values
    free = tiny_model.sample("a key", seeds=range(6))
    for i in range(6):
        named = [tiny_model.sample("a key", seeds=[i], style=style)[0] for style in styles]
        nearest = min(range(4), key=lambda s: (named[s] - free[i]).square().sum())
        assert nearest == z[i, :4].argmax()


def test_truncation_psi_zero_gives_w_avg(tiny_networks, tiny_model):
    condition = tiny_model.encode_text(["rocket", "a key"], style="noto")
    z = random_latent([5, 6], 16).values
    with torch.no_grad():
        average = average_w(tiny_networks, condition)
        w = to_w(tiny_networks, z, condition, truncation_psi=0.0)
    torch.testing.assert_close(w, average[:, None].expand(2, 3, 32))


def test_w_avg_is_the_mean_of_w(tiny_networks, tiny_model):
    condition = tiny_model.encode_text("rocket", style="noto")
    z = random_latent(range(128), 16).values
    with torch.no_grad():
        _, _, pooled = tiny_networks.conditioning(condition)
        w = tiny_networks.generator.mapping(z, pooled.expand(128, -1))
        average = average_w(tiny_networks, condition)
    torch.testing.assert_close(average[0], w.mean(dim=0))


def test_truncation_zero_draws_the_same_picture_for_all_seeds(tiny_model):
    drawn = tiny_model.sample("rocket", seeds=[1, 2, 3], style="noto", truncation=0.0)
    torch.testing.assert_close(drawn, drawn[:1].expand_as(drawn), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("psi", [float("nan"), float("inf"), -5.0, 2.01])
def test_a_truncation_that_is_no_share_is_refused(tiny_model, psi):
    condition, latent = tiny_model.encode_text("key"), tiny_model.latent([0])
    for work in (tiny_model.draw, tiny_model.into_w):
        with pytest.raises(ValueError, match=r"truncation is .*; expected 0 to 2"):
            work(condition, latent, truncation=psi)


def test_truncation_narrows_the_spread_of_seeds(tiny_model):
    spread = [
        tiny_model.sample("rocket", seeds=range(8), style="noto", truncation=psi).std(dim=0).mean()
        for psi in (1.0, 0.5, 0.1)
    ]
    assert spread[0] > spread[1] > spread[2] > 0


def test_w_latents_draw_what_their_z_draws(tiny_model):
    condition = tiny_model.encode_text("rocket")
    latent = tiny_model.latent([5, 6])
    drawn = tiny_model.draw(condition, latent)
    networks = tiny_model.networks
    from imagen_model.condition import settle_styles

    settled = condition[torch.tensor([0, 0])]
    settled = settled.with_style(settle_styles(settled.style, latent.values))
    w = to_w(networks, latent.values, settled)
    again = tiny_model.draw(condition, Latent("w", w, latent.seeds))
    torch.testing.assert_close(again, drawn, atol=1e-5, rtol=1e-5)


def test_one_latent_serves_several_conditions(tiny_model):
    condition = tiny_model.encode_text(["rocket", "a key"], style="noto")
    drawn = tiny_model.draw(condition, tiny_model.latent([3]))
    again = tiny_model.sample(["rocket", "a key"], seeds=[3], style="noto")
    torch.testing.assert_close(drawn, again, atol=1e-5, rtol=1e-5)


def test_tiling_changes_the_edges(tiny_model):
    plain = tiny_model.sample("rocket", seeds=[0])
    tiled = tiny_model.sample("rocket", seeds=[0], tile="both")
    assert (plain - tiled)[..., 0].abs().max() > 1e-3


def test_drawing_leaves_the_global_random_state_alone(tiny_model):
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    tiny_model.sample("rocket", seeds=[1, 2], truncation=0.5)
    Networks.seeded(tiny_model_config(), 3)
    assert torch.equal(torch.get_rng_state(), torch_before)
    assert (np.random.get_state()[1] == numpy_before).all()


def test_seeded_networks_are_a_function_of_the_seed():
    one, again, other = (Networks.seeded(tiny_model_config(), seed) for seed in (1, 1, 2))
    assert torch.equal(one.generator.grid, again.generator.grid)
    assert not torch.equal(one.generator.grid, other.generator.grid)


def test_an_untrained_model_draws_what_it_always_drew(tiny_model):
    """Golden numbers of the tiny seeded model: a change here is a change of the architecture."""
    (drawn,) = tiny_model.sample("rocket", seeds=[1], style="noto")
    means, place = drawn.mean(dim=(1, 2)), drawn[:, 10, 20]
    assert means.tolist() == pytest.approx([-0.0622, 0.0625, -0.1961, 0.1691], abs=2e-4)
    assert place.tolist() == pytest.approx([-0.1097, -0.0783, -0.3219, 0.2495], abs=2e-4)


def test_progress_is_told_after_each_batch_and_may_cancel(tiny_model):
    told = []
    draw(
        tiny_model.networks,
        tiny_model.encode_text(""),
        tiny_model.latent(range(5)),
        batch_size=2,
        progress=lambda done, total, pictures: told.append((done, total, len(pictures))),
    )
    assert told == [(2, 5, 2), (4, 5, 2), (5, 5, 1)]

    class CancelledError(Exception):
        pass

    def cancel(done, total, pictures):
        raise CancelledError

    with pytest.raises(CancelledError):
        tiny_model.sample("", seeds=range(3), progress=cancel)


def test_no_pictures_and_too_many_are_refused(tiny_model):
    with pytest.raises(ValueError, match="asked for 0 pictures; expected 1 to 65536"):
        tiny_model.sample("rocket", seeds=[])
    with pytest.raises(ValueError, match="asked for 0 pictures"):
        tiny_model.sample([], seeds=[1])
    with pytest.raises(ValueError, match="asked for 65537 pictures"):
        tiny_model.latent(range(65537))


def test_latents_of_another_model_are_refused(tiny_model):
    condition = tiny_model.encode_text("")
    with pytest.raises(ValueError, match=r"\(64,\) do not fit this model, whose are \(16,\)"):
        tiny_model.draw(condition, random_latent([0], 64))
    with pytest.raises(ValueError, match=r"\(3, 64\) do not fit this model, whose are \(3, 32\)"):
        tiny_model.draw(condition, Latent("w", torch.zeros(1, 3, 64), (0,)))


def test_an_unknown_tile_is_refused(tiny_model):
    with pytest.raises(ValueError, match="'y'; expected one of none, x, both"):
        tiny_model.sample("", tile="y")


def test_conditions_and_latents_must_be_as_many(tiny_model):
    condition = tiny_model.encode_text(["a", "b", "c"])
    with pytest.raises(ValueError, match="3 conditions do not fit 2 pictures; expected 1 or 2"):
        tiny_model.draw(condition, tiny_model.latent([0, 1]))


def test_a_latent_must_be_consistent():
    with pytest.raises(ValueError, match="'v'"):
        Latent("v", torch.zeros(1, 16), (0,))
    with pytest.raises(ValueError, match="2 latents have 1 seeds"):
        Latent("z", torch.zeros(2, 16), (0,))


def test_an_unknown_style_is_refused(tiny_model):
    with pytest.raises(ValueError, match=r"'oil'; this model knows: fluent-3d, .*twemoji"):
        tiny_model.sample("rocket", style="oil")


def test_a_model_without_text_refuses_words_but_not_an_empty_prompt(tiny_networks):
    config = tiny_model_config(text_encoder="", features=False)
    model = im.Model("wordless", config, Networks.seeded(config, 0).eval(), {})
    assert model.sample("").shape == (1, 4, 32, 32)
    with pytest.raises(ValueError, match="wordless was trained without text"):
        model.sample("rocket")


def test_another_text_encoder_is_refused():
    config = tiny_model_config(text_encoder="0" * 64, features=False)
    model = im.Model("other", config, Networks.seeded(config, 0).eval(), {})
    with pytest.raises(ValueError, match="model other was trained with another text encoder"):
        model.sample("rocket")


def test_the_bundled_model_draws():
    drawn = im.load("emoji").sample("a red apple", seeds=[0, 1])
    assert drawn.shape == (2, 4, 128, 128)
    assert drawn.isfinite().all()
    assert drawn.abs().max() <= 1


@pytest.mark.parametrize(("resolution", "size"), [(32, 64), (128, 64), (256, 16), (512, 4)])
def test_fewer_large_pictures_are_drawn_at_once(resolution, size):
    assert fitting_batch(resolution) == size
    assert fitting_batch(resolution, 16) == max(1, size // 4)


@pytest.mark.parametrize(("prompts", "seeds"), [(1, BATCH + 3), (2, 1), (2, 2)])
def test_batches_are_the_pictures_of_a_draw(tiny_model, prompts, seeds):
    """However many they are, memory holds one batch of them."""
    condition = tiny_model.encode_text(["a red apple", "a cat"][:prompts])
    latent, done = tiny_model.latent(range(seeds)), []
    parts = list(
        tiny_model.draw_batches(
            condition, latent, truncation=0.7, progress=lambda *told: done.append(told[:2])
        )
    )
    whole = tiny_model.draw(condition, latent, truncation=0.7)
    assert torch.equal(torch.cat(parts), whole)
    assert max(map(len, parts)) <= BATCH
    assert done[-1] == (len(whole), len(whole))


def test_batches_need_conditions_and_latents_that_fit(tiny_model):
    with pytest.raises(ValueError, match="2 conditions do not fit 3 pictures"):
        next(
            tiny_model.draw_batches(tiny_model.encode_text(["a", "b"]), tiny_model.latent(range(3)))
        )
