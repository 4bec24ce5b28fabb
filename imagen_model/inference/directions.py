"""Directions in w: by number (SeFa, 2007.06600) and by the name of an attribute.

SeFa's are closed-form, from the modulation weights alone. A named direction comes from attributes
that are computed on pictures (lightness, size, ...): their gradients in w, averaged over generated
pictures, are the rows of a matrix J. Column k of its pseudo-inverse raises attribute k and leaves
the others as they are, to first order. Nothing is trained.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from ..condition import Condition
from ..networks.generator import Generator
from ..networks.networks import Networks
from ..networks.precision import full_precision
from ..progress import OnPictures
from .latent import random_latent
from .sampling import settled, to_w

PICTURES, BATCH = 64, 8
FIRST_SEED = 1 << 42  # of the measured pictures; too large to be typed by a user
LUMA = (0.299, 0.587, 0.114)
ATTRIBUTES = ("lightness", "warmth", "green", "detail", "size")
KNOWN = {1: ("lightness", "detail"), 3: ATTRIBUTES[:4], 4: ATTRIBUTES}  # by channels


def measure_attributes(pictures: Tensor) -> Tensor:
    """[N, K] attributes of pictures [N, C, H, W] in [-1, 1], in the order of KNOWN[C].

    lightness: luma; warmth: red minus blue; green: green minus the mean of red and blue; each over
    opaque pixels. detail: mean difference of neighbouring pixels, over white. size: mean alpha.
    """
    channels = pictures.shape[1]
    unit = (pictures + 1) / 2
    colour = unit[:, :3].expand(-1, 3, -1, -1)
    alpha = unit[:, 3:4] if channels == 4 else torch.ones_like(unit[:, :1])
    covered = alpha.sum(dim=(1, 2, 3)).clamp(min=1)  # pixels
    red, green, blue = (colour.sum(dim=(2, 3)) / covered[:, None]).unbind(dim=1)
    luma = (colour * colour.new_tensor(LUMA).view(1, 3, 1, 1)).sum(dim=1)
    over_white = luma + 1 - alpha.squeeze(1)
    steps = [over_white.diff(dim=axis).abs().mean(dim=(1, 2)) for axis in (1, 2)]
    numbers = {
        "lightness": luma.sum(dim=(1, 2)) / covered,
        "warmth": red - blue,
        "green": green - (red + blue) / 2,
        "detail": steps[0] + steps[1],
        "size": alpha.mean(dim=(1, 2, 3)),
    }
    return torch.stack([numbers[name] for name in KNOWN[channels]], dim=1)


def attribute_directions(
    networks: Networks, *, progress: OnPictures | None = None
) -> dict[str, Tensor]:
    """Attribute -> [dim] unit direction in w; the same for the same weights.

    Takes seconds on a CPU. `progress` may raise to cancel. ValueError for a model without w.
    """
    config = _with_w(networks).config
    names = KNOWN[config.channels]
    # Autograd refuses tensors made in inference mode, in which ComfyUI loads and runs everything.
    with torch.inference_mode(False), torch.enable_grad(), full_precision():
        total = torch.zeros(len(names), config.dim)
        networks = copy.deepcopy(networks).requires_grad_(False)
        done = 0  # gradients; each takes a while
        for begin in range(0, PICTURES, BATCH):
            seeds = range(FIRST_SEED + begin, FIRST_SEED + begin + BATCH)
            for row, gradient in enumerate(_gradients(networks, seeds)):
                total[row] += gradient
                done += BATCH
                if progress is not None:
                    progress(done, PICTURES * len(names), None)
        columns = torch.linalg.pinv(total.double()).t()
        return dict(zip(names, F.normalize(columns, dim=1).float(), strict=True))


def _gradients(networks: Networks, seeds: range) -> Iterator[Tensor]:
    """[dim] of each attribute in turn, summed over unconditional pictures of these seeds."""
    latent = random_latent(seeds, networks.generator.config.z_dim)
    condition = Condition.null(len(seeds), networks.conditioning.config)
    condition = settled(networks, condition, latent, slice(None))
    with torch.no_grad():
        w = to_w(networks, latent.values.to(networks.device), condition)
        tokens, mask, _ = networks.conditioning(condition)
    step = torch.zeros_like(w[:1, :1]).requires_grad_()  # one for all pictures and blocks
    sums = measure_attributes(networks.generator.synthesis(w + step, tokens, mask)).sum(dim=0)
    for value in sums:
        yield torch.autograd.grad(value, step, retain_graph=True)[0].flatten().cpu()


def _with_w(networks: Networks) -> Generator:
    if not isinstance(networks.generator, Generator):
        raise ValueError("this model has no w space, and so no directions in it")
    return networks.generator


def directions(networks: Networks) -> Tensor:
    """[dim, dim] unit rows in w, sorted by how much they change the blocks' modulation.

    They are the right singular vectors of all modulation weights, stacked, signed so that the
    largest component is positive. ValueError for a model without modulation.
    """
    parameters = _with_w(networks).named_parameters()
    stacked = torch.cat([p for name, p in parameters if name.endswith("modulation.weight")])
    weights = stacked.detach().double().cpu()
    # right singular vectors are eigenvectors of W^T W, which is small; eigh sorts them ascending
    rows = torch.linalg.eigh(weights.t() @ weights).eigenvectors.t().flip(0)
    peak = rows.gather(1, rows.abs().argmax(dim=1, keepdim=True))
    return (rows * peak.sign()).float()
