"""Picture -> Condition: frozen lite0 features, a small trained head, and then captions.

The head predicts MiniLM's embedding of a picture's caption. The condition is the weighted mean of
the known captions nearest to it. It consists of texts, so every model that takes text takes
pictures. The frozen head was trained on emoji in four styles (tools/train_image_encoder.py, git
history; see its card); other pictures become the nearest captions that it knows.
"""

from __future__ import annotations

import json
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..condition import Condition, stretched, style_weights
from ..networks.efficientnet import LEVEL_CHANNELS, as_rgb, lite0, lite0_hash
from ..progress import OnProgress, batches
from ..storage.files import WEIGHTS_DIR, checked_sha256
from ..storage.int8 import dequantized, frozen
from ..storage.tensor_file import read_tensors
from .encoder import Encoder
from .minilm import text_encoder, text_encoder_hash
from .resampler import NUM_TOKENS, Resampler

IMAGE_FILE = WEIGHTS_DIR / "image_prompt" / "image-prompt-v1.safetensors"
INPUT_PX = 128  # lite0's input, to which every picture is scaled
GRID = 4  # lite0's last level has 4 x 4 places at that size
LEVELS_USED = slice(1, 4)  # strides 8, 16, 32; finer ones say little about the content
CHANNELS = sum(LEVEL_CHANNELS[LEVELS_USED])
NEAREST = 8  # captions in a picture's condition
SHARPNESS = 30.0  # inverse temperature of their softmax: 0.1 of a cosine is 20 : 1
BATCH = 32
OPAQUE = 1 - 1 / 127.5  # the least alpha, in [-1, 1], of a picture without transparency


def image_encoder_hash() -> str:
    """sha256 of the bundled head's file."""
    return checked_sha256(IMAGE_FILE)


def squared(pictures: Tensor) -> Tensor:
    """[N, C, H, W] -> [N, C, INPUT_PX, INPUT_PX] as image_reader.fit_picture: pictures with
    transparency are padded with it, others are cropped to their central square."""
    height, width = pictures.shape[2:]
    if height == width:
        return _resized(pictures)
    rows = []
    for picture in pictures:
        pad = picture.shape[0] == 4 and bool((picture[3] < OPAQUE).any())
        side = max(height, width) if pad else min(height, width)
        left, top = (side - width) // 2, (side - height) // 2
        edges = (left, side - width - left, top, side - height - top)  # negative ones crop
        rows.append(_resized(F.pad(picture[None], edges, value=-1.0)))
    return torch.cat(rows)


def _resized(x: Tensor) -> Tensor:
    return F.interpolate(x, size=(INPUT_PX, INPUT_PX), mode="bilinear", antialias=True)


@torch.no_grad()
def place_features(pictures: Tensor) -> Tensor:
    """Pictures [N, C, H, W] in [-1, 1] of any size -> [N, 16, CHANNELS], on the CPU.

    A row for each place of a 4 x 4 grid: three levels of lite0, averaged to the grid. Grey is
    repeated; premultiplied RGBA is composited over white.
    """
    levels = lite0()(as_rgb(squared(pictures)))[LEVELS_USED]
    grid = torch.cat([F.adaptive_avg_pool2d(level, GRID) for level in levels], dim=1)
    return grid.flatten(2).transpose(1, 2).contiguous()  # [N, 16, C]


class ImageHead(nn.Module):
    """place_features [N, 16, CHANNELS] -> tokens [N, 8, 384], pooled [N, 384] of unit length.

    Training uses both; image prompts use the pooled vector alone.
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
    """The bundled head, its known captions, and its `card` (data, encoders, figures)."""

    def __init__(self) -> None:
        image_encoder_hash()
        tensors, metadata = read_tensors(IMAGE_FILE)
        state = dequantized(tensors)
        self.card = json.loads(metadata["card"])
        bundled = {"text_encoder": text_encoder_hash(), "lite0": lite0_hash()}
        for name, ours in bundled.items():
            if self.card[name] != ours:
                raise ValueError(f"the image encoder was trained with another {name}; reinstall")
        self.captions: list[str] = json.loads(metadata["captions"])
        self.caption_vectors = state.pop("known")  # [captions, 384] pooled
        self.head = frozen(ImageHead, state)

    @torch.no_grad()
    def encode(
        self,
        pictures: Tensor,
        progress: OnProgress | None = None,
        encoder: Encoder | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Pictures [N, C, H, W] in [-1, 1], of any size -> tokens [N, 8, D] and pooled [N, D] of
        unit length, on the CPU, from their captions by `encoder` (None: MiniLM, D = 384).
        `progress` is called after each BATCH. ValueError for anything but pictures."""
        if pictures.ndim != 4 or pictures.shape[1] not in (1, 3, 4) or not pictures.numel():
            raise ValueError(
                f"pictures of shape {list(pictures.shape)}; expected [N, 1, 3 or 4, H, W]"
            )
        parts = []
        for rows in batches(len(pictures), BATCH, progress):
            part = pictures[rows].detach().cpu().float()
            if not part.isfinite().all():
                raise ValueError("the picture holds NaN or infinite values")
            predicted = self.head(place_features(part.clamp(-1, 1)))[1]
            parts.append(self._from_captions(predicted, encoder or text_encoder()))
        tokens, pooled = zip(*parts, strict=True)
        return torch.cat(tokens), torch.cat(pooled)

    def _from_captions(self, predicted: Tensor, encoder: Encoder) -> tuple[Tensor, Tensor]:
        """The head's output [N, 384] -> the mean tokens and pooled vectors of nearest captions."""
        similarity, nearest = (predicted @ self.caption_vectors.t()).topk(NEAREST, dim=1)  # [N, K]
        share = (SHARPNESS * similarity).softmax(dim=1)[:, :, None]  # [N, K, 1]
        used, row = nearest.unique(return_inverse=True)
        encoded = encoder.encode([self.captions[i] for i in used.tolist()])
        texts = Condition(*encoded, torch.zeros(len(used), 0))
        count = texts.mask.sum(dim=1, keepdim=True)
        tokens = stretched(texts, count, torch.full_like(count, NUM_TOKENS))  # [texts, 8, D]
        mean = (share[..., None] * tokens[row]).sum(dim=1)
        return mean, F.normalize((share * texts.pooled[row]).sum(dim=1), dim=1)


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
    """One condition row a picture from its captions, all in `style` (None: the seed chooses), by
    the text `encoder` (None: the bundled one)."""
    tokens, pooled = image_encoder().encode(pictures, progress, encoder)
    mask = torch.ones(tokens.shape[:2], dtype=torch.bool)
    return Condition(tokens, mask, pooled, style_weights(styles, style, len(pooled)))
