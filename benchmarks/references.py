"""Speed beside other GANs at 64 px, all measured in one run on this machine.

    .venv/bin/python benchmarks/references.py [--threads N] [--batch N] [--rounds N] [--json FILE]

The references: a convolutional generator and discriminator of R3GAN's size (2501.05441), restated
here, with its exact R1 and R2; the reference article's generator (preset dcgan); and, where they
are installed, lightweight-gan 1.2.1 and stylegan2-pytorch 1.9.0 with their default sizes. These two
refuse to start without CUDA; here their networks run on a CPU in a training step of ours with their
losses (hinge, and a gradient penalty every fourth step), without augmentation.

"share" is the part of the roofline: the time that the FLOPs take at a matrix product's speed, or
that reading the weights takes at a copy's speed, whichever is longer, divided by the measured time.
Memory is what the first call needs beyond what the process has (Linux).
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from types import ModuleType
from unittest import mock

import torch
import torch.nn.functional as F
from common import arguments, write_json
from torch import Tensor, nn

from imagen_model.bench import Stopwatch, Work, synthetic_trainer
from imagen_model.condition import Condition
from imagen_model.config import preset
from imagen_model.inference.latent import random_latent
from imagen_model.inference.sampling import draw
from imagen_model.networks.networks import Networks

RESOLUTION = 64
WIDTHS = (768, 768, 768, 768, 384)  # from 4x4 to 64x64; R3GAN's smallest published size
Z_DIM, GROUP, EXPANSION, LEAK = 64, 16, 2, 0.2
OURS, R3GAN = "small", "R3GAN's size"
PENALTY_EVERY, PENALTY_WEIGHT = 4, 10.0  # of lightweight-gan and stylegan2-pytorch
COPY_BYTES = 1 << 28


class Residual(nn.Module):
    """1x1, grouped 3x3 and 1x1 convolutions, added to the input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = EXPANSION * width
        self.layers = nn.Sequential(
            nn.Conv2d(width, inner, 1, bias=False),
            nn.LeakyReLU(LEAK),
            nn.Conv2d(inner, inner, 3, padding=1, groups=inner // GROUP, bias=False),
            nn.LeakyReLU(LEAK),
            nn.Conv2d(inner, width, 1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


def stage(width: int) -> list[nn.Module]:
    return [Residual(width), Residual(width)]


class ConvGenerator(nn.Module):
    """z [N, 64] -> pictures [N, 4, 64, 64]; bilinear upsampling between stages."""

    def __init__(self) -> None:
        super().__init__()
        self.basis = nn.Parameter(torch.randn(WIDTHS[0], 4, 4))
        self.start = nn.Linear(Z_DIM, WIDTHS[0], bias=False)
        layers = stage(WIDTHS[0])
        for before, width in itertools.pairwise(WIDTHS):
            layers.append(nn.Upsample(scale_factor=2, mode="bilinear"))
            if before != width:
                layers.append(nn.Conv2d(before, width, 1, bias=False))
            layers += stage(width)
        self.layers = nn.Sequential(*layers, nn.Conv2d(WIDTHS[-1], 4, 1))

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(self.start(z)[:, :, None, None] * self.basis)


class ConvDiscriminator(nn.Module):
    """The generator's mirror image: pictures -> logits [N]."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(4, WIDTHS[-1], 1), *stage(WIDTHS[-1])]
        for before, width in itertools.pairwise(WIDTHS[::-1]):
            layers.append(nn.AvgPool2d(2))
            if before != width:
                layers.append(nn.Conv2d(before, width, 1, bias=False))
            layers += stage(width)
        last = WIDTHS[0]
        basis = nn.Conv2d(last, last, 4, groups=last, bias=False)
        self.layers = nn.Sequential(*layers, basis, nn.Flatten(), nn.Linear(last, 1, bias=False))

    def forward(self, pictures: Tensor) -> Tensor:
        return self.layers(pictures).squeeze(1)


def squared_gradient(logits: Tensor, pictures: Tensor) -> Tensor:
    """[N]: |gradient of the logit to the picture|^2, to be differentiated again."""
    (gradient,) = torch.autograd.grad(logits.sum(), pictures, create_graph=True)
    return gradient.square().sum(dim=(1, 2, 3))


def exact_step(batch: int) -> Callable[[], object]:
    """One step of the relativistic loss with exact R1 and R2 (2501.05441)."""
    generator, discriminator = ConvGenerator(), ConvDiscriminator()
    g_opt, d_opt = (torch.optim.Adam(net.parameters()) for net in (generator, discriminator))
    real = torch.rand(batch, 4, RESOLUTION, RESOLUTION) * 2 - 1

    def step() -> None:
        with torch.no_grad():
            generated = generator(torch.randn(batch, Z_DIM))
        pair = [x.detach().requires_grad_() for x in (real, generated)]
        real_logits, fake_logits = map(discriminator, pair)
        penalty = squared_gradient(real_logits, pair[0]) + squared_gradient(fake_logits, pair[1])
        d_opt.zero_grad()
        (F.softplus(fake_logits - real_logits) + penalty / 2).mean().backward()
        d_opt.step()
        generated = generator(torch.randn(batch, Z_DIM))
        with torch.no_grad():
            real_logits = discriminator(real)
        g_opt.zero_grad()
        F.softplus(real_logits - discriminator(generated)).mean().backward()
        g_opt.step()

    return step


def hinge_steps(
    generate: Callable[[], Tensor],
    discriminate: Callable[[Tensor], tuple[list[Tensor], Tensor]],
    optimizers: tuple[torch.optim.Optimizer, torch.optim.Optimizer],
    real: Tensor,
) -> Callable[[], object]:
    """PENALTY_EVERY steps; `discriminate` gives logits and an auxiliary loss for real pictures."""
    g_opt, d_opt = optimizers

    def steps() -> None:
        for i in range(PENALTY_EVERY):
            with torch.no_grad():
                generated = generate()
            pair = [x.detach().requires_grad_(i == 0) for x in (real, generated)]
            (real_logits, loss), (fake_logits, _) = map(discriminate, pair)
            for a, b in zip(real_logits, fake_logits, strict=True):
                loss = loss + (F.relu(1 + a) + F.relu(1 - b)).mean()
            if i == 0:
                for pictures, logits in zip(pair, (real_logits, fake_logits), strict=True):
                    total = torch.stack([x.sum() for x in logits]).sum()
                    loss = loss + PENALTY_WEIGHT * squared_gradient(total, pictures).mean()
            d_opt.zero_grad()
            loss.backward()
            d_opt.step()
            g_opt.zero_grad()
            torch.stack([x.mean() for x in discriminate(generate())[0]]).sum().backward()
            g_opt.step()

    return steps


def installed(name: str) -> ModuleType | None:
    """The package's module, or None with a line that says why not."""
    try:
        with mock.patch("torch.cuda.is_available", return_value=True):  # they refuse to be imported
            return importlib.import_module(f"{name}.{name}")
    except ImportError as error:
        print(f"{name} is left out: {error}")
        return None


Drawing = Callable[[int], Callable[[], object]]  # a batch -> a function that draws it


def lightweight_gan(batch: int) -> tuple[nn.Module, Drawing, Callable[[], object]] | None:
    module = installed("lightweight_gan")
    if module is None:
        return None
    generator = module.Generator(image_size=RESOLUTION, transparent=True)
    discriminator = module.Discriminator(image_size=RESOLUTION, transparent=True)

    def discriminate(pictures: Tensor) -> tuple[list[Tensor], Tensor]:
        *logits, auxiliary = discriminator(pictures, calc_aux_loss=True)
        return logits, auxiliary

    opts = (torch.optim.Adam(generator.parameters()), torch.optim.Adam(discriminator.parameters()))
    real = torch.rand(batch, 4, RESOLUTION, RESOLUTION)
    step = hinge_steps(lambda: generator(torch.randn(batch, 256)), discriminate, opts, real)
    return generator, lambda n: lambda: generator(torch.randn(n, 256)), step


def stylegan2_pytorch(batch: int) -> tuple[nn.Module, Drawing, Callable[[], object]] | None:
    module = installed("stylegan2_pytorch")
    if module is None:
        return None
    nets = nn.ModuleDict(
        {"S": module.StyleVectorizer(512, 8, lr_mul=0.1),
         "G": module.Generator(RESOLUTION, 512, transparent=True)}
    )  # fmt: skip
    discriminator = module.Discriminator(RESOLUTION, transparent=True)

    def generate(n: int = batch) -> Tensor:
        w = nets["S"](torch.randn(n, 512))[:, None].expand(-1, nets["G"].num_layers, -1)
        return nets["G"](w, torch.rand(n, RESOLUTION, RESOLUTION, 1))

    def discriminate(pictures: Tensor) -> tuple[list[Tensor], Tensor]:
        logits, auxiliary = discriminator(pictures)
        return [logits], auxiliary.sum()

    opts = (torch.optim.Adam(nets.parameters()), torch.optim.Adam(discriminator.parameters()))
    real = torch.rand(batch, 4, RESOLUTION, RESOLUTION)
    return nets, lambda n: lambda: generate(n), hinge_steps(generate, discriminate, opts, real)


def ours(name: str) -> tuple[nn.Module, Drawing]:
    """A model with initial weights, and `draw` of it."""
    networks = Networks.seeded(preset(name), 0).eval().requires_grad_(False)
    dim, styles = networks.conditioning.config.dim, len(networks.conditioning.config.styles)
    tokens, mask = torch.randn(1, 6, dim), torch.ones(1, 6, dtype=torch.bool)
    condition = Condition(tokens, mask, tokens.mean(dim=1), torch.zeros(1, styles))
    z_dim = networks.generator.config.z_dim
    return (
        networks.generator,
        lambda n: lambda: draw(networks, condition, random_latent(range(n), z_dim)),
    )


def memory_of(run: Callable[[], object]) -> float | None:
    """MiB that `run` needs beyond what the process holds; None where Linux does not tell."""
    status, clear = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not clear.exists():
        return None

    def kib(field: str) -> int:
        return int(status.read_text().split(f"{field}:")[1].split()[0])

    clear.write_text("5")  # the peak is from now on
    before = kib("VmRSS")
    run()
    return (kib("VmHWM") - before) / 1024


def copy_speed(clock: str) -> float:
    """Bytes a second that a copy reads; the median of five, by the stopwatch's clock."""
    a = torch.ones(COPY_BYTES // 4)
    b, times = torch.empty_like(a), []
    now = time.perf_counter if clock == "wall" else time.process_time
    for _ in range(6):
        start = now()
        b.copy_(a)
        times.append(now() - start)
    threads = 1 if clock == "wall" else torch.get_num_threads()
    return COPY_BYTES * threads / median(times[1:])


def without_gradients(run: Callable[[], object]) -> Callable[[], object]:
    return torch.no_grad()(run)


def all_works(batch: int) -> Iterator[tuple[str, dict[str, tuple[Work, int]], str]]:
    """Title, name -> (work, bytes of weights that it reads at least), and the row of ours."""
    conv = ConvGenerator().eval()
    generators: dict[str, tuple[nn.Module, Drawing]] = {
        OURS: ours("small"),
        "base": ours("base"),
        R3GAN: (conv, lambda n: lambda: conv(torch.randn(n, Z_DIM))),
        "reference article": ours("dcgan"),
    }
    steps: dict[str, Work] = {}
    for build in (lightweight_gan, stylegan2_pytorch):
        with contextlib.suppress(TypeError):
            generator, drawing, step = build(batch)  # type: ignore[misc]
            generators[build.__name__] = (generator.eval(), drawing)
            steps[build.__name__] = Work(step, batch * PENALTY_EVERY)
    for n in (1, 8):
        works = {
            name: (
                Work(without_gradients(drawing(n)), n),
                4 * sum(map(torch.numel, net.parameters())),
            )
            for name, (net, drawing) in generators.items()
        }
        yield f"generation, batch {n}", works, OURS
    trainer = synthetic_trainer("small", RESOLUTION, batch, torch.device("cpu"))
    steps |= {OURS: Work(trainer.step, batch), R3GAN: Work(exact_step(batch), batch)}
    yield f"training step, batch {batch}", {name: (work, 0) for name, work in steps.items()}, OURS


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--batch", type=int, default=4, help="pictures a training step")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    stopwatch = Stopwatch(torch.device("cpu"), args.rounds)
    machine = stopwatch.machine()
    copy = copy_speed(machine["clock"])
    print(f"{machine}\ncopy: {copy / 1e9:.1f} GB/s", flush=True)
    result: dict = {"machine": {**machine, "copy_gb_per_sec": copy / 1e9}}
    for title, works, reference in all_works(args.batch):
        memory = {name: memory_of(work.run) for name, (work, _) in works.items()}
        stopwatch.rounds = args.rounds if "generation" in title else min(2, args.rounds)
        rows = stopwatch.rows({k: work for k, (work, _) in works.items()}, reference=reference)
        for name, row in rows.items():
            row["times_ours"] = 1 / row.pop("ratio_to")[reference]
            weights = works[name][1] / works[name][0].batch / copy * 1000  # ms an image
            row["share"] = max(row.pop("peak_fraction"), weights / row["ms_per_image"])
            row["memory_mib"] = memory[name]
            print(
                f"{title:24} {name:20} {row['ms_per_image']:9.1f} ms an image, "
                f"{row['times_ours']:6.1f} x {reference}, {row['gflop_per_image']:7.1f} GFLOP, "
                f"share {100 * row['share']:3.0f} %, memory {row['memory_mib'] or 0:5.0f} MiB",
                flush=True,
            )
        result[title] = rows
    write_json(args.json, result)


if __name__ == "__main__":
    main()
