"""Adapters: small files that change a model and can be removed again.

An adapter holds the reward, which chooses the best of a few candidates, and optionally a shift of
w, one row per block, and low-rank updates of the generator's linear layers (LoRA, 2106.09685). A
shift of w is a change of the modulations' biases, so both change a copy of the weights, and the
base stays as it was, to the bit. The card holds the adapter's origin and the result of its A/B
test.
"""

from __future__ import annotations

import copy
import datetime
import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from ..checkpoint import save_checkpoint, tensors_sha256
from ..checkpoint_header import check_card
from ..condition import Condition
from ..inference.latent import SEED_RANGE, Latent
from ..inference.sampling import fitted
from ..model import Model
from ..networks.generator import Generator
from ..networks.layers import ModulatedBlock
from ..networks.networks import Networks
from ..progress import OnPictures
from ..storage.files import brief, json_of, write_atomically
from ..storage.images import as_model_pictures
from ..storage.tensor_file import read_tensors, save_tensors
from .recipe import model_hash
from .reward import Reward, extract_features, feature_extractor, num_features

FORMAT = 1
CARD = {"base": {"sha256": str, "name": str}, "sha256": str}  # as checkpoint.CARD
STRIDE = 0x9E3779B97F4A7C15  # between the seeds of one picture's candidates
MAX_CANDIDATES = 16


@dataclass(frozen=True)
class Adapter:
    """`lora` maps a linear layer of the generator to its (up [out, R], down [R, in])."""

    card: dict
    reward: Reward
    shift: Tensor | None = None  # [num_blocks, dim]
    lora: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    candidates: int = 1
    file: str = "the adapter"  # for messages

    def tensors(self) -> dict[str, Tensor]:
        tensors = {f"reward.{name}": t for name, t in self.reward.tensors().items()}
        if self.shift is not None:
            tensors["shift"] = self.shift
        for name, (up, down) in self.lora.items():
            tensors[f"lora.{name}.up"], tensors[f"lora.{name}.down"] = up, down
        return {name: t.detach().cpu().contiguous() for name, t in tensors.items()}

    def with_card(self, **facts: object) -> Adapter:
        """The same adapter, its card dated, hashed and extended by `facts`."""
        date, sha256 = datetime.date.today().isoformat(), tensors_sha256(self.tensors())
        known = {"candidates": self.candidates, "date": date, "sha256": sha256}
        return replace(self, card={**self.card, **facts, **known})

    def save(self, path: Path) -> None:
        """Write atomically."""
        metadata = {
            "imagen.adapter": str(FORMAT),
            "imagen.card": json.dumps(self.card, ensure_ascii=False),
        }
        write_atomically(Path(path), lambda p: save_tensors(self.tensors(), p, metadata))


