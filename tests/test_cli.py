"""The `imagen` command, as people type it."""

from __future__ import annotations

import json
import math
import re
import shlex
import shutil
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from PIL import Image

import imagen_model as im
from imagen_model.cli import main
from imagen_model.cli.main import build_parser
from imagen_model.inference.sampling import BATCH
from imagen_model.storage.images import to_image
from imagen_model.training.options import TrainOptions
from imagen_model.training.trainer import Trainer


@pytest.fixture
def imagen(capsys):
    """Runs a command; returns its exit code, output and errors."""

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as stop:  # argparse
            code = int(stop.code or 0)
        output = capsys.readouterr()
        return code, output.out, output.err

    return run


def one_line(errors: str) -> bool:
    """The last line is the error; before it only notes of progress."""
    lines = errors.replace("\r", "\n").splitlines()
    return lines[-1].startswith("error: ") and "Traceback" not in errors


def opened(path: Path) -> Image.Image:
    with Image.open(path) as image:
        image.load()
        return image


def rgba_palette(image: Image.Image) -> list[int]:
    same = image.copy()
    same.apply_transparency()
    return same.getpalette("RGBA") or []


def test_help_is_readable_and_names_every_command(imagen):
    code, out, _ = imagen("--help")
    assert code == 0
    for word in ("sample", "train", "score", "evaluate", "data", "info", "train your own"):
        assert word in out


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("paint",),
        ("sample",),
        ("sample", "--out", "x.png", "--num", "0"),
        ("train", "DATA"),
        ("train", "DATA", "--out", "RUN", "--batch", "0"),
        ("train", "DATA", "--out", "RUN", "--lr", "0"),
        ("train", "DATA", "--out", "RUN", "--stage", "both"),
    ],
)
def test_wrong_usage_is_exit_code_2(imagen, arguments):
    code, _, err = imagen(*arguments)
    assert code == 2 and "usage: imagen" in err


def test_sample_writes_a_grid_that_says_how_it_was_made(imagen, tiny_checkpoint, tmp_path):
    out, facts = tmp_path / "grid.png", tmp_path / "facts.json"
    code, printed, _ = imagen(
        "sample", "--model", tiny_checkpoint, "--prompt", "a red apple", "--prompt", "rocket",
        "--num", 3, "--seed", 7, "--style", "noto", "--out", out, "--json", facts,
    )  # fmt: skip
    assert code == 0 and str(out) in printed
    image = opened(out)
    assert image.size == (96, 64) and image.mode == "RGBA"
    made = json.loads(image.info["imagen"])
    assert made["prompts"] == ["a red apple", "rocket"] and made["seeds"] == [7, 8, 9]
    assert made["style"] == "noto" and len(made["sha256"]) == 64
    assert json.loads(facts.read_text())["seeds"] == [7, 8, 9]


def test_pictures_in_a_folder_are_those_of_one_call(imagen, tiny_checkpoint, tmp_path):
    prompts, out = ["a red apple", "rocket"], tmp_path / "out"
    words = [word for text in prompts for word in ("--prompt", text)]
    command = ("sample", "--model", tiny_checkpoint, *words, "--num", 40, "--device", "cpu")
    assert imagen(*command, "--out", out)[0] == 0
    expected = im.load(tiny_checkpoint).sample(prompts, seeds=range(40))
    for i, picture in enumerate(expected):
        written = opened(out / f"{i // 40:04d}-{i % 40}.png")
        assert written.tobytes() == to_image(picture).tobytes(), i


def test_pictures_are_written_as_they_are_generated(imagen, tiny_checkpoint, tmp_path, monkeypatch):
    draw, calls = im.Model.draw, []

    def breaks(*args, **options):
        calls.append(None)
        if len(calls) == 3:
            raise ValueError("enough")
        return draw(*args, **options)

    monkeypatch.setattr(im.Model, "draw", breaks)
    command = ("sample", "--model", tiny_checkpoint, "--num", 1000, "--out", tmp_path / "out")
    assert imagen(*command)[0] == 1
    assert len(list((tmp_path / "out").iterdir())) == 2 * BATCH


