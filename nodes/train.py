"""Nodes that train a model."""

import math

import comfy.model_management as management
import torch
from comfy_api.latest import io, ui

from ..imagen_model import load
from ..imagen_model.config import PRESET_DIMS
from .folders import picture_folder
from .host import (
    HostedModel,
    TrainingProgress,
    model_names,
    model_path,
    stage_progress,
    tell_of_new_files,
    training_run,
    validate_name,
)
from .inputs import MAX_TRAINING_SEED, NONE
from .types import TRAIN, ImagenModel, found_by

RESOLUTIONS = {"auto": None, "32": 32, "64": 64, "128": 128, "256": 256, "512": 512}


class ImagenTrain(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImagenTrain",
            display_name="Imagen Train",
            category=TRAIN,
            **found_by(
                "train model", "train gan", "finetune", "fine-tune", "own model", "训练模型"
            ),
            description="Trains a model on a folder of pictures and lists it in models/imagen.",
            is_output_node=True,
            is_experimental=True,
            inputs=[
                io.String.Input(
                    "folder",
                    default="",
                    tooltip="Pictures: a folder in ComfyUI's input or output directory.",
                ),
                io.String.Input(
                    "name",
                    default="my-model",
                    tooltip="Of the model. A run of this name goes on where it stopped.",
                ),
                io.Float.Input(
                    "minutes",
                    default=10.0,
                    min=0.01,
                    max=10000.0,
                    step=1.0,
                    tooltip="Of training, in all; more than before: the run goes on.",
                ),
                io.Combo.Input(
                    "preset",
                    options=list(PRESET_DIMS),
                    default="nano",
                    tooltip="Size: nano for a CPU and 32 px, small and larger for a GPU.",
                ),
                io.Combo.Input(
                    "init",
                    options=[NONE, *model_names()],
                    default=NONE,
                    tooltip="A trained model to begin with; its size then counts, not the preset.",
                ),
                io.Combo.Input(
                    "resolution",
                    options=list(RESOLUTIONS),
                    default="auto",
                    tooltip="Pixels a side; auto: init's, or 32 for nano, else 64. "
                    "With more than init's it grows.",
                ),
                io.Int.Input(
                    "training_seed",  # "seed" would get a widget that changes it at every run
                    default=0,
                    min=0,
                    max=MAX_TRAINING_SEED,
                    tooltip="Of the first weights and of the order of pictures.",
                ),
            ],
            outputs=[
                ImagenModel.Output(display_name="model", tooltip="The trained model."),
                io.LossMap.Output(
                    display_name="loss", tooltip="One number a step, for Plot Loss Graph."
                ),
                io.String.Output(display_name="file", tooltip="Where the model is."),
            ],
        )

    @classmethod
    def validate_inputs(cls, init: str = NONE) -> bool | str:
        """Replaces ComfyUI's list check: an older version may have a successor."""
        return init == NONE or validate_name(model_path, init)

    @classmethod
    def execute(
        cls, folder: str, name: str, minutes: float, preset: str, init: str, resolution: str,
        training_seed: int,
    ) -> io.NodeOutput:  # fmt: skip
        from ..imagen_model.training.options import TrainOptions
        from ..imagen_model.training.published_model import PublishedModel
        from ..imagen_model.training.setup import prepare

        if resolution not in RESOLUTIONS:
            raise ValueError(f"resolution is {resolution!r}; expected {', '.join(RESOLUTIONS)}")
        source, (run, target) = picture_folder(folder), training_run(name)
        published = PublishedModel(run, target)
        options = TrainOptions(
            preset=preset if init == NONE else None,
            resolution=RESOLUTIONS[resolution],
            minutes=minutes,
            seed=training_seed,
            init=None if init == NONE else str(model_path(init)),
        )
        management.unload_all_models()
        with torch.inference_mode(False), torch.enable_grad():  # nodes run in inference mode
            trainer = prepare(
                source,
                run,
                options,
                device=management.get_torch_device(),
                progress=stage_progress,
                resume=True,
            )
            trainer.published = published
            progress = TrainingProgress(trainer.preview)
            trainer.run(progress, management.throw_exception_if_processing_interrupted)
        loss = {"loss": plottable(progress.losses or trainer.logged_losses())}
        tell_of_new_files()
        return io.NodeOutput(
            HostedModel.wrap(load(target)),
            loss,
            str(target),
            ui=ui.PreviewText(f"kept as {target}"),
        )


def plottable(losses: list[float]) -> list[float]:
    """At least two different numbers, because ComfyUI's plot divides by their range.

    Where all losses are equal, the next larger float is appended.
    """
    losses = losses or [0.0]
    if min(losses) < max(losses):
        return losses
    return [*losses, math.nextafter(losses[-1], math.inf)]


NODES = [ImagenTrain]
