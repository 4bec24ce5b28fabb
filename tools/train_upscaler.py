"""Train the bundled upscaler: `python tools/train_upscaler.py data/emoji-128 --out runs/upscaler`.

`imagen data emoji --resolution 128` makes the data; the styles that come at 128 px or more are used
(two of the four come at 64). The low-resolution picture is a 32 px version of a real one, sometimes
blurred and noisy as a generator's pictures are; the target a crop of 64 px. The loss is feature
matching and L1 with a hinge game against the library's own discriminator, heads on lite0 included.

Resumable from its last 200 steps. At the end the weights are written as the bundled
file, and compared with bicubic enlargement on the held-out pictures.
"""

from __future__ import annotations

import argparse
import datetime
import json
import time
from dataclasses import asdict
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from imagen_model import __version__
from imagen_model.config import COND_DIM, DiscriminatorConfig
from imagen_model.data.folder import PictureSet, load_pictures, read_samples
from imagen_model.discriminator import Discriminator
from imagen_model.features import as_rgb, lite0, lite0_hash
from imagen_model.files import quantized, save_tensors, sha256_of, write_atomically
from imagen_model.layers import channels_last
from imagen_model.likeness import feature_matching
from imagen_model.training.augment import random_background
from imagen_model.training.losses import hinge_d, hinge_g
from imagen_model.upscaler import SCALE, UPSCALER_FILE, Upscaler, UpscalerConfig, load_upscaler

STYLES = ("fluent-3d", "fluent-flat")
CROP = 64  # pixels of a target
BATCH = 16
LR, LR_END = 1e-3, 5e-5
L1_WEIGHT, ADVERSARIAL_WEIGHT = 4.0, 0.1
EMA_DECAY = 0.998
SAVE_EVERY = 200  # steps


class Training:
    """Both networks, their optimisers, and the average of the upscaler's weights."""

    def __init__(self, pictures: PictureSet, steps: int) -> None:
        torch.manual_seed(0)
        self.pictures, self.steps, self.done = pictures, steps, 0
        self.rng = torch.Generator().manual_seed(0)
        self.upscaler = channels_last(Upscaler(UpscalerConfig()))
        self.average = channels_last(Upscaler(UpscalerConfig())).requires_grad_(False)
        self.average.load_state_dict(self.upscaler.state_dict())
        config = DiscriminatorConfig(resolution=CROP, width=16, max_width=64)
        self.judge = channels_last(Discriminator(config, COND_DIM, 0))
        self.lite0 = lite0()
        trained = [p for p in self.judge.parameters() if p.requires_grad]
        self.optimizers = {
            "upscaler": torch.optim.Adam(self.upscaler.parameters(), betas=(0.5, 0.99)),
            "judge": torch.optim.Adam(trained, betas=(0.0, 0.99)),
        }

    def modules(self) -> dict[str, torch.nn.Module]:
        return {"upscaler": self.upscaler, "average": self.average, "judge": self.judge}

    def batch(self) -> tuple[Tensor, Tensor]:
        """(low [N, 4, 16, 16], high [N, 4, 64, 64]): crops, aligned to the low pixels."""
        index = torch.randint(len(self.pictures), (BATCH,), generator=self.rng)
        whole = self.pictures.batch(index)
        if torch.rand((), generator=self.rng) < 0.5:
            whole = whole.flip(3)
        low = degraded(F.avg_pool2d(whole, SCALE), self.rng)
        last = (whole.shape[2] - CROP) // SCALE
        places = torch.randint(last + 1, (BATCH, 2), generator=self.rng).tolist()
        side = CROP // SCALE
        high_crops = [
            x[:, r * SCALE : r * SCALE + CROP, c * SCALE : c * SCALE + CROP]
            for x, (r, c) in zip(whole, places, strict=True)
        ]
        low_crops = [
            x[:, r : r + side, c : c + side] for x, (r, c) in zip(low, places, strict=True)
        ]
        return torch.stack(low_crops), torch.stack(high_crops)

    def step(self) -> dict[str, float]:
        low, high = self.batch()
        background = random_background(BATCH, self.rng, torch.device("cpu"))
        self._set_lr()
        made = self.upscaler(low)
        with torch.no_grad():
            real_levels = self.lite0(as_rgb(high, background))
        made_levels = self.lite0(as_rgb(made, background))
        self.judge.requires_grad_(True)
        self.judge.mixer.requires_grad_(False)
        real = self.judge(high, real_levels).patch_logits
        fake = self.judge(made.detach(), [level.detach() for level in made_levels]).patch_logits
        d_loss = torch.stack([hinge_d(a, b) for a, b in zip(real, fake, strict=True)]).mean()
        self._descend("judge", d_loss)
        self.judge.requires_grad_(False)
        logits = self.judge(made, made_levels).patch_logits
        adversarial = torch.stack([hinge_g(x, x) for x in logits]).mean()
        pooled = [self.lite0.pool(levels[-1]) for levels in (real_levels, made_levels)]
        matching = feature_matching(real_levels, made_levels, *pooled)
        l1 = F.l1_loss(made, high)
        self._descend("upscaler", matching + L1_WEIGHT * l1 + ADVERSARIAL_WEIGHT * adversarial)
        decay = min(EMA_DECAY, (1 + self.done) / (10 + self.done))
        for ours, theirs in zip(self.average.parameters(), self.upscaler.parameters(), strict=True):
            ours.lerp_(theirs.detach(), 1 - decay)
        self.done += 1
        return {"d": d_loss.item(), "matching": matching.item(), "l1": l1.item()}

    def _set_lr(self) -> None:
        cosine = 0.5 * (1 + torch.cos(torch.tensor(torch.pi * self.done / self.steps)).item())
        for name, optimizer in self.optimizers.items():
            top = LR if name == "upscaler" else LR / 2
            for group in optimizer.param_groups:
                group["lr"] = LR_END + (top - LR_END) * cosine

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


