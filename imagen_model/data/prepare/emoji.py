"""The emoji set: each concept in up to eight styles, so that composition can be measured.

Pictures come from npm packages with their licences, seven of them as vector graphics that are sharp
at any size. Only the npm client downloads them, and it checks the hashes in npm/package-lock.json.
A rule on names alone decides which (concept, style) pairs are held out, so they are the same in
every build; a skin-tone variant follows its base.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from PIL import Image

from ...progress import OnProgress, reported
from ...storage.files import sha256_of
from ...storage.images import open_image
from ..image_reader import fit_picture
from ..item import Item
from .emoji_names import Concept, EmojiNames, hexcode_of, read_concepts
from .icon_set import Icon, read_icons, rendered
from .output import new_folder, write_manifest, write_metadata


@dataclass(frozen=True)
class Source:
    """The pictures of one style, with their licence."""

    package: str
    version: str
    licence: str
    attribution: str
    folder: str = ""  # of files named by code points, inside the package; "": an icon set

    @property
    def spec(self) -> str:
        return f"{self.package}@{self.version}"


STYLES = {
    "fluent-3d": Source(
        "@lobehub/fluent-emoji-3d", "1.1.0", "MIT",
        "Fluent Emoji (3D) by Microsoft, packaged by LobeHub", "assets",
    ),
    "fluent-flat": Source(
        "@iconify-json/fluent-emoji-flat", "1.2.6", "MIT",
        "Fluent Emoji (flat) by Microsoft, packaged by Iconify",
    ),
    "noto": Source(
        "@iconify-json/noto", "1.2.9", "Apache-2.0", "Noto Emoji by Google, packaged by Iconify",
    ),
    "twemoji": Source(
        "@iconify-json/twemoji", "1.2.5", "CC-BY-4.0",
        "Twemoji by Twitter, Inc. and other contributors, packaged by Iconify",
    ),
    "noto-v1": Source(
        "@iconify-json/noto-v1", "1.2.5", "Apache-2.0",
        "Noto Emoji (first version) by Google, packaged by Iconify",
    ),
    "emojione": Source(
        "@iconify-json/emojione", "1.2.3", "CC-BY-4.0",
        "Emojione (version 2) by JoyPixels, packaged by Iconify",
    ),
    "fxemoji": Source(
        "@iconify-json/fxemoji", "1.2.2", "Apache-2.0",
        "Firefox OS Emoji by Mozilla, packaged by Iconify",
    ),
    "streamline": Source(
        "@iconify-json/streamline-emojis", "1.2.4", "CC-BY-4.0",
        "Streamline Emojis by Streamline, packaged by Iconify",
    ),
}  # fmt: skip
NAMES = Source("emojibase-data", "17.0.0", "MIT", "emojibase by Miles Johnson", "en")
LOCK = Path(__file__).parent / "npm"
JOBS_A_WORKER = 500  # a process takes seconds to start
CHUNK = 16


def is_held_out(base: str, style: str) -> bool:
    """Whether a (concept, style) pair is in the 5 % that are never trained on."""
    return hashlib.sha1(f"{base}/{style}".encode()).digest()[0] < 13


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


def build_emoji(
    out: Path,
    *,
    resolution: int,
    styles: Sequence[str] = tuple(STYLES),
    source: Path | None = None,
    progress: OnProgress | None = None,
) -> dict:
    """Build `out`/{train,test} at `resolution` pixels in `styles`; returns the manifest.

    `source` is a node_modules folder with the unpacked packages; without it npm downloads them.
    The manifest lists the icons whose names mean no concept, or several; they are left out.
    """
    unknown = [style for style in styles if style not in STYLES]
    if unknown or not styles:
        raise ValueError(
            f"styles are {', '.join(styles) or 'none'}; expected some of {', '.join(STYLES)}"
        )
    with new_folder(out), tempfile.TemporaryDirectory() as scratch:
        modules = Path(source) if source else fetch_packages(Path(scratch))
        chosen = {style: STYLES[style] for style in STYLES if style in styles}
        return _build(modules, out, chosen, resolution, progress)


@dataclass(frozen=True)
class _Picture:
    """A source picture: `name` is its file's in the set, `open(side)` gives it as RGBA, of `side`
    pixels if it is a vector graphic."""

    style: str
    hexcode: str
    name: str
    open: Callable[[int], Image.Image]


def _build(
    modules: Path,
    out: Path,
    styles: Mapping[str, Source],
    resolution: int,
    progress: OnProgress | None,
) -> dict:
    names = modules / NAMES.package / NAMES.folder / "data.json"
    if not names.is_file():
        raise ValueError(f"{names} is missing; expected an unpacked {NAMES.spec} in {modules}")
    concepts = read_concepts(json.loads(names.read_text(encoding="utf-8")))
    unmapped: dict[str, list[str]] = {}
    pictures = list(_pictures(modules, styles, concepts, unmapped))
    by_split: dict[str, list[Item]] = {"train": [], "test": []}
    jobs: list[tuple[_Picture, Path]] = []
    for picture in pictures:
        concept, style = concepts[picture.hexcode], picture.style
        split = "test" if is_held_out(concept.base, style) else "train"
        target = out / split / style / f"{picture.name}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        facts = (concept.text, concept.keywords, style, concept.hexcode, concept.base)
        by_split[split].append(Item(target, *facts, concept.weight))
        jobs.append((picture, target))
    with _workers(len(jobs)) as in_order:
        done = in_order(partial(_write, resolution), jobs)
        for _ in reported(done, len(jobs), progress):
            pass
    for split, items in by_split.items():
        write_metadata(out / split, items)
    manifest = {
        "name": f"emoji, {len(styles)} styles",
        "resolution": resolution,
        "channels": 4,
        "pictures": {split: len(items) for split, items in by_split.items()},
        "styles": {
            split: dict(Counter(item.style for item in items)) for split, items in by_split.items()
        },
        "held_out_bases": sum(item.hexcode == item.base for item in by_split["test"]),
        "sha256": {split: sha256_of(out / split / "metadata.jsonl") for split in by_split},
        "unmapped": unmapped,
        "sources": {
            name: {"package": s.spec, "licence": s.licence, "attribution": s.attribution}
            for name, s in {**styles, "names": NAMES}.items()
        },
    }
    write_manifest(out, manifest)
    return manifest


def _pictures(
    modules: Path,
    styles: Mapping[str, Source],
    concepts: Mapping[str, Concept],
    unmapped: dict[str, list[str]],
) -> Iterator[_Picture]:
    """All pictures of all styles; the names that mean no concept are added to `unmapped`."""
    for source in styles.values():
        if not (modules / source.package / source.folder).is_dir():
            folder = modules / source.package / source.folder
            raise ValueError(f"{folder} is missing; expected an unpacked {source.spec}")
    sets = {
        style: read_icons(modules / source.package)
        for style, source in styles.items()
        if not source.folder
    }
    short_codes = modules / NAMES.package / NAMES.folder / "shortcodes"
    names = EmojiNames(concepts, short_codes, [chars for _, chars in sets.values()])
    for style, source in styles.items():
        if source.folder:
            paths = sorted((modules / source.package / source.folder).glob("*.webp"))
            files = {hexcode_of(path.stem): path for path in paths}  # with FE0F and without
            for code in sorted(files.keys() & concepts.keys()):
                yield _Picture(style, code, code, partial(_opened, files[code]))
            continue
        icons, chars = sets[style]
        yield from _icons_by_char(style, icons, chars, concepts)
        if not chars:
            yield from _icons_by_name(style, icons, names, unmapped)


def _write(resolution: int, job: tuple[_Picture, Path]) -> None:
    picture, target = job
    pixels = fit_picture(picture.open(2 * resolution), resolution=resolution, channels=4)
    Image.fromarray(pixels).save(target)


@contextmanager
def _workers(num_jobs: int) -> Iterator[Callable[..., Iterator]]:
    """`map`, in processes where there is work for them: resvg holds Python's lock."""
    workers = min(os.cpu_count() or 1, num_jobs // JOBS_A_WORKER)
    if workers < 2:
        yield map
        return
    context = multiprocessing.get_context("spawn")  # forking a process with threads may hang it
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        try:
            yield partial(pool.map, chunksize=CHUNK)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _opened(path: Path, side: int) -> Image.Image:
    with open_image(path) as image:
        return image.convert("RGBA")


def _icons_by_char(
    style: str, icons: list[Icon], chars: Mapping[str, str], concepts: Mapping[str, Concept]
) -> Iterator[_Picture]:
    """Of a set that lists its code points."""
    by_name = {icon.name: icon for icon in icons}
    by_code = {hexcode_of(char): name for char, name in sorted(chars.items(), reverse=True)}
    for code, name in sorted(by_code.items()):
        if code in concepts and name in by_name:
            yield _Picture(style, code, code, partial(rendered, by_name[name].svg))


def _icons_by_name(
    style: str, icons: list[Icon], names: EmojiNames, unmapped: dict[str, list[str]]
) -> Iterator[_Picture]:
    for icon in icons:
        code = names.hexcode((icon.name, *icon.other_names))
        if code is None:
            unmapped.setdefault(style, []).append(icon.name)
        else:
            yield _Picture(style, code, f"{code}.{icon.name}", partial(rendered, icon.svg))
