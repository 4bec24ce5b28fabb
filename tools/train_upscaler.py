"""Train the bundled upscaler: `python tools/train_upscaler.py data/emoji-128 --out runs/upscaler`.

`imagen data emoji --resolution 128` makes the data; the styles that come at 128 px or more are used
(two of the four come at 64). The small picture is a 32 px version of a real one, mostly with the
faults of a generator's pictures: soft, wobbly and fringed edges, some noise. The target is a crop
of 64 px. The first steps go by L1 alone. Then the loss is L1 and feature matching with a hinge game
against the library's own discriminator, heads on lite0 included. The bundled model's own drawings
play in that game, too; they have no target, and need only look real and keep their colours.

Resumable from its last 200 steps. At the end the weights are written as the bundled file, and
compared with bicubic and Lanczos enlargement on the held-out pictures.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from imagen_model import __version__, load
from imagen_model.bundled import ALIASES
from imagen_model.config import COND_DIM, DiscriminatorConfig
from imagen_model.data.dataset import InMemoryDataset, load_pictures
from imagen_model.data.folder import read_items
from imagen_model.data.item import Item
from imagen_model.evaluation.features import Lite1
from imagen_model.inference.upscaler import (
    SCALE,
    UPSCALER_FILE,
    Upscaler,
    UpscalerConfig,
    load_upscaler,
    upscale,
)
from imagen_model.networks.discriminator import Discriminator
from imagen_model.networks.efficientnet import as_rgb, lite0, lite0_hash
from imagen_model.networks.perceptual import feature_matching
from imagen_model.networks.precision import channels_last
from imagen_model.storage.files import save_tensors, sha256_of, write_atomically
from imagen_model.storage.int8 import quantized
from imagen_model.training.augment import random_background
from imagen_model.training.losses import hinge_d, hinge_g
from imagen_model.training.step import over_heads

STYLES = ("fluent-3d", "fluent-flat")
RESOLUTION = 128  # pixels of a whole picture
CROP = 64  # pixels of a target
BATCH, DRAWN = 12, 4  # pairs, and drawings of the bundled model, a step
POOL = 1024  # drawings to choose from
L1_STEPS = 3000  # of all, by L1 alone
LR, LR_GAME, LR_END = 1e-3, 3e-4, 3e-5  # at the beginning, when the game begins, at the end
L1_WEIGHT, ADVERSARIAL_WEIGHT = 20.0, 0.05
CLEAN, OPAQUE = 0.3, 0.4  # shares of the small pictures without faults, and over a flat colour
BLUR_PX, WOBBLE_PX, FRINGE_PX, NOISE = 1.0, 0.4, 0.15, 0.03  # the most, in small pixels
EMA_DECAY = 0.998
SAVE_EVERY = 200  # steps


class Training:
    """Both networks, their optimisers, and the average of the upscaler's weights."""

    def __init__(self, pictures: InMemoryDataset, drawings: Tensor, steps: int) -> None:
        torch.manual_seed(0)
        self.pictures, self.drawings = pictures, drawings
        self.weights = torch.tensor([s.weight for s in pictures.items])
        self.steps, self.done = steps, 0
        self.rng = torch.Generator().manual_seed(0)
        self.upscaler = channels_last(Upscaler(UpscalerConfig()))
        self.average = channels_last(Upscaler(UpscalerConfig())).requires_grad_(False)
        self.average.load_state_dict(self.upscaler.state_dict())
        config = DiscriminatorConfig(resolution=CROP, width=16, max_width=64)
        self.judge = channels_last(Discriminator(config, COND_DIM, 0))
        self.lite0 = lite0()
        trained = [p for p in self.judge.parameters() if p.requires_grad]
        self.optimizers = {
            "upscaler": torch.optim.Adam(self.upscaler.parameters(), betas=(0.9, 0.99)),
            "judge": torch.optim.Adam(trained, betas=(0.0, 0.99)),
        }

    def modules(self) -> dict[str, torch.nn.Module]:
        return {"upscaler": self.upscaler, "average": self.average, "judge": self.judge}

    def batch(self) -> tuple[Tensor, Tensor]:
        """(small [BATCH + DRAWN, 4, 16, 16], large [BATCH, 4, 64, 64]): crops; the last DRAWN small
        ones are the model's and have no large one."""
        index = self.weights.multinomial(BATCH, generator=self.rng)
        large = over_flat_colours(self.pictures.batch(index), self.rng)
        drawn = torch.randint(len(self.drawings), (DRAWN,), generator=self.rng)
        small = with_faults(shrunk(large, self.rng), self.rng)
        small = torch.cat([small, over_flat_colours(self.drawings[drawn], self.rng)])
        if torch.rand((), generator=self.rng) < 0.5:
            small, large = small.flip(3), large.flip(3)
        side = CROP // SCALE
        last = small.shape[2] - side
        places = torch.randint(last + 1, (len(small), 2), generator=self.rng).tolist()
        small_crops = [
            x[:, r : r + side, c : c + side] for x, (r, c) in zip(small, places, strict=True)
        ]
        large_crops = [
            x[:, r * SCALE : r * SCALE + CROP, c * SCALE : c * SCALE + CROP]
            for x, (r, c) in zip(large, places[:BATCH], strict=True)
        ]
        return torch.stack(small_crops), torch.stack(large_crops)

    def step(self) -> dict[str, float]:
        self._set_lr()
        small, large = self.batch()
        log = (self._plain if self.done < L1_STEPS else self._played)(small, large)
        decay = min(EMA_DECAY, (1 + self.done) / (10 + self.done))
        for ours, theirs in zip(self.average.parameters(), self.upscaler.parameters(), strict=True):
            ours.lerp_(theirs.detach(), 1 - decay)
        self.done += 1
        return log

    def _plain(self, small: Tensor, large: Tensor) -> dict[str, float]:
        """A step by L1 alone."""
        l1 = F.l1_loss(self.upscaler(small[:BATCH]), large)
        self._descend("upscaler", l1)
        return {"l1": l1.item()}

    def _played(self, small: Tensor, large: Tensor) -> dict[str, float]:
        """A step of both players."""
        background = random_background(len(small), self.rng, torch.device("cpu"))
        made = self.upscaler(small)
        with torch.no_grad():
            real_levels = self.lite0(as_rgb(large, background[:BATCH]))
        made_levels = self.lite0(as_rgb(made, background))
        self.judge.requires_grad_(True)
        self.judge.mixer.requires_grad_(False)
        real = self.judge(large, real_levels).patch_logits
        fake = self.judge(made.detach(), [level.detach() for level in made_levels]).patch_logits
        d_loss = over_heads(hinge_d, real, fake)
        self._descend("judge", d_loss)
        self.judge.requires_grad_(False)
        logits = self.judge(made, made_levels).patch_logits
        adversarial = over_heads(hinge_g, logits, logits)
        paired = [level[:BATCH] for level in made_levels]
        pooled = [self.lite0.pool(levels[-1]) for levels in (real_levels, paired)]
        matching = feature_matching(real_levels, paired, *pooled)
        l1 = F.l1_loss(made[:BATCH], large)
        colours = F.l1_loss(F.avg_pool2d(made[BATCH:], 2 * SCALE), F.avg_pool2d(small[BATCH:], 2))
        loss = matching + L1_WEIGHT * (l1 + colours) + ADVERSARIAL_WEIGHT * adversarial
        self._descend("upscaler", loss)
        return {
            "d": d_loss.item(), "matching": matching.item(), "l1": l1.item(),
            "colours": colours.item(), "adversarial": adversarial.item(),
        }  # fmt: skip

    def _set_lr(self) -> None:
        """Half a cosine down for each part of the training."""
        part, top, end = self.done / L1_STEPS, LR, LR_GAME
        if self.done >= L1_STEPS:
            part, top, end = (self.done - L1_STEPS) / (self.steps - L1_STEPS), LR_GAME, LR_END
        lr = end + (top - end) * (1 + math.cos(math.pi * part)) / 2
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = lr

    def _descend(self, name: str, loss: Tensor) -> None:
        self.optimizers[name].zero_grad(set_to_none=True)
        loss.backward()
        self.optimizers[name].step()

    # -- going on -----------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        tensors = {
            f"{name}.{key}": value.contiguous()
            for name, module in self.modules().items()
            for key, value in module.state_dict().items()
        }
        for name, optimizer in self.optimizers.items():
            for i, state in optimizer.state_dict()["state"].items():
                tensors |= {f"adam.{name}.{i}.{key}": v.contiguous() for key, v in state.items()}
        tensors["rng"] = self.rng.get_state()
        metadata = {"done": str(self.done), "steps": str(self.steps)}
        path = folder / "state.safetensors"
        write_atomically(path, lambda new: save_tensors(tensors, new, metadata))

    def resume(self, folder: Path) -> None:
        path = folder / "state.safetensors"
        if not path.is_file():
            return
        tensors = load_file(path)
        with safe_open(path, "pt") as file:
            self.done = int(file.metadata()["done"])
        for name, module in self.modules().items():
            prefix = f"{name}."
            module.load_state_dict(
                {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
            )
        for name, optimizer in self.optimizers.items():
            state: dict[int, dict[str, Tensor]] = {}
            for key, value in tensors.items():
                if key.startswith(f"adam.{name}."):
                    _, _, index, field = key.split(".")
                    state.setdefault(int(index), {})[field] = value
            optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
        self.rng.set_state(tensors["rng"])


def draw_pool(samples: list[Item]) -> Tensor:
    """Drawings [POOL, 4, 32, 32] of the bundled model, in all of its styles."""
    model = load("emoji")
    rows = torch.randperm(len(samples), generator=torch.Generator().manual_seed(1))
    captions = [samples[i].text for i in rows[:POOL]]
    return model.draw(model.encode_text(captions), model.latent(range(len(captions))))


def over_flat_colours(pictures: Tensor, rng: torch.Generator) -> Tensor:
    """A share of premultiplied RGBA pictures made opaque, half of them over white."""
    n = len(pictures)
    chance = torch.rand(n, 1, 1, 1, generator=rng)
    background = random_background(n, rng, pictures.device)
    background = torch.where(chance < OPAQUE / 2, torch.ones(()), background)
    return torch.where(chance < OPAQUE, opaque(pictures, background), pictures)


def opaque(pictures: Tensor, background: Tensor) -> Tensor:
    """Premultiplied RGBA over a colour, with an alpha of 1."""
    colour = pictures[:, :3] + (1 - pictures[:, 3:]) / 2 * (background + 1)
    return torch.cat([colour, torch.ones_like(colour[:, :1])], dim=1)


def shrunk(large: Tensor, rng: torch.Generator) -> Tensor:
    """A quarter of the size: half of the batches by box, the others by antialiased bicubic."""
    if torch.rand((), generator=rng) < 0.5:
        return F.avg_pool2d(large, SCALE)
    return F.interpolate(large, scale_factor=1 / SCALE, mode="bicubic", antialias=True).clamp(-1, 1)


def with_faults(small: Tensor, rng: torch.Generator) -> Tensor:
    """Pictures [N, C, H, W] as a generator draws them, each faulty in its own degree."""
    n, channels, height, width = small.shape
    degree = torch.rand(n, 4, generator=rng) * (torch.rand(n, 1, generator=rng) > CLEAN)
    blur, wobble, fringe, noise = degree.T
    # soft: a Gaussian of its own for each picture
    sigma = (blur * BLUR_PX).clamp(min=1e-2)
    x = torch.arange(-2, 3)
    kernel = torch.exp(-(x**2) / (2 * sigma[:, None] ** 2))
    kernel = torch.einsum("nh,nw->nhw", kernel, kernel)
    kernel = kernel / kernel.sum(dim=(1, 2), keepdim=True)
    weight = kernel.repeat_interleave(channels, dim=0)[:, None]  # [N C, 1, 5, 5]
    padded = F.pad(small, (2, 2, 2, 2), mode="replicate").flatten(0, 1)[None]
    soft = F.conv2d(padded, weight, groups=n * channels)[0]  # [N C, H, W]
    # wobbly: smooth displacements, a part of them each channel's own
    shift = smooth_noise(n, 2, height, width, rng) * (WOBBLE_PX * wobble)[:, None, None, None]
    own = smooth_noise(n * channels, 2, height, width, rng)
    own = own * (FRINGE_PX * fringe).repeat_interleave(channels)[:, None, None, None]
    shift = shift.repeat_interleave(channels, dim=0) + own  # [N C, 2, H, W] in pixels
    identity = torch.eye(2, 3).expand(n * channels, 2, 3)
    grid = F.affine_grid(identity, [n * channels, 1, height, width], align_corners=False)
    grid = grid + shift.permute(0, 2, 3, 1) * (2 / torch.tensor([width, height]))
    bent = F.grid_sample(soft[:, None], grid, padding_mode="border", align_corners=False)
    drawn = bent.view(n, channels, height, width)
    grain = torch.randn(small.shape, generator=rng) * (NOISE * noise)[:, None, None, None]
    return (drawn + grain).clamp(-1, 1)


def smooth_noise(n: int, channels: int, height: int, width: int, rng: torch.Generator) -> Tensor:
    """[n, channels, height, width] about normal, smooth over two pixels."""
    coarse = torch.randn(n, channels, height // 2, width // 2, generator=rng)
    return F.interpolate(coarse, size=(height, width), mode="bicubic")


def lanczos(small: Tensor) -> Tensor:
    """Pillow's Lanczos enlargement, each channel of premultiplied RGBA by itself."""
    planes = ((small + 1) * 127.5).round().clamp(0, 255).byte()
    size = (small.shape[3] * SCALE, small.shape[2] * SCALE)
    large = [
        np.array(Image.fromarray(plane.numpy()).resize(size, Image.Resampling.LANCZOS))
        for plane in planes.flatten(0, 1)
    ]
    return torch.from_numpy(np.stack(large)).view(*small.shape[:2], *size[::-1]) / 127.5 - 1


def compare(network: Upscaler, pictures: InMemoryDataset) -> dict:
    """With bicubic and Lanczos enlargement on held-out pictures, over white.

    PSNR in dB, and two distances: in lite0's levels, which the training used, and one minus the
    cosine of lite1's pooled features, which it did not.
    """
    large = pictures.batch(torch.arange(len(pictures)))
    small = F.interpolate(large, scale_factor=1 / SCALE, mode="bicubic", antialias=True)
    small = small.clamp(-1, 1)
    enlarged = {
        "bicubic": F.interpolate(small, scale_factor=SCALE, mode="bicubic").clamp(-1, 1),
        "lanczos": lanczos(small),
        "upscaler": upscale(small, network=network),
    }
    lite1 = Lite1()
    real = lite1(large)
    result: dict = {"held_out_pictures": len(pictures)}
    for name, made in enlarged.items():
        mse = (as_rgb(made) - as_rgb(large)).square().mean(dim=(1, 2, 3)) / 4  # of [0, 1]
        cosine = (lite1(made) * real).sum(dim=1)
        result[name] = {
            "psnr": round(float((-10 * mse.clamp(min=1e-8).log10()).mean()), 2),
            "lite0_distance": round(lite0_distance(made, large), 4),
            "lite1_distance": round(float((1 - cosine).mean()), 4),
        }
    return result


@torch.no_grad()
def lite0_distance(made: Tensor, real: Tensor) -> float:
    """likeness.feature_matching over white, a mean over pictures."""
    total = 0.0
    for a, b in zip(made.split(BATCH), real.split(BATCH), strict=True):
        levels = [lite0()(as_rgb(x)) for x in (b, a)]
        pooled = [lite0().pool(x[-1]) for x in levels]
        total += float(feature_matching(*levels, *pooled)) * len(a)
    return total / len(made)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/upscaler"))
    parser.add_argument("--steps", type=int, default=4200)
    args = parser.parse_args()
    everything = read_items(args.data)
    samples = [s for s in everything if s.style in STYLES]
    pictures = load_pictures(samples, resolution=RESOLUTION, channels=4)
    training = Training(pictures, draw_pool(everything), args.steps)
    training.resume(args.out)
    started, first = time.monotonic(), training.done
    while training.done < args.steps:
        log = training.step()
        if training.done % 20 == 0:
            rate = (training.done - first) / (time.monotonic() - started)
            eta = (args.steps - training.done) / rate / 60
            figures = "  ".join(f"{k} {v:.3f}" for k, v in log.items())
            print(f"{training.done}/{args.steps}  {figures}  {eta:.0f} min left", flush=True)
        if training.done % SAVE_EVERY == 0 or training.done == args.steps:
            training.save(args.out)
    held = [s for s in read_items(args.data, split="test") if s.style in STYLES]
    figures = compare(training.average, load_pictures(held, resolution=RESOLUTION, channels=4))
    bundled = ALIASES["emoji"]
    card = {
        "name": UPSCALER_FILE.stem,
        "data": f"emoji set, {' and '.join(STYLES)} at {RESOLUTION} px",
        "licence": "MIT; Fluent Emoji by Microsoft, MIT",
        "pictures": len(samples),
        "steps": training.done,
        "batch": f"{BATCH} pairs, {DRAWN} drawings of {bundled}",
        "lite0": lite0_hash(),
        "date": datetime.date.today().isoformat(),
        "code_version": __version__,
        "figures": figures,
    }
    metadata = {"config": json.dumps(asdict(UpscalerConfig())), "card": json.dumps(card)}
    state = quantized(training.average.state_dict())
    write_atomically(UPSCALER_FILE, lambda new: save_tensors(state, new, metadata))
    Path(f"{UPSCALER_FILE}.sha256").write_text(sha256_of(UPSCALER_FILE) + "\n")
    assert load_upscaler() is not None
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