def degraded(low: Tensor, rng: torch.Generator) -> Tensor:
    """As a generator's pictures are: half of the batches blurred a little, with some noise."""
    u = torch.rand(2, generator=rng)
    if u[0] < 0.5:
        sigma = 0.3 + 0.7 * float(u[1])
        x = torch.arange(-2, 3)
        kernel = torch.exp(-(x**2) / (2 * sigma**2))
        kernel = torch.outer(kernel, kernel) / kernel.sum() ** 2
        weight = kernel.expand(low.shape[1], 1, 5, 5)
        low = F.conv2d(F.pad(low, (2, 2, 2, 2), mode="replicate"), weight, groups=low.shape[1])
        low = low + 0.02 * torch.randn(low.shape, generator=rng)
    return low.clamp(-1, 1)


def compare(network: Upscaler, pictures: PictureSet) -> dict:
    """Against bicubic enlargement on held-out pictures: PSNR over white, and distance in lite1."""
    from imagen_model.evaluation.extractor import Lite1
    from imagen_model.upscaler import upscale

    high = pictures.batch(torch.arange(len(pictures)))
    low = F.avg_pool2d(high, SCALE)
    bicubic = F.interpolate(low, scale_factor=SCALE, mode="bicubic").clamp(-1, 1)
    lite1 = Lite1()
    real = lite1(high)
    result = {"held_out_pictures": len(pictures)}
    for name, made in (("bicubic", bicubic), ("upscaler", upscale(low, network=network))):
        mse = (as_rgb(made) - as_rgb(high)).square().mean(dim=(1, 2, 3)) / 4  # of [0, 1]
        result[f"psnr_{name}"] = float((-10 * mse.clamp(min=1e-8).log10()).mean())
        result[f"lite1_cosine_{name}"] = float((lite1(made) * real).sum(dim=1).mean())
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/upscaler"))
    parser.add_argument("--steps", type=int, default=3000)
    args = parser.parse_args()
    samples = [s for s in read_samples(args.data) if s.style in STYLES]
    training = Training(load_pictures(samples, resolution=128, channels=4), args.steps)
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
    held = [s for s in read_samples(args.data, split="test") if s.style in STYLES]
    figures = compare(training.average, load_pictures(held, resolution=128, channels=4))
    card = {
        "name": UPSCALER_FILE.stem,
        "data": f"emoji set, {' and '.join(STYLES)} at 128 px (docs/weights.md has the licences)",
        "pictures": len(samples),
        "steps": training.done,
        "batch": BATCH,
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
