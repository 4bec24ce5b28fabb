"""DICOM studies -> a folder of anonymous grey 8-bit pictures for `imagen train`.

A file gives its pixels and two coded words, modality and body part, and these only if the tables
below have them: free text may hold names. Paths may hold names too, so pictures are numbered. Text
in the pixels can't be detected here, so files that declare burned-in annotation, and colour screen
captures, are skipped.

The modality LUT turns stored values into units, and a window turns units into grey: the given one,
the file's own, or percentiles (DICOM PS3.3 C.11.1 and C.11.2). Pixels that are not square are
resampled. pydicom decodes.
"""

from __future__ import annotations

import io
import logging
import struct
import warnings
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ...progress import OnProgress, reported
from ...storage.files import brief, check_outside
from ...storage.provenance import NOT_FOR_DIAGNOSIS
from ..image_reader import MAX_PIXELS, fit_picture
from ..item import Item
from ..reading import LeftOut, kind_of, walk
from .output import new_folder, write_manifest, write_metadata

KINDS = {
    "CR": "X-ray", "CT": "CT scan", "DX": "X-ray", "MG": "mammogram", "MR": "MRI scan",
    "NM": "nuclear scan", "OCT": "OCT scan", "OPT": "OCT scan", "PT": "PET scan", "PX": "X-ray",
    "RF": "fluoroscopy", "RG": "X-ray", "US": "ultrasound", "XA": "angiogram",
}  # fmt: skip
BODY_PARTS = {
    "ABDOMEN", "ANKLE", "AORTA", "ARM", "BLADDER", "BRAIN", "BREAST", "BRONCHUS", "CALF",
    "CAROTID", "CHEST", "CLAVICLE", "COCCYX", "COLON", "CSPINE", "EAR", "ELBOW", "EXTREMITY",
    "EYE", "FACE", "FINGER", "FOOT", "FOREARM", "HAND", "HEAD", "HEADNECK", "HEART", "HIP",
    "HUMERUS", "JAW", "KIDNEY", "KNEE", "LEG", "LIVER", "LSPINE", "LUNG", "NECK", "NOSE", "ORBIT",
    "PANCREAS", "PELVIS", "PROSTATE", "RIB", "SCALP", "SHOULDER", "SINUS", "SKULL", "SPINE",
    "SPLEEN", "SSPINE", "STERNUM", "STOMACH", "THIGH", "THORAX", "THUMB", "THYROID", "TOE",
    "TOOTH", "TSPINE", "UTERUS", "WHOLEBODY", "WRIST",
}  # fmt: skip
SPELLED = {
    "CSPINE": "cervical spine", "HEADNECK": "head and neck", "LSPINE": "lumbar spine",
    "SSPINE": "sacral spine", "TSPINE": "thoracic spine", "WHOLEBODY": "whole body",
}  # fmt: skip
NO_PICTURES = {"SEG", "RTDOSE"}  # modalities whose pixel data is not a picture
NAMED_DICOM = {".dcm", ".dicom", ".ima"}
PERCENTILES = 0.5, 99.5
MAX_INFLATED, MAX_INFLATION = 16_000_000, 20  # bytes; times the size of a larger deflated file
SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio")
LONGEST_REASON = 200  # characters: pydicom lists every decoder that it tried
# What pydicom and its decoders raise for damaged or foreign files.
DAMAGE = (
    OSError, ValueError, RuntimeError, ArithmeticError, AttributeError, LookupError, TypeError,
    EOFError, MemoryError, struct.error, zlib.error,
)  # fmt: skip


def build_dicom(
    sources: list[Path],
    out: Path,
    *,
    resolution: int,
    window: tuple[float, float] | None = None,
    progress: OnProgress | None = None,
) -> tuple[dict, list[str], LeftOut]:
    """Write `out`/train; returns the manifest, a line for each skipped file, and what is no DICOM.

    `window` (centre, width, in the modality's units) overrides the files' own.
    """
    try:
        import pydicom  # noqa: F401 - the first import, so a missing pydicom is reported here
    except ImportError:
        raise ValueError("DICOM needs pydicom; pip install 'imagen-gan[medical]'") from None
    # it logs the content of files, and tracebacks for unreadable ones, which are in `skipped`
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    if window is not None and not window[1] >= 1:  # also NaN
        raise ValueError(f"window has the width {window[1]:g}; expected 1 or more")
    for source in sources:
        check_outside(out, Path(source))
    left_out = LeftOut()
    files = list(_dicom_files(sources, left_out))
    if not files:
        raise ValueError(f"no DICOM files in {', '.join(map(str, sources))}{left_out}")
    with new_folder(out):
        items, skipped = _write_pictures(files, out / "train", resolution, window, progress)
        if not items:
            raise ValueError(
                f"no picture in {len(files)} DICOM files; the first: {brief(skipped[0])}"
            )
        write_metadata(out / "train", items)
    manifest = {  # without the source, because paths may hold names
        "resolution": resolution,
        "channels": 1,
        "notice": NOT_FOR_DIAGNOSIS,  # passed on to every model and picture
        "pictures": len(items),
        "files": len(files),
        "skipped": len(skipped),
        "captions": dict(sorted(Counter(item.text for item in items).items())),
    }
    write_manifest(out, manifest)
    return manifest, skipped, left_out


