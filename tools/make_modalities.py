"""Make docs/images/multimodal.jpg: the same held-out pairs from text, a picture and speech.

    imagen data emoji --out data/emoji-128 --resolution 128
    python tools/make_modalities.py --data data/emoji-128

One column per pair, two pairs of each style, which a hash of their names chooses. Needs espeak-ng
(extra `speech`).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from make_sheet import save_on_white

import imagen_model as im
from imagen_model.evaluation.dataset import all_pixels, base_pictures, condition_of, subset
from imagen_model.evaluation.modalities import image_prompts
from imagen_model.evaluation.sheet import by_hash
from imagen_model.evaluation.speech import held_out_speech

OUT = Path(__file__).parents[1] / "docs" / "images" / "multimodal.jpg"
PAIRS_PER_STYLE = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("data/emoji-128"))
    parser.add_argument("--model", default="emoji")
    args = parser.parse_args()
    model = im.load(args.model)
    test, train = (base_pictures(model, args.data, split) for split in ("test", "train"))
    prompts = image_prompts(test.items, train.items)  # index in test -> index in train

    order = sorted(prompts, key=lambda i: by_hash(test.items[i].text))
    by_style = [[i for i in order if test.items[i].style == style] for style in model.styles]
    pairs = [i for of_style in by_style for i in of_style[:PAIRS_PER_STYLE]]
    real = subset(test, torch.tensor(pairs))
    given = subset(train, torch.tensor([prompts[i] for i in pairs]))

    spoken = im.transcribe(held_out_speech([item.text for item in real.items]))
    from_text, latent = condition_of(model, real.items), model.latent(range(len(pairs)))
    from_picture = model.encode_image(all_pixels(given)).with_style(from_text.style)
    from_speech = model.encode_text(spoken).with_style(from_text.style)
    conditions = (from_text, from_picture, from_speech)
    generated = [model.draw(condition, latent) for condition in conditions]

    captions = [f"{item.text}, {item.style}" for item in real.items]
    captions += [f"given: {item.style}" for item in given.items]
    captions += ["from text"] * len(pairs) + ["from the picture"] * len(pairs)
    captions += [f"heard: {text}" for text in spoken]
    pictures = torch.cat([all_pixels(real), all_pixels(given), *generated])
    sheet = im.contact_sheet(pictures, columns=len(pairs), gap=8, captions=captions)
    save_on_white(sheet, OUT)


if __name__ == "__main__":
    main()
