"""Train the bundled upscaler: `python tools/train_upscaler.py data/emoji-128 --out runs/upscaler`.

`imagen data emoji --resolution 128` makes the data; the two Fluent styles are used, which alone
are sharp at 128 px. The small picture is a 32 px version of a real one, mostly with the faults of
generated pictures: soft, wobbly and fringed edges, some noise. The target is a crop of 64 px. The
first steps minimise L1 alone. Then the loss is L1, feature matching and a hinge loss against the
library's own discriminator, heads on lite0 included. Pictures that the bundled model generated
take part, too: they have no target, and need only look real and keep their colours.

A run that was stopped continues from its last 200 steps. At the end the weights are written as the
bundled file, and compared with bicubic and Lanczos enlargement on the held-out pictures.
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
from torch import Tensor

import imagen_model as im
from imagen_model.bundled import ALIASES
from imagen_model.config import COND_DIM, DiscriminatorConfig
from imagen_model.data.dataset import InMemoryDataset, load_pictures
from imagen_model.data.folder import read_items
from imagen_model.data.item import Item
from imagen_model.evaluation.dataset import all_pixels
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
from imagen_model.storage.files import sha256_of, write_atomically
from imagen_model.storage.int8 import quantized
from imagen_model.storage.tensor_file import save_tensors
from imagen_model.training.augment import random_background
from imagen_model.training.losses import hinge_d, hinge_g
from imagen_model.training.objective import over_heads
from imagen_model.training.state import load_state, save_state, saved_state

STYLES = ("fluent-3d", "fluent-flat")
RESOLUTION = 128  # pixels of a whole picture
CROP = 64  # pixels of a target
PAIRS, GENERATED = 12, 4  # pairs, and generated pictures without a target, per step
POOL = 1024  # generated pictures to choose from
L1_STEPS = 3000  # of all, by L1 alone
LR, LR_ADVERSARIAL, LR_END = 1e-3, 3e-4, 3e-5  # at the start, after L1_STEPS, at the end
L1_WEIGHT, ADVERSARIAL_WEIGHT = 20.0, 0.05
CLEAN, OPAQUE = 0.3, 0.4  # shares of the small pictures without faults, and over a flat colour
BLUR_PX, WOBBLE_PX, FRINGE_PX, NOISE = 1.0, 0.4, 0.15, 0.03  # at most, in small pixels
EMA_DECAY = 0.998
SAVE_EVERY = 200  # steps


class UpscalerTraining:
    """Both networks, their optimisers, and the average of the upscaler's weights."""

    def __init__(self, real: InMemoryDataset, generated: Tensor, steps: int) -> None:
        torch.manual_seed(0)
        self.real, self.generated = real, generated
        self.weights = torch.tensor([item.weight for item in real.items])
        self.steps, self.done = steps, 0
        self.rng = torch.Generator().manual_seed(0)
        self.upscaler = channels_last(Upscaler(UpscalerConfig()))
        self.average = channels_last(Upscaler(UpscalerConfig())).requires_grad_(False)
        self.average.load_state_dict(self.upscaler.state_dict())
        config = DiscriminatorConfig(resolution=CROP, width=16, max_width=64)
        self.discriminator = channels_last(Discriminator(config, COND_DIM, 0))
        self.lite0 = lite0()
        trained = [p for p in self.discriminator.parameters() if p.requires_grad]
        self.modules = {
            "upscaler": self.upscaler,
            "average": self.average,
            "discriminator": self.discriminator,
        }
        self.optimizers = {
            "upscaler": torch.optim.Adam(self.upscaler.parameters(), betas=(0.9, 0.99)),
            "discriminator": torch.optim.Adam(trained, betas=(0.0, 0.99)),
        }

    def batch(self) -> tuple[Tensor, Tensor]:
        """Crops: small [PAIRS + GENERATED, 4, 16, 16], of which the last GENERATED have no target,
        and their targets [PAIRS, 4, 64, 64]."""
        index = self.weights.multinomial(PAIRS, generator=self.rng)
        large = over_flat_colours(self.real.batch(index), self.rng)
        rows = torch.randint(len(self.generated), (GENERATED,), generator=self.rng)
        small = with_faults(shrunk(large, self.rng), self.rng)
        small = torch.cat([small, over_flat_colours(self.generated[rows], self.rng)])
        if torch.rand((), generator=self.rng) < 0.5:
            small, large = small.flip(3), large.flip(3)
        side = CROP // SCALE
        corners = torch.randint(small.shape[2] - side + 1, (len(small), 2), generator=self.rng)
        return cropped(small, corners, side), cropped(large, SCALE * corners[:PAIRS], CROP)

    def step(self) -> dict[str, float]:
        """Train on one batch; returns the losses."""
        self._set_lr()
        small, large = self.batch()
        if self.done < L1_STEPS:
            losses = {"l1": F.l1_loss(self.upscaler(small[:PAIRS]), large)}
            self._descend("upscaler", losses["l1"])
        else:
            losses = self._adversarial_step(small, large)
        decay = min(EMA_DECAY, (1 + self.done) / (10 + self.done))
        for ours, theirs in zip(self.average.parameters(), self.upscaler.parameters(), strict=True):
            ours.lerp_(theirs.detach(), 1 - decay)
        self.done += 1
        return {name: loss.item() for name, loss in losses.items()}

    def _adversarial_step(self, small: Tensor, large: Tensor) -> dict[str, Tensor]:
        """A step of the discriminator, then one of the upscaler."""
        background = random_background(len(small), self.rng, torch.device("cpu"))
        upscaled = self.upscaler(small)
        with torch.no_grad():
            real_levels = self.lite0(as_rgb(large, background[:PAIRS]))
        levels = self.lite0(as_rgb(upscaled, background))

        self.discriminator.requires_grad_(True)
        self.discriminator.mixer.requires_grad_(False)
        detached = [level.detach() for level in levels]
        real_logits = self.discriminator(large, real_levels).patch_logits
        logits = self.discriminator(upscaled.detach(), detached).patch_logits
        d_loss = over_heads(hinge_d, real_logits, logits)
        self._descend("discriminator", d_loss)

        self.discriminator.requires_grad_(False)
        logits = self.discriminator(upscaled, levels).patch_logits
        adversarial = over_heads(hinge_g, logits, logits)
        matching = matching_of(real_levels, [level[:PAIRS] for level in levels])
        l1 = F.l1_loss(upscaled[:PAIRS], large)
        colours = F.l1_loss(  # of pictures without a target
            F.avg_pool2d(upscaled[PAIRS:], 2 * SCALE), F.avg_pool2d(small[PAIRS:], 2)
        )
        loss = matching + L1_WEIGHT * (l1 + colours) + ADVERSARIAL_WEIGHT * adversarial
        self._descend("upscaler", loss)
        terms = {"matching": matching, "l1": l1, "colours": colours, "adversarial": adversarial}
        return {"d": d_loss, **terms}

    def _set_lr(self) -> None:
        """Half a cosine down for each part of the training."""
        part, top, end = self.done / L1_STEPS, LR, LR_ADVERSARIAL
        if self.done >= L1_STEPS:
            part = (self.done - L1_STEPS) / (self.steps - L1_STEPS)
            top, end = LR_ADVERSARIAL, LR_END
        lr = end + (top - end) * (1 + math.cos(math.pi * part)) / 2
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = lr

    def _descend(self, name: str, loss: Tensor) -> None:
        self.optimizers[name].zero_grad(set_to_none=True)
        loss.backward()
        self.optimizers[name].step()

    def save(self, run: Path) -> None:
        progress = {"done": self.done, "rng": self.rng.get_state().tolist()}
        save_state(run, self.modules, self.optimizers, progress)

    def resume(self, run: Path) -> None:
        """Continue from what `save` wrote, if there is anything."""
        if folder := saved_state(run):
            saved = load_state(folder, self.modules, self.optimizers)
            self.done = saved["done"]
            self.rng.set_state(torch.tensor(saved["rng"], dtype=torch.uint8))

    def run(self, out: Path) -> None:
        """Train to the last step, saving to `out` on the way."""
        self.resume(out)
        started, first = time.monotonic(), self.done
        while self.done < self.steps:
            losses = self.step()
            if self.done % 20 == 0:
                rate = (self.done - first) / (time.monotonic() - started)
                left = (self.steps - self.done) / rate / 60
                shown = "  ".join(f"{name} {loss:.3f}" for name, loss in losses.items())
                print(f"{self.done}/{self.steps}  {shown}  {left:.0f} min left", flush=True)
            if self.done % SAVE_EVERY == 0 or self.done == self.steps:
                self.save(out)


