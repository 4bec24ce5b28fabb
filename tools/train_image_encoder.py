"""Train the bundled image encoder (imagen_model/conditioning/image.py) on the emoji set.

    imagen data emoji --out data/emoji-64 --resolution 64
    python tools/train_image_encoder.py --data data/emoji-64 --bundle

Frozen features of every picture are computed once for several augmented views and kept under
data/image-views; the head that is trained on them learns what MiniLM says of the captions. With
`--leave-out` no picture of a concept of the test split is used (in no style): how well the head
answers those tells what it understands of pictures that it never saw. Run by a maintainer.
"""

from __future__ import annotations

import argparse
import datetime
import json
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from imagen_model.condition import stretched
from imagen_model.conditioning.image import CHANNELS, GRID, IMAGE_FILE, ImageHead, place_features
from imagen_model.conditioning.minilm import text_encoder, text_encoder_hash
from imagen_model.conditioning.resampler import NUM_TOKENS
from imagen_model.data.captions import encode_all
from imagen_model.data.dataset import InMemoryDataset, load_pictures
from imagen_model.data.folder import read_items
from imagen_model.data.item import Item
from imagen_model.networks.efficientnet import lite0_hash
from imagen_model.storage.files import sha256_of, write_atomically
from imagen_model.storage.int8 import quantized

RESOLUTION = 64
TONES_A_VIEW = 0.35  # share of the skin-tone variants that a view holds
BATCH = 64
# What a mirrored picture would no longer show.
ONE_WAY = ("left", "right", "keycap", "button", "flag", "clock", "input", "arrow", "letter", "sign")
SCALE_MAX = 100.0  # of the similarities in the softmax


# -- views ----------------------------------------------------------------------------------------


def uniform(n: int, low: float, high: float, chance: torch.Generator) -> Tensor:
    """[n, 1, 1, 1] numbers from low to high."""
    return torch.empty(n, 1, 1, 1).uniform_(low, high, generator=chance)


def varied(pictures: Tensor, texts: list[str], chance: torch.Generator) -> Tensor:
    """Premultiplied RGBA [N, 4, H, W] in [-1, 1] -> RGB as users' pictures may come.

    Moved, scaled, turned, mirrored where that changes no meaning; on a colour of their own; other
    light and colours; coarse.
    """
    n, _, size, _ = pictures.shape
    free = torch.tensor([not any(word in text.lower() for word in ONE_WAY) for text in texts])
    mirror = 1 - 2 * ((torch.rand(n, generator=chance) < 0.5) & free).float()
    zoom = uniform(n, 0.9, 1.5, chance).flatten()  # over 1: smaller
    angle = uniform(n, -0.25, 0.25, chance).flatten()  # radians
    shift = torch.empty(n, 2).uniform_(-0.15, 0.15, generator=chance)
    cosine, sine = zoom * angle.cos(), zoom * angle.sin()
    rows = [torch.stack([cosine * mirror, -sine, shift[:, 0]], 1)]
    rows += [torch.stack([sine * mirror, cosine, shift[:, 1]], 1)]
    grid = F.affine_grid(torch.stack(rows, 1), [n, 4, size, size], align_corners=False)
    unit = F.grid_sample((pictures + 1) / 2, grid, mode="bilinear", align_corners=False)
    colour, alpha = unit[:, :3], unit[:, 3:]

    plain = torch.rand(n, 1, 1, 1, generator=chance) < 0.5  # white, as transparency becomes
    corners = torch.rand(n, 3, 2, 2, generator=chance)  # a colour, or a gradient of four
    flat = torch.rand(n, 1, 1, 1, generator=chance) < 0.5
    paper = F.interpolate(torch.where(flat, corners[:, :, :1, :1], corners), size, mode="bilinear")
    rgb = colour + (1 - alpha) * torch.where(plain, torch.ones(()), paper)

    dull = torch.rand(n, 1, 1, 1, generator=chance) < 0.2  # these keep their light and colours
    grey = rgb.mean(dim=1, keepdim=True)
    lit = torch.lerp(grey, rgb, uniform(n, 0.5, 1.4, chance))
    lit = (lit - 0.5) * uniform(n, 0.7, 1.25, chance) + 0.5 + uniform(n, -0.12, 0.12, chance)
    lit = lit * torch.empty(n, 3, 1, 1).uniform_(0.85, 1.15, generator=chance)
    rgb = torch.where(dull, rgb, lit).clamp(0, 1)

    coarse = torch.rand(n, generator=chance) < 0.5  # as the 32 px pictures of the models are
    small = F.interpolate(rgb, scale_factor=0.5, mode="bilinear", antialias=True)
    back = F.interpolate(small, size, mode="bilinear")
    return torch.where(coarse[:, None, None, None], back, rgb) * 2 - 1


