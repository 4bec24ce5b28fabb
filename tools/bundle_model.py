"""Put a trained run into the box: int8 weights, and a card that says what they were trained on.

    python tools/bundle_model.py RUN/latest.safetensors --name emoji-128-v1 --data DATA

It is then evaluated in the form that ships; tools/write_figures.py puts what was measured into its
card.
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
    args = parser.parse_args()

    config, networks, card = load_checkpoint(args.snapshot)
    manifest = json.loads((args.data / "manifest.json").read_text(encoding="utf-8"))
    card["name"] = args.name
    card["data"] = {**card["data"], "name": manifest["name"], "sources": manifest["sources"]}
    path = MODELS_DIR / f"{args.name}.safetensors"
    save_checkpoint(path, config, networks, card, int8=True)
    size = path.stat().st_size / 2**20
    print(f"{path}: {size:.1f} MiB")
    if size > LIMIT_MIB:
        raise SystemExit(f"over the {LIMIT_MIB} MiB that a bundled model may have")


if __name__ == "__main__":
    main()
