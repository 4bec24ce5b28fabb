"""Milliseconds per image of the networks alone, on this machine.

    .venv/bin/python benchmarks/networks.py [--device cuda] [--json FILE]

Widths and token grids are compared at 32 px in one run. On shared machines only the ratios within
a run mean something.
"""

from __future__ import annotations

import torch
from common import arguments, write_json

from imagen_model.bench import Stopwatch, Work
from imagen_model.condition import Condition
from imagen_model.config import ConditioningConfig, GeneratorConfig, preset
from imagen_model.networks.condition_embedding import ConditionEmbedding
from imagen_model.networks.discriminator import Discriminator
from imagen_model.networks.efficientnet import as_rgb, lite0
from imagen_model.networks.generator import Generator
from imagen_model.networks.networks import Networks

BATCH, TOKENS, ROUNDS = 32, 8, 7


def generator_works(dim: int, grid: int, device: torch.device) -> dict[str, Work]:
    """Forward, and forward with backward."""
    cond_config = ConditioningConfig()
    config = GeneratorConfig(dim=dim, grid=grid, tail_channels=dim // 4)
    generator = Generator(config, cond_config.dim).to(device).eval()
    conditioning = ConditionEmbedding(cond_config).to(device)
    z = torch.randn(BATCH, config.z_dim, device=device)
    tokens = torch.randn(BATCH, TOKENS, cond_config.dim)
    mask = torch.ones(BATCH, TOKENS, dtype=torch.bool)
    condition = Condition(tokens, mask, tokens.mean(1), torch.zeros(BATCH, 0)).to(device)

    def forward() -> torch.Tensor:
        return generator(z, *conditioning(condition))

    name = f"generator, width {dim}, {grid}x{grid} tokens"
    return {
        f"{name}: forward": Work(torch.no_grad()(forward), BATCH),
        f"{name}: and backward": Work(lambda: forward().square().mean().backward(), BATCH),
    }


def discriminator_works(device: torch.device) -> dict[str, Work]:
    """Forward with backward of the trunk, of all heads, and of the frozen features."""
    discriminator = Networks(preset("small", resolution=32)).to(device).discriminator
    assert isinstance(discriminator, Discriminator)
    features = lite0().to(device)
    pictures = torch.rand(BATCH, 4, 32, 32, device=device) * 2 - 1
    learned = pictures.clone().requires_grad_()
    with torch.no_grad():
        levels = features(as_rgb(pictures))

    def all_heads() -> None:
        output = discriminator(pictures, levels)
        (output.realism().mean() + output.embedding.mean()).backward()

    def to_the_picture() -> None:
        torch.stack([level.mean() for level in features(as_rgb(learned))]).sum().backward()

    return {
        "discriminator's trunk": Work(
            lambda: discriminator.trunk(pictures).mean().backward(), BATCH
        ),
        "discriminator, all heads": Work(all_heads, BATCH),
        "lite0, gradient to the picture": Work(to_the_picture, BATCH),
    }


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--device", type=torch.device, default="cpu")
    args = parser.parse_args()
    works = discriminator_works(args.device)
    for dim in (128, 192):
        for grid in (8, 4):
            works |= generator_works(dim, grid, args.device)
    stopwatch = Stopwatch(args.device, ROUNDS)
    rows = stopwatch.rows(works, reference="generator, width 128, 4x4 tokens: forward")
    for name, row in rows.items():
        print(f"{name:50} {row['ms_per_image']:8.2f} ms  {row['gflop_per_image']:6.2f} GFLOP")
    write_json(args.json, {"machine": stopwatch.machine(), "rows": rows})


if __name__ == "__main__":
    main()
