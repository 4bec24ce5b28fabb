"""Memory and speed of training by preset and resolution: the table in docs/scaling.md.

    .venv/bin/python benchmarks/scaling.py [--preset nano small] [--resolution 32 64] [--json FILE]

Each row is a few steps of two pictures with the default objective. Counted, and the same wherever
it is run: parameters; bytes of weights, gradients, optimisers, EMA and the guard's copies; FLOPs of
an image; what an image leaves in memory for the backward passes, both steps' tensors, each once.
Only processor seconds depend on the machine, and larger batches take a little less of them.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch

from imagen_model.bench import Flops, synthetic_trainer
from imagen_model.config import PRESET_DIMS
from imagen_model.training.trainer import Trainer

BATCH = 2


def kept_for_backward(trainer: Trainer) -> int:
    """Bytes of the tensors that autograd saves in one step, weights and repetitions left out."""
    modules = (trainer.networks, trainer.train_step.lite0)
    weights = {p.untyped_storage().data_ptr() for m in modules for p in m.parameters()}
    storages: dict[int, torch.UntypedStorage] = {}  # held, so that no address comes twice

    def save(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        trainer.step()
    return sum(storage.nbytes() for storage in storages.values())


def row(name: str, resolution: int) -> dict:
    trainer = synthetic_trainer(name, resolution, BATCH, torch.device("cpu"))
    networks = trainer.networks
    trainer.step()  # makes the optimisers' moments
    count = {
        part: sum(p.numel() for p in getattr(networks, part).parameters())
        for part in ("generator", "discriminator")
    }
    weights = sum(p.numel() for p in networks.parameters())
    trained = sum(p.numel() for o in trainer.optimizers.values() for g in o.param_groups
                  for p in g["params"])  # fmt: skip
    # weights and EMA, Adam's two moments, twice more in the guard's memory; and gradients
    state = 4 * (3 * (2 * weights + 2 * trained) + trained)
    saved = kept_for_backward(trainer)
    with Flops() as counter:
        trainer.step()
    started = time.process_time()
    trainer.step()
    seconds = (time.process_time() - started) / BATCH
    return {
        "preset": name,
        "resolution": resolution,
        **{f"{part}_parameters": n for part, n in count.items()},
        "state_bytes": state,
        "activation_bytes_per_image": saved / BATCH,
        "gflop_per_image": counter.total / BATCH / 1e9,
        "processor_sec_per_image": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", nargs="+", default=list(PRESET_DIMS), choices=PRESET_DIMS)
    parser.add_argument("--resolution", nargs="+", type=int, default=[32, 64, 128])
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows = []
    print("| preset | px | G, D parameters | state | activations an image | GFLOP an image | "
          "images a CPU second |")  # fmt: skip
    print("|---|---|---|---|---|---|---|")
    for name in args.preset:
        for resolution in args.resolution:
            r = row(name, resolution)
            rows.append(r)
            millions = [r[f"{part}_parameters"] / 1e6 for part in ("generator", "discriminator")]
            print(
                f"| {name} | {resolution} | {millions[0]:.1f}M, {millions[1]:.1f}M | "
                f"{r['state_bytes'] / 2**20:.0f} MiB | "
                f"{r['activation_bytes_per_image'] / 2**20:.1f} MiB | {r['gflop_per_image']:.2f} | "
                f"{1 / r['processor_sec_per_image']:.2f} |",
                flush=True,
            )
    if args.json:
        args.json.write_text(json.dumps({"batch": BATCH, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
