"""A resumable training state: a folder of safetensors and JSON that is replaced atomically."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from ..storage.files import read_tensors, save_tensors

STATE, NEW, OLD = "state", "state.new", "state.old"


def save_state(run: Path, modules: dict[str, nn.Module], optimizers: dict, progress: dict) -> None:
    """Write `run`/state; a complete one exists under one of three names at any time."""
    new = run / NEW
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    for name, module in modules.items():
        state = {k: v.detach().cpu().contiguous() for k, v in module.state_dict().items()}
        save_tensors(state, new / f"{name}.safetensors")
    for name, optimizer in optimizers.items():
        save_tensors(_flat(optimizer), new / f"optimizer-{name}.safetensors")
    (new / "progress.json").write_text(
        json.dumps(progress), encoding="utf-8"
    )  # last: it marks the folder complete
    shutil.rmtree(run / OLD, ignore_errors=True)
    if (run / STATE).exists():
        (run / STATE).rename(run / OLD)
    new.rename(run / STATE)
    shutil.rmtree(run / OLD, ignore_errors=True)


def saved_state(run: Path) -> Path | None:
    """The folder to resume from, or None."""
    for name in (STATE, NEW, OLD):
        if (run / name / "progress.json").is_file():
            return run / name
    return None


def load_state(folder: Path, modules: dict[str, nn.Module], optimizers: dict) -> dict:
    """Restore in place; returns the saved progress. ValueError names a damaged file."""
    for name, module in modules.items():
        module.load_state_dict(_tensors(folder / f"{name}.safetensors"))
    for name, optimizer in optimizers.items():
        _restore(optimizer, _tensors(folder / f"optimizer-{name}.safetensors"))
    return read_progress(folder)


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        return read_tensors(path)[0]
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> ValueError:
    return ValueError(
        f"the saved state {path} is damaged ({error}); begin another run with the last model as "
        f"init, {path.parent.parent / 'latest.safetensors'}"
    )


def read_progress(folder: Path) -> dict:
    """The `progress` of `save_state`; ValueError if it is damaged."""
    path = folder / "progress.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
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
