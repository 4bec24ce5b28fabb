"""Write figures of `imagen evaluate` into a bundled model's card, the READMEs, docs/weights.md.

    imagen evaluate --model emoji --data DATA --html report.html --json figures.json
    python tools/write_figures.py figures.json
    python tools/make_sheet.py --model emoji --data DATA --out docs/images/sheet64.jpg

The card changes but the tensors do not, so the model's hash stays the same. Without FIGURES the
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
from imagen_model.checkpoint import tensors_sha256
from imagen_model.checkpoint_header import read_metadata
from imagen_model.storage.files import write_atomically
from imagen_model.storage.tensor_file import save_tensors

ROOT = Path(__file__).resolve().parent.parent
README, README_ZH = ROOT / "README.md", ROOT / "README.zh.md"
FULL = ROOT / "docs" / "weights.md"
DOCUMENTS = (README, README_ZH, FULL)
BLOCK = re.compile(r"(?<=<!-- figures: tools/write_figures.py -->\n).*?(?=<!-- end -->)", re.DOTALL)
OF_THE_MACHINE = {"speed", "seconds"}  # and not of the model
HEAD = "| figure | generated | 95 % interval | chance | real pictures |\n|---|---|---|---|---|\n"
HEAD_ZH = "| 指标 | 生成图像 | 95 % 区间 | 随机水平 | 真实图像 |\n|---|---|---|---|---|\n"
RETRIEVAL = {
    "text": "R@1 within the style, text prompt",
    "image": "R@1 within the style, image prompt (the concept in another style)",
    "audio": "R@1 within the style, spoken prompt (synthetic voices not used in training)",
}


class Row(NamedTuple):
    """A line of the table; lines with a Chinese label (`zh`) are in the READMEs as well."""

    label: str
    generated: str
    interval: str = ""
    chance: str = ""
    real: str = ""
    zh: str = ""


def rows(figures: dict) -> Iterator[Row]:
    """The table of docs/weights.md."""
    chinese = {
        "text": "同风格内 R@1，文字提示",
        "image": "同风格内 R@1，图像提示",
        "audio": "同风格内 R@1，语音提示（合成语音）",
    }
    retrieval = figures["retrieval"]
    for kind, label in RETRIEVAL.items():
        if kind in retrieval:
            yield _recall(label, retrieval[kind], zh=chinese[kind])
    text = retrieval["text"]
    five, ten = _percent(text["r5"]), _percent(text["r10"])
    yield Row("R@5 / R@10 within the style, text prompt", f"{five} / {ten}")
    if second := figures.get("retrieval_judge"):
        yield _recall("R@1 by a second evaluator that shares nothing with training", second)
    yield _recall("R@1 of pairs seen in training", figures["composition"]["trained"])
    count = f"{figures['cloud']:,}"
    for key, label, digits, zh in (
        ("fd_lite1", f"FD-lite1, {count} pictures per set", 0, f"FD-lite1（每组 {count} 张）"),
        ("fd_random", "FD-random", 3, ""),
        ("kid_lite1", "KID-lite1", 3, ""),
        ("density", "density", 2, ""),
        ("coverage", "coverage", 2, "coverage（覆盖率）"),
        ("precision", "precision", 2, ""),
        ("recall", "recall", 2, ""),
        ("fd_spatial", "FD-spatial", 1, ""),
    ):
        low, high = figures["intervals"][key]
        real = figures[f"{key}_floor" if f"{key}_floor" in figures else f"{key}_real"]
        span = f"{low:.{digits}f}-{high:.{digits}f}"
        value, real = f"{figures[key]:.{digits}f}", f"{abs(real):.{digits}f}"
        yield Row(label, value, span, real=real, zh=zh)
    own = figures["discriminator"]
    real_auc, caption_auc = own["auc_real_over_generated"], own["auc_right_over_shuffled_caption"]
    yield Row(
        "discriminator AUC: real vs generated / right vs wrong caption",
        f"{real_auc:.2f} / {caption_auc:.2f}", chance="0.5",
    )  # fmt: skip
    yield Row(
        "memorisation ratio (0 = copies of training pictures)",
        f"{figures['memorisation_ratio']:.2f}", real="1", zh="记忆率（0 表示复制训练图像）",
    )  # fmt: skip
    shared, real_shared = figures["common_mark"], figures["common_mark_real"]
    yield Row(
        "share of fine detail common to all pictures", _percent(shared), real=_percent(real_shared)
    )
    yield from _detail_rows(figures["detail"])
    spread = figures["diversity"]
    yield Row(
        "mean distance between pictures",
        f"{spread['among_pictures']:.2f}", real=f"{spread['among_real_pictures']:.2f}",
    )  # fmt: skip
    yield Row("mean distance between seeds of one prompt", f"{spread['among_seeds']:.2f}")


def _detail_rows(detail: dict) -> Iterator[Row]:
    """How the pictures are drawn, beside real ones."""
    for key, label, digits in (
        ("sharpness", "sharpness inside shapes", 3),
        ("edge_width", "width of outlines, pixels", 1),
        ("chroma_noise", "chroma noise", 4),
        ("asymmetry", "asymmetry of what is symmetric", 3),
    ):
        if detail[key] is not None and detail[f"{key}_real"] is not None:
            value, real = f"{detail[key]:.{digits}f}", f"{detail[f'{key}_real']:.{digits}f}"
            yield Row(label, value, real=real)


def _recall(label: str, found: dict, *, zh: str = "") -> Row:
    low, high = found["r1_interval"]
    span = f"{100 * low:.1f}-{_percent(high)}"
    chance, ceiling = _percent(found["chance"]), _percent(found["ceiling"])
    return Row(label, _percent(found["r1"]), span, chance, ceiling, zh)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def table(figures: dict, *, headline: bool) -> str:
    """The block of the README (`headline`) or of docs/weights.md, in English."""
    text, audio = figures["retrieval"]["text"], figures["retrieval"].get("audio")
    tested = f"{text['pairs']} held-out (concept, style) pairs, {text['seeds']} seeds each"
    tested += f"; spoken: {audio['pairs']} pairs" if audio else ""
    body = "".join(
        f"| {' | '.join(row[:5])} |\n" for row in rows(figures) if row.zh or not headline
    )
    flags = "; ".join(figures["flags"].values())
    found = f"Quality checks flagged: {flags}." if flags else "The quality checks flagged nothing."
    return f"\n`imagen evaluate --model {figures['model']}`: {tested}.\n\n{HEAD}{body}\n{found}\n\n"


def table_zh(figures: dict) -> str:
    """The headline figures in Chinese."""
    text, audio = figures["retrieval"]["text"], figures["retrieval"].get("audio")
    tested = f"{text['pairs']} 个训练中未见过的“概念 + 风格”组合，每个 {text['seeds']} 个种子"
    tested += f"；语音提示用其中 {audio['pairs']} 个" if audio else ""
    body = "".join(f"| {' | '.join((row.zh, *row[1:5]))} |\n" for row in rows(figures) if row.zh)
    flags = "; ".join(figures["flags"].values())
    found = f"质量检查发现：{flags}.\n" if flags else "质量检查没有发现问题。\n"
    return (
        f"\n`imagen evaluate --model {figures['model']}`：{tested}。\n\n{HEAD_ZH}{body}\n{found}\n"
    )


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
    block = (
        table_zh(figures) if document == README_ZH else table(figures, headline=document != FULL)
    )
    return BLOCK.sub(lambda _: block, text)


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
    for document in DOCUMENTS:
        document.write_text(renewed(document, figures), encoding="utf-8")


if __name__ == "__main__":
    main()
