"""Mutations of bytes, JSON, rows and safetensors files. All randomness comes from one
`random.Random`, so that a case can be repeated."""

from __future__ import annotations

import json
import math
import struct
from random import Random
from typing import Any

NUMBERS: tuple[Any, ...] = (
    0, 1, -1, 2, 127, 128, 255, 256, 32767, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**53 + 1,
    2**63 - 1, 2**63, 2**64, -(2**63), 10**30, 10**400, -0.0, 0.5, 1.5, 1e-300, 1e30, 1e308,
    math.nan, math.inf, -math.inf,
)  # fmt: skip
TEXTS: tuple[str, ...] = (
    "", " ", "\0", "a\0b", "\n", "\ud800", "\u202e", "\U0001f34e", "../../outside", "/etc/hostname",
    "nan", "-1", "1e999", "F99", "I8", "NULL", "%s%n", "C:\\x", "(" * 50, "(a:1e9)", "'; --",
    "x" * 300, "long " * 20_000,
)  # fmt: skip
DEEP = "@deep@"  # stands for nesting that json.dumps could not write


def number(rng: Random) -> Any:
    return rng.choice(NUMBERS)


def text(rng: Random) -> str:
    return rng.choice(TEXTS)


def value(rng: Random) -> Any:
    """Anything that JSON can hold, valid or not where it is put."""
    kinds: tuple[Any, ...] = (
        number(rng), number(rng), text(rng), None, True, False, [], {}, [number(rng)] * 3,
        {text(rng): number(rng)}, DEEP,
    )  # fmt: skip
    return rng.choice(kinds)


# -- bytes ----------------------------------------------------------------------------------------


def mutated(data: bytes, rng: Random, others: list[bytes] | None = None) -> bytes:
    """One to four changes: bits, numbers of 1 to 8 bytes, pieces removed, repeated, moved or
    taken from another file, and a cut end."""
    result = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        rng.choice(_CHANGES)(result, rng, others or [data])
    return bytes(result)


def _place(data: bytearray, rng: Random) -> int:
    """Mostly near the start, where headers are."""
    return rng.randrange(min(len(data), 256) if rng.random() < 0.5 else len(data)) if data else 0


def _flip(data: bytearray, rng: Random, others: list[bytes]) -> None:
    for _ in range(rng.choice((1, 1, 2, 8))):
        if data:
            data[_place(data, rng)] ^= 1 << rng.randrange(8)


