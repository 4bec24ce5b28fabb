"""The emoji set: what is held out never trains, and every picture keeps its licence."""

import hashlib
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from imagen_model.data.folder import read_items
from imagen_model.data.prepare import emoji
from imagen_model.data.prepare.emoji import STYLES, build_emoji, is_held_out
from imagen_model.data.prepare.emoji_names import EmojiNames, hexcode_of, read_concepts
from imagen_model.data.prepare.icon_set import rendered

HELD_OUT = {("1F602", "noto"), ("1F355", "fluent-3d"), ("1F40C", "twemoji")}


@pytest.fixture(scope="module")
def all_styles(tmp_path_factory, emoji_sources):
    """The twelve emoji in all eight styles, and the manifest."""
    out = tmp_path_factory.mktemp("data") / "emoji"
    return out, build_emoji(out, resolution=32, source=emoji_sources)


def test_the_held_out_pairs_are_those_of_the_rule(emoji_folder):
    assert {(s.base, s.style) for s in read_items(emoji_folder, split="test")} == HELD_OUT


def test_the_rule_is_a_twentieth_of_all_pairs_and_knows_only_names():
    pairs = [(f"{code:X}", style) for code in range(0x1F300, 0x1F700) for style in STYLES]
    held = [pair for pair in pairs if is_held_out(*pair)]
    assert len(held) / len(pairs) == pytest.approx(13 / 256, abs=0.014)  # four deviations
    assert is_held_out("1F602", "noto")
    assert hashlib.sha1(b"1F602/noto").digest()[0] < 13
    assert not is_held_out("1F602", "twemoji")


def test_train_and_test_share_no_pair_and_no_picture(emoji_folder):
    train, test = (read_items(emoji_folder, split=split) for split in ("train", "test"))
    assert not {(s.base, s.style) for s in train} & {(s.base, s.style) for s in test}
    files = [{hashlib.sha256(s.path.read_bytes()).digest() for s in part} for part in (train, test)]
    assert not files[0] & files[1]


def test_every_held_out_concept_trains_in_other_styles(emoji_folder):
    trained = {s.base for s in read_items(emoji_folder)}
    assert {base for base, _ in HELD_OUT} <= trained


def test_skin_tones_follow_their_emoji(emoji_folder, monkeypatch, emoji_sources, tmp_path):
    hands = [s for s in read_items(emoji_folder) if s.base == "1F44B" and s.style == "noto"]
    assert {s.hexcode for s in hands} == {"1F44B", "1F44B-1F3FB", "1F44B-1F3FF"}
    # whatever the rule holds out, it takes all tones of a hand together
    monkeypatch.setattr(
        emoji, "is_held_out", lambda base, style: (base, style) == ("1F44B", "noto")
    )
    build_emoji(tmp_path / "out", resolution=32, styles=("noto",), source=emoji_sources)
    held = read_items(tmp_path / "out", split="test")
    assert {s.hexcode for s in held} == {"1F44B", "1F44B-1F3FB", "1F44B-1F3FF"}


def test_all_skin_tones_together_weigh_half_an_emoji():
    entry = {
        "hexcode": "1F44B",
        "label": "waving hand",
        "tags": ["hello"],
        "skins": [{"hexcode": f"1F44B-1F3F{x}", "label": f"tone {x}"} for x in "BCDEF"],
    }
    concepts = read_concepts([entry])
    assert concepts["1F44B"].weight == 1
    tones = [c for code, c in concepts.items() if code != "1F44B"]
    assert sum(c.weight for c in tones) == pytest.approx(0.5)
    assert {c.base for c in tones} == {"1F44B"}
    assert concepts["1F44B-1F3FB"].text == "tone B"
    assert concepts["1F44B-1F3FB"].keywords == ("hello",)


def test_variation_selectors_do_not_count():
    assert hexcode_of("2764-fe0f") == "2764"
    assert hexcode_of("1f3f3-fe0f-200d-1f308") == "1F3F3-200D-1F308"


def test_the_manifest_counts_pictures_and_names_licences(emoji_folder):
    manifest = json.loads((emoji_folder / "manifest.json").read_text())
    assert manifest["pictures"] == {"train": 49, "test": 3}
    assert manifest["styles"]["train"] == {
        "fluent-3d": 13, "fluent-flat": 12, "noto": 11, "twemoji": 13,
    }  # fmt: skip
    assert manifest["held_out_bases"] == 3
    licences = {name: source["licence"] for name, source in manifest["sources"].items()}
    assert licences == {
        "fluent-3d": "MIT",
        "fluent-flat": "MIT",
        "noto": "Apache-2.0",
        "twemoji": "CC-BY-4.0",
        "names": "MIT",
    }
    assert "@iconify-json/twemoji@1.2.5" in manifest["sources"]["twemoji"]["package"]
    for split in ("train", "test"):
        digest = hashlib.sha256((emoji_folder / split / "metadata.jsonl").read_bytes()).hexdigest()
        assert manifest["sha256"][split] == digest


def test_two_builds_are_the_same(emoji_folder, emoji_sources, tmp_path):
    # fewer styles in another order give the same pictures of those styles
    styles = ("twemoji", "noto", "fluent-flat", "fluent-3d")
    manifest = build_emoji(tmp_path / "again", resolution=32, styles=styles, source=emoji_sources)
    assert manifest == json.loads((emoji_folder / "manifest.json").read_text())


