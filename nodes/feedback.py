"""Nodes that collect ratings, learn an adapter from them, and apply it."""

from comfy_api.latest import io, ui

from ..imagen_model import Condition
from ..imagen_model.feedback.adapter import apply_adapter, base_of, load_adapter
from ..imagen_model.feedback.learn import METHODS, learn, report
from ..imagen_model.feedback.rating_syntax import parse_ratings
from ..imagen_model.feedback.recipe import pictures_of
from ..imagen_model.feedback.reward import enough_for
from .convert import link_to_latent, to_image_and_mask
from .host import (
    HostedModel,
    NodeProgress,
    fingerprint,
    tell_of_new_files,
    to_intermediate,
    validate_name,
)
from .inputs import CONDITION, LATENT, NONE, PICTURE_MASK_OUTPUT, TRUNCATION
from .rating_server import adapter_names, adapter_path, new_adapter_path, open_store, remember
from .types import RATE, ImagenModel, LatentLink, found_by


class ImagenRate(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImagenRate",
            display_name="Imagen Rate",
            category=RATE,
            **found_by("thumbs up", "thumbs down", "like", "feedback", "vote", "rating", "点赞"),
            description="Draws a batch, shows it and keeps your ratings of it.",
            is_output_node=True,
            inputs=[
                ImagenModel.Input(
                    "model", tooltip="The model that draws, with adapter or without."
                ),
                CONDITION,
                LATENT,
                TRUNCATION,
                io.String.Input(
                    "ratings",
                    default="",
                    multiline=True,
                    tooltip="Written ones: +0 up, -1 down, 2>3 better, *4 the best; JSON, too.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="The pictures, over white."),
                PICTURE_MASK_OUTPUT,
                io.Int.Output(display_name="count", tooltip="How many ratings there are."),
                io.String.Output(display_name="summary", tooltip="What they are enough for."),
            ],
        )

    @classmethod
    def execute(
        cls, model: HostedModel, condition: Condition, latent: LatentLink, truncation: float,
        ratings: str,
    ) -> io.NodeOutput:  # fmt: skip
        points, ready = link_to_latent(latent), model.ready()
        generated = ready.draw(
            condition, points, truncation=truncation, progress=NodeProgress(len(points))
        )
        pictures = pictures_of(ready, condition, points, generated, truncation=truncation)
        with open_store() as store:
            store.add(parse_ratings(ratings, pictures))
            count = store.count()
        image, mask = to_image_and_mask(generated, "white")
        summary = enough_for(count)
        shown = ui.PreviewImage(image, cls=cls).as_dict()
        return io.NodeOutput(
            *to_intermediate(image, mask),
            count,
            summary,
            ui={**shown, "text": (summary,), "imagen_batch": (remember(pictures),)},
        )


class ImagenLearn(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImagenLearn",
            display_name="Imagen Learn",
            category=RATE,
            **found_by(
                "taste", "preference", "rlhf", "personalize", "train on ratings", "学习喜好"
            ),
            description="Learns an adapter from your ratings, tries it, and keeps it if it helps.",
            is_output_node=True,
            is_experimental=True,
            inputs=[
                ImagenModel.Input(
                    "model", tooltip="The model to teach; learning starts at its base."
                ),
                io.Combo.Input(
                    "method",
                    options=list(METHODS),
                    default="auto",
                    tooltip="Draw the best of a few; also shift w; also LoRA. auto: by the number.",
                ),
                io.String.Input(
                    "name",
                    default="my-taste",
                    tooltip="Of the adapter in models/imagen_adapters; an earlier one is replaced.",
                ),
                io.Boolean.Input(
                    "force", default=False, tooltip="Keep it even where the A/B speaks against it."
                ),
                io.Int.Input(
                    "count",
                    optional=True,
                    force_input=True,
                    tooltip="Link Imagen Rate's count here, so that rating comes first.",
                ),
            ],
            outputs=[
                ImagenModel.Output(
                    display_name="model", tooltip="With the adapter; the base where it is no use."
                ),
                io.String.Output(
                    display_name="report", tooltip="What was learned and what the A/B found."
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, **inputs: object) -> str:
        """New ratings make the node learn again."""
        with open_store() as store:
            return store.stamp()

    @classmethod
    def execute(
        cls, model: HostedModel, method: str, name: str, force: bool, count: int | None = None
    ) -> io.NodeOutput:
        path = new_adapter_path(name)
        with open_store() as store:
            ratings = store.ratings()
        adapter = learn(model.ready(), ratings, method=method, progress=NodeProgress(1000))
        if adapter.card["objections"] and not force:
            text = "not kept: the model stays as it was; force keeps it all the same\n"
            text += report(adapter)
            return io.NodeOutput(model, text, ui=ui.PreviewText(text))
        adapter.save(path)
        tell_of_new_files()
        text = f"kept as {path}\n{report(adapter)}"
        adapted = HostedModel.wrap(apply_adapter(model.model, adapter))
        return io.NodeOutput(adapted, text, ui=ui.PreviewText(text))


class ImagenApplyAdapter(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImagenApplyAdapter",
            display_name="Imagen Apply Adapter",
            category=RATE,
            **found_by("lora", "load lora", "adapter", "taste"),
            description="Puts an adapter from Imagen Learn on a model, or takes it off.",
            inputs=[
                ImagenModel.Input("model", tooltip="The model that the adapter was learned on."),
                io.Combo.Input(
                    "adapter",
                    options=[NONE, *adapter_names()],
                    default=NONE,
                    tooltip="A file in models/imagen_adapters; none: the model as it is.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-2.0,
                    max=2.0,
                    step=0.05,
                    tooltip="1: as learned; 0: the model as it is; below 0: the opposite.",
                ),
            ],
            outputs=[
                ImagenModel.Output(
                    display_name="model", tooltip="The model with the adapter, ready to draw."
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, adapter: str = NONE) -> bool | str:
        """Replaces ComfyUI's list check: the message names the folder and what is in it."""
        return adapter == NONE or validate_name(adapter_path, adapter)

    @classmethod
    def fingerprint_inputs(cls, adapter: str = NONE, **others: object) -> str | None:
        """A file that learning has replaced is loaded again."""
        return None if adapter == NONE else fingerprint(adapter_path(adapter))

    @classmethod
    def execute(cls, model: HostedModel, adapter: str, strength: float) -> io.NodeOutput:
        if adapter == NONE:
            adapted = base_of(model.model)
        else:
            adapted = apply_adapter(model.model, load_adapter(adapter_path(adapter)), strength)
        if adapted is model.model:
            return io.NodeOutput(model)
        return io.NodeOutput(HostedModel.wrap(adapted))


NODES = [ImagenRate, ImagenLearn, ImagenApplyAdapter]
