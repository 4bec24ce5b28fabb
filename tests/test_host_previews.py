"""Previews go to the page that runs the prompt, and to nobody else."""

from __future__ import annotations

import asyncio
import json

import aiohttp
import pytest
from every_node import SEEDS, graph, needed, node

from studio.server import Server

pytestmark = pytest.mark.comfyui
PAGE = "a-page"
METADATA = {"type": "feature_flags", "data": {"supports_preview_metadata": True}}


def inversion(server: Server) -> dict:
    """A run that was not made before, with a node that has pictures to show on its way."""
    nodes = graph(server)
    nodes["latent"]["inputs"]["seed"] = next(SEEDS)
    nodes["inverted"]["inputs"]["steps"] = 60
    nodes["show"] = node(server, "PreviewAny", source=["inverted", 0])
    return needed(nodes, "show")


async def previews(server: Server, runner: str | None) -> list[bytes]:
    """What an open page gets to see while `runner` (None: nobody in particular) runs a prompt."""
    seen: list[bytes] = []
    socket = f"{server.address}/ws?clientId={PAGE}"
    body = {"prompt": inversion(server)} | ({"client_id": runner} if runner else {})
    async with aiohttp.ClientSession() as session, session.ws_connect(socket) as page:
        await page.send_json(METADATA)
        async with session.post(f"{server.address}/api/prompt", json=body) as answer:
            prompt_id = (await answer.json())["prompt_id"]
        while True:
            try:
                message = await page.receive(timeout=0.5)
            except asyncio.TimeoutError:
                if server.get(f"/api/history/{prompt_id}"):
                    break
                continue
            if message.type == aiohttp.WSMsgType.BINARY:
                seen.append(message.data)
    status = server.get(f"/api/history/{prompt_id}")[prompt_id]["status"]
    assert status["status_str"] == "success"
    return seen


def test_the_page_that_runs_sees_its_node_s_pictures_on_their_way(host):
    seen = asyncio.run(previews(host, PAGE))
    assert seen
    kind, length = (int.from_bytes(seen[0][at : at + 4], "big") for at in (0, 4))
    assert kind == 4  # a picture with what it belongs to
    assert json.loads(seen[0][8 : 8 + length])["node_id"] == "inverted"


@pytest.mark.parametrize("runner", [None, "a-script"])
def test_a_run_that_nobody_looks_at_makes_no_previews(host, runner):
    assert asyncio.run(previews(host, runner)) == []
