"""A resumable training state: a folder of safetensors and JSON that is replaced atomically.

The one before it is kept until the next is written, for a disk that damages the newest.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from ..storage.files import brief
from ..storage.tensor_file import TensorFile, save_tensors

logger = logging.getLogger(__name__)

STATE, NEW, OLD, DAMAGED = "state", "state.new", "state.old", "state.damaged"


def save_state(run: Path, modules: dict[str, nn.Module], optimizers: dict, progress: dict) -> None:
    """Write `run`/state; a complete one exists under one of three names at any time."""
    new, newest, old = (run / name for name in (NEW, STATE, OLD))
    if _is_complete(new) and not newest.exists():  # the last save was interrupted between renames
        new.rename(newest)
    shutil.rmtree(new, ignore_errors=True)
    if newest.exists():  # before writing, so that the disk never holds three
        shutil.rmtree(old, ignore_errors=True)
    new.mkdir(parents=True)
    for name, module in modules.items():
        state = {k: v.detach().cpu().contiguous() for k, v in module.state_dict().items()}
        save_tensors(state, new / f"{name}.safetensors")
    for name, optimizer in optimizers.items():
        save_tensors(_flat(optimizer), new / f"optimizer-{name}.safetensors")
    (new / "progress.json").write_text(
        json.dumps(progress), encoding="utf-8"
    )  # last: it marks the folder complete
    if newest.exists():
        newest.rename(old)
    new.rename(newest)


def _is_complete(folder: Path) -> bool:
    return (folder / "progress.json").is_file()


def saved_state(run: Path) -> Path | None:
    """The newest undamaged folder to resume from; None if nothing was saved.

    ValueError names a damaged file if no state is undamaged.
    """
    first: ValueError | None = None
    for folder in (run / name for name in (STATE, NEW, OLD)):
        if _is_complete(folder):
            try:
                read_progress(folder)
                for path in folder.glob("*.safetensors"):
                    with _opened(path):
                        pass
                return folder
            except ValueError as error:
                first = first or error
    if first:
        raise first
    return None


def set_damaged_aside(run: Path, good: Path) -> None:
    """Rename a damaged state that is newer than `good`, which `saved_state` chose, with a warning:
    the next save must not take it for a good one."""
    newest = run / STATE
    if good != newest and newest.exists():
        shutil.rmtree(run / DAMAGED, ignore_errors=True)
        newest.rename(run / DAMAGED)
        logger.warning(
            "%s was damaged and is now %s; the run goes on from the state before it, at %.1f kimg",
            newest,
            DAMAGED,
            read_progress(good)["cur_nimg"] / 1000,
        )


def load_state(folder: Path, modules: dict[str, nn.Module], optimizers: dict) -> dict:
    """Restore in place; returns the saved progress. ValueError names a damaged file."""
    for name, module in modules.items():
        module.load_state_dict(_tensors(folder / f"{name}.safetensors"))
    for name, optimizer in optimizers.items():
        _restore(optimizer, _tensors(folder / f"optimizer-{name}.safetensors"))
    return read_progress(folder)


@contextmanager
def _opened(path: Path) -> Iterator[TensorFile]:
    """ValueError for a file that is cut off (its header says its length) or no safetensors."""
    try:
        with TensorFile(path) as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from None


def _tensors(path: Path) -> dict[str, Tensor]:
    with _opened(path) as file:
        return file.tensors()


def _damaged(path: Path, error: Exception) -> ValueError:
    return ValueError(
        f"the saved state {path} is damaged ({brief(error)}); begin another run with the last "
        f"model as init, {path.parent.parent / 'latest.safetensors'}"
    )


def read_progress(folder: Path) -> dict:
    """The `progress` of `save_state`; ValueError if it is damaged."""
    path = folder / "progress.json"
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, TypeError, ValueError) as error:
        raise _damaged(path, error) from None


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def _flat(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"{i}.{key}": value.detach().cpu().contiguous()
        for i, parameter in enumerate(_parameters(optimizer))
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def _restore(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    parameters = _parameters(optimizer)
    for name, value in tensors.items():
        index, key = name.split(".", 1)
        parameter = parameters[int(index)]
        # with the parameter's device and memory layout, which fused optimisers rely on
        like = torch.empty_like(parameter) if value.shape == parameter.shape else value
        optimizer.state[parameter][key] = like.copy_(value).to(parameter.device)
