"""What the pack costs inside ComfyUI: from a changed seed to its picture, and at the start.

    .venv/bin/python benchmarks/host.py [--runs 20] [--starts 3] [--json FILE]

Starts ComfyUI as `python3 run.py test` sets it up. Each run queues a prompt in which only a number
has changed, and ends when the picture's entry is in the history; runs of the starter workflow take
turns with those of a graph of core nodes alone, so that what else the machine does meets both. The
import is that of ComfyUI's loader in a process of its own, after an empty pack: the first pack
makes ComfyUI read its own settings' library, whoever it is. Processor time says what other work
hides.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from studio.host import ROOT, Host, base_directory, find_host
from studio.server import Server, running
from studio.workflow import load_workflow, set_input, to_prompt

WARM = 3  # runs before any counts
POLL_SEC = 0.002
SIDE = 256  # of the picture that both graphs save
LOAD = """
import asyncio, json, sys, time
directory, base, *packs = sys.argv[1:]
sys.path[0] = directory
sys.argv = ["main.py", "--cpu", "--disable-api-nodes", "--base-directory", base]
import comfy.options
comfy.options.enable_args_parsing()
import utils.install_util, nodes, execution, server
said = []
for pack in packs:
    wall, processor = time.perf_counter(), time.process_time()
    assert asyncio.run(nodes.load_custom_node(pack)), pack
    said.append([time.perf_counter() - wall, time.process_time() - processor])
print(json.dumps(said))
"""


def starter(server: Server) -> dict:
    workflow = load_workflow(ROOT / "example_workflows" / "text_to_image.json")
    return to_prompt(workflow, server.get("/object_info"))


def trivial() -> dict:
    empty = {"width": SIDE, "height": SIDE, "batch_size": 1, "color": 0}
    return {
        "1": {"class_type": "EmptyImage", "inputs": empty},
        "2": {
            "class_type": "SaveImage",
            "inputs": {"images": ["1", 0], "filename_prefix": "imagen/trivial"},
        },
    }


def seconds(server: Server, prompt: dict) -> float:
    """From queueing to the picture; raises if there is none."""
    began = time.perf_counter()
    prompt_id = server.queue(prompt)
    while not (entry := server.get(f"/api/history/{prompt_id}")):
        time.sleep(POLL_SEC)
    took = time.perf_counter() - began
    if not any(shown.get("images") for shown in entry[prompt_id]["outputs"].values()):
        raise SystemExit(f"no picture: {entry[prompt_id]['status']}")
    return took


def latencies(server: Server, runs: int) -> dict[str, list[float]]:
    """Seconds of each run, the two graphs in turns."""
    ours, core = starter(server), trivial()
    found: dict[str, list[float]] = {"text_to_image": [], "trivial": []}
    for number in range(WARM + runs):
        set_input(ours, "ImagenRandomLatent", "seed", number)
        set_input(core, "EmptyImage", "color", number)
        for name, prompt in (("text_to_image", ours), ("trivial", core)):
            took = seconds(server, prompt)
            if number >= WARM:
                found[name].append(took)
    return found


def import_seconds(host: Host) -> tuple[float, float]:
    """Wall and processor time of ComfyUI's loader for this pack."""
    base = base_directory()
    with tempfile.TemporaryDirectory() as empty:
        Path(empty, "__init__.py").write_text("NODE_CLASS_MAPPINGS = {}\n")
        Path(empty, "pyproject.toml").write_text('[project]\nname = "empty"\nversion = "1"\n')
        packs = [empty, str(base / "custom_nodes" / "imagen-gan")]
        command = [host.python, "-c", LOAD, host.directory, base, *packs]
        done = subprocess.run(
            list(map(str, command)), cwd=host.directory, capture_output=True, text=True
        )
    if done.returncode:
        raise SystemExit(done.stderr.strip().splitlines()[-1])
    _, (wall, processor) = json.loads(done.stdout.splitlines()[-1])
    return wall, processor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=20, help="runs of each graph")
    parser.add_argument("--starts", type=int, default=3, help="starts of ComfyUI")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    host = find_host(ROOT / ".venv" / "bin" / "python")
    imports = [import_seconds(host) for _ in range(args.starts)]
    with running(host) as server:
        found = latencies(server, args.runs)
    medians = {name: statistics.median(times) for name, times in found.items()}
    report = {
        "median_sec": medians,
        "difference_sec": medians["text_to_image"] - medians["trivial"],
        "least_sec": {name: min(times) for name, times in found.items()},
        "runs": args.runs,
        "import_sec": [wall for wall, _ in imports],
        "import_processor_sec": [processor for _, processor in imports],
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }
    for name, median in medians.items():
        print(f"{name:14} median {median:.3f} s, least {report['least_sec'][name]:.3f} s")
    print(f"difference     {report['difference_sec']:.3f} s")
    for wall, processor in imports:
        print(f"import         {wall:.3f} s, processor {processor:.3f} s")
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