def test_a_folder_may_have_a_dot_in_its_name(imagen, tiny_checkpoint, emoji_folder, tmp_path):
    out, run, file = tmp_path / "v1.0", tmp_path / "run.png", tmp_path / "file.txt"
    command = ("sample", "--model", tiny_checkpoint, "--num", 2, "--out", out)
    code, _, err = imagen(*command)
    assert code == 1 and one_line(err) and "make one first whose name has a dot" in err
    out.mkdir()
    assert imagen(*command)[0] == 0 and len(list(out.iterdir())) == 2
    train = ("train", emoji_folder, "--kimg", 0.032, "--batch", 8, "--resolution", 32, "--out")
    run.mkdir()
    assert imagen(*train, run)[0] == 0 and (run / "latest.safetensors").is_file()
    assert imagen(*command[:-1], run / "samples")[0] == 0
    file.touch()
    code, _, err = imagen(*train, file)
    assert code == 1 and one_line(err) and "file.txt, which is a file; expected a folder" in err


@pytest.mark.parametrize(
    ("split", "words"),
    [
        ("train", "has no split 'test'; expected train/ and test/ in it"),
        ("test", "has test/ and no train/; expected its training pictures in train/"),
    ],
)
def test_data_with_one_split_alone_is_one_line_for_evaluate(
    imagen, tiny_checkpoint, emoji_folder, tmp_path, split, words
):
    shutil.copytree(emoji_folder / split, tmp_path / split)
    code, _, err = imagen("evaluate", "--model", tiny_checkpoint, "--data", tmp_path)
    assert code == 1 and words in err and one_line(err)


def test_upscaled_pictures_are_four_times_as_large_and_say_so(imagen, tiny_checkpoint, tmp_path):
    common = ("sample", "--model", tiny_checkpoint, "--prompt", "key", "--out")
    assert imagen(*common, tmp_path / "small.png")[0] == 0
    assert imagen(*common, tmp_path / "large.png", "--upscale")[0] == 0
    small, large = opened(tmp_path / "small.png"), opened(tmp_path / "large.png")
    assert small.size == (32, 32) and large.size == (128, 128) and large.mode == "RGBA"
    facts = json.loads(large.info["imagen"])
    assert facts.pop("upscaled") is True and facts == json.loads(small.info["imagen"])


@pytest.mark.parametrize("value", ["nan", "inf", "-5"])
def test_a_truncation_that_is_no_share_is_refused(imagen, tiny_checkpoint, tmp_path, value):
    command = ("sample", "--model", tiny_checkpoint, "--prompt", "key", "--truncation", value)
    code, _, error = imagen(*command, "--out", tmp_path / "picture.png")
    assert code == 1 and "truncation is" in error and "expected 0 to 2" in error
    assert not (tmp_path / "picture.png").exists()


def test_few_colours_are_one_palette_of_all_files_and_keep_their_index(
    imagen, tiny_checkpoint, tmp_path
):
    common = ("sample", "--model", tiny_checkpoint, "--num", 3, "--alpha", "hard", "--colours", 5)
    assert imagen(*common, "--out", tmp_path / "files")[0] == 0
    images = [opened(path) for path in sorted((tmp_path / "files").glob("*.png"))]
    assert {image.mode for image in images} == {"P"} and len(images) == 3
    palettes = [rgba_palette(image) for image in images]
    assert palettes[0] == palettes[1] == palettes[2] and len(palettes[0]) <= 4 * 6
    assert palettes[0][:4] == [0, 0, 0, 0]  # the transparent one
    facts = json.loads(images[0].info["imagen"])
    assert facts["alpha"] == "hard" and facts["colours"] == 5
    assert imagen(*common, "--out", tmp_path / "grid.png")[0] == 0
    grid = opened(tmp_path / "grid.png")
    assert grid.mode == "P" and rgba_palette(grid) == palettes[0]
    first = grid.convert("RGBA").crop((0, 0, 32, 32))
    assert first.tobytes() == images[0].convert("RGBA").tobytes()


