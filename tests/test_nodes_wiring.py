"""How few links a picture takes: the starter node, and latents that bring model and condition."""

from __future__ import annotations

import numpy as np
import pytest
from comfyui import saved_pixels
from every_node import needed, node

from studio.server import Server, StudioError

pytestmark = pytest.mark.comfyui


def shown(server: Server, target: str, changes: dict[str, dict] | None = None) -> np.ndarray:
    """The pictures of a node of `wires`, as one array."""
    nodes = wires(server)
    for key, inputs in (changes or {}).items():
        nodes[key]["inputs"] |= inputs
    nodes["show"] = node(server, "PreviewImage", images=[target, 0])
    return np.stack(saved_pixels(server, server.run(needed(nodes, "show"))))


def wires(server: Server) -> dict[str, dict]:
    """Two chains that draw the same: by links to each node, and by what latents bring along."""

    def new(kind: str, **inputs: object) -> dict:
        return node(server, kind, **inputs)

    asked = {"model": ["model", 0], "condition": ["text", 0]}
    return {
        "model": new("ImagenLoadModel", model_name="rgba.safetensors"),
        "wide": new("ImagenLoadModel", model_name="wide.safetensors"),
        "text": new("ImagenEncodeText", model=["model", 0], text="red apple", style="noto"),
        "texts": new("ImagenEncodeText", model=["model", 0], text="a\nb", per_line=True),
        "starter": new(
            "ImagenTextToImage", model=["model", 0], text="red apple", style="noto", seed=7,
            batch_size=2,
        ),
        "bare": new("ImagenRandomLatent", model=["model", 0], seed=7, batch_size=2),
        "linked": new("ImagenSample", **asked, latent=["bare", 0]),
        "bare_moved": new("ImagenDirection", **asked, latent=["bare_truncated", 0]),
        "bare_truncated": new("ImagenTruncate", **asked, latent=["bare", 0]),
        "bare_mixed": new(
            "ImagenMixLatents", **asked, coarse=["bare", 0], fine=["bare_moved", 0], from_block=1
        ),
        "bare_walk": new("ImagenInterpolate", latent=["bare", 0], frames=3),
        "linked_mixed": new("ImagenSample", **asked, latent=["bare_mixed", 0]),
        "linked_walk": new("ImagenSample", **asked, latent=["bare_walk", 0]),
        "latent": new("ImagenRandomLatent", **asked, seed=7, batch_size=2),
        "carried": new("ImagenSample", latent=["latent", 0]),
        "truncated": new("ImagenTruncate", latent=["latent", 0]),
        "moved": new("ImagenDirection", latent=["truncated", 0]),
        "mixed": new("ImagenMixLatents", coarse=["latent", 0], fine=["moved", 0], from_block=1),
        "walk": new("ImagenInterpolate", latent=["latent", 0], frames=3),
        "carried_mixed": new("ImagenSample", latent=["mixed", 0]),
        "carried_walk": new("ImagenSample", latent=["walk", 0]),
        "row": new("ImagenStyleRow", latent=["latent", 0], styles="noto\n\ntwemoji "),
    }  # fmt: skip


def test_the_starter_node_draws_what_the_three_nodes_draw(host):
    pictures = shown(host, "starter")
    assert len(pictures) == 2 and (pictures == shown(host, "linked")).all()


@pytest.mark.parametrize("end", ["", "_mixed", "_walk"])
def test_latents_bring_the_model_and_the_condition_that_they_were_made_for(host, end):
    assert (shown(host, f"carried{end}") == shown(host, f"linked{end}")).all()


def test_a_link_counts_more_than_what_the_latents_bring(host):
    other = {"condition": ["texts", 0]}
    assert (shown(host, "carried", {"carried": other}) != shown(host, "carried")).any()
    with pytest.raises(StudioError, match="ImagenSample: "):
        shown(host, "carried", {"carried": {"model": ["wide", 0]}})


def test_latents_without_a_condition_say_where_to_link_one(host):
    with pytest.raises(StudioError, match="the latents come without a condition; link one") as e:
        shown(host, "carried", {"carried": {"latent": ["bare", 0]}})
    assert "\n" not in str(e.value)


def test_a_walk_does_not_bring_conditions_that_belong_to_single_latents(host):
    with pytest.raises(StudioError, match="the latents come without a condition"):
        shown(host, "carried_walk", {"latent": {"condition": ["texts", 0]}})


def test_a_style_row_draws_the_latents_in_each_style(host):
    rows = shown(host, "row")
    assert len(rows) == 4
    assert (rows[:2] == shown(host, "linked")).all()
    assert (rows[2:] == shown(host, "linked", {"text": {"style": "twemoji"}})).all()
    assert len(shown(host, "row", {"row": {"styles": ""}})) == 8  # the model knows four


def test_an_unknown_style_in_a_row_names_the_known_ones(host):
    with pytest.raises(StudioError, match="style is 'cubist'; this model knows: fluent-3d"):
        shown(host, "row", {"row": {"styles": "noto\ncubist"}})


def test_a_search_for_an_everyday_word_is_answered_where_comfyui_knows_aliases(host):
    info = host.get("/object_info")
    words = {
        "ImagenTextToImage": ("gan", "emoji", "sprite"),
        "ImagenRate": ("thumbs up",),
        "ImagenEncodeAudio": ("voice",),
        "ImagenTrain": ("train model",),
    }
    for kind, aliases in words.items():
        if "search_aliases" in info["KSampler"]:
            assert set(aliases) <= set(info[kind]["search_aliases"])
        assert info[kind]["experimental"] is (kind == "ImagenTrain")
