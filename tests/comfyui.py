"""What the end-to-end tests share: the prompts that they send to a running ComfyUI."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
from PIL import Image

from imagen_model.feedback.store import Store
from studio.server import Server
from studio.workflow import load_workflow, to_prompt

ROOT = Path(__file__).resolve().parent.parent
WORKFLOWS = sorted((ROOT / "example_workflows").glob("*.json"))

SAVED = sorted(Path(__file__).parent.glob("workflows/*/*.json"))  # as earlier versions saved them


def template(name: str) -> Path:
    """The file of a template: of "01 Text to image" for "text_to_image"."""
    (path,) = (p for p in WORKFLOWS if p.stem[3:].lower().replace(" ", "_") == name)
    return path


def example(server: Server, name: str) -> dict:
    """An example workflow as a prompt, with a seed that does not change."""
    workflow = load_workflow(template(name))
    return to_prompt(workflow, server.get("/object_info"))


def saved_pixels(server: Server, outputs: dict[str, dict]) -> list[np.ndarray]:
    """The pictures that a run saved or previewed, in the order of its nodes."""
    images = [image for key in sorted(outputs) for image in outputs[key].get("images", [])]
    return [pixels_of(server.image_path(image)) for image in images]


def pixels_of(path: Path) -> np.ndarray:
    """A picture, or the first frame of a film."""
    if path.suffix != ".mp4":
        return np.asarray(Image.open(path))
    with av.open(path) as film:
        return next(film.decode(video=0)).to_ndarray(format="rgb24")


def forget_ratings(server: Server) -> None:
    """What other tests rated is no longer learned from."""
    with Store(server.base / "user" / "default" / "imagen_ratings.sqlite") as store:
        store.clear()


def free(server: Server) -> None:
    """Make ComfyUI forget models and results, so that the next run is a new one."""
    server.post("/api/free", {"unload_models": True, "free_memory": True})
