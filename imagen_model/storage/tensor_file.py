"""Reading safetensors files without mapping them into memory.

The readers of the library safetensors map a file. When another program then writes over it in place
(as cp does), the process is killed, or its weights change. Here the header is read and checked
first, then each tensor is read into memory of its own, all through one open file: if another file
takes its place meanwhile, the old one is read to its end.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from torch import Tensor

MAX_HEADER = 100_000_000  # bytes; safetensors' own limit
DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U64": torch.uint64, "U32": torch.uint32, "U16": torch.uint16, "U8": torch.uint8,
    "BOOL": torch.bool,
}  # fmt: skip


class Entry(NamedTuple):
    """What the header says of a tensor; offsets are from the end of the header."""

    dtype: torch.dtype
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
        tensor = torch.empty(entry.shape, dtype=entry.dtype)
        self._file.seek(self._start + entry.begin)
        data = tensor.view(-1).view(torch.uint8).numpy().data
        if self._file.readinto(data) != len(data):
            raise SafetensorError("it was cut off while it was read")
        return tensor


def _entry(facts: Any) -> Entry:
    begin, end = facts["data_offsets"]
    return Entry(DTYPES[facts["dtype"]], tuple(facts["shape"]), begin, end)


def _check(entries: Iterable[Entry], size: int) -> None:
    """SafetensorError where the tensors do not fill exactly the `size` bytes of the data."""
    end = 0
    for entry in sorted(entries, key=lambda entry: (entry.begin, entry.end)):
        length = math.prod(entry.shape) * entry.dtype.itemsize
        if min(entry.shape, default=0) < 0 or (entry.begin, entry.end) != (end, end + length):
            raise SafetensorError("its tensors and their places do not agree")
        end = entry.end
    if end != size:
        raise SafetensorError(f"it has {size} bytes of tensors; expected {end}")
