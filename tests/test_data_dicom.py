"""DICOM: real CT and MR files of pydicom become grey pictures, and no patient comes along."""

from __future__ import annotations

import json
import shutil
import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom import Dataset
from pydicom.data import get_testdata_file
from pydicom.sequence import Sequence
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

from imagen_model.cli import main
from imagen_model.data.prepare.dicom import read_frames

CT, MR = Path(get_testdata_file("CT_small.dcm")), Path(get_testdata_file("MR_small.dcm"))
ABDOMEN = Path(get_testdata_file("examples_overlay.dcm"))  # MR, 12 bits, two windows
PATIENT_GROUPS = {0x0008, 0x0010, 0x0020, 0x0032, 0x0040}  # who, when, where, identifiers


def rewritten(path: Path, target: Path, frames: np.ndarray | None = None, **elements) -> Path:
    """A copy of a file with some elements changed, uncompressed if it gets other frames."""
    data = pydicom.dcmread(path)
    if frames is not None:
        data.NumberOfFrames = len(frames)
        data.PixelData = frames.astype(np.int16).tobytes()
    for name, value in elements.items():
        setattr(data, name, value)
    data.save_as(target)
    return target


def built(out: Path) -> tuple[list[dict], list[np.ndarray]]:
    lines = (out / "train" / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    arrays = []
    for row in rows:
        with Image.open(out / "train" / row["file_name"]) as image:
            assert image.mode == "L"
            arrays.append(np.asarray(image))
    return rows, arrays


def dicom(out: Path, *source: Path, resolution: int = 32, more: tuple = ()) -> int:
    command = ["data", "dicom", "--source", *source, "--out", out, "--resolution", resolution]
    return main([str(word) for word in (*command, *more)])


def grey(path: Path, **options) -> np.ndarray:
    ((picture, _),) = read_frames(path, **options)
    return picture


# -- from values to grey --------------------------------------------------------------------------


def test_a_ct_is_read_in_hounsfield_units_through_the_window_that_is_asked_for(tmp_path):
    stored = pydicom.dcmread(CT).pixel_array.astype(float)
    units = stored - 1024  # the file's rescale intercept
    centre, width = 40, 400
    expected = np.clip((units - (centre - 0.5)) / (width - 1) + 0.5, 0, 1) * 255
    assert np.abs(grey(CT, window=(centre, width)) - expected).max() <= 0.5
    assert grey(CT, window=(-600, 1500)).mean() > grey(CT, window=(400, 1500)).mean()


def test_the_file_s_own_window_is_the_default():
    assert pydicom.dcmread(MR).WindowCenter == 600
    assert (grey(MR) == grey(MR, window=(600, 1600))).all()
    assert list(pydicom.dcmread(ABDOMEN).WindowCenter) == [450, 200]
    assert (grey(ABDOMEN) == grey(ABDOMEN, window=(450, 790))).all()


def test_without_a_window_percentiles_span_the_contrast_and_padding_does_not_count(tmp_path):
    data = pydicom.dcmread(CT)
    assert "WindowCenter" not in data
    picture = grey(CT)
    assert picture.min() == 0 and picture.max() == 255
    frame = data.pixel_array.copy()
    frame[:40] = data.PixelPaddingValue  # far darker than anything that was scanned
    padded = rewritten(CT, tmp_path / "a.dcm", frame[None])
    frame[:40] = frame[40:].min()
    plain = rewritten(CT, tmp_path / "b.dcm", frame[None])
    assert grey(padded)[40:].std() > 0.9 * grey(plain)[40:].std() > 10


def test_monochrome1_is_turned_light_side_up(tmp_path):
    turned = rewritten(MR, tmp_path / "a.dcm", PhotometricInterpretation="MONOCHROME1")
    assert np.abs(grey(turned).astype(int) - (255 - grey(MR).astype(int))).max() <= 1


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        ("LINEAR_EXACT", lambda x: np.clip((x - 600) / 1600 + 0.5, 0, 1)),
        ("SIGMOID", lambda x: 1 / (1 + np.exp(-4 * (x - 600) / 1600))),
    ],
)
def test_the_file_s_window_function_is_applied(tmp_path, function, expected):
    path = rewritten(MR, tmp_path / "a.dcm", VOILUTFunction=function)
    stored = pydicom.dcmread(MR).pixel_array.astype(float)
    assert np.abs(grey(path) - 255 * expected(stored)).max() <= 0.5


