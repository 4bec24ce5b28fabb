"""Short trainings by the command line whose numbers must stay as they are.

    python tests/golden_runs.py            compare with tests/fixtures/golden_runs.json
    python tests/golden_runs.py --write    write it anew, after a change that is meant

Forty steps of each objective and each stage on twelve emoji, one thread, one seed. On the processor
that the file names the numbers are the same to the last digit; on another one rounding differs, and
forty steps of two networks enlarge it.
"""

from __future__ import annotations

import json
import math
import platform
import sys
import tempfile
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from imagen_model.cli import main as imagen  # noqa: E402

GOLDEN = Path(__file__).parent / "fixtures" / "golden_runs.json"
SOURCES = Path(__file__).parent / "fixtures" / "emoji_sources"
UNLIKE = ("seconds", "img_per_sec")  # of the machine, not of the training
COMMON = ("--kimg", "0.32", "--batch", "8", "--device", "cpu")
SMALL = ("--kimg", "0.064", "--batch", "8", "--device", "cpu")
RUNS: dict[str, tuple[str, ...]] = {
    **{
        name: (*COMMON, "--objective", name)
        for name in ("hinge", "rpgan", "non-saturating", "minimax", "wgan-gp")
    },
    "pretrain": (*COMMON, "--stage", "pretrain"),
    "another seed": (*COMMON, "--seed", "3", "--lr", "0.001"),
    "text after pretrain": (*COMMON, "--init", "{pretrain}"),
    "accumulate": (*SMALL, "--accumulate", "2", "--objective", "rpgan"),
    "exact": (*SMALL, "--objective", "rpgan", "--gamma", "2", "--penalty", "exact"),
    "unroll": (*SMALL, "--unroll", "2"),
    "save memory": (*SMALL, "--save-memory"),
    "dcgan": ("--preset", "dcgan", "--kimg", "0.16", "--batch", "16", "--device", "cpu"),
    "grown": (*SMALL, "--init", "{hinge}", "--resolution", "64"),
}


def processor() -> str:
    """The name of this machine's processor, with what torch runs on it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if sys.platform == "linux" else []
    name = next((x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")), "")
    level = torch.backends.cpu.get_cpu_capability()
    return f"{name or platform.processor()}, {level}, torch {torch.__version__}"


def run_all(folder: Path) -> dict[str, list[dict[str, float]]]:
    """Name -> the lines of stats.jsonl, without what depends on the machine's speed."""
    torch.set_num_threads(1)
    data = folder / "emoji"
    command = ["data", "emoji", "--source", str(SOURCES), "--resolution", "64", "--out", str(data)]
    assert imagen(command) == 0
    results = {}
    for name, options in RUNS.items():
        models = {run: str(folder / run / "latest.safetensors") for run in RUNS}
        out = folder / name
        typed = [option.format(**models) for option in options]
        assert imagen(["train", str(data), "--out", str(out), *typed]) == 0, name
        lines = map(json.loads, (out / "stats.jsonl").read_text().splitlines())
        results[name] = [{k: v for k, v in x.items() if k not in UNLIKE} for x in lines]
    return results


def differences(found: dict, golden: dict, *, rel: float) -> list[str]:
    """A line for each run and number that differs by more than `rel`."""
    said = []
    for name, lines in golden.items():
        if len(found[name]) != len(lines):
            said.append(f"{name}: {len(found[name])} lines, {len(lines)} before")
        for line, (new, old) in enumerate(zip(found[name], lines, strict=False)):
            if new.keys() != old.keys():
                said.append(f"{name} line {line}: {sorted(new.keys() ^ old.keys())}")
            said += [
                f"{name} line {line} {key}: {new[key]!r}, {old[key]!r} before"
                for key in new.keys() & old.keys()
                if not math.isclose(new[key], old[key], rel_tol=rel, abs_tol=rel)
            ]
    return said


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        results = run_all(Path(scratch))
    if "--write" in sys.argv:
        content = {"processor": processor(), "runs": results}
        GOLDEN.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    else:
        golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
        print(processor(), "| written on", golden["processor"])
        changed = differences(results, golden["runs"], rel=0.0)
        print("\n".join(changed) or "the same to the last digit")
        sys.exit(bool(changed))
