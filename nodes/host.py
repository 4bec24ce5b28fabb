"""ComfyUI's model folders, memory management, progress bars and cancelling."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import comfy.model_management as management
import comfy.utils
import folder_paths
import torch
from comfy.model_patcher import ModelPatcher
from PIL.Image import Image
from torch import Tensor

from ..imagen_model import Model, bundled_models, load, to_image
from ..imagen_model.bundled import bundled_model
from ..imagen_model.checkpoint_header import read_metadata
from ..imagen_model.progress import OnProgress

if TYPE_CHECKING:  # imported when they are used
    from server import PromptServer

    from ..imagen_model.training.progress import Progress

logger = logging.getLogger(__name__)

RESERVED = re.compile("con|prn|aux|nul|(com|lpt)[0-9¹²³]", re.IGNORECASE)  # device names of Windows
FOLDER = "imagen"  # models/imagen


def register_model_folder(folder: str = FOLDER) -> None:
    """List models/FOLDER, the first and so the one that is written to, and after it the paths from
    extra_model_paths.yaml."""
    paths, _ = folder_paths.folder_names_and_paths.get(folder, ([], set()))
    own = os.path.join(folder_paths.models_dir, folder)
    paths = [own, *(path for path in paths if path != own)]
    folder_paths.folder_names_and_paths[folder] = (paths, {".safetensors"})


def model_names() -> list[str]:
    """The bundled models, then the user's own."""
    return [*bundled_models(), *folder_paths.get_filename_list(FOLDER)]


def listed_path(folder: str, name: str, names: Sequence[str], kind: str) -> Path:
    """The file `name` of models/FOLDER, if it is one of `names`: only listed files are opened. The
    ValueError for any other lists what there is."""
    path = folder_paths.get_full_path(folder, name) if name in names else None
    if path is None:
        folders = ", ".join(folder_paths.get_folder_paths(folder))
        known = ", ".join(names) or "nothing"
        raise ValueError(f"no {kind} {name} in {folders}; there is: {known}")
    return Path(path)


def model_path(name: str) -> Path:
    """The file of a listed model. The ValueError for any other lists what there is."""
    own = name in folder_paths.get_filename_list(FOLDER)
    bundled = None if own else bundled_model(name)
    return bundled or listed_path(FOLDER, name, model_names(), "model")


def fingerprint(path: Path) -> str:
    """Another one when the file is replaced. ComfyUI keeps it in every picture's metadata, so that
    it must not tell the path."""
    return hashlib.sha256(f"{path} {path.stat().st_mtime_ns}".encode()).hexdigest()


def validate_name(find: Callable[[str], Path], name: str) -> bool | str:
    """For validate_inputs: True, or the message of the ValueError that `find(name)` raises."""
    try:
        find(name)
    except ValueError as error:
        return str(error)
    return True


@lru_cache(maxsize=256)
def _styles_in(path: Path, changed: float) -> tuple[str, ...]:
    return tuple(json.loads(read_metadata(path)["imagen.config"])["conditioning"]["styles"])


def styles_of(name: str) -> tuple[str, ...]:
    """The styles of a listed model; none where the file is gone or not a model."""
    try:
        path = model_path(name)
        return _styles_in(path, path.stat().st_mtime)
    except (ValueError, KeyError, TypeError, OSError, RecursionError) as error:
        logger.warning("%s: its styles are not listed, %s", name, type(error).__name__)
        return ()  # the loader reports the problem


def all_styles() -> list[str]:
    """The styles of all listed models."""
    return sorted({str(style) for name in model_names() for style in styles_of(name)})


@dataclass(frozen=True)
class HostedModel:
    """A model whose memory ComfyUI manages: loaded for use, offloaded when memory is needed."""

    model: Model
    patcher: ModelPatcher

    @classmethod
    def wrap(cls, model: Model) -> HostedModel:
        """Hand a model to ComfyUI, which moves it to its device for use."""
        model = model.to("cpu")
        parts = torch.nn.ModuleDict({"networks": model.networks})
        if model.lite0 is not None:
            parts["lite0"] = model.lite0
        device, offload = management.get_torch_device(), management.unet_offload_device()
        return cls(model, ModelPatcher(parts, load_device=device, offload_device=offload))

    @classmethod
    def loaded(cls, path: Path) -> HostedModel:
        """The model in a file. ComfyUI forgets it in a workflow without it; the last one is kept
        here, so that the next run has it, where ComfyUI's memory management left it."""
        return _loaded(path, fingerprint(path))

    def ready(self) -> Model:
        """The model, on its device."""
        management.load_models_gpu([self.patcher])
        return self.model


