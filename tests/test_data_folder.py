"""Folders of pictures: four ways to caption them, and what happens to a bad file."""

import json
import logging

import numpy as np
import pytest
import torch
from PIL import Image

from imagen_model.data.dataset import InMemoryDataset, load_pictures
from imagen_model.data.folder import read_items
from imagen_model.data.image_reader import fit_picture, premultiplied, read_picture
from imagen_model.data.item import Item
from imagen_model.data.prepare.folder import build_folder
from imagen_model.data.streaming import open_pictures


def picture(path, colour=(200, 30, 40), size=(20, 20), mode="RGB", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path, **options)
    return path


def metadata(folder, *rows):
    folder.mkdir(parents=True, exist_ok=True)
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


# -- captions -------------------------------------------------------------------------------------


def test_metadata_says_what_is_known(tmp_path):
    picture(tmp_path / "sub" / "a.png")
    metadata(
        tmp_path,
        {"file_name": "sub/a.png", "text": "café", "keywords": ["x", "y"], "style": "noto"},
        "",
        {"file_name": "sub/a.png", "hexcode": "1F511", "weight": 0.5, "text": None},
    )
    first, second = read_items(tmp_path)
    assert first == Item(tmp_path / "sub" / "a.png", "café", ("x", "y"), "noto")
    assert (second.text, second.base, second.weight) == ("", "1F511", 0.5)


def test_text_files_beside_pictures_are_captions(tmp_path):
    picture(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("  a red square\n", encoding="utf-8")
    picture(tmp_path / "b.png")
    assert [s.text for s in read_items(tmp_path)] == ["a red square", ""]


def test_class_folders_are_captions(tmp_path):
    picture(tmp_path / "red_apple" / "1.jpg")
    picture(tmp_path / "green-apple" / "1.WEBP")
    assert [s.text for s in read_items(tmp_path)] == ["green apple", "red apple"]


def test_a_text_file_goes_before_the_class_folder(tmp_path):
    picture(tmp_path / "apples" / "1.png")
    (tmp_path / "apples" / "1.txt").write_text("the first apple")
    assert [s.text for s in read_items(tmp_path)] == ["the first apple"]


def test_bare_pictures_have_no_words(tmp_path):
    picture(tmp_path / "b.png")
    picture(tmp_path / "a.gif", colour=3, mode="P")
    (tmp_path / "notes.md").write_text("not a picture")
    assert read_items(tmp_path) == [Item(tmp_path / "a.gif"), Item(tmp_path / "b.png")]


def test_a_split_is_read_where_there_is_one(tmp_path):
    picture(tmp_path / "train" / "a.png")
    picture(tmp_path / "test" / "b.png")
    assert [s.path.name for s in read_items(tmp_path)] == ["a.png"]
    assert [s.path.name for s in read_items(tmp_path, split="test")] == ["b.png"]
    with pytest.raises(ValueError, match="no split 'validation'"):
        read_items(tmp_path, split="validation")


def test_a_folder_without_pictures_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ValueError, match=f"no pictures in {tmp_path}"):
        read_items(tmp_path)
    with pytest.raises(ValueError, match="no folder"):
        read_items(tmp_path / "missing")


@pytest.mark.parametrize("name", ["../secret.png", "/etc/passwd", "a/../../secret.png"])
def test_a_path_that_leaves_the_folder_is_refused(tmp_path, name):
    picture(tmp_path / "secret.png")
    metadata(tmp_path / "set", {"file_name": name})
    with pytest.raises(ValueError, match=r"line 1: .* is outside"):
        read_items(tmp_path / "set")


def test_a_link_that_leaves_the_folder_is_refused(tmp_path):
    secret = picture(tmp_path / "secret.png")
    metadata(tmp_path / "set", {"file_name": "a.png"})
    (tmp_path / "set" / "a.png").symlink_to(secret)
    with pytest.raises(ValueError, match="is outside"):
        read_items(tmp_path / "set")


@pytest.mark.parametrize(
    "line", ["{broken", '{"text": "no file"}', "[1, 2]", '{"file_name": "a.png", "weight": "much"}']
)
def test_a_bad_line_of_metadata_is_named(tmp_path, line):
    metadata(tmp_path, {"file_name": "a.png"}, line)
    with pytest.raises(ValueError, match=r"metadata\.jsonl line 2: expected a JSON object"):
        read_items(tmp_path)


# -- pictures -------------------------------------------------------------------------------------


