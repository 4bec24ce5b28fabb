"""What the pack costs inside ComfyUI: from a changed seed to its picture, and at the start.

    .venv/bin/python benchmarks/host.py [--runs 20] [--starts 3] [--json FILE]

Starts ComfyUI as `python3 run.py test` sets it up. Each run queues a prompt in which only a number
changed, and ends when the picture's entry is in the history. The starter workflow takes turns with
two graphs of core nodes, so that other work on the machine affects all of them: `trivial` makes and
saves a picture, `core_nodes` also enlarges it as the starter workflow does. The difference between
the starter workflow and `core_nodes` are the nodes of this pack. Each graph runs twice and the
second run counts: ComfyUI drops the results of other workflows, so the first run also loads the
model (`reloaded`). The import is timed by ComfyUI's loader in a process of its own, after an empty
pack: the first pack makes ComfyUI read its own settings. Processor time excludes waiting for other
work; for a clean figure set OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import psutil
from common import arguments, write_json

from studio.host import ROOT, Host, base_directory, find_host
from studio.server import Server, running
from studio.workflow import load_workflow, set_input, to_prompt

WARM = 3  # runs before any counts
POLL_SEC = 0.002
SIDE_PX, SCALE = 128, 2  # of the model's pictures; how much the starter workflow enlarges them
LOAD = """
import asyncio, json, sys, time
directory, base, *packs = sys.argv[1:]
sys.path[0] = directory
sys.argv = ["main.py", "--cpu", "--disable-api-nodes", "--base-directory", base]
import comfy.options
comfy.options.enable_args_parsing()
import utils.install_util, nodes, execution, server
times = []
for pack in packs:
    wall, processor = time.perf_counter(), time.process_time()
    assert asyncio.run(nodes.load_custom_node(pack)), pack
    times.append([time.perf_counter() - wall, time.process_time() - processor])
print(json.dumps(times))
"""


class Seconds(NamedTuple):
    wall: float
    processor: float


def core_graph(*, enlarge: bool) -> dict:
    """Makes a picture of the starter workflow's size from core nodes, and saves it."""
    side = SIDE_PX if enlarge else SIDE_PX * SCALE
    empty = {"width": side, "height": side, "batch_size": 1, "color": 0}
    scale = {"image": ["1", 0], "upscale_method": "bicubic", "scale_by": SCALE}
    save = {"images": ["2" if enlarge else "1", 0], "filename_prefix": "imagen/core"}
    graph = {
        "1": {"class_type": "EmptyImage", "inputs": empty},
        "2": {"class_type": "ImageScaleBy", "inputs": scale},
        "3": {"class_type": "SaveImage", "inputs": save},
    }
    return graph if enlarge else {key: graph[key] for key in ("1", "3")}


def run_seconds(server: Server, prompt: dict) -> Seconds:
    """From queueing to the picture: on the wall, and of the server's processor."""
    process = psutil.Process(server.process.pid)
    before, began = process.cpu_times(), time.perf_counter()
    prompt_id = server.queue(prompt)
    while not (entry := server.get(f"/api/history/{prompt_id}")):
        time.sleep(POLL_SEC)
    wall, after = time.perf_counter() - began, process.cpu_times()
    if not any(shown.get("images") for shown in entry[prompt_id]["outputs"].values()):
        raise SystemExit(f"no picture: {entry[prompt_id]['status']}")
    return Seconds(wall, after.user + after.system - before.user - before.system)


def latencies(server: Server, runs: int) -> dict[str, list[Seconds]]:
    """Every run of each graph, the graphs in turn."""
    workflow = load_workflow(ROOT / "example_workflows" / "02 Step by step.json")
    graphs = {
        "text_to_image": to_prompt(workflow, server.get("/object_info")),
        "core_nodes": core_graph(enlarge=True),
        "trivial": core_graph(enlarge=False),
    }
    found: dict[str, list[Seconds]] = {name: [] for name in ["reloaded", *graphs]}
    for number in range(WARM + runs):
        for name, graph in graphs.items():
            own = name == "text_to_image"
            changed = ("ImagenRandomLatent", "seed") if own else ("EmptyImage", "color")
            times = []
            for again in (0, 1):
                set_input(graph, *changed, 2 * number + again)
                times.append(run_seconds(server, graph))
            if number >= WARM:
                found[name].append(times[1])
                if own:
                    found["reloaded"].append(times[0])
    return found


def import_seconds(host: Host) -> Seconds:
    """What ComfyUI's loader takes for this pack."""
    base = base_directory()
    with tempfile.TemporaryDirectory() as empty:
        Path(empty, "__init__.py").write_text("NODE_CLASS_MAPPINGS = {}\n")
        Path(empty, "pyproject.toml").write_text('[project]\nname = "empty"\nversion = "1"\n')
        packs = [empty, base / "custom_nodes" / "imagen-gan"]
        command = [str(part) for part in (host.python, "-c", LOAD, host.directory, base, *packs)]
        done = subprocess.run(command, cwd=host.directory, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr.strip().splitlines()[-1])
    return Seconds(*json.loads(done.stdout.splitlines()[-1])[1])


def summary(found: dict[str, list[Seconds]], imports: list[Seconds]) -> dict:
    """The report."""
    median, least, processor = {}, {}, {}
    for name, times in found.items():
        median[name] = round(statistics.median(t.wall for t in times), 4)
        least[name] = round(min(t.wall for t in times), 4)
        processor[name] = round(statistics.mean(t.processor for t in times), 4)  # 10 ms a tick
    return {
        "median_sec": median,
        "least_sec": least,
        "processor_sec": processor,
        "over_trivial_sec": round(median["text_to_image"] - median["trivial"], 4),
        "own_sec": round(median["text_to_image"] - median["core_nodes"], 4),
        "own_processor_sec": round(processor["text_to_image"] - processor["core_nodes"], 4),
        "runs": len(found["trivial"]),
        "import_sec": [round(t.wall, 4) for t in imports],
        "import_processor_sec": [round(t.processor, 4) for t in imports],
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--runs", type=int, default=20, help="runs of each graph")
    parser.add_argument("--starts", type=int, default=3, help="starts of ComfyUI")
    args = parser.parse_args()
    host = find_host(ROOT / ".venv" / "bin" / "python")
    imports = [import_seconds(host) for _ in range(args.starts)]
    with running(host) as server:
        report = summary(latencies(server, args.runs), imports)
    for key, value in report.items():
        print(f"{key:22} {json.dumps(value)}")
    write_json(args.json, report)


if __name__ == "__main__":
    main()