def make_views(samples: list[Item], folder: Path, count: int) -> list[dict[str, Tensor]]:
    """`count` views, each with the features of all pictures (of some skin tones); kept as files.

    View 0 shows the pictures as they are.
    """
    plain = torch.tensor([s.hexcode == s.base for s in samples])
    pictures: InMemoryDataset | None = None
    views = []
    for number in range(count):
        path = folder / f"{number:02d}.safetensors"
        if not path.is_file():
            pictures = pictures or load_pictures(samples, resolution=RESOLUTION, channels=4)
            started = time.monotonic()
            chance = torch.Generator().manual_seed(number)
            tones = torch.rand(len(samples), generator=chance) < TONES_A_VIEW
            index = (plain | tones).nonzero().flatten()
            parts = []
            for rows in index.split(BATCH):
                batch = pictures.batch(rows)
                if number:
                    texts = [samples[i].text for i in rows.tolist()]
                    batch = varied(batch, texts, chance)
                parts.append(place_features(batch).half())
            view = {"features": torch.cat(parts), "index": index}
            write_atomically(path, lambda new, v=view: save_file(v, new))
            print(f"{path}  {len(index)} pictures, {time.monotonic() - started:.0f} s", flush=True)
        views.append(load_file(path))
    return views


# -- training -------------------------------------------------------------------------------------


class Trainer:
    """The head and the captions that it is to know. `features` [V, 16, C] show `text` [V]."""

    def __init__(
        self, texts: list[str], features: Tensor, text: Tensor, args: argparse.Namespace
    ) -> None:
        self.features, self.text, self.args = features, text, args
        encoded = encode_all(texts, text_encoder())
        rows = encoded.rows(torch.arange(len(texts)), torch.zeros(len(texts), 0))
        count = rows.mask.sum(dim=1, keepdim=True)
        self.pooled = encoded.pooled
        self.tokens = stretched(rows, count, torch.full_like(count, NUM_TOKENS))  # [U, K, D]
        self.spread = float(self.tokens.var(dim=0).mean())
        torch.manual_seed(args.seed)
        self.head = ImageHead(dropout=args.dropout)
        sample = features[torch.randperm(len(features))[:4096]].float().flatten(0, 1)
        self.head.mean.copy_(sample.mean(dim=0))
        self.head.deviation.copy_(sample.std(dim=0))
        self.log_scale = nn.Parameter(torch.tensor(20.0).log())
        self.optimizer = torch.optim.AdamW(
            [*self.head.parameters(), self.log_scale], lr=args.lr, weight_decay=args.decay
        )
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, args.lr, total_steps=args.steps + 1, pct_start=0.1,
            cycle_momentum=False,
        )  # fmt: skip

    def train_step(self) -> dict[str, float]:
        rows = torch.randint(len(self.text), (self.args.batch,))
        text = self.text[rows]
        tokens, pooled = self.head(self.features[rows].float())
        likeness = self.log_scale.exp().clamp(max=SCALE_MAX) * pooled @ self.pooled.t()
        losses = {
            "contrast": F.cross_entropy(likeness, text),
            "cosine": (1 - (pooled * self.pooled[text]).sum(dim=1)).mean(),
            "tokens": F.mse_loss(tokens, self.tokens[text]) / self.spread,
        }
        self.optimizer.zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(self.head.parameters(), 1.0)
        self.optimizer.step()
        self.schedule.step()
        right = (likeness.detach().argmax(dim=1) == text).float().mean()
        return {name: float(value.detach()) for name, value in losses.items()} | {
            "top1": float(right)
        }