def test_unreadable_pictures_are_skipped_and_listed(tmp_path, caplog):
    good = picture(tmp_path / "good.png")
    (tmp_path / "broken.png").write_bytes(good.read_bytes()[:60])
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.jpg").write_text("no picture")
    told = []
    with caplog.at_level(logging.WARNING):
        pictures = load_pictures(
            read_items(tmp_path),
            resolution=8,
            channels=3,
            progress=lambda done, total: told.append((done, total)),
        )
    assert [s.path.name for s in pictures.items] == ["good.png"]
    assert len(pictures) == 1
    assert pictures.pixels.shape == (1, 3, 8, 8)
    names = ("broken.png", "empty.png", "text.jpg")
    assert len(pictures.skipped) == len(caplog.records) == 3
    assert all(name in reason for name, reason in zip(names, pictures.skipped, strict=True))
    assert told[-1] == (4, 4)


def test_a_folder_of_unreadable_pictures_is_refused(tmp_path, caplog):
    (tmp_path / "a.png").write_text("no")
    with pytest.raises(ValueError, match=r"none of 1 pictures could be read; the first: .*a\.png"):
        load_pictures(read_items(tmp_path), resolution=8, channels=3)


def test_a_photo_is_turned_as_its_camera_was_held(tmp_path):
    image = Image.new("RGB", (16, 16), (255, 255, 255))
    image.paste((0, 0, 0), (0, 0, 16, 8))  # black above white
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees to the right to look at it
    image.save(tmp_path / "a.png", exif=exif)
    array = read_picture(tmp_path / "a.png", resolution=8, channels=1)[..., 0]
    assert array[:, :3].mean() > 250  # white on the left
    assert array[:, 5:].mean() < 5


def test_an_opaque_picture_is_cut_to_its_central_square():
    image = Image.new("RGBA", (30, 10), (255, 0, 0, 255))
    image.paste((0, 0, 255, 255), (10, 0, 20, 10))
    array = fit_picture(image, resolution=10, channels=3)
    assert array.shape == (10, 10, 3)
    assert (array == (0, 0, 255)).all()


@pytest.mark.parametrize("memory", [1 << 30, 0])
def test_pictures_that_lose_more_than_a_third_are_counted_in_one_warning(
    tmp_path, caplog, monkeypatch, memory
):
    monkeypatch.setattr("imagen_model.data.streaming.memory_for_pictures", lambda: memory)
    for name, size in {"a": (90, 30), "b": (30, 90), "c": (40, 30), "d": (30, 30)}.items():
        picture(tmp_path / "in" / f"{name}.png", size=size)
    picture(tmp_path / "in" / "e.png", colour=(0, 0, 0, 0), size=(90, 30), mode="RGBA")
    items, words = read_items(tmp_path / "in"), "2 of 5 pictures lose more than a third"
    for cache in (None, tmp_path):  # of streamed pictures
        caplog.clear()
        pictures = open_pictures(items, resolution=16, channels=4, cache=cache)
        pictures.save(tmp_path)
        (record,) = caplog.records
        assert record.getMessage().startswith(words) and "pad them" in record.getMessage()
    caplog.clear()
    assert build_folder(tmp_path / "in", tmp_path / "out", resolution=16)["cropped"] == 2
    assert [record.getMessage()[: len(words)] for record in caplog.records] == [words]


def test_a_picture_with_transparency_is_fitted_whole():
    image = Image.new("RGBA", (32, 16), (255, 0, 0, 255))
    image.putpixel((0, 0), (0, 0, 0, 254))
    array = fit_picture(image, resolution=16, channels=4)
    alpha = array[..., 3]
    assert (alpha[:4] == 0).all()  # as much empty above as below
    assert (alpha[12:] == 0).all()
    assert (alpha[5:11, 1:] == 255).all()


@pytest.mark.parametrize(("channels", "value"), [(1, 255), (3, 255)])
def test_transparency_becomes_white_paper_in_fewer_channels(channels, value):
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    array = fit_picture(clear, resolution=8, channels=channels)
    assert array.shape == (8, 8, channels)
    assert (array == value).all()


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGB", "RGBA", "I;16", "CMYK"])
def test_pictures_of_every_mode_are_read(tmp_path, mode):
    path = tmp_path / ("a.tif" if mode in ("CMYK", "I;16") else "a.png")
    picture(path, colour=0, mode=mode)
    for channels in (1, 3, 4):
        array = read_picture(path, resolution=8, channels=channels)
        assert array.shape == (8, 8, channels)
        assert array.dtype == np.uint8


