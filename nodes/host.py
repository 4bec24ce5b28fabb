"""What ComfyUI manages for us: model folders, memory, progress and cancelling."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import comfy.model_management as management
import comfy.utils
import folder_paths
import torch
from comfy.model_patcher import ModelPatcher
from PIL.Image import Image
from torch import Tensor

from ..imagen_model import Model, bundled_models, to_image
from ..imagen_model.bundled import bundled_model
from ..imagen_model.checkpoint import read_metadata

FOLDER = "imagen"  # models/imagen


def register_model_folder(folder: str = FOLDER) -> None:
    """List models/FOLDER, and keep what extra_model_paths.yaml has put there."""
    paths, _ = folder_paths.folder_names_and_paths.get(folder, ([], set()))
    own = os.path.join(folder_paths.models_dir, folder)
    paths = [*paths, *([] if own in paths else [own])]
    folder_paths.folder_names_and_paths[folder] = (paths, {".safetensors"})


def model_names() -> list[str]:
    """The bundled models, then the user's own."""
    return [*bundled_models(), *folder_paths.get_filename_list(FOLDER)]


def model_path(name: str) -> Path:
    """The file behind a name of `model_names`; ValueError says what there is instead."""
    listed = name in folder_paths.get_filename_list(FOLDER)  # no other file is ever opened
    own = folder_paths.get_full_path(FOLDER, name) if listed else None
    path = Path(own) if own else bundled_model(name)
    if path is None:
        folders = ", ".join(folder_paths.get_folder_paths(FOLDER))
        raise ValueError(f"no model {name} in {folders}; there is: {', '.join(model_names())}")
    return path


def model_is_there(name: str) -> bool | str:
    """For validate_inputs: True, or what is wrong."""
    try:
        model_path(name)
    except ValueError as error:
        return str(error)
    return True


@lru_cache(maxsize=256)
def _styles_in(path: Path, changed: float) -> tuple[str, ...]:
    return tuple(json.loads(read_metadata(path)["imagen.config"])["conditioning"]["styles"])


def styles_of(name: str) -> tuple[str, ...]:
    """The styles of a listed model; none where its file is no model, or is gone."""
    try:
        path = model_path(name)
        return _styles_in(path, path.stat().st_mtime)
    except (ValueError, KeyError, TypeError, OSError):
        return ()  # the loader says what is wrong with it


def all_styles() -> list[str]:
    """Every style that some listed model knows."""
    return sorted({str(style) for name in model_names() for style in styles_of(name)})


@dataclass(frozen=True)
class HostedModel:
    """A model whose memory ComfyUI manages: loaded on use, offloaded when room is needed."""

    model: Model
    patcher: ModelPatcher

    @classmethod
    def wrap(cls, model: Model) -> HostedModel:
        parts = torch.nn.ModuleDict({"networks": model.networks})
        if model.lite0 is not None:
            parts["lite0"] = model.lite0
        device, offload = management.get_torch_device(), management.unet_offload_device()
        return cls(model, ModelPatcher(parts, load_device=device, offload_device=offload))

    def ready(self) -> Model:
        """The model, on its device."""
        management.load_models_gpu([self.patcher])
        return self.model


def stop_if_cancelled() -> None:
    """InterruptedError while a cancelled run is still to be ended by the host itself."""
    if management.processing_interrupted():
        raise InterruptedError("cancelled")


def open_page() -> tuple[Any, str | None]:
    """The server, and the page that runs the prompt while it is open; None: nobody looks."""
    from server import PromptServer

    server: Any = getattr(PromptServer, "instance", None)
    page = getattr(server, "client_id", None)
    return server, page if page in getattr(server, "sockets", ()) else None


class NodeProgress:
    """The library's progress callback as ComfyUI's bar; raises when the user cancels."""

    def __init__(self, total: int) -> None:
        self.bar = comfy.utils.ProgressBar(total)

    def __call__(self, done: int, total: int, pictures: Tensor | None) -> None:
        management.throw_exception_if_processing_interrupted()
        preview = None
        # the last ones are about to be shown anyway; without a page they would go to all of them
        if pictures is not None and done < total and open_page()[1]:
            preview = ("PNG", to_image(pictures[-1]), 256)
        self.bar.update_absolute(done, total, preview)


_told: set[str] = set()  # nodes that show a text


def tell(node_id: str | None, text: str) -> None:
    """Show a text on a node of the page that runs it; "" takes back what was shown before."""
    server, page = open_page()
    if page is None or node_id is None or not (text or node_id in _told):
        return
    _told.add(node_id)
    server.send_progress_text(text or "read as written", node_id, page)


def torch_device() -> torch.device:
    """Where ComfyUI computes."""
    return management.get_torch_device()


def to_intermediate(x: Tensor) -> Tensor:
    """Where ComfyUI wants results to be."""
    return x.to(management.intermediate_device())


def picture_folder(name: str) -> Path:
    """A folder of pictures by its name in ComfyUI's input directory, or by its full path."""
    inputs = Path(folder_paths.get_input_directory())
    path = inputs / name.strip()  # a full path stays itself
    if not name.strip() or not path.is_dir():
        there = ", ".join(sorted(p.name for p in inputs.iterdir() if p.is_dir())) or "none"
        raise ValueError(
            f"no folder {name!r}; expected a full path, or a folder in {inputs} (there is: {there})"
        )
    return path


def is_file_name(name: str) -> bool:
    """Whether a file can be called so on every system: letters, digits, spaces, -, _ and dots."""
    return bool(re.fullmatch(r"\w[\w .-]*", name)) and len(name.encode(errors="replace")) <= 100


def training_run(name: str) -> tuple[Path, Path]:
    """Where a training run called `name` is written, and the model that it makes."""
    if not is_file_name(name) or name in bundled_models():
        raise ValueError(
            f"name is {name!r}; expected letters, digits, spaces, - and _, and no bundled model's"
        )
    run = Path(folder_paths.get_output_directory()) / "imagen_training" / name
    return run, Path(folder_paths.get_folder_paths(FOLDER)[0]) / f"{name}.safetensors"


class TrainingProgress:
    """A training run as ComfyUI's bar with a sheet of pictures now and then; raises when the user
    cancels. `losses` has one number a step."""

    STEPS = 1000  # of the bar
    PREVIEW_SEC, PREVIEW_COLUMNS = 10.0, 4

    def __init__(self, preview: Callable[..., Image]) -> None:
        self.bar = comfy.utils.ProgressBar(self.STEPS)
        self.preview = preview
        self.losses: list[float] = []
        self.shown_at = time.monotonic()

    def __call__(self, progress) -> None:
        management.throw_exception_if_processing_interrupted()
        self.losses.append(progress.loss)
        preview = None
        if time.monotonic() - self.shown_at > self.PREVIEW_SEC and open_page()[1]:
            preview = ("PNG", self.preview(columns=self.PREVIEW_COLUMNS), 512)
            self.shown_at = time.monotonic()
        done = min(int(progress.fraction * self.STEPS), self.STEPS)
        self.bar.update_absolute(done, self.STEPS, preview)


def stage_progress(label: str) -> Callable[[int, int], None]:
    """The library's (done, total) callback for one stage of preparation."""
    bar: comfy.utils.ProgressBar | None = None

    def show(done: int, total: int) -> None:
        nonlocal bar
        management.throw_exception_if_processing_interrupted()
        bar = bar or comfy.utils.ProgressBar(total)
        bar.update_absolute(done, total)

    return show
