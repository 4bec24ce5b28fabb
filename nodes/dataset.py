"""Nodes that write and read folders of pictures."""

from typing import Any

import torch
from comfy.cli_args import args as host_options
from comfy_api.latest import io, ui
from torch import Tensor

from ..imagen_model.data.dataset import load_pictures
from ..imagen_model.data.folder import read_items
from ..imagen_model.data.prepare.labelled import append_labelled, chosen, folder_state
from ..imagen_model.storage.provenance import model_facts
from .convert import to_image_and_mask, to_pictures
from .folders import output_folder, picture_folder
from .host import (
    HostedModel,
    stage_progress,
    stop_if_cancelled,
    to_intermediate,
)
from .inputs import MASK_OUTPUT, MAX_SHUFFLE_SEED
from .types import TRAIN, ImagenLatent, ImagenModel, LatentLink, found_by

MAX_PICTURES = 4096
MAX_PX = 2**26  # in one batch: 1 GB


def facts_of(
    model: list[HostedModel] | None, latent: list[LatentLink] | None, style: str
) -> list[dict[str, Any]]:
    """The origin that each file records: the model, and the seed where it is known."""
    if not model:
        return []
    facts = model_facts(model[0].model.name, model[0].model.card) | {"style": style or None}
    seeds = [seed for link in latent or () for seed in link["seeds"]]
    return [facts | {"seed": seed} for seed in seeds] or [facts]


class ImagenSaveDataset(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImagenSaveDataset",
            display_name="Imagen Save Dataset",
            category=TRAIN,
            **found_by("dataset", "training data", "export pictures", "labels", "数据集"),
            description="Adds labelled pictures to a data set that Imagen and others train on.",
            is_output_node=True,
            is_input_list=True,
            inputs=[
                io.Image.Input("image", tooltip="The pictures: a batch, or a list of any sizes."),
                io.String.Input(
                    "captions",
                    default="",
                    multiline=True,
                    tooltip="What the pictures show: a line for all, a line each, or a list.",
                ),
                io.String.Input(
                    "folder",
                    default="imagen_datasets/my-data",
                    tooltip="The data set's folder, inside ComfyUI's output directory.",
                ),
                io.String.Input(
                    "style",
                    default="",
                    tooltip="Noted with each picture, so that a model learns it; may be empty.",
                ),
                io.Mask.Input(
                    "mask", optional=True, tooltip="Their transparency, kept in the files."
                ),
                ImagenModel.Input(
                    "model", optional=True, tooltip="What drew them; each file names it."
                ),
                ImagenLatent.Input(
                    "latent", optional=True, tooltip="Their seeds, which each file then has."
                ),
            ],
            hidden=[io.Hidden.prompt],
            outputs=[
                io.String.Output(display_name="folder", tooltip="The data set's full path."),
                io.Int.Output(display_name="count", tooltip="How many pictures it holds now."),
            ],
        )

    @classmethod
    def execute(
        cls, image: list[Tensor], captions: list[str], folder: list[str], style: list[str],
        mask: list[Tensor] | None = None, model: list[HostedModel] | None = None,
        latent: list[LatentLink] | None = None,
    ) -> io.NodeOutput:  # fmt: skip
        root, label = output_folder(folder[0]), style[0].strip()
        masks = mask or (None,)
        pictures = [
            picture
            for i, batch in enumerate(image)
            for picture in to_pictures(batch, masks[min(i, len(masks) - 1)])
        ]
        lines = captions if len(captions) > 1 else captions[0].strip().splitlines() or [""]
        records_origin = not host_options.disable_metadata
        written = append_labelled(
            root,
            pictures,
            lines,
            style=label,
            facts=facts_of(model, latent, label) if records_origin else (),
            graph=cls.hidden.prompt if records_origin else None,
            progress=stage_progress("writing"),
        )
        count = len(read_items(root))
        text = f"{len(written)} pictures added to {root}, which holds {count} now"
        return io.NodeOutput(str(root), count, ui=ui.PreviewText(text))


class ImagenLoadImageFolder(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImagenLoadImageFolder",
            display_name="Imagen Load Image Folder",
            category=TRAIN,
            **found_by("load images", "batch load", "directory", "dataset"),
            description="Reads the pictures of a folder as one batch, with masks and captions.",
            inputs=[
                io.String.Input(
                    "folder",
                    default="",
                    tooltip="A folder in ComfyUI's input or output directory.",
                ),
                io.Int.Input(
                    "resolution",
                    default=128,
                    min=16,
                    max=2048,
                    tooltip="Pixels a side; transparent pictures are padded, others cut square.",
                ),
                io.Int.Input(
                    "limit",
                    default=64,
                    min=1,
                    max=MAX_PICTURES,
                    tooltip="How many pictures at most.",
                ),
                io.Int.Input(
                    "shuffle_seed",
                    default=-1,
                    min=-1,
                    max=MAX_SHUFFLE_SEED,
                    tooltip="-1: in the order of the folder; else in another order a seed.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="The pictures, straight colour."),
                MASK_OUTPUT,
                io.String.Output(
                    display_name="captions",
                    is_output_list=True,
                    tooltip="A list, one caption a picture; empty where there is none.",
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, folder: str | None = None, **others: object) -> str | None:
        """Changed files are read again. A linked folder is known only during the run."""
        return None if folder is None else folder_state(picture_folder(folder), stop_if_cancelled)

    @classmethod
    def execute(cls, folder: str, resolution: int, limit: int, shuffle_seed: int) -> io.NodeOutput:
        seed = None if shuffle_seed < 0 else shuffle_seed
        items = chosen(read_items(picture_folder(folder)), limit, shuffle_seed=seed)
        most = MAX_PX // resolution**2
        if len(items) > most:
            raise ValueError(
                f"{len(items)} pictures of {resolution} x {resolution} are too many at once; "
                f"expected {most} at most: lower limit or resolution"
            )
        read = load_pictures(
            items, resolution=resolution, channels=4, progress=stage_progress("reading")
        )
        image, mask = to_image_and_mask(read.batch(torch.arange(len(read))), "none")
        captions = [item.text for item in read.items]
        return io.NodeOutput(*to_intermediate(image, mask), captions)


NODES = [ImagenSaveDataset, ImagenLoadImageFolder]