def test_a_table_of_grey_is_used_where_there_is_no_window(tmp_path):
    data = pydicom.dcmread(MR)
    del data.WindowCenter, data.WindowWidth
    table = Dataset()
    table.LUTDescriptor = [4096, 0, 8]
    table.add_new("LUTData", "US", [255 - i // 16 for i in range(4096)])
    data.VOILUTSequence = Sequence([table])
    data.save_as(tmp_path / "a.dcm")
    expected = 255 - np.clip(data.pixel_array, 0, 4095) // 16
    assert (grey(tmp_path / "a.dcm") == expected).all()


def test_every_frame_becomes_a_picture_with_its_own_window(tmp_path):
    frame = pydicom.dcmread(MR).pixel_array
    data = pydicom.dcmread(rewritten(MR, tmp_path / "a.dcm", np.stack([frame, frame, frame // 2])))
    del data.WindowCenter, data.WindowWidth
    groups = []
    for centre in (600, 900, 600):
        window, group = Dataset(), Dataset()
        window.WindowCenter, window.WindowWidth = centre, 1600
        group.FrameVOILUTSequence = Sequence([window])
        groups.append(group)
    data.PerFrameFunctionalGroupsSequence = Sequence(groups)
    shared, rescale = Dataset(), Dataset()
    rescale.RescaleSlope, rescale.RescaleIntercept, rescale.RescaleType = "1", "100", "US"
    shared.PixelValueTransformationSequence = Sequence([rescale])
    data.SharedFunctionalGroupsSequence = Sequence([shared])
    data.save_as(tmp_path / "a.dcm")
    first, second, third = [picture for picture, _ in read_frames(tmp_path / "a.dcm")]
    assert (first == grey(MR, window=(500, 1600))).all()  # 100 more in value and in centre
    assert first.mean() > second.mean() + 10 and first.mean() > third.mean() + 10


@pytest.mark.parametrize(
    ("rescale", "window"),
    [({"RescaleIntercept": "-1024"}, (-424, 1600)), ({"RescaleSlope": "2"}, (1200, 3200))],
)
def test_half_a_rescale_counts_and_the_other_half_is_the_identity(tmp_path, rescale, window):
    data = pydicom.dcmread(MR)
    for name in ("RescaleSlope", "RescaleIntercept"):
        if name in data:
            del data[name]
    for name, value in rescale.items():
        setattr(data, name, value)
    data.save_as(tmp_path / "a.dcm")
    shown = grey(tmp_path / "a.dcm", window=window).astype(int)
    plain = grey(MR, window=(600, 1600)).astype(int)
    assert abs(shown - plain).max() <= 1 and plain.std() > 10


def ramp_of_12_bits(target: Path, **elements) -> Path:
    """A ramp from 0 to 4095, stored in 16 bits, without a window."""
    data = pydicom.dcmread(MR)
    del data.WindowCenter, data.WindowWidth
    data.BitsStored, data.HighBit, data.PixelRepresentation = 12, 11, 0
    data.PixelData = np.linspace(0, 4095, 64 * 64).astype(np.uint16).tobytes()
    for name, value in elements.items():
        setattr(data, name, value)
    data.save_as(target)
    return target


def test_12_bits_in_16_are_as_light_as_they_should_be(tmp_path):
    table = Dataset()
    table.LUTDescriptor = [4096, 0, 16]
    table.add_new("LUTData", "US", list(range(4096)))
    for name, elements in {
        "plain": {},
        "table": {"VOILUTSequence": Sequence([table])},
        "window": {"WindowCenter": 32768, "WindowWidth": 65535},
        "own": {"WindowCenter": 2048, "WindowWidth": 4096},
    }.items():
        picture = grey(ramp_of_12_bits(tmp_path / f"{name}.dcm", **elements))
        assert picture.min() == 0 and picture.max() == 255, name
        assert picture.mean() == pytest.approx(127.5, abs=2), name


@pytest.mark.parametrize(
    ("elements", "shape"),
    [
        ({"PixelSpacing": [1, 1]}, (64, 64)),
        ({"PixelSpacing": [1, 2.5]}, (64, 160)),  # between rows, between columns
        ({"PixelSpacing": [0.9, 0.3], "PixelAspectRatio": [1, 2]}, (192, 64)),
        ({"PixelSpacing": None, "PixelAspectRatio": [2, 1]}, (128, 64)),
        ({"PixelSpacing": [0, 0]}, (64, 64)),
    ],
)
def test_pixels_that_are_not_square_are_made_square(tmp_path, elements, shape):
    picture = grey(rewritten(MR, tmp_path / "a.dcm", **elements))
    assert picture.shape == shape
    assert picture.mean() == pytest.approx(grey(MR).mean(), abs=2)


def test_the_spacing_of_an_enhanced_file_counts_and_an_absurd_one_is_named(tmp_path):
    measures, shared = Dataset(), Dataset()
    measures.PixelSpacing = [1, 2]
    shared.PixelMeasuresSequence = Sequence([measures])
    groups = {"SharedFunctionalGroupsSequence": Sequence([shared]), "PixelSpacing": None}
    assert grey(rewritten(MR, tmp_path / "a.dcm", **groups)).shape == (64, 128)
    with pytest.raises(ValueError, match=r"has pixels of 1e-06 x 1; expected squares"):
        grey(rewritten(MR, tmp_path / "b.dcm", PixelSpacing=["1e-6", 1]))


# -- the command ----------------------------------------------------------------------------------


def test_ct_and_mr_files_become_a_folder_that_trains_with_one_channel(tmp_path, capsys):
    assert dicom(tmp_path / "set", CT, MR, ABDOMEN) == 0
    assert "3 pictures from 3 files" in capsys.readouterr().out
    rows, arrays = built(tmp_path / "set")
    assert [row["text"] for row in rows] == ["CT scan", "MRI scan", "MRI scan of the abdomen"]
    assert rows[2]["keywords"] == ["MRI scan", "abdomen"]
    assert all(array.shape == (32, 32) and array.std() > 20 for array in arrays)
    run = tmp_path / "run"
    train = ["train", tmp_path / "set", "--out", run, "--resolution", 32, "--batch", 4]
    assert main([*map(str, train), "--kimg", "0.008"]) == 0
    assert "32 px, grey" in capsys.readouterr().out
    generated = tmp_path / "generated.png"
    sample = ["sample", "--model", run / "latest.safetensors", "--prompt", "CT scan"]
    assert main([*map(str, sample), "--out", str(generated)]) == 0
    with Image.open(generated) as image:
        assert image.mode == "I;16" and image.size == (32, 32)
        assert "not for diagnosis" in image.text["imagen"]


def test_no_byte_of_a_patient_reaches_the_output(tmp_path, capsys):
    named = tmp_path / "Doe^Jane" / "19700101"
    named.mkdir(parents=True)
    marks = {
        "PatientName": "Doe^Jane", "PatientID": "ZX81-4711", "PatientBirthDate": "19700101",
        "StudyDate": "20010203", "InstitutionName": "General Hospital", "BodyPartExamined": "DOE J",
        "StudyDescription": "knee of Jane", "AccessionNumber": "A998877", "OtherPatientIDs": "Q55",
    }  # fmt: skip
    for source in (CT, MR, ABDOMEN):
        rewritten(source, named / source.name, **marks)
    (named / "broken.dcm").write_bytes(CT.read_bytes()[:3000])
    assert dicom(tmp_path / "set", tmp_path / "Doe^Jane") == 0
    secrets = {*marks.values(), "Jane", "DOE", str(tmp_path)}
    for source in (CT, MR, ABDOMEN):
        for element in pydicom.dcmread(source).iterall():
            if element.tag.group in PATIENT_GROUPS and element.VR not in ("SQ", "OB", "CS"):
                secrets |= {part for part in str(element.value).split("^") if len(part) > 5}
    assert len(secrets) > 40
    files = [path for path in (tmp_path / "set").rglob("*") if path.is_file()]
    assert len(files) == 5
    for path in files:
        content = path.read_bytes() + str(path.relative_to(tmp_path / "set")).encode()
        assert not [secret for secret in secrets if secret.encode() in content], path
        if path.suffix == ".png":
            with Image.open(path) as image:
                assert not image.info


def test_what_cannot_be_a_picture_is_skipped_with_its_reason(tmp_path, capsys, caplog):
    source = tmp_path / "source"
    source.mkdir()
    names = ("JPGExtended", "SC_rgb_rle_2frame", "rtplan", "liver_1frame", "MR_truncated")
    for name in names:
        shutil.copy(get_testdata_file(f"{name}.dcm"), source)
    rewritten(MR, source / "burned.dcm", BurnedInAnnotation="YES")
    (source / "notes.txt").write_text("no DICOM, and no word about it")
    shutil.copy(MR, source / "without_suffix")
    assert dicom(tmp_path / "set", source) == 0
    out = capsys.readouterr().out
    assert "1 pictures from 7 files" in out and "notes.txt" not in out
    lines = {line.split("/")[-1].split(":")[0]: line for line in out.splitlines()[1:]}
    for name, words in {
        "JPGExtended": "Unable to decode",
        "SC_rgb_rle_2frame": "colour picture (RGB)",
        "rtplan": "no picture (modality RTPLAN)",
        "liver_1frame": "no picture (modality SEG)",
        "MR_truncated": "less than expected",
        "burned": "declares burned-in text",
    }.items():
        assert words in lines[f"{name}.dcm"]
    assert not caplog.records  # pydicom's own, with a traceback each


def test_compressed_files_give_the_same_picture(tmp_path):
    for name in ("MR_small_RLE.dcm", "MR_small_jp2klossless.dcm", "MR_small_bigendian.dcm"):
        assert (grey(Path(get_testdata_file(name))) == grey(MR)).all()
    mismatched = Path(get_testdata_file("J2K_pixelrep_mismatch.dcm"))
    assert grey(mismatched).std() > 20


@pytest.mark.parametrize(
    ("source", "more", "words"),
    [
        (("missing",), (), "no file or folder missing"),
        (("empty",), (), "no DICOM files in empty"),
        (("text.dcm",), (), "no picture in 1 DICOM files; the first: text.dcm"),
        ((CT,), ("--window", 40, 0), "window has the width 0"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(
    tmp_path, monkeypatch, capsys, source, more, words
):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("text.dcm").write_text("this is not DICOM")
    assert dicom(Path("set"), *source, more=more) == 1
    error = capsys.readouterr().err.replace("\r", "\n").splitlines()[-1]
    assert error.startswith("error: ") and words in error
    assert not Path("set").exists()


def test_damaged_files_are_skipped_whatever_is_wrong_with_them(tmp_path, capsys):
    source = tmp_path / "source"
    source.mkdir()
    shutil.copy(CT, source / "good.dcm")
    rng = np.random.default_rng(0)
    for i in range(60):
        file = (CT, MR, Path(get_testdata_file("MR_small_RLE.dcm")))[i % 3]
        damaged = np.frombuffer(file.read_bytes(), np.uint8).copy()
        where = rng.integers(132, min(2000, len(damaged)), 20)  # the header, where harm is greatest
        damaged[where] = rng.integers(0, 256, len(where))
        (source / f"{i}.dcm").write_bytes(damaged[: rng.integers(500, len(damaged))].tobytes())
    assert dicom(tmp_path / "set", source) == 0
    out = capsys.readouterr().out
    assert "from 61 files" in out and "more" in out and len(out.splitlines()) == 12


def deflated(target: Path, more: bytes = b"") -> Path:
    """The MR file with its data set deflated, and `more` at its end."""
    parts = []
    for syntax in (DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian):
        data = pydicom.dcmread(MR)
        data.file_meta.TransferSyntaxUID = syntax
        data.save_as(target)
        written = target.read_bytes()
        end_of_meta = 144 + int.from_bytes(written[140:144], "little")
        parts.append((written[:end_of_meta], written[end_of_meta:]))
    (head, _), (_, data_set) = parts
    squeezer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    squeezed = squeezer.compress(data_set + more) + squeezer.flush()
    target.write_bytes(head + squeezed)
    return target


def test_a_small_file_that_inflates_to_a_large_one_is_refused_before_that(tmp_path):
    assert (grey(deflated(tmp_path / "a.dcm")) == grey(MR)).all()
    element = struct.pack("<HH2sH", 0x7FE1, 0x0010, b"LO", 0)
    bomb = deflated(tmp_path / "b.dcm", element * 10_000_000)
    assert bomb.stat().st_size < 200_000
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"is deflated, and over 16,000,000 bytes when inflated"):
        grey(bomb)
    assert tracemalloc.get_traced_memory()[1] < 100_000_000
    tracemalloc.stop()
    bomb.write_bytes(bomb.read_bytes()[:900])
    with pytest.raises(ValueError, match=r"incomplete|end of"):
        grey(bomb)


def test_a_small_file_of_very_many_pixels_is_refused(tmp_path):
    path = Path(get_testdata_file("MR_small_RLE.dcm"))
    with pytest.raises(ValueError, match="60000 x 60000 pixels are too many"):
        grey(rewritten(path, tmp_path / "a.dcm", Rows=60_000, Columns=60_000))


def test_files_that_are_no_dicom_are_counted(tmp_path, capsys):
    (tmp_path / "source" / ".cache").mkdir(parents=True)
    shutil.copy(MR, tmp_path / "source" / "a.dcm")
    (tmp_path / "source" / "gone.dcm").symlink_to("nowhere")
    for name in ("1.txt", "2.txt"):
        (tmp_path / "source" / name).write_text("x")
    assert dicom(tmp_path / "set", tmp_path / "source") == 0
    line = capsys.readouterr().out.splitlines()[0]
    assert "1 pictures from 1 files; left out: 2 .txt (not DICOM), " in line
    assert "1 broken links" in line and "1 hidden" in line


def test_without_pydicom_the_extra_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "pydicom", None)
    assert dicom(tmp_path / "set", CT) == 1
    assert "pip install 'imagen-gan[medical]'" in capsys.readouterr().err


def test_the_test_files_are_what_they_are_taken_for():
    assert pydicom.dcmread(CT).file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
