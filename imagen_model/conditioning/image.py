"""Picture -> Condition: frozen lite0 features, a small trained head, and then captions.

The head answers what MiniLM says of a picture's caption, and the captions nearest to its answer,
each by its share, are the condition: what a model sees is made of texts, so every model that takes
text takes pictures, whoever trained it. The head was trained on emoji in four styles by
tools/train_image_encoder.py (git history; its card says on which) and is frozen: what it makes of
other kinds of pictures is the nearest thing that it knows.
"""

from __future__ import annotations

import json
from functools import lru_cache

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor, nn

from ..condition import Condition, stretched, style_weights
from ..networks.efficientnet import LEVEL_CHANNELS, as_rgb, lite0, lite0_hash
from ..progress import OnProgress
from ..storage.files import WEIGHTS_DIR, checked_sha256
from ..storage.int8 import dequantized
from .encoder import Encoder
from .minilm import text_encoder, text_encoder_hash
from .resampler import NUM_TOKENS, Resampler

IMAGE_FILE = WEIGHTS_DIR / "image_prompt" / "image-prompt-v1.safetensors"
INPUT_PX = 128  # what lite0 sees, whatever the size of the picture
GRID = 4  # lite0's last level at that size: 4 x 4 places
LEVELS_USED = slice(1, 4)  # strides 8, 16, 32; finer ones say little of what is shown
CHANNELS = sum(LEVEL_CHANNELS[LEVELS_USED])
NEAREST = 8  # captions that a picture's condition is made of
SHARPNESS = 30.0  # how firmly the likest of them decides; 30 likens 0.1 of a cosine to 20 : 1
BATCH = 32
OPAQUE = 1 - 1 / 127.5  # the least alpha, in [-1, 1], of a picture without transparency


def image_encoder_hash() -> str:
    """sha256 of the bundled head's file."""
    return checked_sha256(IMAGE_FILE)


def squared(pictures: Tensor) -> Tensor:
    """[N, C, H, W] -> [N, C, INPUT_PX, INPUT_PX] as data sets are read (data/folder.py): pictures
    with transparency are padded with more of it, others cut to their central square."""
    height, width = pictures.shape[2:]
    if height != width:
        short, long = sorted((height, width))
        rows = []
        for picture in pictures:
            pad = picture.shape[0] == 4 and bool((picture[3] < OPAQUE).any())
            side = long if pad else short
            left, top = (side - width) // 2, (side - height) // 2
            edges = (left, side - width - left, top, side - height - top)  # negative ones cut
            rows.append(_resized(F.pad(picture[None], edges, value=-1.0)))
        return torch.cat(rows)
    return _resized(pictures)


def _resized(x: Tensor) -> Tensor:
    return F.interpolate(x, size=(INPUT_PX, INPUT_PX), mode="bilinear", antialias=True)


@torch.no_grad()
def place_features(pictures: Tensor) -> Tensor:
    """Pictures [N, C, H, W] in [-1, 1] of any size -> [N, 16, CHANNELS], on the CPU.

    A row a place of a 4 x 4 grid: three levels of lite0, each averaged to the grid. Grey is
    repeated; premultiplied RGBA is composited over white.
    """
    levels = lite0()(as_rgb(squared(pictures)))[LEVELS_USED]
    grid = torch.cat([F.adaptive_avg_pool2d(level, GRID) for level in levels], dim=1)
    return grid.flatten(2).transpose(1, 2).contiguous()  # [N, 16, C]


