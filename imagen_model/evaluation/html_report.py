"""The page of `imagen evaluate --html`: pictures first, then the figures.

One file that needs nothing else; light or dark as the reader's system is.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from ..data.item import Item
from ..storage.files import write_text
from ..storage.images import to_image
from .results import DetailResult, EvaluationResult, Evidence, RetrievalResult

PAIRS, NEAREST, PROMPTS = 24, 12, 6  # rows of the page
SHOWN_PX = 64  # a side, at least
STYLE = """
:root{color-scheme:light dark;--ink:#1d2025;--soft:#5d6470;--page:#fff;--tile:#f1f2f4;
--line:#d9dce1;--bad:#b3261e;--good:#1b6e3c}
@media(prefers-color-scheme:dark){
:root{--ink:#e7e9ec;--soft:#a3a9b3;--page:#17191c;--tile:#2a2d33;
--line:#3b3f47;--bad:#ff8a80;--good:#7fd6a0}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--page);max-width:1000px;
margin:0 auto;padding:1.5em 1em 4em}
h1{font-size:1.5em;margin:0}h2{font-size:1.15em;margin:2em 0 .2em}p{margin:.3em 0 .8em}
.soft,small{color:var(--soft)}.bad{color:var(--bad)}.good{color:var(--good)}
ul{margin:.5em 0;padding-left:1.2em}
.grid{display:grid;gap:10px;grid-template-columns:repeat(auto-fill,minmax(88px,1fr))}
.wide{grid-template-columns:repeat(auto-fill,minmax(164px,1fr))}
figure{margin:0;min-width:0}
.tiles{display:flex;flex-wrap:wrap;gap:4px}
img{image-rendering:pixelated;background:var(--tile);border-radius:6px;padding:4px;display:block}
figcaption{font-size:12px;line-height:1.3;overflow-wrap:anywhere;margin-top:2px}
table{border-collapse:collapse;width:100%}
th,td{text-align:left;vertical-align:top;padding:.35em .9em .35em 0;
border-bottom:1px solid var(--line)}
td.n{white-space:nowrap;font-variant-numeric:tabular-nums}
@media(max-width:640px){
tr{display:grid;grid-template-columns:1fr 11.5em 3.6em;border-bottom:1px solid var(--line)}
th,td{border:0;padding:.35em .4em .1em 0}td.n small{display:block}
td:last-child{grid-column:1/-1;padding:0 0 .5em}th:last-child{display:none}}
"""

# key, label, decimals, what it is compared with, one line
DISTRIBUTION_ROWS = (
    ("fd_lite1", "FD-lite1", 0, "fd_lite1_floor",
     "Frechet distance between generated and real pictures in lite1 features; lower is better."),
    ("fd_random", "FD-random", 3, "fd_random_floor",
     "The same on random convolutions, which no training can have adapted to."),
    ("kid_lite1", "KID-lite1", 3, "kid_lite1_floor",
     "A distance of the same sets that does not depend on their size; 0 is no difference."),
    ("density", "density", 2, "density_real",
     "How real a generated picture is: how many neighbourhoods of real ones it lies in."),
    ("coverage", "coverage", 2, "coverage_real",
     "How much of the variety is there: the share of real pictures with a generated one near."),
    ("precision", "precision", 2, "precision_real",
     "The share of generated pictures that look like some real one."),
    ("recall", "recall", 2, "recall_real",
     "The share of real pictures that look like some generated one."),
    ("fd_spatial", "FD-spatial", 0, "fd_spatial_floor",
     "Frechet distance in early features with their places: edges and insides, not what is shown."),
)  # fmt: skip

DETAIL_ROWS = (
    ("sharpness", "sharpness", 3, "Fine detail inside shapes; less than real ones is smeared."),
    ("edge_width", "width of outlines", 1, "Half-transparent pixels across an outline."),
    ("chroma_noise", "chroma noise", 4,
     "Colours that differ from those around them; more than real ones are rainbow lines."),
    ("asymmetry", "asymmetry", 3,
     "Difference from the mirror image, where the real picture is the same as its own."),
)  # fmt: skip


def write_page(path: Path, result: EvaluationResult, evidence: Evidence) -> None:
    """Write the page atomically."""
    title = f"{result.model}: what it generates, and how well"
    body = "\n".join(
        [
            f"<h1>{_text(title)}</h1>",
            _in_words(result),
            _warnings(result.flags),
            _sheet(result.prompts, evidence),
            _held_out(evidence),
            _nearest(evidence),
            _seeds(evidence),
            _table(result),
        ]
    )
    page = (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width,initial-scale=1">'
        f"<title>{_text(title)}</title><style>{STYLE}</style><body>{body}</body></html>\n"
    )
    write_text(path, page)


def _in_words(result: EvaluationResult) -> str:
    """The one figure that says most; nothing for a model without text."""
    if result.text is None:
        return ""
    found = result.text.retrieval["text"]
    reach = ""
    if found.ceiling is not None:
        reach = f", and other real pictures of the same thing reach {found.ceiling:.0%}"
    return (
        "<p>For prompts that training never showed, the right real picture is the nearest to the "
        f"generated one {found.r1:.0%} of the time. Chance is {found.chance:.0%}{reach}.</p>"
    )


def _warnings(flags: dict[str, str]) -> str:
    if not flags:
        return "<p class=good>None of the checks found something wrong.</p>"
    items = "".join(f"<li>{_text(line)}" for line in flags.values())
    return f"<ul class=bad>{items}</ul>"


def _sheet(prompts: list[str], evidence: Evidence) -> str:
    cells = [
        _figure([picture], f"{_text(prompt) or 'no prompt'} <small>{i}</small>")
        for i, (prompt, picture) in enumerate(zip(prompts, evidence.sheet, strict=True))
    ]
    return _section(
        f"{len(cells)} prompts that nobody chose",
        "Nouns from the keywords, by a hash; the seed is the number. Nothing was left out.",
        cells,
    )


def _held_out(evidence: Evidence) -> str:
    step = max(1, len(evidence.test) // PAIRS)
    cells = [
        _figure(
            [evidence.test.batch(torch.tensor([i]))[0], evidence.generated[i, 0]],
            _name(evidence.test.items[i]),
        )
        for i in range(0, len(evidence.test), step)[:PAIRS]
    ]
    return _section(
        "Pairs that training never saw",
        "Left the real picture, right the one generated for its name and style; every "
        f"{step}th pair, seed 0 of each.",
        cells,
        wide=True,
    )


def _nearest(evidence: Evidence) -> str:
    cells = [
        _figure(
            [
                evidence.generated[found.pair, 0],
                evidence.train.batch(torch.tensor([found.train]))[0],
            ],
            f"{_name(evidence.test.items[found.pair])} &rarr; "
            f"{_name(evidence.train.items[found.train])} <small>{found.distance:.2f}</small>",
        )
        for found in evidence.nearest[:NEAREST]
    ]
    return _section(
        "Nearest to a training picture",
        "Left generated, right the nearest training picture: the closest of all pairs. "
        "Copies would look the same (distance 0; unrelated pictures are above 1).",
        cells,
        wide=True,
    )


def _seeds(evidence: Evidence) -> str:
    step = max(1, len(evidence.test) // PROMPTS)
    cells = [
        _figure(list(evidence.generated[i]), _name(evidence.test.items[i]))
        for i in range(0, len(evidence.test), step)[:PROMPTS]
    ]
    return _section("What the seed changes", "One prompt and style, four seeds.", cells, wide=True)


def _table(result: EvaluationResult) -> str:
    lines = "".join(
        f"<tr><td>{label}<td class=n>{value}<td class=n>{reference}<td class=soft>{meaning}"
        for label, value, reference, meaning in (
            *_distribution_rows(result),
            *_retrieval_rows(result),
            *_detail_rows(result.detail),
            *_other_rows(result),
        )
    )
    return (
        "<h2>Figures</h2><p class=soft>In brackets 95 % intervals: of the distances over three "
        f"splits of {result.pictures_per_set} pictures per set, of R@1 over pairs. Features: "
        f"{_text(result.extractor)}.</p><table>"
        f"<tr><th>figure<th>value<th>real<th>what it says{lines}</table>"
    )


Row = tuple[str, str, str, str]  # label, value, the same of real pictures, meaning


def _distribution_rows(result: EvaluationResult) -> Iterator[Row]:
    for key, label, digits, reference, meaning in DISTRIBUTION_ROWS:
        low, high = result.intervals[key]
        mean, real = getattr(result.distribution, key), getattr(result.distribution, reference)
        value = f"{mean:.{digits}f} <small>({low:.{digits}f} to {high:.{digits}f})</small>"
        yield label, value, f"{real:.{digits}f}", meaning


def _retrieval_rows(result: EvaluationResult) -> Iterator[Row]:
    if result.text is None:
        return
    found = dict(result.text.retrieval)
    if result.text.concept_classifier:
        found["second evaluator"] = result.text.concept_classifier
    for name, one in found.items():
        yield f"R@1, {name}", _recall(one), _percent(one.ceiling), RETRIEVAL[name]
    trained = result.text.composition.trained
    meaning = "The same for pairs that training saw: what held-out pairs are compared with."
    yield "R@1, trained pairs", _recall(trained), _percent(trained.ceiling), meaning


def _detail_rows(detail: DetailResult) -> Iterator[Row]:
    for key, label, digits, meaning in DETAIL_ROWS:
        value, real = getattr(detail, key), getattr(detail, f"{key}_real")
        if value is not None and real is not None:
            yield label, f"{value:.{digits}f}", f"{real:.{digits}f}", meaning


def _other_rows(result: EvaluationResult) -> Iterator[Row]:
    spread, speed = result.diversity, result.speed
    yield (
        "memorisation", f"{result.memorisation_ratio:.2f}", "1",
        "Distance to the nearest training picture, over that of real held-out pictures. Copies "
        "have 0; under 0.9 is worth a look.",
    )  # fmt: skip
    yield (
        "shared artifact", f"{result.shared_artifact:.1%}", f"{result.shared_artifact_real:.1%}",
        "Share of the fine detail that is the same in all pictures; more than in real ones is an "
        "artifact that every generated picture has.",
    )  # fmt: skip
    yield (
        "diversity", f"{spread['among_pictures']:.2f}", f"{spread['among_real_pictures']:.2f}",
        "Mean distance between two pictures; falls where all look alike.",
    )  # fmt: skip
    yield (
        "diversity of seeds", f"{spread['among_seeds']:.2f}", "",
        "The same between seeds of one prompt and style; 0 would mean that seeds do nothing.",
    )  # fmt: skip
    yield (
        "real over generated", f"{result.discriminator.auc_real_over_generated:.2f}", "0.5",
        "How often the model's own discriminator tells a real picture from a generated one.",
    )  # fmt: skip
    threads = f"{speed.threads} thread{'s' if speed.threads > 1 else ''}"
    machine = f"Per picture, on {_text(speed.device)}, {threads}."
    yield "speed, batch 1", f"{speed.ms_an_image_at_batch_1:.1f} ms", "", machine
    yield "speed, batch 32", f"{speed.ms_an_image_at_batch_32:.1f} ms", "", machine


RETRIEVAL = {
    "text": "How often the right held-out picture of the style is nearest to the generated one.",
    "image": "The same where the prompt is a picture of the concept in another style.",
    "audio": "The same where the prompt is spoken.",
    "second evaluator": "The same by a classifier of strokes and colours trained on the real "
    "pictures, which shares nothing with the discriminator.",
}


def _recall(found: RetrievalResult) -> str:
    low, high = found.r1_interval
    return f"{found.r1:.1%} <small>({low:.1%} to {high:.1%}; chance {found.chance:.1%})</small>"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def _section(title: str, says: str, cells: Iterable[str], *, wide: bool = False) -> str:
    kind = "grid wide" if wide else "grid"
    return f"<h2>{title}</h2><p class=soft>{says}</p><div class='{kind}'>{''.join(cells)}</div>"


def _figure(pictures: list[Tensor], caption: str) -> str:
    tiles = "".join(_embedded(picture) for picture in pictures)
    return f"<figure><div class=tiles>{tiles}</div><figcaption>{caption}</figcaption></figure>"


def _embedded(picture: Tensor) -> str:
    """[C, H, W] at whole multiples of its pixels."""
    buffer = io.BytesIO()
    to_image(picture).save(buffer, "PNG")
    side = picture.shape[2] * max(1, SHOWN_PX // picture.shape[2])
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img width={side} height={side} alt="" src="data:image/png;base64,{data}">'


def _name(item: Item) -> str:
    return _text(f"{item.text}, {item.style}" if item.style else item.text)


def _text(text: str) -> str:
    return html.escape(text)
