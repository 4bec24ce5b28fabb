"""A generator as one ONNX file, which draws without Python or PyTorch: `imagen export`.

The file has everything from z to the picture (mapping, truncation, synthesis), and the conditions
of the prompts that were chosen when it was written; the text encoder stays behind.

inputs   z [N, z_dim] fp32      noise; that of a seed is in inference/latent.py
         prompt [N] int64       the number of a prompt
         truncation [] fp32     1: as varied as the data; 0: the average picture of the prompt
outputs  pictures [N, C, H, W]  fp32 in [-1, 1], as from Model.draw
         rgba [N, H, W, 4]      uint8, straight alpha: what an HTML canvas takes
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from .condition import Condition, settle_styles
from .inference.latent import random_latent
from .inference.sampling import AVERAGE_SAMPLES
from .model import Model
from .networks.networks import Networks
from .storage.files import write_atomically
from .storage.images import straight
from .storage.provenance import model_facts

INPUTS = ("z", "prompt", "truncation")
OUTPUTS = ("pictures", "rgba")
NEEDED = "an ONNX file needs onnx, onnxscript and onnxruntime: pip install 'imagen-gan[export]'"
TOLERANCE = 1e-3  # between the file's pictures and PyTorch's, in [-1, 1]
CHECKED_SEEDS = range(3)


class _Exported(nn.Module):
    """The computation in the file: `draw` of inference/sampling.py in tensors alone."""

    average_z: Tensor
    tokens: Tensor
    mask: Tensor
    pooled: Tensor
    style: Tensor

    def __init__(self, networks: Networks, condition: Condition) -> None:
        super().__init__()
        self.networks = networks
        average_z = random_latent(range(AVERAGE_SAMPLES), networks.generator.config.z_dim).values
        self.register_buffer("average_z", average_z)
        for name, tensor in vars(condition).items():
            self.register_buffer(name, tensor)
        self.to(networks.device)

    def forward(self, z: Tensor, prompt: Tensor, truncation: Tensor) -> tuple[Tensor, Tensor]:
        generator = self.networks.generator
        condition = Condition(
            self.tokens[prompt],
            self.mask[prompt],
            self.pooled[prompt],
            settle_styles(self.style[prompt], z),
        )
        tokens, mask, pooled = self.networks.conditioning(condition)
        w = torch.lerp(self._average_w(pooled), generator.mapping(z, pooled), truncation)
        w = w[:, None].expand(-1, generator.config.num_blocks, -1)  # [N, B, D]
        pictures = generator.synthesis(w, tokens, mask)
        return pictures, _rgba(pictures)

    def _average_w(self, pooled: Tensor) -> Tensor:
        """w_avg [N, D], as `average_w` of inference/sampling.py."""
        n = pooled.shape[0]
        z = self.average_z.expand(n, -1, -1).flatten(0, 1)  # [N * samples, z_dim]
        pooled = pooled[:, None].expand(-1, AVERAGE_SAMPLES, -1).flatten(0, 1)
        w = self.networks.generator.mapping(z, pooled)
        return w.unflatten(0, (n, AVERAGE_SAMPLES)).mean(dim=1)


def _rgba(pictures: Tensor) -> Tensor:
    colour, alpha = straight(pictures)
    alpha = torch.ones_like(colour[:, :1]) if alpha is None else alpha
    unit = torch.cat([colour.expand(-1, 3, -1, -1), alpha], dim=1)
    return (unit.permute(0, 2, 3, 1) * 255).round().to(torch.uint8)


def export_onnx(
    model: Model, path: Path, prompts: Sequence[str] = ("",), *, style: str | None = None
) -> float:
    """Write `model` to `path` with these prompts, and draw with the file once: returns the largest
    difference from PyTorch's pictures, in [-1, 1].

    `style` as in Model.encode_text. ValueError where the extra `export` is not installed, and as
    encode_text; RuntimeError if the file draws other pictures than PyTorch.
    """
    try:
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError:
        raise ValueError(NEEDED) from None
    if Path(path).is_dir():
        raise ValueError(f"{path} is a folder; expected a file to write")
    condition = model.encode_text(prompts, style=style)
    differences: list[float] = []

    def write(file: Path) -> None:  # once the file can be written
        _export(model, condition, prompts, file)
        differences.append(_difference(model, condition, file))
        if not differences[0] <= TOLERANCE:
            raise RuntimeError(
                f"the ONNX file draws other pictures than PyTorch (by {differences[0]:.4f}); "
                "please report it with your versions of torch and onnxscript"
            )

    write_atomically(Path(path), write)
    return differences[0]


def _export(model: Model, condition: Condition, prompts: Sequence[str], path: Path) -> None:
    exported = _Exported(model.networks, condition).eval()
    rows = torch.export.Dim("N")
    z = model.latent(range(2)).values.to(model.device)  # two rows: a size of one would be fixed
    examples = (z, torch.zeros(2, dtype=torch.long).to(z.device), torch.ones(()).to(z))
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of torch, about its own parts
        program = torch.onnx.export(
            exported,
            examples,
            input_names=INPUTS,
            output_names=OUTPUTS,
            dynamic_shapes=({0: rows}, {0: rows}, {}),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    program.model.metadata_props["imagen"] = json.dumps(
        {**model_facts(model.name, model.card), "prompts": list(prompts)}
    )
    program.save(path, include_initializers=True)


def _difference(model: Model, condition: Condition, path: Path) -> float:
    """The largest difference between the file's pictures and PyTorch's, for each prompt."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    truncation, largest = 0.7, 0.0
    for number in range(len(condition)):
        latent = model.latent(CHECKED_SEEDS)
        expected = model.draw(condition[number : number + 1], latent, truncation=truncation)
        prompt = torch.full((len(latent),), number)
        inputs = (latent.values, prompt, torch.tensor(truncation))
        feed = {name: x.numpy() for name, x in zip(INPUTS, inputs, strict=True)}
        (pictures,) = session.run([OUTPUTS[0]], feed)
        largest = max(largest, float((torch.from_numpy(pictures) - expected).abs().max()))
    return largest
