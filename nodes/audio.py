"""Nodes for films that follow a sound."""

from typing import Any

from comfy_api.latest import io

from ..imagen_model import Condition, Reactions, analyze_audio
from ..imagen_model.inference.sound_analysis import SOURCES
from .convert import gathered, link_to_latent, made_for
from .host import HostedModel, NodeProgress, intermediate_device, stage_progress, to_intermediate
from .inputs import BACKGROUND, LATENTS_IN_ORDER, MODEL_NOW, TRUNCATION
from .types import EXPLORE, Audio, ImagenCondition, LatentLink, found_by, known


def push_input(name: str, tooltip: str) -> io.Float.Input:
    return io.Float.Input(name, default=0.7, min=0.0, max=8.0, step=0.1, tooltip=tooltip)


def source_input(name: str, default: str, tooltip: str) -> io.Combo.Input:
    return io.Combo.Input(
        name,
        options=list(SOURCES),
        default=default,
        tooltip=tooltip,
        **known(io.Combo.Input, advanced=True),
    )


def seconds_input(name: str, default: float, step: float, tooltip: str) -> io.Float.Input:
    return io.Float.Input(
        name,
        default=default,
        min=0.0,
        max=10.0,
        step=step,
        tooltip=tooltip,
        **known(io.Float.Input, advanced=True),
    )


class ImagenAudioWalk(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImagenAudioWalk",
            display_name="Imagen Audio Walk",
            category=EXPLORE,
            **found_by("music video", "audio reactive", "visualizer", "beat", "音乐视频"),
            description="Walks through latents to a sound: the frames of a music video.",
            inputs=[
                MODEL_NOW,
                ImagenCondition.Input(
                    "condition",
                    optional=True,
                    tooltip="What to draw: one for the whole walk, or one a latent; else theirs.",
                ),
                LATENTS_IN_ORDER,
                io.Audio.Input("audio", tooltip="The sound that moves the picture."),
                io.Float.Input(
                    "frame_rate",
                    default=24.0,
                    min=1.0,
                    max=120.0,
                    step=1.0,
                    tooltip="Frames a second; Create Video needs the same number.",
                ),
                push_input(
                    "coarse", "How far the first third of the blocks is pushed, in latents."
                ),
                push_input("middle", "How far the middle third is pushed."),
                push_input("fine", "How far the last third is pushed: colour and detail."),
                source_input(
                    "coarse_from", "bass", "What pushes the first third: layout and shape."
                ),
                source_input(
                    "middle_from",
                    "melody",
                    "What pushes the middle third; with melody each pitch has a latent.",
                ),
                source_input("fine_from", "onsets", "What pushes the last third."),
                seconds_input("attack", 0.02, 0.01, "Seconds in which a push grows; 0: at once."),
                seconds_input(
                    "release", 0.3, 0.05, "Seconds in which a push dies away; 0: at once."
                ),
                seconds_input(
                    "smoothing",
                    0.03,
                    0.01,
                    "Seconds over which pushes are averaged; more is calmer.",
                ),
                io.Boolean.Input(
                    "loop", default=True, tooltip="Be back at the first latent at the end."
                ),
                TRUNCATION,
                BACKGROUND,
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
        cls, latent: LatentLink, audio: Audio, frame_rate: float, truncation: float,
        background: str, model: HostedModel | None = None, condition: Condition | None = None,
        **reactions: Any,
    ) -> io.NodeOutput:  # fmt: skip
        model, condition = made_for(model, condition, latent)
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
        frames = gathered(batches, len(sound), background, intermediate_device())
        image, mask = to_intermediate(*frames)
        return io.NodeOutput(image, mask, frame_rate)


NODES = [ImagenAudioWalk]
