"""Draw the pack's icon and banner: an apple of 12 x 12 pixels that comes out of noise.

.venv/bin/python tools/make_icon.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "images"
ICON_PX = 396  # the registry takes up to 400 x 400
BANNER_PX = (1344, 576)  # and a banner of 21:9
PAPER = (24, 26, 38)
COLOURS = {
    "r": (226, 54, 62),
    "d": (170, 30, 52),
    "h": (255, 150, 140),
    "g": (112, 190, 72),
    "b": (122, 78, 44),
}
APPLE = """
......bgg...
......bggg..
.....bbgg...
..rrr.b.rrd.
.rrrrrrrrrrd
.rhhrrrrrrrd
.rhhrrrrrrrd
.rhrrrrrrrrd
.rrrrrrrrrdd
..rrrrrrrrd.
..drrrrrrdd.
...ddd.ddd..
"""


def apple() -> tuple[np.ndarray, np.ndarray]:
    """Colour [12, 12, 3] and whether there is any [12, 12]."""
    rows = APPLE.split()
    colour = [[COLOURS.get(letter, PAPER) for letter in row] for row in rows]
    return np.array(colour, float), np.array([[letter != "." for letter in row] for row in rows])


def grid(share: float, seed: int, *, cell: int, gap: int) -> Image.Image:
    """The apple as cells; `share` of each cell's colour is noise instead."""
    colour, there = apple()
    rng = np.random.default_rng(seed)
    noise = rng.integers(40, 220, colour.shape)
    mixed = share * noise + (1 - share) * colour
    shown = there | (rng.random(there.shape) < share)
    side = len(colour) * cell
    image = Image.new("RGBA", (side, side))
    draw = ImageDraw.Draw(image)
    for y, x in np.argwhere(shown):
        box = (x * cell, y * cell, (x + 1) * cell - gap - 1, (y + 1) * cell - gap - 1)
        draw.rounded_rectangle(box, radius=cell // 6, fill=tuple(mixed[y, x].astype(int)))
    return image


def icon() -> Image.Image:
    image = Image.new("RGBA", (ICON_PX, ICON_PX))
    ImageDraw.Draw(image).rounded_rectangle(
        (0, 0, ICON_PX - 1, ICON_PX - 1), radius=ICON_PX // 6, fill=PAPER
    )
    cells = grid(0.0, 0, cell=27, gap=3)
    margin = (ICON_PX - cells.width) // 2
    image.alpha_composite(cells, (margin + 2, margin))
    return image


def banner() -> Image.Image:
    width, height = BANNER_PX
    image = Image.new("RGBA", BANNER_PX, PAPER)
    stages = (1.0, 0.6, 0.25, 0.0)
    cell = 22
    side = 12 * cell
    step = (width - len(stages) * side) // (len(stages) + 1)
    for i, share in enumerate(stages):
        image.alpha_composite(grid(share, i, cell=cell, gap=3), (step + i * (side + step), 90))
    draw = ImageDraw.Draw(image)
    large, small = ImageFont.load_default(72), ImageFont.load_default(30)
    draw.text((width // 2, height - 135), "Imagen GAN", fill="white", font=large, anchor="mm")
    words = "pictures in one forward pass - a generator of your own - a judge that ranks"
    draw.text((width // 2, height - 65), words, fill=(190, 194, 210), font=small, anchor="mm")
    return image.convert("RGB")


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, image in (("icon", icon()), ("banner", banner())):
        image.save(FOLDER / f"{name}.png", optimize=True)
        print(FOLDER / f"{name}.png")


if __name__ == "__main__":
    main()