def test_colour_is_multiplied_by_alpha():
    straight = np.array([[[255, 100, 0, 128], [255, 100, 7, 255], [255, 100, 7, 0]]], np.uint8)
    assert premultiplied(straight).tolist() == [
        [[128, 50, 0, 128], [255, 100, 7, 255], [0, 0, 0, 0]]
    ]


def test_rgb_is_not_multiplied():
    rgb = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    assert premultiplied(rgb) is rgb


def test_batches_are_floats_from_minus_one_to_one(tmp_path):
    pixels = torch.tensor([0, 255, 51], dtype=torch.uint8).view(3, 1, 1, 1)
    pictures = InMemoryDataset([Item(tmp_path)] * 3, pixels)
    batch = pictures.batch(torch.tensor([1, 0, 2]))
    assert batch.flatten().tolist() == pytest.approx([1, -1, -0.6])


def test_an_opaque_set_loses_its_alpha_and_another_keeps_it(tmp_path):
    pixels = torch.full((2, 4, 4, 4), 255, dtype=torch.uint8)
    pixels[0, 0] = 40  # some colour
    samples = [Item(tmp_path)] * 2
    assert InMemoryDataset(samples, pixels.clone()).with_fewest_channels().pixels.shape[1] == 3
    pixels[1, 3, 0, 0] = 254
    assert InMemoryDataset(samples, pixels).with_fewest_channels().pixels.shape[1] == 4


def test_a_grey_set_has_one_channel_and_a_touch_of_colour_is_kept(tmp_path):
    pixels = torch.arange(32, dtype=torch.uint8).view(2, 1, 4, 4)
    samples = [Item(tmp_path)] * 2
    for channels in (1, 3):
        grey = InMemoryDataset(samples, pixels.repeat(1, channels, 1, 1)).with_fewest_channels()
        assert torch.equal(grey.pixels, pixels)
    coloured = pixels.repeat(1, 3, 1, 1)
    coloured[1, 2, 0, 0] += 1
    assert InMemoryDataset(samples, coloured).with_fewest_channels().channels == 3


def test_the_fingerprint_names_the_pictures_in_any_order(tmp_path):
    pixels = torch.arange(24, dtype=torch.uint8).view(2, 3, 2, 2)
    samples = [Item(tmp_path)] * 2
    one = InMemoryDataset(samples, pixels).content_hash()
    assert InMemoryDataset(samples, pixels.flip(0)).content_hash() == one
    assert InMemoryDataset(samples, pixels + 1).content_hash() != one


def test_styles_are_those_of_the_samples(tmp_path):
    samples = [Item(tmp_path, style=style) for style in ("b", "", "a", "b")]
    assert InMemoryDataset(samples, torch.zeros(4, 3, 2, 2)).styles == ("a", "b")


# -- building -------------------------------------------------------------------------------------


def test_a_built_folder_reads_back_with_its_captions(tmp_path):
    source = tmp_path / "source"
    picture(source / "red_apple" / "1.jpg", colour=(200, 30, 40))
    picture(source / "key" / "1.png", colour=(10, 20, 30, 128), mode="RGBA")
    (source / "key" / "2.png").write_text("broken")
    out = tmp_path / "out"
    manifest = build_folder(source, out, resolution=16)
    assert manifest["pictures"] == manifest["captioned"] == 2
    (reason,) = manifest["skipped"]
    assert "2.png" in reason
    assert json.loads((out / "manifest.json").read_text()) == manifest
    pictures = load_pictures(read_items(out), resolution=16, channels=4)
    assert [s.text for s in pictures.items] == ["key", "red apple"]
    assert pictures.pixels[0, :, 8, 8].tolist() == [5, 10, 15, 128]


def test_an_existing_folder_is_refused_and_nothing_is_lost(tmp_path):
    source = tmp_path / "source"
    picture(source / "a.png")
    out = tmp_path / "out"
    out.mkdir()
    (out / "precious.txt").write_text("mine")
    with pytest.raises(ValueError, match="already exists"):
        build_folder(source, out, resolution=8)
    assert (out / "precious.txt").read_text() == "mine"


def test_a_failed_build_leaves_nothing(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "a.png").write_text("broken")
    with pytest.raises(ValueError, match="no readable picture"):
        build_folder(source, tmp_path / "out", resolution=8)
    assert not (tmp_path / "out").exists()
