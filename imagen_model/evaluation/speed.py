"""How long a picture takes on this machine, from an encoded prompt to its pixels."""

from __future__ import annotations

import platform
import statistics
import time
from pathlib import Path

import torch

from ..model import Model
from .results import SpeedResult

REPEATS = {1: 9, 32: 3}  # batch size -> timed calls


def measure_speed(model: Model) -> SpeedResult:
    """Median milliseconds an image at batch 1 and 32, and what they were measured on."""
    ms = {}
    for batch, repeats in REPEATS.items():
        condition, latent = model.encode_text([""] * batch), model.latent(range(batch))
        model.draw(condition, latent)  # warm
        seconds = []
        for _ in range(repeats):
            started = time.perf_counter()
            model.draw(condition, latent)  # ends on the CPU, so a GPU has finished
            seconds.append(time.perf_counter() - started)
        ms[batch] = 1000 * statistics.median(seconds) / batch
    return SpeedResult(ms[1], ms[32], device_name(model.device), torch.get_num_threads())


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(x.split(":", 1)[1].strip() for x in lines if x.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