def test_a_palette_that_a_png_cannot_hold_is_refused_before_the_work(
    imagen, tiny_checkpoint, tmp_path
):
    command = ("sample", "--model", tiny_checkpoint, "--out", tmp_path / "x.png")
    for colours in (256, -1):
        code, _, err = imagen(*command, "--colours", colours)
        assert code == 1 and one_line(err)
        assert f"colours is {colours}; expected 1 to 255, or 0 for all" in err
    code, _, err = imagen(*command, "--alpha", "crisp")
    assert code == 2 and "invalid choice: 'crisp'" in err
    assert not (tmp_path / "x.png").exists()


@pytest.mark.parametrize(
    "size", [("--scale", 100_000), ("--num", 1_000_000), ("--num", 50_000, "--upscale")]
)
def test_a_picture_that_memory_does_not_hold_is_refused(imagen, tiny_checkpoint, tmp_path, size):
    command = ("sample", "--model", tiny_checkpoint, "--prompt", "key", *size)
    code, _, error = imagen(*command, "--out", tmp_path / "picture.png")
    assert code == 1 and "expected 100,000,000 at most: lower --scale" in error
    assert not (tmp_path / "picture.png").exists()


def test_a_folder_holds_only_pictures_that_can_be_opened(imagen, tiny_checkpoint, tmp_path):
    command = ("sample", "--model", tiny_checkpoint, "--prompt", "key", "--scale", 400)
    code, _, error = imagen(*command, "--out", tmp_path / "folder")
    assert code == 1 and "12800 x 12800 pixels" in error
    assert not (tmp_path / "folder").exists()


def test_tile_holds_for_what_is_upscaled(imagen, tiny_checkpoint, tmp_path):
    command = ("sample", "--model", tiny_checkpoint, "--prompt", "key", "--tile", "both")
    command += ("--device", "cpu")  # like the library below
    assert imagen(*command, "--upscale", "--out", tmp_path / "tile.png")[0] == 0
    found, model = opened(tmp_path / "tile.png"), im.load(tiny_checkpoint)
    generated = model.draw(model.encode_text("key"), model.latent([0]), tile="both")
    joined, closed = (to_image(im.upscale(generated, tile=tile)[0]) for tile in ("both", "none"))
    assert found.tobytes() == joined.tobytes() != closed.tobytes()


def test_sample_into_a_folder_gives_the_grid_s_pictures_one_by_one(
    imagen, tiny_checkpoint, tmp_path
):
    common = ("sample", "--model", tiny_checkpoint, "--prompt", "key", "--num", 2, "--out")
    assert imagen(*common, tmp_path / "many")[0] == 0
    assert imagen(*common, tmp_path / "grid.png")[0] == 0
    files = sorted((tmp_path / "many").glob("*.png"))
    assert [f.name for f in files] == ["0000-0.png", "0000-1.png"]
    second = opened(tmp_path / "grid.png").crop((32, 0, 64, 32))
    assert opened(files[1]).tobytes() == second.tobytes()


def test_the_largest_seed_and_an_empty_prompt_just_work(imagen, tiny_checkpoint, tmp_path):
    code, _, _ = imagen(
        "sample", "--model", tiny_checkpoint, "--prompt", "", "--seed", 2**64 - 1, "--num", 2,
        "--out", tmp_path / "x.png",
    )  # fmt: skip
    assert code == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--model", "emojy"), "did you mean emoji?"),
        (("--model", "gone/away.safetensors"), "no checkpoint gone/away.safetensors"),
        (("--style", "cubist"), "this model knows: fluent-3d"),
        (("--device", "tpu"), "try --device cpu"),
    ],
)
def test_sample_explains_a_mistake_in_one_line(imagen, tiny_checkpoint, tmp_path, arguments, words):
    given = arguments if "--model" in arguments else ("--model", tiny_checkpoint, *arguments)
    code, _, err = imagen("sample", "--prompt", "x", "--out", tmp_path / "x.png", *given)
    assert code == 1 and one_line(err) and words in err


def test_sample_refuses_another_kind_of_file(imagen, tiny_checkpoint, tmp_path):
    code, _, err = imagen("sample", "--model", tiny_checkpoint, "--out", tmp_path / "x.jpg")
    assert code == 1 and one_line(err) and "expected a .png file or a folder" in err