def _dicom_files(sources: list[Path], left_out: LeftOut) -> Iterator[Path]:
    """The given files, and what looks like DICOM in the given folders."""
    from pydicom.misc import is_dicom

    for source in sources:
        if source.is_dir():
            for path in sorted(walk(source, left_out)):
                if path.suffix.lower() in NAMED_DICOM or is_dicom(path):
                    yield path
                else:
                    left_out.add(f"{kind_of(path.suffix)} (not DICOM)")
        elif source.is_file():
            yield source
        else:
            raise ValueError(f"no file or folder {source}")


def _write_pictures(
    files: list[Path],
    folder: Path,
    resolution: int,
    window: tuple[float, float] | None,
    progress: OnProgress | None,
) -> tuple[list[Item], list[str]]:
    folder.mkdir()
    items: list[Item] = []
    skipped = []
    for file in reported(files, len(files), progress):
        try:
            for grey, words in read_frames(file, window=window):
                path = folder / f"{len(items):07d}.png"
                picture = Image.fromarray(grey).convert("RGBA")
                square = fit_picture(picture, resolution=resolution, channels=1)
                Image.fromarray(square[..., 0]).save(path)
                items.append(Item(path, text=" of the ".join(words), keywords=tuple(words)))
        except ValueError as error:
            skipped.append(f"{file}: {error}")
    return items, skipped


def read_frames(
    file: Path, *, window: tuple[float, float] | None = None
) -> Iterator[tuple[np.ndarray, list[str]]]:
    """The frames of a file, uint8 [H, W], each with its words (`_words`).

    ValueError if it is not a grey picture or can't be decoded, perhaps after some frames.
    """
    import pydicom
    from pydicom.errors import BytesLengthException, InvalidDicomError
    from pydicom.pixels import pixel_array
    from pydicom.pixels.utils import get_nr_frames

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about deviations from the standard
        try:
            with _File(io.FileIO(file)) as stream:
                data = pydicom.dcmread(stream, force=True)
            _refuse_other_than_grey(data)
            words = _words(data)
            frames = get_nr_frames(data)
            if frames < 1:
                raise ValueError("holds no frames")
            for number in range(frames):
                stored, facts = pixel_array(data, index=number), _facts_of_frame(data, number)
                yield _with_square_pixels(_grey(stored, facts, window), facts), words
        except (*DAMAGE, BytesLengthException, InvalidDicomError) as error:
            reason = " ".join(str(error).split())[:LONGEST_REASON]
            raise ValueError(reason or type(error).__name__) from None


class _File(io.BufferedReader):
    """A file for pydicom, which reads all the rest at once only to inflate it whole."""

    def read(self, size: int | None = -1, /) -> bytes:
        """ValueError for a small file that would inflate to a very large one."""
        content = super().read(size)
        if size is None or size < 0:
            limit = max(MAX_INFLATED, MAX_INFLATION * len(content))
            inflater = zlib.decompressobj(-zlib.MAX_WBITS)
            if len(inflater.decompress(content, limit + 1)) > limit:
                raise ValueError(f"is deflated, and over {limit:,} bytes when inflated")
        return content


def _refuse_other_than_grey(data: Any) -> None:
    modality, colours = data.get("Modality", ""), data.get("PhotometricInterpretation")
    if "PixelData" not in data or modality in NO_PICTURES:
        raise ValueError(f"holds no picture (modality {modality or 'unknown'})")
    if colours not in ("MONOCHROME1", "MONOCHROME2"):
        raise ValueError(f"is a colour picture ({colours}); expected grey")
    if str(data.get("BurnedInAnnotation", "")).upper() == "YES":
        raise ValueError("declares burned-in text, which may name the patient")
    if data.Rows * data.Columns > MAX_PIXELS:
        raise ValueError(f"{data.Columns} x {data.Rows} pixels are too many")


def _words(data: Any) -> list[str]:
    """The kind of picture and the body part, if the tables have them."""
    kind = KINDS.get(str(data.get("Modality", "")).strip().upper())
    part = str(data.get("BodyPartExamined", "")).upper().replace(" ", "").replace("_", "")
    words = [kind] if kind else []
    if part in BODY_PARTS:
        words.append(SPELLED.get(part, part.lower()))
    return words


