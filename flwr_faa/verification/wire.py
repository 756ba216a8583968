"""The one format in which challenges and evidence travel: versioned, length-checked, canonical.

``magic | version | kind | count | field*`` with fields in the order of their names; a field is
``name | type | payload``. There is one encoding of every message, nothing is executed while reading, and every way in
which a message can be wrong ends in :class:`WireError`.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from flwr_faa.errors import FlwrAnomalyError

Value: TypeAlias = int | str | bytes | npt.NDArray[Any]

_MAGIC = b"FAA\x01"
_DTYPES = ("|u1", "<i2", "<i4", "<i8", "<f4", "<f8")
_MAX_DIMS = 6
#: Bytes of an array whose empty axes, if any, had length one: no numeric limit of NumPy's is met below.
_MAX_BYTES = 2**32


class WireError(FlwrAnomalyError, ValueError):
    """A message that is not what it should be. Costs its sender the round."""


def pack(kind: str, fields: Mapping[str, Value]) -> bytes:
    """Encode a message.

    Parameters
    ----------
    kind : str
        What the message is, e.g. ``"paper/evidence"``.
    fields : mapping
        int (signed 64 bit), str, bytes, or an array of unsigned bytes, signed integers or floats.
    """
    parts = [_MAGIC, _text(kind), struct.pack("<B", len(fields))]
    for name in sorted(fields):
        value = fields[name]
        parts.append(_text(name))
        if isinstance(value, int):
            parts.append(b"i" + struct.pack("<q", value))
        elif isinstance(value, str):
            parts.append(b"s" + _blob(value.encode()))
        elif isinstance(value, bytes):
            parts.append(b"b" + _blob(value))
        else:
            little = np.ascontiguousarray(value, value.dtype.newbyteorder("<"))
            shape = struct.pack(f"<B{value.ndim}Q", value.ndim, *value.shape)
            code = struct.pack("<B", _DTYPES.index(little.dtype.str))
            parts.append(b"a" + code + shape + little.tobytes())
    return b"".join(parts)


def unpack(data: bytes, kind: str, expected: Mapping[str, type]) -> dict[str, Any]:
    """Decode a message that must have exactly the fields ``expected``, name to type (arrays are copied).

    Raises
    ------
    WireError
        Whatever is wrong with it.
    """
    reader = _Reader(data)
    if reader.take(len(_MAGIC)) != _MAGIC:
        raise WireError("expected a version 1 message, got other bytes")
    if (got := reader.text()) != kind:
        raise WireError(f"expected a message of kind {kind!r}, got {got!r}")
    fields: dict[str, Any] = {}
    for _ in range(reader.byte()):
        name = reader.text()
        if fields and name <= max(fields):
            raise WireError("expected fields in the order of their names")
        fields[name] = reader.value()
    if reader.left:
        raise WireError(f"expected the end of the message, got {reader.left} more bytes")
    if fields.keys() != expected.keys():
        raise WireError(f"expected fields {sorted(expected)}, got {sorted(fields)}")
    for name, kind_of in expected.items():
        if type(fields[name]) is not kind_of:
            raise WireError(f"{name}: expected {kind_of.__name__}, got {type(fields[name]).__name__}")
    return fields


def kind_of(data: bytes) -> str:
    """Return the kind of a message, without reading the rest."""
    reader = _Reader(data)
    if reader.take(len(_MAGIC)) != _MAGIC:
        raise WireError("expected a version 1 message, got other bytes")
    return reader.text()


def _text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<B", len(raw)) + raw


def _blob(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)
        self._at = 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def take(self, count: int) -> bytes:
        if count > self.left:
            raise WireError(f"expected {count} more bytes, got {self.left}")
        self._at += count
        return bytes(self._data[self._at - count : self._at])

    def byte(self) -> int:
        return self.take(1)[0]

    def integer(self, code: str) -> int:
        (value,) = struct.unpack(code, self.take(8))
        return int(value)

    def decode(self, raw: bytes) -> str:
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise WireError("expected text in UTF-8, got other bytes") from None

    def text(self) -> str:
        return self.decode(self.take(self.byte()))

    def value(self) -> Value:
        tag = self.take(1)
        if tag == b"i":
            return self.integer("<q")
        if tag == b"s":
            return self.decode(self.take(self.integer("<Q")))
        if tag == b"b":
            return self.take(self.integer("<Q"))
        if tag == b"a":
            return self.array()
        raise WireError(f"expected a field type, got {tag!r}")

    def array(self) -> npt.NDArray[Any]:
        code, dims = self.byte(), self.byte()
        if code >= len(_DTYPES) or dims > _MAX_DIMS:
            raise WireError(f"expected a known dtype and at most {_MAX_DIMS} axes, got code {code} and {dims} axes")
        shape = tuple(self.integer("<Q") for _ in range(dims))
        dtype = np.dtype(_DTYPES[code])
        if math.prod(n or 1 for n in shape) * dtype.itemsize > _MAX_BYTES:  # python integers: cannot overflow
            raise WireError(f"expected an array of at most {_MAX_BYTES} bytes, got shape {shape}")
        raw = self.take(math.prod(shape) * dtype.itemsize)
        return np.frombuffer(raw, dtype).reshape(shape).copy()