def test_a_damaged_checkpoint_is_one_line(imagen, tiny_checkpoint, tmp_path):
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(tiny_checkpoint.read_bytes()[:-100])
    code, _, err = imagen("sample", "--model", broken, "--out", tmp_path / "x.png")
    assert code == 1 and one_line(err) and "broken.safetensors" in err


def test_debug_shows_the_traceback(imagen, tmp_path):
    with pytest.raises(ValueError, match="no model"):
        main(["sample", "--debug", "--model", "zzz", "--out", str(tmp_path / "x.png")])


def test_score_ranks_pictures_best_first(imagen, tiny_checkpoint, emoji_folder, tmp_path):
    files = sorted((emoji_folder / "train" / "noto").glob("*.png"))[:4]
    facts = tmp_path / "scores.json"
    code, out, _ = imagen(
        "score", *files, "--model", tiny_checkpoint, "--prompt", "red apple", "--json", facts
    )
    rows = json.loads(facts.read_text())["scores"]
    totals = [row["realism"] + row["match"] for row in rows]
    assert code == 0 and len(out.splitlines()) == 4
    assert totals == sorted(totals, reverse=True)
    assert {row["image"] for row in rows} == set(map(str, files))


def test_score_names_a_file_that_is_no_picture(imagen, tiny_checkpoint, tmp_path):
    (tmp_path / "x.png").write_text("not a picture")
    code, _, err = imagen("score", tmp_path / "x.png", "--model", tiny_checkpoint)
    assert code == 1 and one_line(err) and "x.png" in err


def test_info_shows_configuration_and_card(imagen, tiny_checkpoint):
    code, out, _ = imagen("info", tiny_checkpoint)
    shown = json.loads(out)
    assert code == 0 and shown["format"] == 1
    assert shown["config"]["generator"]["dim"] == 32 and shown["card"]["name"] == "tiny"


def test_data_emoji_and_folder_build_sets_that_train(imagen, emoji_sources, tmp_path):
    code, out, _ = imagen(
        "data", "emoji", "--source", emoji_sources, "--out", tmp_path / "emoji", "--resolution", 32
    )
    assert code == 0 and "held out" in out and "CC-BY-4.0" in out
    code, out, _ = imagen(
        "data", "folder", "--source", tmp_path / "emoji", "--out", tmp_path / "copy",
        "--resolution", 32,
    )  # fmt: skip
    assert code == 0 and "with captions" in out
    code, out, _ = imagen(
        "train", tmp_path / "copy", "--out", tmp_path / "run", "--kimg", 1, "--resolution", 32,
        "--batch", 4, "--dry-run",
    )  # fmt: skip
    assert code == 0 and "nano" in out and not (tmp_path / "run").exists()
    assert re.search(r"speed: [\d.]+ images a second", out)
    assert re.search(r"time: 0:\d\d:\d\d for 1.0 kimg, 250 steps", out)
    assert re.search(r"memory: [\d.]+ GiB", out)


def test_data_into_a_folder_with_something_in_it_is_refused(imagen, emoji_sources, tmp_path):
    (tmp_path / "kept.txt").write_text("mine")
    code, _, err = imagen("data", "emoji", "--source", emoji_sources, "--out", tmp_path)
    assert code == 1 and one_line(err) and "not empty" in err
    assert (tmp_path / "kept.txt").read_text() == "mine"


def test_training_writes_a_model_and_goes_on_with_resume(imagen, emoji_folder, tmp_path):
    run = tmp_path / "run"
    command = ("train", emoji_folder, "--out", run, "--resolution", 32, "--batch", 8)
    code, out, _ = imagen(*command, "--kimg", 0.016, "--resume")
    assert code == 0 and "nothing saved yet: starting fresh" in out
    assert (run / "latest.safetensors").is_file() and list((run / "samples").glob("*.png"))
    code, _, err = imagen(*command, "--kimg", 0.032)
    assert code == 1 and one_line(err) and "--resume" in err
    code, out, _ = imagen(*command, "--kimg", 0.032, "--resume")
    assert code == 0 and "trained 0.0 kimg" in out
    last = json.loads((run / "stats.jsonl").read_text().splitlines()[-1])
    assert last["kimg"] == 0.032
    assert math.isfinite(last["kid_lite1"]) and 0 <= last["retrieval_r1"] <= 1
    generated = tmp_path / "mine.png"
    code, _, _ = imagen(
        "sample", "--model", run / "latest.safetensors", "--prompt", "rocket", "--out", generated
    )
    assert code == 0 and opened(generated).size == (32, 32)