@torch.no_grad()
def recognised(head: ImageHead, features: Tensor, right: Tensor, known: Tensor) -> dict:
    """How often a picture's nearest of the `known` captions [U, D] is its own."""
    head.eval()
    pooled = torch.cat([head(part.float())[1] for part in features.split(256)])
    likeness = pooled @ known.t()
    rank = (likeness > likeness.gather(1, right[:, None])).sum(dim=1)
    head.train()
    return {
        "top1": round(float((rank < 1).float().mean()), 4),
        "top5": round(float((rank < 5).float().mean()), 4),
        "cosine": round(float((pooled * known[right]).sum(dim=1).mean()), 4),
        "pictures": len(rank),
    }


def bundle(head: ImageHead, texts: list[str], known: Tensor, card: dict, path: Path) -> None:
    """Write the head and the captions that it knows, [U, D] of them, as the package ships them,
    with the file's .sha256."""
    metadata = {
        "card": json.dumps(card, ensure_ascii=False),
        "captions": json.dumps(texts, ensure_ascii=False),
    }
    state = quantized(head.state_dict() | {"known": known})
    write_atomically(path, lambda new: save_file(state, new, metadata=metadata))
    Path(f"{path}.sha256").write_text(sha256_of(path) + "\n")
    print(f"{path}  {path.stat().st_size / 2**20:.1f} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("data/emoji-64"))
    parser.add_argument("--views", type=Path, default=Path("data/image-views"))
    parser.add_argument("--num-views", type=int, default=2)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--batch", type=int, default=96)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--decay", type=float, default=0.05)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--leave-out", action="store_true", help="the test split's concepts")
    parser.add_argument("--out", type=Path, help="write the head to this file")
    parser.add_argument("--bundle", action="store_true", help="write the package's weights")
    args = parser.parse_args()

    samples = read_items(args.data, split="train")
    held = {s.base for s in read_items(args.data, split="test")}
    views = make_views(samples, args.views, args.num_views)
    index = torch.cat([view["index"] for view in views])
    features = torch.cat([view["features"] for view in views])
    assert features.shape[1:] == (GRID * GRID, CHANNELS)
    number: dict[str, int] = {}
    text = torch.tensor([number.setdefault(s.text, len(number)) for s in samples])
    is_held = torch.tensor([s.base in held for s in samples])
    used = torch.ones(len(index), dtype=torch.bool)
    if args.leave_out:
        used = ~is_held[index]
    trainer = Trainer(list(number), features[used], text[index[used]], args)
    plain = torch.tensor([s.hexcode == s.base for s in samples])
    first = views[0]
    asked = is_held[first["index"]] & plain[first["index"]]
    probe = first["features"][asked], text[first["index"][asked]], trainer.pooled

    started, spent = time.monotonic(), []
    for step in range(1, args.steps + 1):
        spent.append(trainer.train_step())
        if step % 100 == 0 or step == args.steps:
            mean = {k: round(sum(s[k] for s in spent) / len(spent), 3) for k in spent[0]}
            found = recognised(trainer.head, *probe)
            print(step, round(time.monotonic() - started), mean, found, flush=True)
            spent = []
    path = IMAGE_FILE if args.bundle else args.out
    if path is None:
        return
    card = {
        "name": IMAGE_FILE.stem,
        "data": f"{int(used.sum())} views of {len(index[used].unique())} emoji pictures in four "
        f"styles ({args.data.name}, training split), {len(number)} captions",
        "left_out_concepts": len(held) if args.leave_out else 0,
        "figures": {"held_out_concepts_in_other_styles": found},
        "steps": args.steps,
        "batch": args.batch,
        "text_encoder": text_encoder_hash(),
        "lite0": lite0_hash(),
        "date": datetime.date.today().isoformat(),
    }
    captions = text[plain].unique()  # skin tones would crowd out other things
    texts = list(number)
    known = [texts[i] for i in captions.tolist()]
    bundle(trainer.head, known, trainer.pooled[captions], card, path)


if __name__ == "__main__":
    main()
