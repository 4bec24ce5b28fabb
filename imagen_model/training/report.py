"""RUN/report.html with curves and pictures, and RUN/timelapse.webp.

The page is a single self-contained file; every snapshot writes it again.
"""

from __future__ import annotations

import base64
import html
from pathlib import Path

from PIL import Image

from ..storage.files import write_atomically, write_text
from .stats import read_stats

PANELS = (
    ("Distance from the real pictures (KID-lite1)", ("kid_lite1",)),
    ("Caption retrieval (R@1 among training pictures)", ("retrieval_r1",)),
    ("Adversarial losses", ("d_loss", "g_loss")),
    ("Mean logits (high: real)", ("real_logits", "fake_logits")),
    ("Distance to the real picture", ("feature_matching", "feature_contrast", "l1")),
    ("Captions (InfoNCE)", ("d_info_nce", "g_info_nce")),
    ("Penalties", ("r1_penalty", "r2_penalty", "lipschitz_penalty")),
    ("Diversity relative to the data's", ("diversity",)),
    ("Gradient norms", ("d_grad_norm", "g_grad_norm")),
    ("Augmentation probability and overfitting of D", ("augment_p", "overfit")),
    ("Gamma", ("gamma",)),
    ("Learning rate", ("lr",)),
    ("Images per second", ("img_per_sec",)),
)
COLOURS = ("#4269d0", "#ff725c", "#3ca951")
WIDTH, HEIGHT = 320, 150  # of a panel's curve, in px
FRAME_MS, LAST_FRAME_MS = 300, 2000
STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:1080px;margin:2em auto;padding:0 1em;
color:#222;background:#fff}figure{display:inline-block;margin:0 1em 1em 0;vertical-align:top}
figcaption{font-weight:600}svg{background:#f6f6f6;border-radius:4px}small{color:#666}
img{image-rendering:pixelated;max-width:512px;width:100%;background:
repeating-conic-gradient(#ddd 0 25%,#fff 0 50%) 0 0/16px 16px}
td{padding:0 1em 0 0;vertical-align:top}
"""


def write_timelapse(run: Path) -> Path | None:
    """The fixed-seed grids of `run`/samples as one animation; None if there are under two."""
    frames = []
    for path in sorted((run / "samples").glob("[0-9]*.png")):
        with Image.open(path, formats=("PNG",)) as image:
            frames.append(image.convert("RGBA"))
    if len(frames) < 2:
        return None
    durations = [FRAME_MS] * (len(frames) - 1) + [LAST_FRAME_MS]
    options = {"append_images": frames[1:], "duration": durations, "loop": 0, "lossless": True}
    target = run / "timelapse.webp"
    write_atomically(target, lambda p: frames[0].save(p, format="WEBP", save_all=True, **options))
    return target


def write_report(run: Path, facts: dict[str, str]) -> Path:
    """`run`/report.html from stats.jsonl and samples/; `facts` head the page as a table."""
    rows = read_stats(run)
    parts = [
        f"<!doctype html><meta charset=utf-8><title>{html.escape(run.name)}</title>",
        f"<style>{STYLE}</style><h1>{html.escape(run.name)}</h1><table>",
        *(f"<tr><td>{html.escape(k)}<td>{html.escape(str(v))}" for k, v in facts.items()),
        "</table><h2>Pictures</h2>",
    ]
    grids = sorted((run / "samples").glob("[0-9]*.png"))
    for path, caption in (
        (run / "timelapse.webp", "the same captions and seeds during training"),
        (grids[-1] if grids else run / "none", "now"),
        (run / "samples" / "real.png", "the real pictures of these captions"),
    ):
        if path.is_file():
            parts.append(f"<figure>{_embedded(path)}<figcaption>{caption}</figcaption></figure>")
    parts.append("<h2>Curves</h2>")
    for title, keys in PANELS:
        series = {k: [(r["kimg"], r[k]) for r in rows if k in r] for k in keys}
        series = {k: points for k, points in series.items() if len(points) > 1}
        if series:
            parts.append(_panel(title, series))
    target = run / "report.html"
    write_text(target, "\n".join(parts) + "\n")
    return target


def _embedded(path: Path) -> str:
    kind = path.suffix.removeprefix(".")
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<img src="data:image/{kind};base64,{data}">'


def _panel(title: str, series: dict[str, list[tuple[float, float]]]) -> str:
    """One chart: every series over kimg, with the range of its values below."""
    xs = [x for points in series.values() for x, _ in points]
    ys = [y for points in series.values() for _, y in points]
    x0, x1, y0, y1 = min(xs), max(xs), min(ys), max(ys)
    curves, legend = [], []
    for colour, (name, points) in zip(COLOURS, series.items(), strict=False):
        path = " ".join(
            f"{WIDTH * (x - x0) / (x1 - x0 or 1):.1f},"
            f"{5 + (HEIGHT - 10) * (1 - (y - y0) / (y1 - y0 or 1)):.1f}"
            for x, y in points
        )
        curves.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        legend.append(f'<span style="color:{colour}">{name} {points[-1][1]:.4g}</span>')
    return (
        f"<figure><figcaption>{title}</figcaption>"
        f'<svg width="{WIDTH}" height="{HEIGHT}">{"".join(curves)}</svg>'
        f"<br><small>{x0:g}-{x1:g} kimg, {y0:.4g} to {y1:.4g}</small>"
        f"<br>{' '.join(legend)}</figure>"
    )
