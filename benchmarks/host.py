"""What the pack costs inside ComfyUI: from a changed seed to its picture, and at the start.

    .venv/bin/python benchmarks/host.py [--runs 20] [--starts 3] [--json FILE]

Starts ComfyUI as `python3 run.py test` sets it up. Each run queues a prompt in which only a number
has changed, and ends when the picture's entry is in the history; the starter workflow takes turns
with two graphs of core nodes, so that what else the machine does meets all: the trivial one makes
and saves a picture, the other also enlarges it as the starter workflow does. What the starter
workflow takes over that one are our nodes. Each is run twice and the second counts: ComfyUI forgets
what another workflow left, so the first also loads the model (`reloaded`). The import is that of
ComfyUI's loader in a process of its own, after an empty pack: the first pack makes ComfyUI read its
own settings' library, whoever it is. Processor time says what other work hides; it is clean with
OMP_NUM_THREADS=1.
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

import psutil

from studio.host import ROOT, Host, base_directory, find_host
from studio.server import Server, running
from studio.workflow import load_workflow, set_input, to_prompt

WARM = 3  # runs before any counts
POLL_SEC = 0.002
SIDE_PX, SCALE = 32, 8  # of the model's pictures; how much the starter workflow enlarges them
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


def seconds(server: Server, prompt: dict) -> tuple[float, float]:
    """From queueing to the picture, wall and the server's processor; raises if there is none."""
    process = psutil.Process(server.process.pid)
    before, began = process.cpu_times(), time.perf_counter()
    prompt_id = server.queue(prompt)
    while not (entry := server.get(f"/api/history/{prompt_id}")):
        time.sleep(POLL_SEC)
    wall, after = time.perf_counter() - began, process.cpu_times()
    if not any(shown.get("images") for shown in entry[prompt_id]["outputs"].values()):
        raise SystemExit(f"no picture: {entry[prompt_id]['status']}")
    return wall, after.user + after.system - before.user - before.system


def latencies(server: Server, runs: int) -> dict[str, list[tuple[float, float]]]:
    """Seconds of each run, wall and processor, the graphs in turns."""
    ours, enlarged, trivial = starter(server), core_graph(enlarge=True), core_graph(enlarge=False)
    graphs = {"text_to_image": ours, "core_nodes": enlarged, "trivial": trivial}
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ["reloaded", *graphs]}
    for number in range(WARM + runs):
        for name, graph in graphs.items():
            times = []
            for again in (0, 1):
                changed = (
                    ("ImagenRandomLatent", "seed") if graph is ours else ("EmptyImage", "color")
                )
                set_input(graph, *changed, 2 * number + again)
                times.append(seconds(server, graph))
            if number >= WARM:
                found[name].append(times[1])
                if graph is ours:
                    found["reloaded"].append(times[0])
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
    medians, processor, least = (
        {name: pick(times) for name, times in found.items()}
        for pick in (
            lambda times: statistics.median(wall for wall, _ in times),
            lambda times: statistics.mean(cpu for _, cpu in times),  # a clock of 10 ms
            lambda times: min(wall for wall, _ in times),
        )
    )
    report = {
        "median_sec": medians,
        "least_sec": least,
        "processor_sec": processor,
        "over_trivial_sec": medians["text_to_image"] - medians["trivial"],
        "own_sec": medians["text_to_image"] - medians["core_nodes"],
        "own_processor_sec": processor["text_to_image"] - processor["core_nodes"],
        "runs": args.runs,
        "import_sec": [wall for wall, _ in imports],
        "import_processor_sec": [cpu for _, cpu in imports],
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }
    for name, median in medians.items():
        print(
            f"{name:14} median {median:.3f} s, least {least[name]:.3f} s, "
            f"processor {processor[name]:.3f} s"
        )
    print(f"over trivial   {report['over_trivial_sec']:.3f} s")
    print(
        f"our nodes      {report['own_sec']:.3f} s, processor {report['own_processor_sec']:.3f} s"
    )
    for wall, cpu in imports:
        print(f"import         {wall:.3f} s, processor {cpu:.3f} s")
    print(f"load average   {report['load_average']}")
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
