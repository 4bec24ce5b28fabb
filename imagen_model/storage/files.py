"""Files: hashes, atomic writes, and text that a file can hold. Imported without torch."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

MAX_REASON = 300  # characters
WEIGHTS_DIR = Path(__file__).parent.parent / "weights"


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


@lru_cache(maxsize=16)
def checked_sha256(path: Path) -> str:
    """sha256 of a bundled file; ValueError if it differs from the .sha256 file beside it."""
    expected = Path(f"{path}.sha256")
    if not path.is_file() or not expected.is_file():
        raise ValueError(f"bundled file {path} is missing; reinstall the package")
    actual = sha256_of(path)
    if actual != expected.read_text().strip():
        raise ValueError(
            f"bundled file {path} is damaged (its sha256 differs); reinstall the package"
        )
    return actual


def check_outside(out: Path, source: Path) -> None:
    """ValueError if what is written to `out` would lie in `source` and be read with it later."""
    if source.resolve() in (out.resolve(), *out.resolve().parents):
        raise ValueError(
            f"{out} lies in {source}, whose pictures it would join; choose a folder outside "
            "(what is there already can be moved)"
        )


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write` with a temporary path beside `path`, then replace `path` in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}{path.suffix}")
    try:
        temporary.touch(exist_ok=False)
        permissions = temporary.stat().st_mode  # by the umask; safetensors makes its own
        write(temporary)
        temporary.chmod(permissions)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 atomically. What UTF-8 has not (of a file's name in another encoding) is escaped
    as JSON does it."""
    data = text.encode(errors="backslashreplace")
    write_atomically(Path(path), lambda temporary: temporary.write_bytes(data))


def write_json(path: Path, content: object) -> None:
    """Indented by one, for people too."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def json_of(text: str | bytes) -> Any:
    """json.loads; ValueError also for JSON that is nested too deeply to be read."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None


def brief(error: object) -> str:
    """What a library says of a file, in one line that may quote little of the file."""
    line = " ".join(str(error).split())
    return line if len(line) <= MAX_REASON else f"{line[:MAX_REASON]} ..."


def storable(text: str) -> str:
    """Replace lone surrogates, which JSON can carry and a file cannot, by question marks."""
    return text.encode(errors="replace").decode()
