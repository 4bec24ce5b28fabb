"""Nodes that load and describe models."""

import json

from comfy_api.latest import io, ui

from .host import HostedModel, fingerprint, model_names, model_path, validate_name
from .types import GENERATE, TRAIN, ImagenModel, found_by


class ImagenLoadModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImagenLoadModel",
            display_name="Imagen Load Model",
            category=GENERATE,
            **found_by("checkpoint", "load checkpoint", "model loader", "加载模型"),
            description="Loads a bundled Imagen GAN model, or one of your own from models/imagen.",
            inputs=[
                io.Combo.Input(
                    "model_name",
                    options=model_names(),
                    tooltip="Bundled models by name; your own are files in models/imagen.",
                ),
            ],
            outputs=[ImagenModel.Output(display_name="model", tooltip="The loaded model.")],
        )

    @classmethod
    def validate_inputs(cls, model_name: str | None = None) -> bool | str:
        """Replaces ComfyUI's list check: an older version may have a successor."""
        return model_name is None or validate_name(model_path, model_name)

    @classmethod
    def fingerprint_inputs(cls, model_name: str | None = None) -> str | None:
        """A replaced file is loaded again. A linked name is known only during the run."""
        return None if model_name is None else fingerprint(model_path(model_name))

    @classmethod
    def execute(cls, model_name: str) -> io.NodeOutput:
        return io.NodeOutput(HostedModel.loaded(model_path(model_name)))


class ImagenModelInfo(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImagenModelInfo",
            display_name="Imagen Model Info",
            category=TRAIN,
            **found_by("model card", "metadata", "styles", "about model"),
            description="Tells what a model is: size, styles, training, data and figures.",
            is_output_node=True,
            inputs=[ImagenModel.Input("model", tooltip="The model.")],
            outputs=[
                io.String.Output(display_name="info", tooltip="What is known of it, a line each."),
                io.String.Output(display_name="card", tooltip="Its whole card, as JSON."),
            ],
        )

    @classmethod
    def execute(cls, model: HostedModel) -> io.NodeOutput:
        info = model.model.summary()
        card = json.dumps(model.model.card, indent=1, ensure_ascii=False)
        return io.NodeOutput(info, card, ui=ui.PreviewText(info))


NODES = [ImagenLoadModel, ImagenModelInfo]