class ImageHead(nn.Module):
    """place_features [N, 16, CHANNELS] -> tokens [N, 8, 384], pooled [N, 384] of unit length.

    It learns from both; prompts go by the pooled vector alone.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(CHANNELS))
        self.register_buffer("deviation", torch.ones(CHANNELS))
        self.place = nn.Parameter(torch.zeros(GRID * GRID, CHANNELS))
        self.slots = Resampler(CHANNELS, dropout=dropout)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        return self.slots((features - self.mean) / self.deviation + self.place)


class ImageEncoder:
    """The bundled head, the captions that it knows, and its card (data, encoders, figures)."""

    def __init__(self) -> None:
        checked_sha256(IMAGE_FILE)
        with safe_open(IMAGE_FILE, "pt") as file:
            metadata = file.metadata()
            state = dequantized({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
        self.card = json.loads(metadata["card"])
        bundled = {"text_encoder": text_encoder_hash(), "lite0": lite0_hash()}
        for name, ours in bundled.items():
            if self.card[name] != ours:
                raise ValueError(f"the image encoder was trained with another {name}; reinstall")
        self.captions: list[str] = json.loads(metadata["captions"])
        self.known = state.pop("known")  # [captions, 384] their pooled vectors
        with torch.random.fork_rng(devices=[]), torch.inference_mode(False):
            self.head = ImageHead().eval().requires_grad_(False)
            self.head.load_state_dict(state)

    @torch.no_grad()
    def encode(
        self,
        pictures: Tensor,
        progress: OnProgress | None = None,
        encoder: Encoder | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Pictures [N, C, H, W] in [-1, 1], of any size -> tokens [N, 8, D] and pooled [N, D] of
        unit length, on the CPU, as `encoder` reads their captions (None: MiniLM, D = 384).
        `progress` is called after each BATCH of them. ValueError for what is no picture."""
        if pictures.ndim != 4 or pictures.shape[1] not in (1, 3, 4) or not pictures.numel():
            raise ValueError(
                f"pictures of shape {list(pictures.shape)}; expected [N, 1, 3 or 4, H, W]"
            )
        tokens, pooled = [], []
        for part in pictures.split(BATCH):
            part = part.detach().cpu().float()
            if not part.isfinite().all():
                raise ValueError("the picture holds NaN or infinite values")
            answers = self.head(place_features(part.clamp(-1, 1)))[1]
            rows = self._in_captions(answers, encoder or text_encoder())
            tokens.append(rows[0])
            pooled.append(rows[1])
            if progress is not None:
                progress(sum(map(len, pooled)), len(pictures))
        return torch.cat(tokens), torch.cat(pooled)

    def _in_captions(self, pooled: Tensor, encoder: Encoder) -> tuple[Tensor, Tensor]:
        """The head's answers [N, 384] -> tokens and pooled vectors of the captions nearest them."""
        likeness, nearest = (pooled @ self.known.t()).topk(NEAREST, dim=1)  # [N, K]
        share = (SHARPNESS * likeness).softmax(dim=1)[:, :, None]  # [N, K, 1]
        named, place = nearest.unique(return_inverse=True)
        encoded = encoder.encode([self.captions[i] for i in named.tolist()])
        texts = Condition(*encoded, torch.zeros(len(named), 0))
        count = texts.mask.sum(dim=1, keepdim=True)
        tokens = stretched(texts, count, torch.full_like(count, NUM_TOKENS))  # [texts, 8, D]
        mixed = (share[..., None] * tokens[place]).sum(dim=1)
        return mixed, F.normalize((share * texts.pooled[place]).sum(dim=1), dim=1)


@lru_cache(maxsize=1)
def image_encoder() -> ImageEncoder:
    """The bundled encoder, loaded once a process."""
    return ImageEncoder()


def encode_image(
    pictures: Tensor,
    *,
    styles: tuple[str, ...],
    style: str | None,
    progress: OnProgress | None = None,
    encoder: Encoder | None = None,
) -> Condition:
    """One condition row a picture, all in `style` (None: the seed chooses one), as the text
    `encoder` reads its captions (None: the bundled one)."""
    tokens, pooled = image_encoder().encode(pictures, progress, encoder)
    mask = torch.ones(tokens.shape[:2], dtype=torch.bool)
    return Condition(tokens, mask, pooled, style_weights(styles, style, len(pooled)))
