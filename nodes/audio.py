"""Nodes that move with a sound."""

import torch
from comfy_api.latest import io

from ..imagen_model import Reactions, analyze_audio
from ..imagen_model.inference.sound_analysis import SOURCES
from .convert import BACKGROUNDS, link_to_latent, to_image_and_mask
from .host import NodeProgress, stage_progress, to_intermediate
from .types import CATEGORY, ImagenCondition, ImagenLatent, ImagenModel


class ImagenAudioWalk(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImagenAudioWalk",
            display_name="Imagen Audio Walk",
            category=CATEGORY,
            description="Walks through latents to a sound: the frames of a music video.",
            inputs=[
                ImagenModel.Input("model", tooltip="The model that draws."),
                ImagenCondition.Input(
                    "condition", tooltip="What to draw: one for the whole walk, or one a latent."
                ),
                ImagenLatent.Input("latent", tooltip="Two latents or more, visited in order."),
                io.Audio.Input("audio", tooltip="The sound that moves the picture."),
                io.Float.Input(
                    "frame_rate",
                    default=24.0,
                    min=1.0,
                    max=120.0,
                    step=1.0,
                    tooltip="Frames a second; Create Video needs the same number.",
                ),
                io.Float.Input(
                    "coarse",
                    default=0.7,
                    min=0.0,
                    max=8.0,
                    step=0.1,
                    tooltip="How far the first third of the blocks is pushed, in latents.",
                ),
                io.Float.Input(
                    "middle",
                    default=0.7,
                    min=0.0,
                    max=8.0,
                    step=0.1,
                    tooltip="How far the middle third is pushed.",
                ),
                io.Float.Input(
                    "fine",
                    default=0.7,
                    min=0.0,
                    max=8.0,
                    step=0.1,
                    tooltip="How far the last third is pushed: colour and detail.",
                ),
                io.Combo.Input(
                    "coarse_from",
                    options=list(SOURCES),
                    default="bass",
                    tooltip="What pushes the first third: layout and shape.",
                ),
                io.Combo.Input(
                    "middle_from",
                    options=list(SOURCES),
                    default="melody",
                    tooltip="What pushes the middle third; with melody each pitch has a latent.",
                ),
                io.Combo.Input(
                    "fine_from",
                    options=list(SOURCES),
                    default="onsets",
                    tooltip="What pushes the last third.",
                ),
                io.Float.Input(
                    "attack",
                    default=0.02,
                    min=0.0,
                    max=10.0,
                    step=0.01,
                    tooltip="Seconds in which a push grows; 0: at once.",
                ),
                io.Float.Input(
                    "release",
                    default=0.3,
                    min=0.0,
                    max=10.0,
                    step=0.05,
                    tooltip="Seconds in which a push dies away; 0: at once.",
                ),
                io.Float.Input(
                    "smoothing",
                    default=0.03,
                    min=0.0,
                    max=10.0,
                    step=0.01,
                    tooltip="Seconds over which pushes are averaged; more is calmer.",
                ),
                io.Boolean.Input(
                    "loop", default=True, tooltip="Be back at the first latent at the end."
                ),
                io.Float.Input(
                    "truncation",
                    default=1.0,
                    min=0.0,
                    max=2.0,
                    step=0.05,
                    tooltip="1: as varied as the data; lower: more typical; 0: the average.",
                ),
                io.Combo.Input(
                    "background",
                    options=list(BACKGROUNDS),
                    default="white",
                    tooltip="What shows behind transparent parts; none: the straight colour.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="The frames, over the background."),
                io.Mask.Output(display_name="mask", tooltip="1 where a frame is transparent."),
                io.Float.Output(
                    display_name="frame_rate", tooltip="Frames a second, for Create Video."
                ),
            ],
        )

    @classmethod
    def execute(
        cls, model, condition, latent: dict, audio: dict, frame_rate: float, truncation: float,
        background: str, **reactions,
    ) -> io.NodeOutput:  # fmt: skip
        sound = analyze_audio(
            audio["waveform"][0],
            audio["sample_rate"],
            frame_rate=frame_rate,
            progress=stage_progress("listening"),
        )
        batches = model.ready().audio_walk(
            condition,
            link_to_latent(latent),
            sound,
            Reactions(**reactions),
            truncation=truncation,
            progress=NodeProgress(len(sound)),
        )
        # converted a batch at a time, so that pictures in other forms do not wait for the last
        parts = [to_image_and_mask(pictures, background) for pictures in batches]
        image, mask = (torch.cat(frames) for frames in zip(*parts, strict=True))
        return io.NodeOutput(to_intermediate(image), to_intermediate(mask), frame_rate)


NODES = [ImagenAudioWalk]
