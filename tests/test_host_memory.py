"""Many runs in a row, and what ComfyUI does with the models' memory."""

from __future__ import annotations

import contextlib
import logging
import random
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from comfyui import free, saved_pixels
from every_node import graph, models, needed, node

from studio.server import Server, StudioError

pytestmark = pytest.mark.comfyui
logger = logging.getLogger(__name__)
RUNS, WARM = 200, 20
PROMPTS, QUEUED = 10_000, 100  # of the long run; so many wait at a time
MAX_GROWTH_MB = 50


def resident_mb(server: Server) -> float:
    """Resident memory of the server's process."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def best_of_two(server: Server, model: str, seed: int) -> dict:
    """Draw two, score them, show the better one."""
    nodes = graph(server, model=model)
    nodes["latent"]["inputs"]["seed"] = seed
    nodes["show"] = node(server, "PreviewImage", images=["best", 0])
    return needed(nodes, "show")


def started(server: Server, prompt_id: str) -> int:
    """When a finished prompt began, in milliseconds; asserts that it went well."""
    status = server.get(f"/api/history/{prompt_id}")[prompt_id]["status"]
    assert status["status_str"] == "success"
    return dict(status["messages"])["execution_start"]["timestamp"]


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_200_queued_prompts_run_in_order_and_memory_stays_flat(host):
    kinds = [*models()]
    queued = [host.queue(best_of_two(host, kinds[i % len(kinds)], 5000 + i)) for i in range(RUNS)]
    host.wait_for(queued[WARM - 1])
    warm = resident_mb(host)
    peak = warm
    while not host.get(f"/api/history/{queued[-1]}"):
        peak = max(peak, resident_mb(host))
        time.sleep(0.5)
    end = resident_mb(host)
    logger.info("%d runs: %.0f MB; then up to %.0f; %d: %.0f", WARM, warm, peak, RUNS, end)
    times = [started(host, prompt_id) for prompt_id in queued]
    assert times == sorted(times) and len(set(queued)) == RUNS
    assert end - warm < MAX_GROWTH_MB


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_10000_prompts_with_cancels_neither_grow_nor_drift(host):
    rng, kinds = random.Random(0), [*models()]
    first = {kind: saved_pixels(host, host.run(best_of_two(host, kind, 1))) for kind in kinds}
    resident, cancelled = [], 0
    for begin in range(0, PROMPTS, QUEUED):
        kind = rng.choice(kinds)  # a load keeps a little memory; the cause is not known
        seeds = range(10_000 + begin, 10_000 + begin + QUEUED)
        queued = [host.queue(best_of_two(host, kind, seed)) for seed in seeds]
        time.sleep(rng.uniform(0, 2))
        host.post("/api/interrupt", {})
        with contextlib.suppress(StudioError):  # the last one may be the one that was cancelled
            host.wait_for(queued[-1])
        done = host.get("/api/history")
        outcomes = [done[prompt_id]["status"] for prompt_id in queued]
        failed = [dict(status["messages"]) for status in outcomes if not status["completed"]]
        assert all("execution_interrupted" in messages for messages in failed), failed
        cancelled += len(failed)
        host.post("/api/history", {"clear": True})
        resident.append(resident_mb(host))
        logger.info("%d prompts, %d cancelled: %.0f MB", begin + QUEUED, cancelled, resident[-1])
    assert resident[-1] - resident[PROMPTS // QUEUED // 10] < MAX_GROWTH_MB
    for kind, pictures in first.items():
        again = saved_pixels(host, host.run(best_of_two(host, kind, 1)))
        assert all((a == b).all() for a, b in zip(pictures, again, strict=True))


def test_the_same_run_again_executes_no_node(host):
    prompt = best_of_two(host, "rgba", 4000)
    first = host.run(prompt)
    entry = host.wait_for(host.queue(prompt))
    assert set(dict(entry["status"]["messages"])["execution_cached"]["nodes"]) == set(prompt)
    assert entry["outputs"]["show"] == first["show"]


def loads(server: Server, seed: int) -> int:
    """How many models ComfyUI's memory management takes up for a run."""

    def said() -> int:
        return server.log.read_text(encoding="utf-8", errors="replace").count("Requested to load")

    before = said()
    server.run(best_of_two(server, "rgba", seed))
    return said() - before


def test_a_model_stays_loaded_until_free_unloads_it(host):
    loads(host, 4100)
    assert [loads(host, seed) for seed in (4101, 4102)] == [0, 0]
    host.post("/api/free", {"unload_models": True})
    # ComfyUI unloads between two runs: the next one may still come first
    assert any(loads(host, seed) == 1 for seed in (4103, 4104))


def test_an_unloaded_model_draws_the_same_when_it_is_needed_again(host):
    def best(seed: int) -> np.ndarray:
        prompt["latent"]["inputs"]["seed"] = seed
        (picture,) = saved_pixels(host, {"show": host.run(prompt)["show"]})
        return picture

    prompt = best_of_two(host, "rgba", 4001)
    first = best(4001)
    host.post("/api/free", {"unload_models": True})  # the results stay
    best(4002)
    free(host)
    assert (best(4001) == first).all()


def test_a_model_is_not_loaded_again_after_another_workflow(host):
    loads(host, 4200)
    image = node(host, "EmptyImage", width=8, height=8, batch_size=1, color=0)
    host.run({"image": image, "show": node(host, "PreviewImage", images=["image", 0])})
    assert loads(host, 4201) == 0
