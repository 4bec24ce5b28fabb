"""The four-style emoji set: each concept in four styles, so that composition can be measured.

Pictures come from npm packages with their licences. Only the npm client downloads them, and it
checks the hashes in npm/package-lock.json. A rule on names alone decides which (concept, style)
pairs are held out, so they are the same in every build; a skin-tone variant follows its base.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ...progress import OnProgress, reported
from ...storage.files import sha256_of
from ...storage.images import open_image
from ..image_reader import fit_picture
from ..item import Item
from .output import new_folder, write_manifest, write_metadata


@dataclass(frozen=True)
class Source:
    """The pictures of one style, with their licence."""

    package: str
    version: str
    folder: str  # inside the package
    suffix: str
    licence: str
    attribution: str

    @property
    def spec(self) -> str:
        return f"{self.package}@{self.version}"


STYLES = {
    "fluent-3d": Source(
        "@lobehub/fluent-emoji-3d", "1.1.0", "assets", ".webp", "MIT",
        "Fluent Emoji (3D) by Microsoft, packaged by LobeHub",
    ),
    "fluent-flat": Source(
        "@lobehub/fluent-emoji-flat", "1.1.0", "assets", ".svg", "MIT",
        "Fluent Emoji (flat) by Microsoft, packaged by LobeHub",
    ),
    "noto": Source(
        "emoji-datasource-google", "16.0.0", "img/google/64", ".png", "Apache-2.0",
        "Noto Emoji by Google, packaged by emoji-datasource",
    ),
    "twemoji": Source(
        "emoji-datasource-twitter", "16.0.0", "img/twitter/64", ".png", "CC-BY-4.0",
        "Twemoji by Twitter, Inc. and other contributors, packaged by emoji-datasource",
    ),
}  # fmt: skip
NAMES = Source("emojibase-data", "17.0.0", "en", ".json", "MIT", "emojibase by Miles Johnson")
LOCK = Path(__file__).parent / "npm"
SKIN_WEIGHT = 0.5  # of all skin tones of an emoji together; the emoji itself has 1


def hexcode_of(name: str) -> str:
    """The code of a file or of emojibase in upper case and without FE0F."""
    return "-".join(part for part in name.upper().split("-") if part != "FE0F")


def is_held_out(base: str, style: str) -> bool:
    """Whether a (concept, style) pair is in the 5 % that are never trained on."""
    return hashlib.sha1(f"{base}/{style}".encode()).digest()[0] < 13


@dataclass(frozen=True)
class Concept:
    """One emoji with its name and keywords."""

    hexcode: str
    base: str  # hexcode without skin tone
    text: str
    keywords: tuple[str, ...]
    weight: float


def read_concepts(data: list[dict]) -> dict[str, Concept]:
    """emojibase's `en/data.json` by hexcode, skin tones included."""
    concepts = {}
    for entry in data:
        base = hexcode_of(entry["hexcode"])
        keywords = tuple(entry.get("tags", ()))
        concepts[base] = Concept(base, base, entry["label"], keywords, 1.0)
        skins = entry.get("skins", [])
        for skin in skins:
            code, weight = hexcode_of(skin["hexcode"]), SKIN_WEIGHT / len(skins)
            concepts[code] = Concept(code, base, skin["label"], keywords, weight)
    return concepts


def fetch_packages(destination: Path) -> Path:
    """Install the sources with npm; returns their node_modules. ValueError if npm fails."""
    npm = shutil.which("npm")
    if npm is None:
        raise ValueError(
            "npm is not installed; install Node.js, or unpack the packages yourself and name their "
            "node_modules folder as source"
        )
    for name in ("package.json", "package-lock.json"):  # the lock has the hash of every package
        shutil.copy(LOCK / name, destination)
    command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"]
    done = subprocess.run(command, cwd=destination, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip() or done.stdout.strip() or "no reason given").splitlines()[-1]
        raise ValueError(f"npm could not fetch the emoji packages: {reason}")
    return destination / "node_modules"


def open_picture(path: Path, resolution: int) -> Image.Image:
    """A source picture as RGBA; SVG is rendered at twice `resolution`."""
    if path.suffix != ".svg":
        with open_image(path) as image:
            return image.convert("RGBA")
    try:
        import resvg_py
    except ImportError:
        raise ValueError("the flat style is SVG; pip install 'imagen-gan[train]'") from None
    png = resvg_py.svg_to_bytes(
        svg_string=path.read_text(encoding="utf-8"), width=2 * resolution, height=2 * resolution
    )
    return open_image(io.BytesIO(bytes(png))).convert("RGBA")


def build_emoji(
    out: Path, *, resolution: int, source: Path | None = None, progress: OnProgress | None = None
) -> dict:
    """Build `out`/{train,test} at `resolution` pixels; returns the manifest.

    `source` is a node_modules folder with the unpacked packages; without it npm downloads them.
    """
    with new_folder(out), tempfile.TemporaryDirectory() as scratch:
        modules = Path(source) if source else fetch_packages(Path(scratch))
        return _build(modules, out, resolution, progress)


def _build(modules: Path, out: Path, resolution: int, progress: OnProgress | None) -> dict:
    names = modules / NAMES.package / NAMES.folder / "data.json"
    if not names.is_file():
        raise ValueError(f"{names} is missing; expected an unpacked {NAMES.spec} in {modules}")
    concepts = read_concepts(json.loads(names.read_text(encoding="utf-8")))
    jobs = []
    for style, source in STYLES.items():
        folder = modules / source.package / source.folder
        if not folder.is_dir():
            raise ValueError(f"{folder} is missing; expected an unpacked {source.spec}")
        files = {hexcode_of(path.stem): path for path in folder.glob(f"*{source.suffix}")}
        jobs += [(style, code, files[code]) for code in sorted(files.keys() & concepts.keys())]
    by_split: dict[str, list[Item]] = {"train": [], "test": []}
    for style, code, path in reported(jobs, len(jobs), progress):
        concept = concepts[code]
        split = "test" if is_held_out(concept.base, style) else "train"
        target = out / split / style / f"{code}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        picture = open_picture(path, resolution)
        Image.fromarray(fit_picture(picture, resolution=resolution, channels=4)).save(target)
        by_split[split].append(
            Item(target, concept.text, concept.keywords, style, code, concept.base, concept.weight)
        )
    for split, items in by_split.items():
        write_metadata(out / split, items)
    manifest = {
        "name": "emoji, four styles",
        "resolution": resolution,
        "channels": 4,
        "pictures": {split: len(items) for split, items in by_split.items()},
        "styles": {
            split: dict(Counter(item.style for item in items)) for split, items in by_split.items()
        },
        "held_out_bases": sum(item.hexcode == item.base for item in by_split["test"]),
        "sha256": {split: sha256_of(out / split / "metadata.jsonl") for split in by_split},
        "sources": {
            name: {"package": s.spec, "licence": s.licence, "attribution": s.attribution}
            for name, s in {**STYLES, "names": NAMES}.items()
        },
    }
    write_manifest(out, manifest)
    return manifest
