"""What the readers of folders and shards share: text, files with mistakes, what is left out."""

from __future__ import annotations

import codecs
import os
import re
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path

from ..storage.files import storable

MOST_LISTED = 10  # files or reasons that are named; the others are counted
# Folders of systems and programs: thumbnails, trash, versions. So is what begins with a dot.
SYSTEM_FOLDERS = {
    "@eaDir", "#recycle", "#snapshot", "$RECYCLE.BIN", "__MACOSX", "lost+found",
    "System Volume Information",
}  # fmt: skip
HIDDEN = "hidden or of the system"


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name belongs to the system or a program."""
    return (name.startswith(".") and name != "..") or name in SYSTEM_FOLDERS


def decoded(data: bytes, name: object) -> str:
    """Text in UTF-8, or in UTF-16 with its byte order mark; ValueError, which has the name."""
    utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = data.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:  # as in UTF-16 without its mark
        raise ValueError(f"{name} is not UTF-8 text; save it as UTF-8")
    return text


def refuse(problems: list[str]) -> None:
    """One ValueError that names the first MOST_LISTED problems and counts the rest."""
    if problems:
        more = len(problems) - MOST_LISTED
        lines = problems[:MOST_LISTED] + [f"{more:,} more like these"] * (more > 0)
        raise ValueError("; ".join(lines))


class LeftOut:
    """The files that a reader does not use: how many for each reason, and the first one's name."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._first: dict[str, str] = {}

    def add(self, reason: str, name: str = "") -> None:
        self.counts[reason] += 1
        self._first.setdefault(reason, " ".join(storable(name).split()))

    def lines(self) -> list[str]:
        """As ["12 .heic (not a format that is read)", "3 broken links such as a.png"]."""
        listed = self.counts.most_common(MOST_LISTED)
        lines = [
            f"{count:,} {reason}" + f" such as {self._first[reason]}" * bool(self._first[reason])
            for reason, count in listed
        ]
        rest = self.counts.total() - sum(count for _, count in listed)
        return lines + [f"{rest:,} for other reasons"] * bool(rest)

    def __str__(self) -> str:
        return left_out_text(self.lines())


def left_out_text(lines: list[str]) -> str:
    """What is appended to the number of pictures; "" if nothing is left out."""
    return f"; left out: {', '.join(lines)}" if lines else ""


def kind_of(suffix: str) -> str:
    """What a file is called by its suffix."""
    return suffix.lower() if re.fullmatch(r"\.[\w.-]{1,16}", suffix) else "other files"


def walk(
    root: Path,
    left_out: LeftOut,
    *,
    leading_out: list[str] | None = None,
    but: Collection[str] = (),
) -> Iterator[Path]:
    """The files below a folder, without its entries `but`, in any order.

    A link to a folder inside `root` is followed, but not a link inside that folder. A link to a
    folder outside adds a line to `leading_out`, or is left out where that is None.
    """
    inside = root.resolve()
    waiting = [(root, False)]  # folders, and whether a link led there
    while waiting:
        folder, linked = waiting.pop()
        try:
            with os.scandir(folder) as scanned:
                entries = sorted(scanned, key=lambda entry: entry.name)
        except OSError:
            left_out.add("folders that can't be opened", folder.name)
            continue
        for entry in entries:
            if folder == root and entry.name in but:
                continue
            path, is_link = folder / entry.name, entry.is_symlink()
            if is_hidden(entry.name):
                left_out.add(HIDDEN)
            elif is_link and not path.exists():
                left_out.add("broken links", entry.name)
            elif entry.is_file():
                yield path
            elif not entry.is_dir():
                left_out.add("neither files nor folders", entry.name)
            elif not is_link:
                waiting.append((path, linked))
            elif leads_out(path, inside):
                if leading_out is None:
                    left_out.add("links that lead out of the folder", entry.name)
                else:
                    leading_out.append(refusal_of_link(path, root))
            elif linked or not leads_out(path.parent, path.resolve()):
                left_out.add("links to folders in a loop or in a linked folder", entry.name)
            else:
                waiting.append((path, True))


def leads_out(path: Path, inside: Path) -> bool:
    """Whether a path, its links followed, is not in the resolved folder `inside`."""
    target = path.resolve()
    return target != inside and inside not in target.parents


def refusal_of_link(link: Path, root: Path) -> str:
    return f"{link} is a link that leads out of {root}; copy what it leads to instead"
