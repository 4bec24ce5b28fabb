"""Does a classifier learn from drawn pictures what it needs for real ones?

    .venv/bin/python benchmarks/recognition.py --data data/emoji-128 [--model emoji] [--json FILE]

Concepts of the held-out pairs are the classes. Tested is on their real held-out pictures, in a
style in which neither the generator nor the classifier has seen that concept. One classifier learns
from the real training pictures (one each in the other styles), one from a labelled set that the
model draws and ImagenSaveDataset's function writes, one from both; all for as many steps, with the
same augmentation, at 64 px whatever the model draws.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import imagen_model as im
from imagen_model.data.dataset import load_pictures
from imagen_model.data.folder import read_items
from imagen_model.data.item import Item
from imagen_model.data.prepare.labelled import append_labelled
from imagen_model.evaluation.sheet import by_hash
from imagen_model.storage.provenance import model_facts

CLASSES, SEEDS_A_STYLE = 60, 12
STEPS, BATCH, RUNS = 1000, 64, 3
SIDE = 64  # pixels a side that the classifiers see


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


def accuracy(
    train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], classes: int, seed: int
) -> float:
    """Of a classifier trained on pictures and labels, on others."""
    pictures, labels = train
    torch.manual_seed(seed)
    rng = torch.Generator().manual_seed(seed)
    net = classifier(pictures.shape[1], classes)
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=STEPS)
    for _ in range(STEPS):
        rows = torch.randint(len(labels), (BATCH,), generator=rng)
        loss = F.cross_entropy(
            net(augmented(pictures[rows], rng)), labels[rows], label_smoothing=0.1
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    net.eval()
    with torch.no_grad():
        return float((net(test[0]).argmax(dim=1) == test[1]).float().mean())


def tensors(samples: Sequence[Item], names: list[str], model: im.Model) -> tuple[Tensor, Tensor]:
    """Pictures and class numbers."""
    channels = model.config.generator.channels
    found = load_pictures(list(samples), resolution=SIDE, channels=channels)
    labels = torch.tensor([names.index(s.text) for s in found.items])
    return found.batch(torch.arange(len(found))), labels


def draw_labelled(model: im.Model, names: list[str], folder: Path) -> list[Item]:
    """The synthetic set, as ImagenSaveDataset leaves it: every class in every style."""
    facts = model_facts(model.name, model.card)
    for s, style in enumerate(model.styles):
        for i, name in enumerate(names):
            seeds = [1000 * i + 100 * s + k for k in range(SEEDS_A_STYLE)]
            pictures = model.sample(name, seeds=seeds, style=style)
            made = [facts | {"seed": seed, "style": style} for seed in seeds]
            append_labelled(folder, list(pictures), [name], style=style, facts=made)
    return read_items(folder)


def base_of(samples: Sequence[Item]) -> list[Item]:
    return [s for s in samples if s.hexcode == s.base]


def measure(model: im.Model, data: Path, folder: Path) -> dict:
    test_all = base_of(read_items(data, split="test"))
    train_all = base_of(read_items(data, split="train"))
    shown = {s.text for s in train_all}
    names = sorted({s.text for s in test_all} & shown, key=by_hash)[:CLASSES]
    test = tensors([s for s in test_all if s.text in names], names, model)
    real = tensors([s for s in train_all if s.text in names], names, model)
    started = time.monotonic()
    drawn = tensors(draw_labelled(model, names, folder), names, model)
    seconds = time.monotonic() - started
    # both halves are met equally often
    repeats = max(1, len(drawn[1]) // len(real[1]))
    both = (
        torch.cat([real[0].repeat(repeats, 1, 1, 1), drawn[0]]),
        torch.cat([real[1].repeat(repeats), drawn[1]]),
    )
    rows = {}
    for name, train in (("real", real), ("drawn", drawn), ("both", both)):
        found = [accuracy(train, test, len(names), seed) for seed in range(RUNS)]
        rows[name] = {"pictures": len(train[1]), "accuracy": sum(found) / RUNS, "runs": found}
        print(f"{name:6} {len(train[1]):6} pictures  {sum(found) / RUNS:.1%}  "
              f"({min(found):.1%} to {max(found):.1%})", flush=True)  # fmt: skip
    rows["both"]["pictures"] = len(real[1]) + len(drawn[1])
    return {
        "model": model.name,
        "classes": len(names),
        "test_pictures": len(test[1]),
        "chance": 1 / len(names),
        "drawing_seconds": round(seconds, 1),
        **rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="emoji")
    parser.add_argument("--data", type=Path, required=True, help="a folder made by `imagen data`")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(im.load(args.model), args.data, Path(folder))
    print(f"{result['classes']} classes, {result['test_pictures']} held-out real pictures, "
          f"chance {result['chance']:.1%}")  # fmt: skip
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
