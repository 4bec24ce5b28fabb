"""Milliseconds an image of the networks, alone, on this machine.

    .venv/bin/python benchmarks/networks.py [--device cuda] [--json FILE]

Rows compare widths and token grids at 32 px in one run; on shared machines only their ratios mean
something.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch

from imagen_model.condition import Condition
from imagen_model.config import ConditioningConfig, GeneratorConfig, preset
from imagen_model.networks.condition_embedding import ConditionEmbedding
from imagen_model.networks.efficientnet import as_rgb, lite0
from imagen_model.networks.generator import Generator
from imagen_model.networks.networks import Networks

BATCH, TOKENS, REPEATS = 32, 8, 7


def milliseconds(work: Callable[[], object], device: torch.device) -> float:
    """Median time of `work` for one image of the batch."""
    times = []
    for i in range(REPEATS + 2):
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        if i >= 2:
            times.append(time.perf_counter() - started)
    return sorted(times)[len(times) // 2] / BATCH * 1000


def generator_row(dim: int, grid: int, device: torch.device) -> dict:
    cond_config = ConditioningConfig()
    config = GeneratorConfig(dim=dim, grid=grid, tail_channels=dim // 4)
    generator = Generator(config, cond_config.dim).to(device)
    conditioning = ConditionEmbedding(cond_config).to(device)
    z = torch.randn(BATCH, config.z_dim, device=device)
    tokens = torch.randn(BATCH, TOKENS, cond_config.dim)
    mask = torch.ones(BATCH, TOKENS, dtype=torch.bool)
    condition = Condition(tokens, mask, tokens.mean(1), torch.zeros(BATCH, 0)).to(device)

    def forward() -> torch.Tensor:
        return generator(z, *conditioning(condition))

    def both() -> None:
        forward().square().mean().backward()

    with torch.no_grad():
        alone = milliseconds(forward, device)
    return {
        "network": f"generator, width {dim}, {grid}x{grid} tokens",
        "parameters": sum(p.numel() for p in generator.parameters()),
        "forward_ms": alone,
        "forward_backward_ms": milliseconds(both, device),
    }


def judge_rows(device: torch.device) -> list[dict]:
    discriminator = Networks(preset("small", resolution=32)).discriminator.to(device)
    features = lite0().to(device)
    pictures = torch.rand(BATCH, 4, 32, 32, device=device) * 2 - 1
    asking = pictures.clone().requires_grad_()
    with torch.no_grad():
        levels = features(as_rgb(pictures))

    def trunk() -> None:
        discriminator.trunk(pictures).mean().backward()

    def whole() -> None:
        judged = discriminator(pictures, levels)
        (judged.realism().mean() + judged.embedding.mean()).backward()

    def seen() -> None:
        sum(level.mean() for level in features(as_rgb(asking))).backward()

    return [
        {"network": "discriminator's trunk", "forward_backward_ms": milliseconds(trunk, device)},
        {"network": "discriminator", "forward_backward_ms": milliseconds(whole, device)},
        {"network": "lite0 to the picture", "forward_backward_ms": milliseconds(seen, device)},
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    device = torch.device(args.device)
    rows = [generator_row(dim, grid, device) for dim in (128, 192) for grid in (8, 4)]
    rows += judge_rows(device)
    for row in rows:
        numbers = "  ".join(f"{k} {v:.2f}" for k, v in row.items() if k.endswith("_ms"))
        print(f"{row['network']:40} {numbers}")
    if args.json:
        args.json.write_text(json.dumps({"batch": BATCH, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
