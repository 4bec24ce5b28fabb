"""The transformer generator: (z, condition) -> w -> tokens on a grid -> pixels.

The mapping network and w are StyleGAN's (1812.04948). A block is a pre-norm transformer with
modulation from w and cross-attention to the condition. Read-outs from every few blocks are summed
(the multi-level idea of GAT, 2509.24935), and a small convolutional tail (PixelShuffle, 1609.05158)
turns the sum into pixels: NCHW in [-1, 1]; four channels are premultiplied RGBA. A model whose
tokens cover many pixels may have further blocks in the tail, at twice the tokens a side; one that
was trained without captions takes a coarse layout from w.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..config import GeneratorConfig
from .fused import block_inputs, run_block
from .layers import ModulatedBlock, rope_2d

Rope = tuple[Tensor, Tensor]  # cos and sin
Step = Callable[[Tensor], Tensor]  # a block as a function of its tokens
SILU_GAIN = 1.68  # of a layer after SiLU, for outputs of unit variance
GATE_GAIN = 0.3  # of the blocks' gates at first
RECALL_SHARPNESS = 8.0  # a layout is mixed from about three pictures (docs/log/experiments.md)
Z_GAIN = 0.5  # z starts with less influence than the condition, which may name a single picture


class Mapping(nn.Module):
    """(z [N, z_dim], pooled condition [N, cond_dim]) -> w [N, dim], initially of unit variance.

    PyTorch's default initialisation gives w a twentieth of that, and then pictures for similar
    captions (all flags) look alike for tens of thousands of images (docs/log/experiments.md).
    """

    def __init__(self, config: GeneratorConfig, cond_dim: int) -> None:
        super().__init__()
        self.z_in = nn.Linear(config.z_dim, config.dim)
        self.cond_in = nn.Linear(cond_dim, config.dim)
        self.hidden = nn.Linear(2 * config.dim, 2 * config.dim)
        self.out = nn.Linear(2 * config.dim, config.dim)
        init_linear(self.z_in, Z_GAIN)
        init_linear(self.cond_in)
        init_linear(self.hidden, SILU_GAIN)
        init_linear(self.out, SILU_GAIN)
        self.num_codes = config.num_codes
        if self.num_codes:
            self.register_buffer("bank", torch.zeros(config.layout_bank, self.num_codes))
            self.code_in = nn.Linear(self.num_codes, config.dim, bias=False)
            nn.init.normal_(self.code_in.weight, std=config.dim**-0.5)

    def forward(self, z: Tensor, cond_pooled: Tensor) -> Tensor:
        code = z[:, -self.num_codes :]
        z = F.rms_norm(z, z.shape[-1:])
        cond = F.rms_norm(cond_pooled, cond_pooled.shape[-1:])
        x = F.silu(torch.cat([self.z_in(z), self.cond_in(cond)], dim=1))  # [N, 2 D]
        w = self.out(F.silu(self.hidden(x)))
        if not self.num_codes:
            return w
        return w + self.code_in(code if self.training else self.recall(code))

    def recall(self, code: Tensor) -> Tensor:
        """Mixtures [N, num_codes] of those training pictures' codes to which `code` points.

        Codes of real pictures are not normally distributed, though each of their numbers is. A few
        of them, found by attention as in 2008.02217, make layouts that look like real ones; divided
        by the norm of the weights, a mixture is as long as a single code.
        """
        assert isinstance(self.bank, Tensor)
        nearness = code @ F.normalize(self.bank, dim=1).t()
        share = torch.softmax(RECALL_SHARPNESS * nearness, dim=1)
        return share @ self.bank / share.norm(dim=1, keepdim=True)


def init_linear(layer: nn.Linear, gain: float = 1.0) -> None:
    """Weights that multiply the variance of their input by gain squared; zero bias."""
    nn.init.normal_(layer.weight, std=gain * layer.in_features**-0.5)
    nn.init.zeros_(layer.bias)


TILES = ("none", "x", "both")


def check_tile(tile: str) -> None:
    """ValueError if `tile` is not one of TILES."""
    if tile not in TILES:
        raise ValueError(f"tile is {tile!r}; expected one of {', '.join(TILES)}")


def padded_conv(conv: nn.Module, x: Tensor, tile: str) -> Tensor:
    """A 3x3 convolution that pads with zeros ("none"), or so that the picture tiles: "x" joins left
    and right, "both" also top and bottom."""
    assert isinstance(conv, nn.Conv2d)
    if tile == "none":
        return conv(x)
    x = F.pad(x, (1, 1, 0, 0), mode="circular")
    x = F.pad(x, (0, 0, 1, 1), mode="circular" if tile == "both" else "constant")
    return F.conv2d(x, conv.weight, conv.bias)


def add_silu(x: Tensor, y: Tensor) -> Tensor:
    """x + silu(y); in the memory of y where no gradient needs it."""
    if torch.is_grad_enabled():
        return x + F.silu(y)
    return F.silu(y, inplace=True).add_(x)


class UpBlock(nn.Module):
    """Twice the resolution: two residual 3x3 convolutions, then PixelShuffle."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        convs = (nn.Conv2d(in_channels, in_channels, 3, padding=1) for _ in range(2))
        self.convs = nn.ModuleList(convs)
        self.up = nn.Conv2d(in_channels, 4 * out_channels, 1)

    def forward(self, x: Tensor, tile: str) -> Tensor:
        for conv in self.convs:
            x = add_silu(x, padded_conv(conv, x, tile))
        return F.pixel_shuffle(self.up(x), 2)

    @torch.no_grad()
    def repeat_pixels(self) -> None:
        """Set weights that repeat every pixel four times; the convolutions start at zero."""
        for parameter in self.parameters():
            parameter.zero_()
        same = torch.eye(self.up.out_channels // 4, self.up.in_channels)
        self.up.weight.copy_(same.repeat_interleave(4, dim=0)[:, :, None, None])


class Tail(nn.Module):
    """Feature map [N, D, grid, grid] -> picture [N, C, resolution, resolution] in [-1, 1]."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        widths = config.tail_widths
        self.ups = nn.ModuleList(UpBlock(a, b) for a, b in pairwise(widths))
        self.conv = nn.Conv2d(widths[-1], widths[-1], 3, padding=1)
        self.out = nn.Conv2d(widths[-1], config.channels, 3, padding=1)

    def forward(
        self, x: Tensor, tile: str = "none", refine: Callable[[Tensor], Tensor] | None = None
    ) -> Tensor:
        """`refine` may change the map after the first doubling."""
        for i, up in enumerate(self.ups):
            x = up(x, tile)
            if i == 0 and refine is not None:
                x = refine(x)
        x = add_silu(x, padded_conv(self.conv, F.silu(x), tile))
        return torch.tanh(padded_conv(self.out, x, tile))


class Layout(nn.Module):
    """w -> a coarse picture, whose patches are added to the tokens.

    Modulation by w changes all tokens alike. Here w has an input of its own for every place, as z
    has in the first layer of DCGAN (1511.06434). training/layout_codes.py sets the weights so that
    the picture is at first what z's code describes.
    """

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        side, channels = config.layout_side, config.channels
        self.shape, self.patch = (channels, side, side), side // config.grid
        self.from_w = nn.Linear(config.dim, channels * side**2)
        self.enter = nn.Linear(channels * self.patch**2, config.dim)
        init_linear(self.from_w)
        init_linear(self.enter)

    def forward(self, w: Tensor) -> Tensor:
        """w [N, dim] -> [N, grid * grid, dim]."""
        picture = F.pixel_unshuffle(self.from_w(w).unflatten(1, self.shape), self.patch)
        return self.enter(rearrange(picture, "n c h w -> n (h w) c"))


class FineBlocks(nn.Module):
    """Transformer blocks on a map of the tail, added to it.

    The last layer starts at zero (as in ControlNet, 2302.05543), so a trained model that gets them
    generates the same pictures at first.
    """

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        dim, channels = config.dim, config.tail_widths[1]
        self.norm_in, self.norm_out = nn.RMSNorm(channels), nn.RMSNorm(dim)
        self.enter, self.leave = nn.Linear(channels, dim), nn.Linear(dim, channels)
        init_linear(self.enter)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)
        self.blocks = nn.ModuleList(
            ModulatedBlock(dim, config.num_heads, gate_gain=GATE_GAIN)
            for _ in range(config.num_fine_blocks)
        )
        cos, sin = rope_2d(2 * config.grid, dim // config.num_heads)
        self.register_buffer("rope_cos", cos, persistent=False)
        self.register_buffer("rope_sin", sin, persistent=False)

    def forward(self, x: Tensor, steps: Callable[[nn.ModuleList, Rope], list[Step]]) -> Tensor:
        """x [N, C, 2 grid, 2 grid]; `steps(blocks, rope)` are the blocks as functions of tokens."""
        assert isinstance(self.rope_cos, Tensor) and isinstance(self.rope_sin, Tensor)
        rope = (self.rope_cos, self.rope_sin)
        tokens = self.enter(self.norm_in(rearrange(x, "n c h w -> n (h w) c")))
        for step in steps(self.blocks, rope):
            tokens = step(tokens)
        change = self.leave(self.norm_out(tokens))
        return x + rearrange(change, "n (h w) c -> n c h w", h=x.shape[2])


class Generator(nn.Module):
    """Mapping and synthesis; synthesis takes one w per block."""

    def __init__(self, config: GeneratorConfig, cond_dim: int) -> None:
        super().__init__()
        self.config = config
        dim = config.dim
        self.mapping = Mapping(config, cond_dim)
        self.context_in = nn.Linear(cond_dim, dim)
        init_linear(self.context_in)
        self.grid = nn.Parameter(torch.randn(config.grid**2, dim) * 0.5)
        self.registers = nn.Parameter(torch.randn(config.num_registers, dim) * 0.5)
        self.blocks = nn.ModuleList(
            ModulatedBlock(dim, config.num_heads, gate_gain=GATE_GAIN)
            for _ in range(config.num_blocks)
        )
        self.readouts = nn.ModuleList(
            nn.Sequential(nn.RMSNorm(dim), nn.Linear(dim, dim))
            for _ in range(config.num_blocks // config.readout_every)
        )
        self.layout = Layout(config) if config.layout_side else None
        self.tail = Tail(config)
        self.fine = FineBlocks(config) if config.num_fine_blocks else None
        self.recompute_blocks = False  # in the backward pass, to save memory (1604.06174)
        cos, sin = rope_2d(config.grid, dim // config.num_heads)
        zeros = torch.zeros(config.num_registers, cos.shape[1])  # registers have no position
        self.register_buffer("rope_cos", torch.cat([zeros + 1, cos]), persistent=False)
        self.register_buffer("rope_sin", torch.cat([zeros, sin]), persistent=False)

    def forward(self, z: Tensor, tokens: Tensor, mask: Tensor, pooled: Tensor) -> Tensor:
        """z [N, z_dim]; tokens [N, S, cond_dim]; mask [N, S]; pooled [N, cond_dim]."""
        w = repeat(self.mapping(z, pooled), "n d -> n b d", b=self.config.num_blocks)
        return self.synthesis(w, tokens, mask)

    def _steps(
        self, w: Tensor, context: Tensor, mask: Tensor, blocks: nn.ModuleList, rope: Rope
    ) -> list[Step]:
        """The blocks as functions of their tokens; w [N, len(blocks), dim]."""
        if not (self.training or torch.is_grad_enabled()) and w.device.type == "cpu":
            stack = cast(Sequence[ModulatedBlock], blocks)
            inputs = block_inputs(stack, w, context, mask, rope)
            return [partial(run_block, b, inputs=i) for b, i in zip(stack, inputs, strict=True)]

        def run(x: Tensor, block: nn.Module, w: Tensor) -> Tensor:
            given = (x, w, context, mask, rope)
            if self.recompute_blocks and torch.is_grad_enabled():
                return checkpoint(block, *given, use_reentrant=False)
            return block(*given)

        return [partial(run, block=b, w=i) for b, i in zip(blocks, w.unbind(1), strict=True)]

    def synthesis(self, w: Tensor, tokens: Tensor, mask: Tensor, *, tile: str = "none") -> Tensor:
        """w [N, num_blocks, dim] and the condition's tokens -> [N, C, H, W] in [-1, 1]."""
        x = repeat(torch.cat([self.registers, self.grid]), "t d -> n t d", n=w.shape[0])
        if self.layout is not None:
            places = self.layout(w[:, 0])
            x = x + F.pad(places, (0, 0, self.config.num_registers, 0))
        context = self.context_in(F.rms_norm(tokens, tokens.shape[-1:]))
        features, every = x.new_zeros(()), self.config.readout_every
        assert isinstance(self.rope_cos, Tensor) and isinstance(self.rope_sin, Tensor)
        rope = (self.rope_cos, self.rope_sin)
        for i, step in enumerate(self._steps(w, context, mask, self.blocks, rope)):
            x = step(x)
            if (i + 1) % every == 0:
                features = features + self.readouts[i // every](x[:, self.config.num_registers :])
        features = rearrange(features, "n (h w) d -> n d h w", h=self.config.grid)
        if self.fine is None:
            return self.tail(features, tile)
        last_w = w[:, -1:].expand(-1, len(self.fine.blocks), -1)
        steps = partial(self._steps, last_w, context, mask)
        return self.tail(features, tile, partial(self.fine, steps=steps))
