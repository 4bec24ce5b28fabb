"""Memory and speed of training by preset and resolution: the table in docs/scaling.md.

    .venv/bin/python benchmarks/scaling.py [--preset nano small] [--resolution 32 64] [--json FILE]

Each row is a few steps of two pictures with the default objective. These are counted, and the same
on every machine: parameters; bytes of weights, gradients, optimisers, EMA and the guard's copies;
FLOPs per image; what an image keeps in memory for the backward passes of both updates, each tensor
once. Only the processor seconds depend on the machine; larger batches take a little less of them.
"""

from __future__ import annotations

import time

import torch
from common import arguments, write_json

from imagen_model.bench import Flops, synthetic_trainer
from imagen_model.config import PRESET_DIMS
from imagen_model.training.trainer import Trainer

BATCH = 2


def kept_for_backward(trainer: Trainer) -> int:
    """Bytes of the tensors that autograd saves in one step, without weights, each tensor once."""
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


def measure(name: str, resolution: int) -> dict:
    """The row of one preset at one resolution."""
    trainer = synthetic_trainer(name, resolution, BATCH, torch.device("cpu"))
    networks = trainer.networks
    trainer.step()  # makes the optimisers' moments
    weights = sum(p.numel() for p in networks.parameters())
    groups = [group for o in trainer.optimizers.values() for group in o.param_groups]
    trained = sum(p.numel() for group in groups for p in group["params"])
    saved = kept_for_backward(trainer)
    with Flops() as counter:
        trainer.step()
    started = time.process_time()
    trainer.step()
    seconds = (time.process_time() - started) / BATCH
    return {
        "preset": name,
        "resolution": resolution,
        "generator_parameters": sum(p.numel() for p in networks.generator.parameters()),
        "discriminator_parameters": sum(p.numel() for p in networks.discriminator.parameters()),
        # weights and EMA, Adam's two moments, twice more in the guard's memory; and gradients
        "state_bytes": 4 * (3 * (2 * weights + 2 * trained) + trained),
        "activation_bytes_per_image": saved / BATCH,
        "gflop_per_image": counter.total / BATCH / 1e9,
        "processor_sec_per_image": seconds,
    }


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--preset", nargs="+", default=list(PRESET_DIMS), choices=PRESET_DIMS)
    parser.add_argument("--resolution", nargs="+", type=int, default=[32, 64, 128])
    args = parser.parse_args()
    rows = []
    print("| preset | px | G, D parameters | state | kept per image | GFLOP per image | "
          "images per CPU second |\n|---|---|---|---|---|---|---|")  # fmt: skip
    for name in args.preset:
        for resolution in args.resolution:
            rows.append(r := measure(name, resolution))
            print(
                f"| {name} | {resolution} | {r['generator_parameters'] / 1e6:.1f}M, "
                f"{r['discriminator_parameters'] / 1e6:.1f}M | {r['state_bytes'] / 2**20:.0f} MiB "
                f"| {r['activation_bytes_per_image'] / 2**20:.1f} MiB | "
                f"{r['gflop_per_image']:.2f} | {1 / r['processor_sec_per_image']:.2f} |",
                flush=True,
            )
    write_json(args.json, {"batch": BATCH, "rows": rows})


if __name__ == "__main__":
    main()