def load_adapter(path: Path | str) -> Adapter:
    """Read and verify; ValueError with one line for a file that is no adapter, or damaged."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"no adapter {path}")
    try:
        tensors, metadata = read_tensors(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is not a readable safetensors file: {brief(error)}") from None
    if "imagen.adapter" not in metadata:
        raise ValueError(f"{path} is not an Imagen GAN adapter (no imagen.adapter)")
    try:
        version, card = int(metadata["imagen.adapter"]), json_of(metadata["imagen.card"])
        parts = [tensors[f"reward.{name}"] for name in ("mean", "projection", "theta")]
        names = [n.removesuffix(".up") for n in tensors if n.endswith(".up")]
        lora = {n.removeprefix("lora."): (tensors[f"{n}.up"], tensors[f"{n}.down"]) for n in names}
        candidates, known = int(card["candidates"]), card["sha256"]
        check_card(card, CARD)
        card["base"]["sha256"], card["base"]["name"]
    except (KeyError, TypeError, ValueError, OverflowError):
        raise ValueError(f"{path} has damaged metadata; learn or download it again") from None
    if not 1 <= version <= FORMAT:
        raise ValueError(f"{path} has adapter format {version}; this version reads up to {FORMAT}")
    if known != tensors_sha256(tensors) or not 1 <= candidates <= MAX_CANDIDATES:
        raise ValueError(f"{path} is damaged: its tensors do not have the hash of its card")
    if not all(t.is_floating_point() and bool(t.isfinite().all()) for t in tensors.values()):
        raise ValueError(f"{path} holds NaN or infinite numbers, or no floats")
    refuse_misfits(tensors, {}, str(path))
    reward = Reward(*(part.float() for part in parts))
    return Adapter(card, reward, tensors.get("shift"), lora, candidates, str(path))


def refuse_misfits(tensors: dict[str, Tensor], lengths: dict[str, int], file: str) -> None:
    """ValueError names the first of an adapter's tensors whose shape does not fit the others, or
    the known `lengths` of axes (`axes_of`)."""
    lengths = dict(lengths)
    for name, tensor in sorted(tensors.items(), key=lambda pair: (-pair[1].ndim, pair[0])):
        axes = axes_of(name)
        pairs = zip(axes, tensor.shape, strict=False)
        expected = [lengths.setdefault(axis, length) for axis, length in pairs]
        if len(axes) != tensor.ndim or expected != list(tensor.shape):
            wanted = " x ".join(str(lengths.get(axis, axis)) for axis in axes) or "no such tensor"
            raise ValueError(
                f"{file} is damaged: its tensor {name} is {' x '.join(map(str, tensor.shape))}; "
                f"expected {wanted}"
            )


def axes_of(name: str) -> tuple[str, ...]:
    """What the axes of an adapter's tensor stand for; none for an unknown name."""
    layer = name.rpartition(".")[0]
    if name.startswith("lora."):
        out, rank, width = f"{layer}.out", f"{layer}.rank", f"{layer}.in"
        return {"up": (out, rank), "down": (rank, width)}.get(name.rpartition(".")[2], ())
    return {
        "reward.mean": ("features",),
        "reward.projection": ("features", "components"),
        "reward.theta": ("components",),
        "shift": ("blocks", "dim"),
    }.get(name, ())


def axes_of_model(model: Model) -> dict[str, int]:
    """The lengths of the axes that the model fixes."""
    config = model.config.generator
    lengths = {"features": num_features(model), "blocks": config.num_blocks, "dim": config.dim}
    for name, layer in linear_layers(model.networks.generator).items():
        lengths[f"lora.{name}.out"], lengths[f"lora.{name}.in"] = layer.weight.shape
    return lengths


class AdaptedModel(Model):
    """A model with an adapter on a copy of its weights; `base` is the model without it."""

    def __init__(self, base: Model, adapter: Adapter, strength: float) -> None:
        networks = copy.deepcopy(base.networks)
        merge(networks, adapter, strength)
        card = {**base.card, "adapter": {**adapter.card, "strength": strength}}
        super().__init__(base.name, base.config, networks, card)
        self.to(networks.device)
        self._clip = base._clip
        self.base, self.adapter, self.strength = base, adapter, strength

    @property
    def candidates(self) -> int:
        """How many pictures are generated to choose one: from 1 at strength 0 to all at 1."""
        count = 1 + round(abs(self.strength) * (self.adapter.candidates - 1))
        return min(count, MAX_CANDIDATES)

    def taste(self, pictures: Tensor, *, progress: OnPictures | None = None) -> Tensor:
        """[N] the reward of pictures [N, C, H, W] of any size, in standard deviations over the mean
        of the base's pictures."""
        size, channels = self.resolution, self.config.generator.channels
        pictures = as_model_pictures(pictures, resolution=size, channels=channels)
        features = extract_features(pictures, feature_extractor(self), progress=progress)
        return self.adapter.reward(features)

    def draw(
        self,
        condition: Condition,
        latent: Latent,
        *,
        truncation: float = 1.0,
        tile: str = "none",
        progress: OnPictures | None = None,
    ) -> Tensor:
        """As Model.draw. Where a seed alone gives the latent, the best of `candidates` pictures is
        returned: those of the seed and of seeds derived from it."""
        condition, latent = fitted(self.networks, condition, latent)
        options: dict = {"truncation": truncation, "tile": tile}
        if self.candidates == 1 or not self._of_seeds(latent):
            return super().draw(condition, latent, progress=progress, **options)
        generated: list[Tensor] = []
        total = self.candidates * len(latent)

        def on_progress(done: int, _: int, pictures: Tensor | None) -> None:
            if progress is not None:
                progress(len(generated) * len(latent) + done, total, pictures)

        for i in range(self.candidates):
            candidate = self.latent([(seed + i * STRIDE) % SEED_RANGE for seed in latent.seeds])
            generated.append(super().draw(condition, candidate, progress=on_progress, **options))
        stacked = torch.stack(generated)  # [candidates, N, C, H, W]
        rewards = self.taste(stacked.flatten(0, 1), progress=lambda *_: on_progress(0, 0, None))
        rewards = rewards.unflatten(0, stacked.shape[:2])
        if self.strength < 0:
            rewards = -rewards
        return stacked[rewards.argmax(dim=0), torch.arange(len(latent))]

    def _of_seeds(self, latent: Latent) -> bool:
        return latent.space == "z" and torch.equal(
            latent.values.cpu().float(), self.latent(latent.seeds).values
        )


