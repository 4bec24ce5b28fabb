"""The folders from which nodes read pictures, and to which they write data sets.

Anyone who reaches ComfyUI's server can send it a workflow. A name in one therefore stays inside the
folders that the machine's owner gave to ComfyUI: its input and output directories, and what
extra_model_paths.yaml lists under `imagen_datasets`.
"""

from __future__ import annotations

import os
from pathlib import Path

import folder_paths

from ..imagen_model.data.prepare.labelled import TRAIN

REGISTERED = "imagen_datasets"  # a key of extra_model_paths.yaml


def picture_folder(name: str) -> Path:
    """A folder of pictures, by its name in one of ComfyUI's folders or by its full path there.

    ValueError lists what there is.
    """
    inputs, outputs = folder_paths.get_input_directory(), folder_paths.get_output_directory()
    registered, *_ = folder_paths.folder_names_and_paths.get(REGISTERED, ([],))
    roots = [Path(root) for root in (inputs, outputs, *registered)]
    named = [root / name.strip() for root in roots if name.strip()]  # a full path stays as it is
    written = [path for path in named if _is_written_inside(path, roots)]
    found = [path for path in written if path.is_dir()]
    for path in found:
        if _stays_inside(path, roots):
            return path
    leads_out = found or (named and not written)
    fault = f"folder {name!r} leads out of" if leads_out else f"no folder {name!r} in"
    there = sorted(path.name for path in roots[0].iterdir() if path.is_dir())
    raise ValueError(
        f"{fault} ComfyUI's folders; expected a folder in {inputs} or {outputs}, or in one that "
        f"extra_model_paths.yaml lists under {REGISTERED} "
        f"(there is: {', '.join([*there, *registered]) or 'none'})"
    )


def output_folder(name: str) -> Path:
    """A folder inside ComfyUI's output directory; ValueError for any other."""
    outputs = Path(folder_paths.get_output_directory()).resolve()
    path = outputs / name.strip()
    if not _stays_inside(path, [outputs]) or path.resolve() == outputs:
        raise ValueError(f"folder is {name!r}; expected the name of a folder inside {outputs}")
    return path.resolve()


def _stays_inside(folder: Path, roots: list[Path]) -> bool:
    """Whether a folder is in one of the roots, and so are the links in it that reading follows."""
    if not _is_inside(folder, roots):
        return False
    for part in (folder, folder / TRAIN):
        links = filter(os.path.islink, part.iterdir() if part.is_dir() else ())
        if not all(_is_inside(link, roots) for link in links):
            return False
    return True


def _is_inside(path: Path, roots: list[Path]) -> bool:
    """Whether a path is in one of the roots, as it is written and with links followed."""
    try:
        return _is_written_inside(path, roots) and any(
            path.resolve().is_relative_to(root.resolve()) for root in roots
        )
    except (ValueError, OSError, RuntimeError):  # the system does not allow such a name
        return False


def _is_written_inside(path: Path, roots: list[Path]) -> bool:
    """The same by the path's text alone: what is elsewhere is not even looked for, because that may
    call another machine."""
    written = Path(os.path.abspath(path))
    return any(written.is_relative_to(form) for root in roots for form in (root, root.resolve()))
