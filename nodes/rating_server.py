"""Folders for ratings and adapters, and the HTTP routes behind the buttons of Imagen Rate.

The pictures of a rated batch stay in memory while ComfyUI runs. A click is therefore stored with
the recipe of its picture, even where the graph has changed since.
"""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import folder_paths

from ..imagen_model.feedback.rating_syntax import parse_ratings
from ..imagen_model.feedback.reward import enough_for
from ..imagen_model.feedback.store import Picture, Store, batch_id
from ..imagen_model.feedback.verdicts import verdicts
from .host import is_file_name, listed_path, register_model_folder
from .inputs import NONE

ADAPTERS = "imagen_adapters"  # models/imagen_adapters
MAX_BATCHES = 64
BATCHES: OrderedDict[str, list[Picture]] = OrderedDict()


def open_store() -> Store:
    """The user's ratings, in imagen_ratings.sqlite in ComfyUI's user folder."""
    return Store(Path(folder_paths.get_user_directory()) / "default" / "imagen_ratings.sqlite")


def adapter_names() -> list[str]:
    register_model_folder(ADAPTERS)
    return folder_paths.get_filename_list(ADAPTERS)


def adapter_path(name: str) -> Path:
    """The file of a listed adapter. The ValueError for any other lists what there is."""
    return listed_path(ADAPTERS, name, adapter_names(), "adapter")


def new_adapter_path(name: str) -> Path:
    """The path for a new adapter called `name`, in the folder that the loader lists."""
    if not is_file_name(name) or name == NONE:
        raise ValueError(f"name is {name!r}; expected letters, digits, spaces, - and _")
    register_model_folder(ADAPTERS)
    return Path(folder_paths.get_folder_paths(ADAPTERS)[0]) / f"{name}.safetensors"


def remember(pictures: list[Picture]) -> str:
    """Keep a batch for later clicks; returns its id."""
    key = batch_id(pictures)
    BATCHES[key] = pictures
    BATCHES.move_to_end(key)
    while len(BATCHES) > MAX_BATCHES:
        BATCHES.popitem(last=False)
    return key


def batch(key: str) -> list[Picture]:
    if key not in BATCHES:
        raise ValueError("these pictures are no longer known; run the graph again, then rate")
    return BATCHES[key]


def ratings(key: str) -> dict[str, Any]:
    """What is stored of a remembered batch."""
    with open_store() as store:
        return answer(store, [], batch(key))


def rate(key: str, clicks: str, instead_of: list[str]) -> dict[str, Any]:
    """Store clicks on a remembered batch in place of other ratings; returns when it is on disk."""
    pictures = batch(key)
    with open_store() as store:
        ids = store.add(parse_ratings(clicks, pictures), instead_of=instead_of)
        return answer(store, ids, pictures)


def forget(ids: list[str], key: str | None) -> dict[str, Any]:
    """Delete ratings, those that are still there."""
    with open_store() as store:
        store.add([], instead_of=ids)
        return answer(store, [], [] if key is None else batch(key))


def answer(store: Store, ids: list[str], pictures: list[Picture]) -> dict[str, Any]:
    """What a route returns: new ids, the number of ratings, what they are enough for, and for each
    picture of a batch the ids behind its buttons."""
    return {
        "ids": ids,
        "count": store.count(),
        "text": enough_for(store.count()),
        "verdicts": verdicts(store, pictures),
    }


def add_routes() -> None:
    """POST /imagen/ratings {batch}, /imagen/rate {batch, clicks, instead_of?} and
    /imagen/forget {ids, batch?}, where there is a server."""
    from aiohttp import web
    from server import PromptServer

    server = getattr(PromptServer, "instance", None)
    if server is None:
        return

    async def respond(request: web.Request, work: Callable[[Any], dict[str, Any]]) -> web.Response:
        try:
            result = await asyncio.to_thread(work, await request.json())
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            return web.json_response({"error": {"message": str(error)}}, status=400)
        except OSError as error:  # locked, read-only or a full disk
            return web.json_response({"error": {"message": str(error)}}, status=503)
        return web.json_response(result)

    def rate_as_said(said: Any) -> dict[str, Any]:
        instead_of = [str(rating_id) for rating_id in said.get("instead_of", ())]
        return rate(str(said["batch"]), json.dumps(said["clicks"]), instead_of)

    def forget_as_said(said: Any) -> dict[str, Any]:
        return forget([str(rating_id) for rating_id in said["ids"]], said.get("batch"))

    @server.routes.post("/imagen/ratings")
    async def _ratings(request: web.Request) -> web.Response:
        return await respond(request, lambda said: ratings(str(said["batch"])))

    @server.routes.post("/imagen/rate")
    async def _rate(request: web.Request) -> web.Response:
        return await respond(request, rate_as_said)

    @server.routes.post("/imagen/forget")
    async def _forget(request: web.Request) -> web.Response:
        return await respond(request, forget_as_said)