def taste_of(model: Model, pictures: Tensor, *, progress: OnPictures | None = None) -> Tensor:
    """[N] AdaptedModel.taste; zeros for a model without an adapter."""
    if isinstance(model, AdaptedModel):
        return model.taste(pictures, progress=progress)
    return torch.zeros(len(pictures))


def base_of(model: Model) -> Model:
    """The model without its adapter, from which learning starts."""
    return model.base if isinstance(model, AdaptedModel) else model


def apply_adapter(model: Model, adapter: Adapter, strength: float = 1.0) -> Model:
    """A model with the adapter in place of an earlier one; the base itself for strength 0.

    `model` stays as it is. ValueError for an adapter of another model.
    """
    base = base_of(model)
    own, trained_on = model_hash(base), adapter.card["base"]
    if trained_on["sha256"] != own:
        raise ValueError(
            f"this adapter was learned on {trained_on['name']} ({trained_on['sha256'][:12]}), and "
            f"the model is {base.name} ({own[:12]}); learn again from the same ratings"
        )
    refuse_misfits(adapter.tensors(), axes_of_model(base), adapter.file)
    return base if strength == 0 else AdaptedModel(base, adapter, strength)


@torch.no_grad()
def merge(networks: Networks, adapter: Adapter, strength: float) -> None:
    """W + strength up down, then b + W strength shift for the modulations; in place."""
    generator = networks.generator
    layers = linear_layers(generator)
    for name, (up, down) in adapter.lora.items():
        if name not in layers:
            raise ValueError(f"{adapter.file} has a layer {name} that the model lacks")
        weight = layers[name].weight
        weight += strength * (up.to(weight) @ down.to(weight))
    if adapter.shift is None:
        return
    if not isinstance(generator, Generator):
        raise ValueError(f"{adapter.file} has a shift, which the model does not take")
    for row, block in zip(adapter.shift, generator.blocks, strict=True):
        assert isinstance(block, ModulatedBlock)
        weight = block.modulation.weight
        block.modulation.bias.add_(weight @ (strength * row.to(weight)))


def linear_layers(generator: nn.Module) -> dict[str, nn.Linear]:
    """The layers that LoRA updates: attention, MLP and modulation of every block."""
    return {
        name: layer
        for name, layer in generator.named_modules()
        if isinstance(layer, nn.Linear) and name.startswith("blocks.")
    }


def save_merged(path: Path, model: Model, adapter: Adapter, strength: float = 1.0) -> dict:
    """Write the model with the adapter's weights in it as a checkpoint; returns its card.

    A checkpoint generates one picture per seed; best-of-N needs the adapter.
    """
    adapted = apply_adapter(model, adapter, strength)
    card = {k: v for k, v in base_of(model).card.items() if k not in ("sha256", "date", "figures")}
    card["merged"] = {**adapter.card, "strength": strength}
    return save_checkpoint(Path(path), adapted.config, adapted.networks, card)
