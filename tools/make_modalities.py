"""Make docs/images/multimodal.jpg: the same held-out pairs from text, a picture and speech.

    imagen data emoji --out data/emoji-128 --resolution 128
    python tools/make_modalities.py --data data/emoji-128

A column a pair, two of each style, which a hash of their names chooses: what comes of them has no
say. Needs espeak-ng (extra `speech`).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

import imagen_model as im
from imagen_model.condition import style_weights
from imagen_model.evaluation.dataset import all_pixels, base_pictures, condition_of, subset
from imagen_model.evaluation.modalities import image_prompts
from imagen_model.evaluation.sheet import by_hash
from imagen_model.evaluation.speech import held_out_speech
from imagen_model.networks.efficientnet import as_rgb

OUT = Path(__file__).parents[1] / "docs" / "images" / "multimodal.jpg"
PAIRS_A_STYLE = 2
QUALITY = 90  # of the JPEG


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("data/emoji-128"))
    parser.add_argument("--model", default="emoji")
    args = parser.parse_args()
    model = im.load(args.model)
    test, train = (base_pictures(model, args.data, split) for split in ("test", "train"))
    prompts = image_prompts(test.items, train.items)

    asked = subset(test, torch.tensor(list(prompts)))
    order = sorted(range(len(asked)), key=lambda i: by_hash(asked.items[i].text))
    chosen: dict[str, list[int]] = {style: [] for style in model.styles}
    for i in order:
        if len(chosen[asked.items[i].style]) < PAIRS_A_STYLE:
            chosen[asked.items[i].style].append(i)
    index = torch.tensor([i for rows in chosen.values() for i in rows])

    shown = subset(asked, index)
    places = list(prompts.values())
    given = subset(train, torch.tensor([places[i] for i in index.tolist()]))
    names = [sample.text for sample in shown.items]
    heard = im.transcribe(held_out_speech(names))
    style = torch.cat([style_weights(model.styles, s.style, 1) for s in shown.items])
    latent = model.latent(range(len(shown)))
    drawn = [
        model.draw(condition_of(model, shown), latent),
        model.draw(model.encode_image(all_pixels(given)).with_style(style), latent),
        model.draw(model.encode_text(heard).with_style(style), latent),
    ]
    pictures = [all_pixels(shown), all_pixels(given), *drawn]
    captions = [f"{s.text}, {s.style}" for s in shown.items]
    captions += [f"given: {s.style}" for s in given.items]
    captions += ["from text"] * len(shown) + ["from the picture"] * len(shown)
    captions += [f"heard: {text}" for text in heard]
    sheet = im.contact_sheet(torch.cat(pictures), columns=len(shown), gap=8, captions=captions)
    on_white = as_rgb(sheet[None])[0]
    OUT.parent.mkdir(parents=True, exist_ok=True)
    im.to_image(on_white).save(OUT, quality=QUALITY)
    print(OUT)


if __name__ == "__main__":
    main()
