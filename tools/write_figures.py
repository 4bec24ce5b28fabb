"""What `imagen evaluate` said of a bundled model, into its card, the README and docs/weights.md.

    imagen evaluate --model emoji --data DATA --html report.html --json figures.json
    python tools/write_figures.py figures.json
    python tools/make_sheet.py --model emoji --data DATA --out docs/images/sheet64.jpg

The card is renewed without a change to the tensors, so the model's hash stays. Without a file the
documents are written from the card as it is.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from safetensors import safe_open

from imagen_model.bundled import ALIASES, bundled_model
from imagen_model.checkpoint import read_metadata, tensors_sha256
from imagen_model.storage.files import save_tensors, write_atomically

ROOT = Path(__file__).resolve().parent.parent
SHORT, FULL = ROOT / "README.md", ROOT / "docs" / "weights.md"
BLOCK = re.compile(r"(?<=<!-- figures: tools/write_figures.py -->\n).*?(?=<!-- end -->)", re.DOTALL)
OF_THE_MACHINE = {"speed", "seconds"}  # and not of the model
HEAD = "| figure | drawn | 95 % | chance | real pictures |\n|---|---|---|---|---|\n"
ASKED = {
    "text": "the right real picture is nearest among its style's held-out ones (R@1)",
    "image": "the same, asked for by a picture in another style",
    "audio": "the same, asked for by voice: synthetic voices unlike those of its training",
}


class Row(NamedTuple):
    """A line of the table; `short` ones are in the README as well."""

    label: str
    drawn: str
    interval: str = ""
    chance: str = ""
    real: str = ""
    short: bool = False


def rows(figures: dict) -> Iterator[Row]:
    """The table of docs/weights.md."""
    retrieval = figures["retrieval"]
    for kind, label in ASKED.items():
        if kind in retrieval:
            yield _recall(label, retrieval[kind], short=True)
    text = retrieval["text"]
    five, ten = _percent(text["r5"]), _percent(text["r10"])
    yield Row("the same in words, among the nearest five / ten", f"{five} / {ten}", short=True)
    if judged := figures.get("retrieval_judge"):
        yield _recall("R@1 as a second judge sees it, which shares nothing with training", judged)
    yield _recall("R@1 of pairs that training saw", figures["composition"]["trained"])
    for key, label, digits in (
        ("fd_lite1", f"FD-lite1, {figures['cloud']:,} pictures a side", 0),
        ("fd_random", "FD-random", 3),
        ("kid_lite1", "KID-lite1", 3),
        ("density", "density", 2),
        ("coverage", "coverage", 2),
    ):
        low, high = figures["intervals"][key]
        real = figures.get(f"{key}_floor", figures.get(f"{key}_real"))
        span = f"{low:.{digits}f}-{high:.{digits}f}"
        value, real = f"{figures[key]:.{digits}f}", f"{abs(real):.{digits}f}"
        is_short = key in ("fd_lite1", "density", "coverage")
        yield Row(label, value, span, real=real, short=is_short)
    judge = figures["discriminator"]
    tells, matches = judge["auc_real_over_generated"], judge["auc_right_over_shuffled_caption"]
    yield Row(
        "the discriminator tells real from drawn / right from wrong captions (AUC)",
        f"{tells:.2f} / {matches:.2f}", chance="0.5", short=True,
    )  # fmt: skip
    yield Row(
        "distance to training pictures, against that of held-out real ones; a copy: 0",
        f"{figures['memorisation_ratio']:.2f}", real="1", short=True,
    )  # fmt: skip
    mark, real_mark = figures["common_mark"], figures["common_mark_real"]
    yield Row(
        "fine detail that is the same in all pictures",
        _percent(mark), real=_percent(real_mark), short=True,
    )  # fmt: skip
    spread = figures["diversity"]
    yield Row(
        "mean distance between pictures",
        f"{spread['among_pictures']:.2f}", real=f"{spread['among_real_pictures']:.2f}",
    )  # fmt: skip
    yield Row("mean distance between seeds of one prompt", f"{spread['among_seeds']:.2f}")


def _recall(label: str, found: dict, *, short: bool = False) -> Row:
    low, high = found["r1_interval"]
    span = f"{100 * low:.1f}-{_percent(high)}"
    chance, ceiling = _percent(found["chance"]), _percent(found["ceiling"])
    return Row(label, _percent(found["r1"]), span, chance, ceiling, short)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def table(figures: dict, *, short: bool) -> str:
    """What stands between the marks of a document."""
    text, audio = figures["retrieval"]["text"], figures["retrieval"].get("audio")
    asked = f"{text['pairs']} held-out pairs of concept and style, {text['seeds']} seeds each"
    asked += f"; by voice {audio['pairs']} of the pairs" if audio else ""
    body = "".join(
        f"| {' | '.join(row[:5])} |\n" for row in rows(figures) if row.short or not short
    )
    found = "".join(f"- {line}\n" for line in figures["flags"].values())
    verdict = f"What is wrong:\n\n{found}" if found else "Its checks found nothing wrong.\n"
    return f"\n`imagen evaluate --model {figures['model']}`: {asked}.\n\n{HEAD}{body}\n{verdict}\n"


def renew_card(path: Path, figures: dict) -> None:
    """Write the figures into a model's card; its tensors stay as they are."""
    metadata = read_metadata(path)
    card = json.loads(metadata["imagen.card"])
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if tensors_sha256(tensors) != card["sha256"]:
        raise SystemExit(f"{path} is damaged: its tensors do not have the hash of its card")
    metadata["imagen.card"] = json.dumps(card | {"figures": figures}, ensure_ascii=False)
    write_atomically(path, lambda p: save_tensors(tensors, p, metadata))


def figures_of(name: str) -> dict:
    """The figures that the card of a bundled model holds."""
    path = bundled_model(name)
    if path is None:
        raise SystemExit(f"{name} is no bundled model")
    return json.loads(read_metadata(path)["imagen.card"])["figures"]


def renewed(document: Path, figures: dict) -> str:
    """The document's text with the table of these figures."""
    text = document.read_text(encoding="utf-8")
    if len(BLOCK.findall(text)) != 1:
        raise SystemExit(f"{document} has no one place for the figures ({BLOCK.pattern})")
    return BLOCK.sub(lambda _: table(figures, short=document == SHORT), text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("figures", type=Path, nargs="?", help="what `imagen evaluate` wrote")
    args = parser.parse_args()
    if args.figures:
        figures = json.loads(args.figures.read_text(encoding="utf-8"))
        path = bundled_model(figures["model"])
        if path is None or path.stem != figures["model"]:
            raise SystemExit(f"{args.figures} is about {figures['model']}, which is not bundled")
        renew_card(path, {k: v for k, v in figures.items() if k not in OF_THE_MACHINE})
    figures = figures_of(ALIASES["emoji"])
    for document in (SHORT, FULL):
        document.write_text(renewed(document, figures), encoding="utf-8")


if __name__ == "__main__":
    main()
