"""Put a trained run into the box: int8 weights, a card that says what was measured, a sample grid.

    imagen evaluate --model int8.safetensors --data DATA --json figures.json
    python tools/bundle_model.py RUN/latest.safetensors --name emoji-32-v2 --data DATA \
        --figures figures.json

Without --figures the model is written unmeasured, to be evaluated in the form that ships.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from imagen_model.bundled import MODELS_DIR
from imagen_model.checkpoint import load_checkpoint, save_checkpoint

LIMIT_MIB = 14


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("snapshot", type=Path)
    parser.add_argument("--name", required=True, help="FAMILY-RESOLUTION-vN")
    parser.add_argument("--data", type=Path, required=True, help="what it was trained on")
    parser.add_argument("--figures", type=Path, help="what `imagen evaluate` wrote")
    args = parser.parse_args()

    config, networks, card = load_checkpoint(args.snapshot)
    manifest = json.loads((args.data / "manifest.json").read_text(encoding="utf-8"))
    card["name"] = args.name
    card["data"] = {**card["data"], "name": manifest["name"], "sources": manifest["sources"]}
    if args.figures:
        card["figures"] = json.loads(args.figures.read_text())
    path = MODELS_DIR / f"{args.name}.safetensors"
    save_checkpoint(path, config, networks, card, int8=True)
    size = path.stat().st_size / 2**20
    print(f"{path}: {size:.1f} MiB")
    if size > LIMIT_MIB:
        raise SystemExit(f"over the {LIMIT_MIB} MiB that a bundled model may have")


if __name__ == "__main__":
    main()
