"""CLIP text encoders with random weights, as Hugging Face's folders."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

START, END = "<|startoftext|>", "<|endoftext|>"


def random_clip(
    folder: Path, seed: int, *, dtype: torch.dtype = torch.float32, vocab: int = 514, **sizes: int
) -> Path:
    """Write a folder with config.json and model.safetensors, under the names that files have on the
    web and in ComfyUI. `sizes` are fields of the configuration; small ones by default."""
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
             "num_attention_heads": 4}  # fmt: skip
    config = CLIPTextConfig(
        vocab_size=vocab, bos_token_id=vocab - 2, eos_token_id=vocab - 1, **small | sizes
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        state = CLIPTextModel(config).state_dict()
    prefix = "text_model."
    state = {
        prefix + name.removeprefix(prefix): t.to(dtype).contiguous() for name, t in state.items()
    }
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def with_letters(folder: Path) -> Path:
    """Add a tokenizer that knows the 256 bytes, alone and at the end of a word, and no words."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in plain]
    letters = [*map(chr, plain), *(chr(256 + i) for i in range(len(others)))]
    tokens = [*letters, *(f"{c}</w>" for c in letters), START, END]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return folder