def test_pictures_have_the_size_names_and_words_of_their_emoji(all_styles):
    both = [s for split in ("train", "test") for s in read_items(all_styles[0], split=split)]
    samples = {(s.hexcode, s.style): s for s in both}
    apple = samples["1F34E", "fluent-flat"]
    assert apple.text == "red apple"
    assert "fruit" in apple.keywords
    for style in STYLES:
        with Image.open(samples["1F34E", style].path) as image:
            array = np.asarray(image).astype(int)
        assert array.shape == (32, 32, 4)
        red, green, blue, alpha = array[16, 16]
        assert alpha == 255
        assert red > green + 60
        assert red > blue + 60
        assert array[0, 0, 3] == 0


def test_vector_graphics_keep_their_proportions_and_are_sharp_at_any_size():
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 30 15" width="30" height="15">'
        '<rect width="15" height="15" fill="#f00"/></svg>'
    )
    for side in (64, 256):
        picture = rendered(svg, side)
        assert (picture.size, picture.mode) == ((side, side // 2), "RGBA")
        colours = sorted(picture.getcolors())
        assert colours == [(side**2 // 4, (0, 0, 0, 0)), (side**2 // 4, (255, 0, 0, 255))]


def test_each_style_has_its_share_and_what_has_no_meaning_is_listed(all_styles):
    out, manifest = all_styles
    assert manifest["styles"]["train"] == {
        "fluent-3d": 13, "fluent-flat": 12, "noto": 11, "twemoji": 13, "noto-v1": 11,
        "emojione": 13, "fxemoji": 7, "streamline": 10,
    }  # fmt: skip
    assert manifest["unmapped"] == {
        "noto-v1": ["exclamation-mark"],
        "emojione": ["exclamation-mark"],
        "fxemoji": ["acorn"],
        "streamline": ["exclamation-mark"],
    }
    pizzas = [s for s in read_items(out) if (s.base, s.style) == ("1F355", "streamline")]
    assert [s.path.name for s in pizzas] == ["1F355.pizza-1.png", "1F355.pizza-2.png"]
    assert {s.text for s in pizzas} == {"pizza"}


def test_an_unknown_style_is_refused_before_anything_is_written(tmp_path, emoji_sources):
    with pytest.raises(ValueError, match=r"styles are noto, emojithree; expected some of fluent-3"):
        build_emoji(
            tmp_path / "out", resolution=32, styles=("noto", "emojithree"), source=emoji_sources
        )
    assert not (tmp_path / "out").exists()


def test_a_name_that_means_several_emoji_means_none(tmp_path):
    entries = [("1F470", "person with veil"), ("1F511", "key"), ("1F355", "pizza")]
    concepts = read_concepts([{"hexcode": code, "label": label} for code, label in entries])
    (tmp_path / "github.json").write_text('{"1F470": "bride", "1F511": ["clef", "pizza"]}')
    names = EmojiNames(concepts, tmp_path, [{"1f355": "slice"}, {"1f511": "open-it"}])
    assert names.hexcode(["bride"]) == names.hexcode(["Bride-1"]) == "1F470"
    assert names.hexcode(["person-with-veil"]) == "1F470"
    assert names.hexcode(["slice-of-pizza"]) == "1F355"  # Unicode's name
    assert names.hexcode(["slice"]) == "1F355"
    assert names.hexcode(["pizza"]) is None  # of two
    assert names.hexcode(["pizza", "open-it"]) == "1F511"  # another name of the same icon
    assert names.hexcode(["unknown"]) is None


def test_an_existing_folder_is_refused_and_nothing_is_lost(tmp_path, emoji_sources):
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(ValueError, match="already exists and is not empty"):
        build_emoji(tmp_path, resolution=32, source=emoji_sources)
    assert [p.name for p in tmp_path.iterdir()] == ["precious.txt"]


@pytest.mark.parametrize(
    "missing",
    [
        "emojibase-data/en/data.json",
        "@iconify-json/noto",
        "@iconify-json/noto/chars.json",
        "@lobehub/fluent-emoji-3d/assets",
    ],
)
def test_a_missing_source_is_one_line_and_leaves_nothing(tmp_path, emoji_sources, missing):
    source, out = tmp_path / "source", tmp_path / "out"
    shutil.copytree(emoji_sources, source)
    target = source / missing
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    with pytest.raises(ValueError, match=r"is missing; expected an unpacked") as caught:
        build_emoji(out, resolution=32, source=source)
    assert "\n" not in str(caught.value)
    assert str(target) in str(caught.value)
    assert not out.exists()


def test_without_npm_a_source_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ValueError, match=r"npm is not installed; .* as source"):
        build_emoji(tmp_path / "out", resolution=32)
    assert not (tmp_path / "out").exists()


def test_progress_is_told_for_every_picture(tmp_path, emoji_sources):
    told = []
    build_emoji(
        tmp_path / "out",
        resolution=32,
        styles=("noto",),
        source=emoji_sources,
        progress=lambda done, total: told.append((done, total)),
    )
    assert told == [(i, 12) for i in range(1, 13)]
