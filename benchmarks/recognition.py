"""Do generated pictures train a classifier of real ones?

    .venv/bin/python benchmarks/recognition.py --data data/emoji-128 [--model emoji] [--json FILE]

Concepts of the held-out pairs are the classes. The tests are their real held-out pictures, in a
style in which neither the generator nor the classifier has seen the concept. One classifier trains
on the real training pictures (one of each other style), one on a labelled set that the model
generates and ImagenSaveDataset's function writes, one on both; all for the same number of steps,
with the same augmentation, at 64 px whatever the model's resolution is.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from common import arguments, captioned_items, write_json
from torch import Tensor, nn

import imagen_model as im
from imagen_model.data.dataset import load_pictures
from imagen_model.data.folder import read_items
from imagen_model.data.item import Item
from imagen_model.data.prepare.labelled import append_labelled
from imagen_model.evaluation.dataset import all_pixels
from imagen_model.evaluation.sheet import by_hash
from imagen_model.storage.provenance import model_facts

CLASSES, SEEDS_PER_STYLE = 60, 12
STEPS, BATCH, RUNS = 1000, 64, 3
SIDE = 64  # pixels a side that the classifiers see
Labelled = tuple[Tensor, Tensor]  # pictures [N, C, H, W] and class numbers [N]


def classifier(channels: int, classes: int) -> nn.Module:
    """Four strided convolutions; 0.4 M parameters."""
    layers: list[nn.Module] = []
    for width in (32, 64, 128, 256):
        layers += [nn.Conv2d(channels, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU()]
        channels = width
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.3), nn.Linear(256, classes)
    )


def augmented(x: Tensor, rng: torch.Generator) -> Tensor:
    """Shifts up to 3 px, mirrors, and another brightness and contrast for each picture."""
    n, _, side, _ = x.shape
    x = torch.where(torch.rand(n, 1, 1, 1, generator=rng) < 0.5, x.flip(3), x)
    x = F.pad(x, (3, 3, 3, 3), value=-1.0)
    top, left = torch.randint(0, 7, (2, n), generator=rng).tolist()
    x = torch.stack(
        [p[:, t : t + side, q : q + side] for p, t, q in zip(x, top, left, strict=True)]
    )
    scale, shift = torch.rand(2, n, 1, 1, 1, generator=rng) * 0.4 - 0.2
    return torch.cat([(x[:, :3] * (1 + scale) + shift).clamp(-1, 1), x[:, 3:]], dim=1)


def accuracy(train: Labelled, test: Labelled, classes: int, seed: int) -> float:
    """Share of `test` that a classifier trained on `train` gets right."""
    pictures, labels = train
    torch.manual_seed(seed)
    rng = torch.Generator().manual_seed(seed)
    net = classifier(pictures.shape[1], classes)
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=STEPS)
    for _ in range(STEPS):
        rows = torch.randint(len(labels), (BATCH,), generator=rng)
        logits = net(augmented(pictures[rows], rng))
        optimizer.zero_grad()
        F.cross_entropy(logits, labels[rows], label_smoothing=0.1).backward()
        optimizer.step()
        schedule.step()
    net.eval()
    with torch.no_grad():
        return float((net(test[0]).argmax(dim=1) == test[1]).float().mean())


def labelled(items: Sequence[Item], names: list[str], model: im.Model) -> Labelled:
    """The items whose captions are among the classes."""
    kept = [item for item in items if item.text in names]
    found = load_pictures(kept, resolution=SIDE, channels=model.config.generator.channels)
    return all_pixels(found), torch.tensor([names.index(item.text) for item in found.items])


def generate_labelled(model: im.Model, names: list[str], folder: Path) -> list[Item]:
    """The synthetic set, as ImagenSaveDataset leaves it: every class in every style."""
    facts = model_facts(model.name, model.card)
    for s, style in enumerate(model.styles):
        for i, name in enumerate(names):
            seeds = [1000 * i + 100 * s + k for k in range(SEEDS_PER_STYLE)]
            pictures = model.sample(name, seeds=seeds, style=style)
            of_each = [facts | {"seed": seed, "style": style} for seed in seeds]
            append_labelled(folder, list(pictures), [name], style=style, facts=of_each)
    return read_items(folder)


def measure(model: im.Model, data: Path, folder: Path) -> dict:
    """Accuracy by training set."""
    test_items, train_items = (captioned_items(data, split) for split in ("test", "train"))
    shared = {item.text for item in test_items} & {item.text for item in train_items}
    names = sorted(shared, key=by_hash)[:CLASSES]
    test, real = labelled(test_items, names, model), labelled(train_items, names, model)
    started = time.monotonic()
    generated = labelled(generate_labelled(model, names, folder), names, model)
    seconds = time.monotonic() - started
    repeats = max(1, len(generated[1]) // len(real[1]))  # so that both are seen equally often
    both = (
        torch.cat([real[0].repeat(repeats, 1, 1, 1), generated[0]]),
        torch.cat([real[1].repeat(repeats), generated[1]]),
    )
    rows = {}
    for name, train in (("real", real), ("generated", generated), ("both", both)):
        found = [accuracy(train, test, len(names), seed) for seed in range(RUNS)]
        mean, count = sum(found) / RUNS, len(train[1])
        rows[name] = {"pictures": count, "accuracy": mean, "runs": found}
        print(f"{name:10} {count:6} pictures  {mean:.1%}  ({min(found):.1%} to {max(found):.1%})",
              flush=True)  # fmt: skip
    rows["both"]["pictures"] = len(real[1]) + len(generated[1])
    return {
        "model": model.name,
        "classes": len(names),
        "test_pictures": len(test[1]),
        "chance": 1 / len(names),
        "generating_seconds": round(seconds, 1),
        **rows,
    }


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--model", default="emoji")
    parser.add_argument("--data", type=Path, required=True, help="a folder made by `imagen data`")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(im.load(args.model), args.data, Path(folder))
    print(f"{result['classes']} classes, {result['test_pictures']} held-out real pictures, "
          f"chance {result['chance']:.1%}")  # fmt: skip
    write_json(args.json, result)


if __name__ == "__main__":
    main()