def _facts_of_frame(data: Any, number: int) -> Any:
    """The attributes that turn a frame's values into grey. Enhanced files have them in functional
    groups: shared ones, which the frame's own override."""
    from pydicom import Dataset

    facts = Dataset()
    facts.file_meta = data.file_meta
    per_frame = data.get("PerFrameFunctionalGroupsSequence") or []
    groups = [*(data.get("SharedFunctionalGroupsSequence") or [])[:1]]
    groups += per_frame[number : number + 1]
    macros = "PixelMeasuresSequence", "PixelValueTransformationSequence", "FrameVOILUTSequence"
    parts = [data, *(g[name].value[0] for g in groups for name in macros if g.get(name))]
    for part in parts:
        for name in (
            "PhotometricInterpretation", "BitsStored", "PixelRepresentation", "PixelPaddingValue",
            "PixelPaddingRangeLimit", "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence",
            "WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence", *SPACINGS,
        ):  # fmt: skip
            if name in part and part[name].value not in (None, ""):
                facts[name] = part[name]
    if "RescaleSlope" in facts or "RescaleIntercept" in facts:  # pydicom takes both or neither
        facts.RescaleSlope = facts.get("RescaleSlope", 1)
        facts.RescaleIntercept = facts.get("RescaleIntercept", 0)
    return facts


def _grey(stored: np.ndarray, facts: Any, window: tuple[float, float] | None) -> np.ndarray:
    """Stored values [H, W] -> uint8 [H, W], 0 is black."""
    from pydicom.pixels import apply_modality_lut

    values = np.asarray(apply_modality_lut(stored, facts), np.float64)
    if window is None and "WindowCenter" not in facts and "VOILUTSequence" in facts:
        light = _looked_up(values, facts.VOILUTSequence[0])
    else:
        light = _windowed(values, facts, window, is_content=~_is_padding(stored, facts))
    light = np.clip(light, 0, 1)
    if facts.get("PhotometricInterpretation") == "MONOCHROME1":
        light = 1 - light
    return (light * 255 + 0.5).astype(np.uint8)


def _looked_up(values: np.ndarray, lut: Any) -> np.ndarray:
    """Units -> light by a file's own table (PS3.3 C.11.2.1.1). pydicom's apply_voi fails here: it
    counts the entries of an 8-bit table in eight bits. White has as many bits as the largest entry:
    files declare 16 for entries of 12."""
    length, first, _ = lut.LUTDescriptor
    table = lut.LUTData
    if isinstance(table, bytes):
        table = np.frombuffer(table, np.uint8 if len(table) == length else "<u2")
    row = np.clip(values - first, 0, (length or 2**16) - 1).astype(np.int64)
    table = np.asarray(table, np.int64)
    return table[row] / (2 ** int(table.max()).bit_length() - 1)


def _windowed(
    values: np.ndarray, facts: Any, window: tuple[float, float] | None, *, is_content: np.ndarray
) -> np.ndarray:
    """Units -> light, 0 to 1 inside the window (PS3.3 C.11.2.1.2 and C.11.2.1.3). Percentiles are
    those of `is_content`."""
    kind = "LINEAR"
    if window is not None:
        centre, width = window
    elif "WindowCenter" in facts and 1 <= _first(facts.get("WindowWidth", 0)) <= _widest(facts):
        centre, width = _first(facts.WindowCenter), _first(facts.WindowWidth)
        kind = facts.get("VOILUTFunction", kind)
    else:
        low, high = np.percentile(values[is_content] if is_content.any() else values, PERCENTILES)
        return (values - low) / max(high - low, 1e-9)
    if kind == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -50, 50)))
    if kind == "LINEAR_EXACT" or width == 1:
        return (values - centre) / width + 0.5
    return (values - (centre - 0.5)) / (width - 1) + 0.5


def _widest(facts: Any) -> float:
    """The width of a window that is still plausible: twice the range of the stored bits. Some files
    have one for 16 bits and store 12, which would be nearly black."""
    if "BitsStored" not in facts or "ModalityLUTSequence" in facts:
        return np.inf
    return 2 * 2**facts.BitsStored * abs(float(facts.get("RescaleSlope", 1)))


def _with_square_pixels(grey: np.ndarray, facts: Any) -> np.ndarray:
    """uint8 [H, W] enlarged along the side whose pixels are longer; without a spacing as it is."""
    spacing = next((facts[name].value for name in SPACINGS if name in facts), ())
    if not isinstance(spacing, Sequence) or len(spacing) != 2 or not min(spacing) > 0:
        return grey
    between_rows, between_columns = map(float, spacing)
    height, width = grey.shape
    size = (
        round(width * max(1, between_columns / between_rows)),
        round(height * max(1, between_rows / between_columns)),
    )
    if size[0] * size[1] > MAX_PIXELS:
        raise ValueError(f"has pixels of {between_rows:g} x {between_columns:g}; expected squares")
    return np.asarray(Image.fromarray(grey).resize(size, Image.Resampling.BICUBIC))


def _is_padding(stored: np.ndarray, facts: Any) -> np.ndarray:
    """bool [H, W]: the padding around a round scan, which must not affect the contrast."""
    if "PixelPaddingValue" not in facts:
        return np.zeros(stored.shape, bool)
    ends = facts.PixelPaddingValue, facts.get("PixelPaddingRangeLimit", facts.PixelPaddingValue)
    return (stored >= min(ends)) & (stored <= max(ends))


def _first(value: Any) -> float:
    """The value itself, or the first of several: viewers show the first window."""
    return float(value[0] if isinstance(value, Sequence) else value)