# -- small pictures -------------------------------------------------------------------------------


def generated_pool(items: list[Item]) -> Tensor:
    """Pictures [POOL, 4, 32, 32] generated by the bundled model, in all of its styles; those of a
    larger model are reduced."""
    model = im.load("emoji")
    rows = torch.randperm(len(items), generator=torch.Generator().manual_seed(1))
    captions = [items[i].text for i in rows[:POOL]]
    pictures = model.draw(model.encode_text(captions), model.latent(range(len(captions))))
    return F.adaptive_avg_pool2d(pictures, RESOLUTION // SCALE)


def cropped(pictures: Tensor, corners: Tensor, side: int) -> Tensor:
    """[N, C, side, side] from pictures [N, C, H, W], at corners [N, 2] (rows, columns)."""
    places = zip(pictures, corners.tolist(), strict=True)
    return torch.stack([x[:, r : r + side, c : c + side] for x, (r, c) in places])


def over_flat_colours(pictures: Tensor, rng: torch.Generator) -> Tensor:
    """Makes a share of premultiplied RGBA pictures opaque, half of them over white."""
    n = len(pictures)
    chance = torch.rand(n, 1, 1, 1, generator=rng)
    background = random_background(n, rng, pictures.device)
    background = torch.where(chance < OPAQUE / 2, torch.ones(()), background)
    colour = pictures[:, :3] + (1 - pictures[:, 3:]) / 2 * (background + 1)
    opaque = torch.cat([colour, torch.ones_like(colour[:, :1])], dim=1)
    return torch.where(chance < OPAQUE, opaque, pictures)


def shrunk(large: Tensor, rng: torch.Generator) -> Tensor:
    """A quarter of the size: half of the batches by box, the others by antialiased bicubic."""
    if torch.rand((), generator=rng) < 0.5:
        return F.avg_pool2d(large, SCALE)
    return reduced(large)


def reduced(large: Tensor) -> Tensor:
    """A quarter of the size, by antialiased bicubic."""
    return F.interpolate(large, scale_factor=1 / SCALE, mode="bicubic", antialias=True).clamp(-1, 1)


def with_faults(small: Tensor, rng: torch.Generator) -> Tensor:
    """Pictures [N, C, H, W] with the faults of generated ones, each in its own degree."""
    n, channels, height, width = small.shape
    degree = torch.rand(n, 4, generator=rng) * (torch.rand(n, 1, generator=rng) > CLEAN)
    blur, wobble, fringe, noise = degree.T
    soft = blurred(small, (blur * BLUR_PX).clamp(min=1e-2))
    # wobbly: smooth displacements, a part of them each channel's own
    shift = smooth_noise(n, 2, height, width, rng) * (WOBBLE_PX * wobble)[:, None, None, None]
    own = smooth_noise(n * channels, 2, height, width, rng)
    own = own * (FRINGE_PX * fringe).repeat_interleave(channels)[:, None, None, None]
    shift = shift.repeat_interleave(channels, dim=0) + own  # [N C, 2, H, W] in pixels
    identity = torch.eye(2, 3).expand(n * channels, 2, 3)
    grid = F.affine_grid(identity, [n * channels, 1, height, width], align_corners=False)
    grid = grid + shift.permute(0, 2, 3, 1) * (2 / torch.tensor([width, height]))
    planes = soft.flatten(0, 1)[:, None]  # [N C, 1, H, W]
    bent = F.grid_sample(planes, grid, padding_mode="border", align_corners=False)
    grain = torch.randn(small.shape, generator=rng) * (NOISE * noise)[:, None, None, None]
    return (bent.view_as(small) + grain).clamp(-1, 1)


def blurred(pictures: Tensor, sigma: Tensor) -> Tensor:
    """A Gaussian for each picture of [N, C, H, W], sigma [N] in pixels."""
    n, channels = pictures.shape[:2]
    x = torch.arange(-2, 3)
    kernel = torch.exp(-(x**2) / (2 * sigma[:, None] ** 2))
    kernel = torch.einsum("nh,nw->nhw", kernel, kernel)
    kernel = kernel / kernel.sum(dim=(1, 2), keepdim=True)
    weight = kernel.repeat_interleave(channels, dim=0)[:, None]  # [N C, 1, 5, 5]
    padded = F.pad(pictures, (2, 2, 2, 2), mode="replicate").flatten(0, 1)[None]
    return F.conv2d(padded, weight, groups=n * channels).view_as(pictures)


def smooth_noise(n: int, channels: int, height: int, width: int, rng: torch.Generator) -> Tensor:
    """[n, channels, height, width] about normal, smooth over two pixels."""
    coarse = torch.randn(n, channels, height // 2, width // 2, generator=rng)
    return F.interpolate(coarse, size=(height, width), mode="bicubic")


# -- comparison -----------------------------------------------------------------------------------


def compare(network: Upscaler, real: InMemoryDataset) -> dict:
    """The upscaler, bicubic and Lanczos on held-out pictures over white: PSNR in dB, the distance
    in lite0's levels, and one minus the cosine of lite1's features, which training did not use."""
    large = all_pixels(real)
    small = reduced(large)
    enlarged = {
        "bicubic": F.interpolate(small, scale_factor=SCALE, mode="bicubic").clamp(-1, 1),
        "lanczos": lanczos(small),
        "upscaler": upscale(small, network=network),
    }
    lite1 = Lite1()
    real_features = lite1(large)
    result: dict = {"held_out_pictures": len(real)}
    for name, pictures in enlarged.items():
        mse = (as_rgb(pictures) - as_rgb(large)).square().mean(dim=(1, 2, 3)) / 4  # of [0, 1]
        cosine = (lite1(pictures) * real_features).sum(dim=1)
        result[name] = {
            "psnr": round(float((-10 * mse.clamp(min=1e-8).log10()).mean()), 2),
            "lite0_distance": round(lite0_distance(pictures, large), 4),
            "lite1_distance": round(float((1 - cosine).mean()), 4),
        }
    return result


def matching_of(real_levels: list[Tensor], levels: list[Tensor]) -> Tensor:
    """Feature matching of lite0's levels and pooled features."""
    return feature_matching(
        real_levels, levels, lite0().pool(real_levels[-1]), lite0().pool(levels[-1])
    )


@torch.no_grad()
def lite0_distance(pictures: Tensor, real: Tensor) -> float:
    """Feature matching over white, a mean over pictures."""
    total = 0.0
    for some, some_real in zip(pictures.split(PAIRS), real.split(PAIRS), strict=True):
        total += len(some) * float(matching_of(lite0()(as_rgb(some_real)), lite0()(as_rgb(some))))
    return total / len(pictures)


def lanczos(small: Tensor) -> Tensor:
    """Pillow's Lanczos enlargement, each channel of premultiplied RGBA by itself."""
    planes = ((small + 1) * 127.5).round().clamp(0, 255).byte()
    size = (small.shape[3] * SCALE, small.shape[2] * SCALE)
    large = [
        np.array(Image.fromarray(plane.numpy()).resize(size, Image.Resampling.LANCZOS))
        for plane in planes.flatten(0, 1)
    ]
    return torch.from_numpy(np.stack(large)).view(*small.shape[:2], *size[::-1]) / 127.5 - 1


def bundle(training: UpscalerTraining, figures: dict) -> None:
    """Write the averaged weights and their card as the bundled file, and check that it loads."""
    card = {
        "name": UPSCALER_FILE.stem,
        "data": f"emoji set, {' and '.join(STYLES)} at {RESOLUTION} px",
        "licence": "MIT; Fluent Emoji by Microsoft, MIT",
        "pictures": len(training.real),
        "steps": training.done,
        "batch": f"{PAIRS} pairs, {GENERATED} pictures generated by {ALIASES['emoji']}",
        "lite0": lite0_hash(),
        "date": datetime.date.today().isoformat(),
        "code_version": im.__version__,
        "figures": figures,
    }
    metadata = {"config": json.dumps(asdict(UpscalerConfig())), "card": json.dumps(card)}
    state = quantized(training.average.state_dict())
    write_atomically(UPSCALER_FILE, lambda new: save_tensors(state, new, metadata))
    Path(f"{UPSCALER_FILE}.sha256").write_text(sha256_of(UPSCALER_FILE) + "\n")
    load_upscaler()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/upscaler"))
    parser.add_argument("--steps", type=int, default=4200)
    args = parser.parse_args()
    items = read_items(args.data)
    train, held_out = (
        load_pictures(
            [item for item in split if item.style in STYLES], resolution=RESOLUTION, channels=4
        )
        for split in (items, read_items(args.data, split="test"))
    )
    training = UpscalerTraining(train, generated_pool(items), args.steps)
    training.run(args.out)
    figures = compare(training.average, held_out)
    bundle(training, figures)
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
