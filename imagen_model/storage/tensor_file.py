"""Safetensors files, read without mapping them into memory.

The readers of the library safetensors map a file. When another program then writes over it in place
(as cp does), the process is killed, or its weights change. Here the header is read and checked
first, then each tensor is read into memory of its own, all through one open file: if another file
takes its place meanwhile, the old one is read to its end.

Torch is imported when tensors are wanted: a header is read in a fraction of the time that takes.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from safetensors import SafetensorError

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)

MAX_HEADER = 100_000_000  # bytes; safetensors' own limit
# safetensors' name of a type -> torch's, and its bytes
DTYPES = {
    "F64": ("float64", 8), "F32": ("float32", 4), "F16": ("float16", 2), "BF16": ("bfloat16", 2),
    "F8_E4M3": ("float8_e4m3fn", 1), "F8_E5M2": ("float8_e5m2", 1),
    "I64": ("int64", 8), "I32": ("int32", 4), "I16": ("int16", 2), "I8": ("int8", 1),
    "U64": ("uint64", 8), "U32": ("uint32", 4), "U16": ("uint16", 2), "U8": ("uint8", 1),
    "BOOL": ("bool", 1),
}  # fmt: skip


class Entry(NamedTuple):
    """What the header says of a tensor; offsets are from the end of the header."""

    dtype: str  # torch's name
    item_size: int  # bytes
    shape: tuple[int, ...]
    begin: int
    end: int


class TensorFile:
    """An open safetensors file: `metadata` at once, tensors when they are asked for.

    SafetensorError where it is none, or damaged.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        try:
            size = os.fstat(self._file.fileno()).st_size
            length = int.from_bytes(self._file.read(8), "little")
            self._start = 8 + length
            if length > MAX_HEADER or self._start > size:
                raise SafetensorError("its header is cut off, or is none")
            header = json.loads(self._file.read(length))
            self.metadata: dict[str, str] = header.pop("__metadata__", {})
            if not all(isinstance(value, str) for value in self.metadata.values()):
                raise ValueError("metadata that is no text")
            self._entries = {name: _entry(facts) for name, facts in header.items()}
            _check(self._entries.values(), size - self._start)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            self._file.close()
            raise SafetensorError(f"its header is damaged ({error})") from None
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> TensorFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def tensors(self, keep: Callable[[str], bool] = lambda name: True) -> dict[str, Tensor]:
        """Those whose names `keep` wants."""
        return {name: self._read(entry) for name, entry in self._entries.items() if keep(name)}

    def _read(self, entry: Entry) -> Tensor:
        import torch

        tensor = torch.empty(entry.shape, dtype=getattr(torch, entry.dtype))
        self._file.seek(self._start + entry.begin)
        data = tensor.view(-1).view(torch.uint8).numpy().data
        if self._file.readinto(data) != len(data):
            raise SafetensorError("it was cut off while it was read")
        return tensor


def _entry(facts: Any) -> Entry:
    begin, end = facts["data_offsets"]
    return Entry(*DTYPES[facts["dtype"]], tuple(facts["shape"]), begin, end)


def _check(entries: Iterable[Entry], size: int) -> None:
    """SafetensorError where the tensors do not fill exactly the `size` bytes of the data."""
    end = 0
    for entry in sorted(entries, key=lambda entry: (entry.begin, entry.end)):
        length = math.prod(entry.shape) * entry.item_size
        if min(entry.shape, default=0) < 0 or (entry.begin, entry.end) != (end, end + length):
            raise SafetensorError("its tensors and their places do not agree")
        end = entry.end
    if end != size:
        raise SafetensorError(f"it has {size} bytes of tensors; expected {end}")


def save_tensors(
    tensors: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None
) -> None:
    """safetensors' save_file; OSError with a readable message if the file can't be written."""
    from safetensors.torch import save_file

    try:
        escaped = {
            key: value.encode(errors="backslashreplace").decode()
            for key, value in (metadata or {}).items()
        }
        save_file(tensors, path, metadata=escaped or None)
    except SafetensorError as error:
        raise OSError(f"cannot write {path.parent}: {error}") from None


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a safetensors file, and its metadata."""
    with TensorFile(path) as file:
        return file.tensors(), file.metadata


def read_cache(
    path: Path, key: str, *, name: str = "key"
) -> tuple[dict[str, Tensor], dict[str, str]] | None:
    """`read_tensors`, or None if there is no file, if its metadata has another `key`, or, with a
    warning, if it is damaged."""
    if not path.is_file():
        return None
    try:
        with TensorFile(path) as file:
            if file.metadata[name] != key:
                return None
            return file.tensors(), file.metadata
    except (SafetensorError, KeyError, TypeError) as error:
        logger.warning("%s is damaged and will be made again (%s)", path, error)
        return None
