"""RUN/stats.jsonl: one JSON object per tick."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

from ..storage.files import write_text

STATS = "stats.jsonl"


def append_stats(run: Path, line: Mapping[str, float]) -> None:
    with (run / STATS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def read_stats(run: Path) -> list[dict[str, float]]:
    """Every line so far, those of earlier sessions too."""
    log = run / STATS
    return (
        [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
        if log.is_file()
        else []
    )


def drop_stats_after(run: Path, kimg: float) -> None:
    """Remove later lines: a run that was killed may have logged more than it had saved."""
    log = run / STATS
    if not log.is_file():
        return
    lines = log.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if _kimg(line) <= kimg]
    if len(kept) < len(lines):
        write_text(log, "".join(kept))


def shown_loss(log: Mapping[str, float]) -> float:
    """The number of a step or tick that best shows progress: lower is better."""
    return log["feature_matching"] if "feature_matching" in log else log["d_loss"]


def _kimg(line: str) -> float:
    """Of a line of stats.jsonl; infinite for a line that was cut off."""
    try:
        return json.loads(line)["kimg"]
    except json.JSONDecodeError:
        return math.inf