def _set_number(data: bytearray, rng: Random, others: list[bytes]) -> None:
    at, kind = _place(data, rng), rng.choice("BBHIQ")
    size = struct.calcsize(kind)
    top = 256**size
    new = rng.choice((0, 1, 2, 127, 255, 1000, top - 1, top // 2, top // 2 - 1, rng.randrange(top)))
    data[at : at + size] = struct.pack(rng.choice("<>") + kind, min(new, top - 1))


def _truncate(data: bytearray, rng: Random, others: list[bytes]) -> None:
    del data[_place(data, rng) :]


def _remove(data: bytearray, rng: Random, others: list[bytes]) -> None:
    at = _place(data, rng)
    del data[at : at + rng.choice((1, 4, 16, 512))]


def _splice(data: bytearray, rng: Random, others: list[bytes]) -> None:
    other = rng.choice(others)
    begin, size = rng.randrange(len(other) or 1), rng.choice((1, 4, 16, 512, 4096))
    at = _place(data, rng)
    replaced = size if rng.random() < 0.5 else 0
    data[at : at + replaced] = other[begin : begin + size]


def _fill(data: bytearray, rng: Random, others: list[bytes]) -> None:
    at, size = _place(data, rng), rng.choice((4, 16, 512))
    data[at : at + size] = bytes([rng.choice((0, 255, 32))]) * size


_CHANGES = (_flip, _flip, _set_number, _set_number, _truncate, _remove, _splice, _fill)


# -- JSON -----------------------------------------------------------------------------------------


def changed(plain: Any, rng: Random, *, rounds: int = 2) -> Any:
    """A copy of JSON data in which a few values or keys are others."""
    root = [json.loads(json.dumps(plain))]
    for _ in range(rng.randint(1, rounds)):
        holder, key = rng.choice(list(_places(root)))
        action = rng.randrange(8)
        if action == 0:
            del holder[key]
        elif action == 1 and isinstance(holder, dict):
            holder[text(rng)] = holder.pop(key)
        elif action == 2:
            holder[key] = str(holder[key])
        elif action == 3:
            holder[key] = [holder[key]]
        else:
            holder[key] = value(rng)
        if not root:
            root.append(value(rng))
    return root[0]


def _places(holder: Any) -> Any:
    """(container, key) of every value in a container."""
    for key in list(holder) if isinstance(holder, dict) else range(len(holder)):
        yield holder, key
        if isinstance(holder[key], dict | list):
            yield from _places(holder[key])


def dumped(plain: Any, rng: Random) -> str:
    """JSON text, with nesting where DEEP stands; huge numbers are written out."""
    deep = (
        "[" * 100_000 + "]" * 100_000 if rng.random() < 0.5 else '{"a":' * 2000 + "1" + "}" * 2000
    )
    return json.dumps(plain, ensure_ascii=rng.random() < 0.5).replace(f'"{DEEP}"', deep)


def encoded(string: str) -> bytes:
    """UTF-8, also of lone surrogates (which makes it invalid)."""
    return string.encode(errors="surrogatepass")


def changed_json(plain: Any, rng: Random) -> bytes:
    """JSON with other values, or with other bytes."""
    if rng.random() < 0.8:
        return encoded(dumped(changed(plain, rng), rng))
    return mutated(json.dumps(plain).encode(), rng)


# -- safetensors ----------------------------------------------------------------------------------


def changed_safetensors(data: bytes, rng: Random) -> bytes:
    """A safetensors file with another header, metadata, other tensors or other bytes."""
    if rng.random() < 0.3:
        return mutated(data, rng)
    header, body = parts_of(data)
    kind = rng.randrange(4)
    if kind == 0:
        header = changed(header, rng)
    elif kind == 1:
        _change_metadata(header["__metadata__"], rng)
    else:
        _change_tensor(header, body, rng)
    return joined(dumped(header, rng), bytes(body))


def parts_of(data: bytes) -> tuple[dict, bytearray]:
    """The header and the tensors' bytes of a sound file."""
    (size,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + size]), bytearray(data[8 + size :])


def joined(header: str, body: bytes) -> bytes:
    raw = encoded(header)
    return struct.pack("<Q", len(raw)) + raw + body


def _change_metadata(metadata: dict, rng: Random) -> None:
    key = rng.choice(list(metadata))
    if metadata[key].startswith("{"):
        metadata[key] = dumped(changed(json.loads(metadata[key]), rng), rng)
    else:
        metadata[key] = rng.choice((text(rng), "-1", "0", "2", "1e3", "\u0661"))


TYPES = {
    "F32": ("I32", "U32"),
    "F16": ("BF16", "I16", "U16"),
    "I8": ("U8", "BOOL"),
    "I64": ("F64",),
}
SPECIAL = (b"\xff\xff\xff\x7f", b"\0\0\x80\x7f", b"\xff\xff\x7f\x7f", b"\0" * 4)  # NaN, inf, large


def _change_tensor(header: dict, body: bytearray, rng: Random) -> None:
    """Other numbers, another name, type or shape, or none of it."""
    name = rng.choice([name for name in header if name != "__metadata__"])
    entry = header[name]
    begin, end = entry["data_offsets"]
    kind = rng.randrange(5)
    if kind == 0:
        del header[name], body[begin:end]
        for other in header.values():
            if begin < other.get("data_offsets", (0,))[0]:
                other["data_offsets"] = [at - (end - begin) for at in other["data_offsets"]]
    elif kind == 1:
        header[name + rng.choice(("", "x", ".int8_scale", ".up"))] = header.pop(name)
    elif kind == 2:
        entry["dtype"] = rng.choice(TYPES.get(entry["dtype"], ("F32",)))
    elif kind == 3:
        shape = entry["shape"]
        entry["shape"] = rng.choice(([*shape, 1], [1, *shape], shape[::-1], [math.prod(shape)]))
    elif end > begin:
        special = rng.choice(SPECIAL)
        for _ in range(rng.choice((1, 100))):
            at = begin + 4 * rng.randrange(max(1, (end - begin) // 4))
            body[at : at + 4] = special[: end - at]