def test_a_stopped_training_ends_well_and_prints_how_to_go_on(
    imagen, emoji_folder, tmp_path, monkeypatch
):
    run = tmp_path / "run"
    step = Trainer.step

    def stopping(trainer):
        if trainer.progress.cur_nimg == 16:
            raise KeyboardInterrupt
        return step(trainer)

    monkeypatch.setattr(Trainer, "step", stopping)
    command = ("train", emoji_folder, "--out", run, "--batch", 8, "--kimg", 0.032)
    code, out, _ = imagen(*command)
    assert code == 0
    (line,) = (line for line in out.splitlines() if "go on with" in line)
    again = shlex.split(line.split(": ", 1)[1])
    assert again == ["imagen", *map(str, command), "--resume"]
    monkeypatch.undo()
    code, out, _ = imagen(*again[1:])
    assert code == 0 and "go on with" not in out
    assert main(["info", str(run / "latest.safetensors")]) == 0


def test_a_log_file_gets_no_line_for_every_step(imagen, emoji_folder, tmp_path):
    command = ("train", emoji_folder, "--out", tmp_path / "run", "--batch", 4, "--kimg", 0.2)
    code, _, err = imagen(*command)
    assert code == 0
    seconds = im.load(tmp_path / "run" / "latest.safetensors").card["seconds"]
    assert 1 <= err.count("img/s") <= 3 + seconds / 10  # of 50 steps


@pytest.mark.skipif(sys.platform == "win32", reason="limits of the size of files are POSIX's")
def test_a_full_disk_ends_training_with_one_line_and_the_last_checkpoint(
    imagen, emoji_folder, tmp_path
):
    run = tmp_path / "run"
    command = ("train", emoji_folder, "--out", run, "--batch", 8)
    assert imagen(*command, "--kimg", 0.016)[0] == 0
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
    try:
        code, _, err = imagen(*command, "--kimg", 0.032, "--resume")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert code == 1 and "cannot write" in err and "too large" in err and "Traceback" not in err
    assert im.load(run / "latest.safetensors").card["kimg"] == 0.016
    code, _, _ = imagen(*command, "--kimg", 0.032, "--resume")
    assert code == 0 and im.load(run / "latest.safetensors").card["kimg"] == 0.032


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--kimg", 1, "--preset", "huge"), "preset is 'huge'"),
        (("--kimg", 1, "--resolution", 33), "resolution is 33"),
        ((), "give kimg or minutes"),
        (("--kimg", -1), "kimg is -1"),
    ],
)
def test_train_explains_a_bad_choice_before_it_reads_pictures(imagen, tmp_path, arguments, words):
    code, _, err = imagen("train", tmp_path / "nothing", "--out", tmp_path / "run", *arguments)
    assert code == 1 and one_line(err) and words in err


def test_train_without_options_leaves_every_choice_to_the_preset():
    args = vars(build_parser().parse_args(["train", "DATA", "--out", "RUN"]))
    chosen = {field.name: args[field.name] for field in fields(TrainOptions)}
    assert TrainOptions(**chosen) == TrainOptions()


def test_train_on_an_empty_folder_says_what_it_expected(imagen, tmp_path):
    (tmp_path / "empty").mkdir()
    code, _, err = imagen("train", tmp_path / "empty", "--out", tmp_path / "run", "--kimg", 1)
    assert code == 1 and one_line(err) and "no pictures in" in err


def test_evaluate_refuses_data_without_a_test_split(imagen, tiny_checkpoint, tmp_path):
    shutil.copytree(Path(__file__).parent / "fixtures", tmp_path / "data")
    code, _, err = imagen("evaluate", "--model", tiny_checkpoint, "--data", tmp_path / "data")
    assert code == 1 and one_line(err) and "has no split 'test'" in err