@lru_cache(maxsize=1)
def _loaded(path: Path, changed: str) -> HostedModel:
    return HostedModel.wrap(load(path))


def stop_if_cancelled() -> None:
    """InterruptedError after a cancel; the flag stays set, so that ComfyUI then ends the run."""
    if management.processing_interrupted():
        raise InterruptedError("cancelled")


def open_page() -> tuple[PromptServer, str] | None:
    """The server and the id of the page that runs the prompt; None where no page is open."""
    from server import PromptServer

    server: Any = getattr(PromptServer, "instance", None)
    page: Any = getattr(server, "client_id", None)
    return (server, page) if page in getattr(server, "sockets", ()) else None


class NodeProgress:
    """The library's OnPictures callback as ComfyUI's bar; raises when the user cancels."""

    def __init__(self, total: int) -> None:
        self.bar = comfy.utils.ProgressBar(total)

    def __call__(self, done: int, total: int, pictures: Tensor | None) -> None:
        management.throw_exception_if_processing_interrupted()
        preview = None
        # the last pictures come as the result; without an open page, all pages would get a preview
        if pictures is not None and done < total and open_page():
            preview = ("PNG", to_image(pictures[-1]), 256)
        self.bar.update_absolute(done, total, preview)


def tell_of_new_files() -> None:
    """Make all open pages list models and adapters anew."""
    from server import PromptServer

    if server := getattr(PromptServer, "instance", None):
        server.send_sync("imagen.new_files", {})


def torch_device() -> torch.device:
    """The device on which ComfyUI computes."""
    return management.get_torch_device()


def intermediate_device() -> torch.device:
    """The device on which ComfyUI keeps results."""
    return management.intermediate_device()


def to_intermediate(*results: Tensor) -> tuple[Tensor, ...]:
    """Results on the device, and of the type, in which ComfyUI keeps them."""
    dtype = getattr(management, "intermediate_dtype", lambda: None)()
    return tuple(x.to(intermediate_device(), dtype or x.dtype) for x in results)


def is_file_name(name: str) -> bool:
    """Whether every system allows the name: letters, digits, spaces, -, _ and dots, with a
    letter, digit, - or _ at the end, and no device of Windows."""
    stem = name.split(".")[0].strip()
    if RESERVED.fullmatch(stem) or not re.fullmatch(r"\w([\w .-]*[\w-])?", name):
        return False
    return len(name.encode(errors="replace")) <= 100


def training_run(name: str) -> tuple[Path, Path]:
    """The folder of a training run called `name`, and the file of its model."""
    if not is_file_name(name) or name in bundled_models():
        raise ValueError(
            f"name is {name!r}; expected letters, digits, spaces, - and _, and no bundled model's"
        )
    run = Path(folder_paths.get_output_directory()) / "imagen_training" / name
    return run, Path(folder_paths.get_folder_paths(FOLDER)[0]) / f"{name}.safetensors"


class TrainingProgress:
    """A training run as ComfyUI's bar with a preview every 10 s; raises when the user cancels.

    `losses` has one number for each step.
    """

    BAR_STEPS = 1000
    PREVIEW_SEC, PREVIEW_COLUMNS = 10.0, 4

    def __init__(self, preview: Callable[..., Image]) -> None:
        self.bar = comfy.utils.ProgressBar(self.BAR_STEPS)
        self.preview = preview
        self.losses: list[float] = []
        self.shown_at = time.monotonic()

    def __call__(self, progress: Progress) -> None:
        management.throw_exception_if_processing_interrupted()
        self.losses.append(progress.loss)
        preview = None
        if time.monotonic() - self.shown_at > self.PREVIEW_SEC and open_page():
            preview = ("PNG", self.preview(columns=self.PREVIEW_COLUMNS), 512)
            self.shown_at = time.monotonic()
        done = min(int(progress.fraction * self.BAR_STEPS), self.BAR_STEPS)
        self.bar.update_absolute(done, self.BAR_STEPS, preview)


def stage_progress(label: str) -> OnProgress:
    """The library's OnProgress callback for one stage of the work, as a bar of its own."""
    bar: comfy.utils.ProgressBar | None = None

    def show(done: int, total: int) -> None:
        nonlocal bar
        management.throw_exception_if_processing_interrupted()
        bar = bar or comfy.utils.ProgressBar(total)
        bar.update_absolute(done, total)

    return show
