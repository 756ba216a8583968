"""Hostile messages: the right structure with hostile values, wrong structures, and every numeric extreme.

``hostile`` draws a message from an honest one's fields; ``message`` encodes fields that are wrong in any way, which
``wire.pack`` refuses to do.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
from hypothesis import strategies as st

from flwr_faa.verification.wire import Value

DTYPES = ("|u1", "<i2", "<i4", "<i8", "<f4", "<f8")
EXTREMES = [0, 1, -1, 2, 255, 2**31, 2**32, 2**53, -(2**53), 2**62, 2**63 - 1, -(2**63), 2**63, 2**64 - 1]
FLOATS = [0.0, -0.0, 1.0, -1.0, 1e38, -1e38, 1e308, 5e-324, float("nan"), float("inf"), -float("inf")]
axes = st.integers(0, 5) | st.sampled_from([2**20, 2**31, 2**32, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1])


def raw_array(code: int, shape: tuple[int, ...], data: bytes) -> bytes:
    """An array field as it stands in a message, whatever its header says."""
    return b"a" + struct.pack(f"<BB{len(shape)}Q", code, len(shape), *(n % 2**64 for n in shape)) + data


def raw(value: Value) -> bytes:
    """A field's value as it stands in a message."""
    if isinstance(value, int):
        return b"i" + struct.pack("<Q", value % 2**64)
    if isinstance(value, str | bytes):
        text = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
        return (b"s" if isinstance(value, str) else b"b") + struct.pack("<Q", len(text)) + text
    little = value.astype(value.dtype.newbyteorder("<"))
    return raw_array(DTYPES.index(little.dtype.str), value.shape, little.tobytes())


def message(kind: str, fields: list[tuple[str, bytes]]) -> bytes:
    """A message with these fields in this order, each already encoded by ``raw``."""
    parts = [b"FAA\x01", bytes([len(kind)]), kind.encode(), bytes([len(fields) % 256])]
    for name, value in fields:
        parts += [bytes([len(name.encode())]), name.encode(), value]
    return b"".join(parts)


@st.composite
def hostile_value(draw: st.DrawFn, honest: Value) -> bytes:
    """One field's value: the honest one with something wrong, or something else of any type."""
    how = draw(st.sampled_from(["entry", "every", "shape", "header", "dtype", "other"]))
    if how == "other" or (not isinstance(honest, np.ndarray) and draw(st.booleans())):
        number = draw(st.sampled_from(EXTREMES) | st.integers(-(2**63), 2**64 - 1))
        text: Any = st.binary(max_size=40) | st.sampled_from([bytes(32), bytes(31), bytes(33), bytes(64)])
        return draw(st.sampled_from([raw(number), raw(draw(text)), raw(draw(st.text(max_size=5)))]) | whole_array())
    if not isinstance(honest, np.ndarray):
        changed = bytearray(raw(honest))
        if len(changed) > 9:
            changed[draw(st.integers(9, len(changed) - 1))] ^= draw(st.integers(1, 255))
        return bytes(changed)
    if how in ("entry", "every") and honest.size:
        array = honest.copy()
        extreme = FLOATS if array.dtype.kind == "f" else [v for v in EXTREMES if fits(v, array.dtype)]
        value = draw(st.sampled_from(extreme))
        with np.errstate(over="ignore"):
            if how == "every":
                array[...] = value
            else:
                array.flat[draw(st.integers(0, array.size - 1))] = value
        return raw(array)
    if how == "dtype":
        with np.errstate(all="ignore"):
            return raw(honest.astype(draw(st.sampled_from(DTYPES))))
    if how == "header":
        data = draw(st.sampled_from([b"", honest.tobytes()]))
        return raw_array(draw(st.integers(0, 7)), tuple(draw(st.lists(axes, max_size=7))), data)
    shapes = (
        [honest[:-1], honest[:0], honest[None], honest.ravel(), np.concatenate([honest, honest])]
        if honest.ndim
        else [honest]
    )
    return raw(np.ascontiguousarray(draw(st.sampled_from(shapes))))


def fits(value: int, dtype: np.dtype[Any]) -> bool:
    info = np.iinfo(dtype)
    return info.min <= value <= info.max


@st.composite
def whole_array(draw: st.DrawFn) -> bytes:
    """An array field of any header, with as many bytes as it says, or others."""
    code, shape = draw(st.integers(0, 7)), tuple(draw(st.lists(axes, max_size=7)))
    return raw_array(code, shape, draw(st.binary(max_size=64)))


@st.composite
def hostile(draw: st.DrawFn, kind: str, honest: Mapping[str, Value]) -> bytes:
    """A message of that kind: honest fields with some of them hostile, missing, repeated, renamed or out of order."""
    fields = [(name, raw(honest[name])) for name in sorted(honest)]
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(fields) - 1)) if fields else 0
        what = draw(st.sampled_from(["value"] * 6 + ["missing", "repeated", "renamed", "order", "extra", "cut"]))
        if what == "value" and fields and fields[at][0] in honest:
            fields[at] = (fields[at][0], draw(hostile_value(honest[fields[at][0]])))
        elif what == "missing" and fields:
            del fields[at]
        elif what == "repeated" and fields:
            fields.insert(at, fields[at])
        elif what == "renamed" and fields:
            fields[at] = (draw(st.sampled_from(sorted(honest)) | st.text(max_size=6)), fields[at][1])
        elif what == "order":
            fields = draw(st.permutations(fields))
        elif what == "extra":
            fields = sorted([*fields, (draw(st.text(max_size=6)), draw(whole_array()))])
    data = message(draw(st.just(kind) | st.sampled_from(["", kind + "x", "spotcheck/answer"])), fields)
    return data[: draw(st.integers(0, len(data)))] if draw(st.integers(0, 9)) == 0 else data
