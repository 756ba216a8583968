"""Structural mutations of honest replies: what a hostile client can put on the wire of either of Flower's APIs.

Everything is drawn from a :class:`random.Random`, so an episode of the fuzzer can be had again from its seed.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, MutableMapping
from copy import deepcopy
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.common.constant import ErrorCode

from flwr_faa.verification import wire

NUMBERS = (0, 1, -1, 2, 7, 2**31, -(2**31), 2**53 + 1, 2**62, 2**63 - 1, -(2**63), 0.0, -0.0, 0.5, 1e-300, 1e38, 1e308)
STRANGE = (*NUMBERS, float("nan"), float("inf"), -float("inf"))
DTYPES = ("f2", "f4", "f8", ">f4", "i1", "u1", "i4", "i8", "u8", "?", "c8", "U3", "S5", "M8[s]")
NAMES = (
    "",
    "faa.evidence",
    "faa.commitment",
    "num-examples",
    "arrays",
    "metrics",
    "a" * 300,
    "é\n\x1b[31m",
    "\x00",
    "0",
)
HEADERS = (
    b"PK\x03\x04" + b"\0" * 64,
    b"\x93NUMPY\x01\x00\x06\x00{'desc",
    b"\x93NUMPY\x01\x00\x10\x00{'descr': (     \n",
    b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (" + str(2**70).encode() + b",), }",
    b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': True, 'shape': (0, 9223372036854775808), }",
    b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (1,), }" + b"\x80\x04N.",
    b"",
    b"\x80\x04cos\nsystem\n",
)


def mutate(reply: Message, draw: random.Random, earlier: list[RecordDict]) -> Message | None:
    """What a hostile client sends instead of an honest reply: the same, changed in one to three places, or nothing."""
    if not reply.has_content():
        return reply
    earlier.append(deepcopy(reply.content))
    del earlier[:-4]
    fate = draw.random()
    if fate < 0.08:
        return None  # silent, or slower than the deadline: the same to who waits
    if fate < 0.14:
        return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, draw.choice(NAMES) * 50), reply_to=reply)
    if fate < 0.20:
        return answer(reply, deepcopy(draw.choice(earlier)))  # an older one, or one to another question
    content = deepcopy(reply.content)
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        try:
            draw.choice(CHANGES)(content, draw)
        except (TypeError, ValueError, KeyError, IndexError):
            continue  # Flower's records do not hold such a thing: it cannot be sent
    return answer(reply, content)


def answer(reply: Message, content: RecordDict) -> Message:
    """The same reply with another content."""
    return Message(content, metadata=reply.metadata)


def one_array(content: RecordDict, draw: random.Random) -> None:
    """One array: its values, type, shape, bytes, or what is said of them."""
    record, name = _place(list(content.array_records.values()), draw)
    record[name] = draw.choice((values, typed, shaped, bytes_of, said))(record[name], draw)


def all_arrays(content: RecordDict, draw: random.Random) -> None:
    """Every array in the same way."""
    record = draw.choice(list(content.array_records.values()))
    change = draw.choice((values, typed, shaped))
    seed = draw.random()
    for name in list(record):
        record[name] = change(record[name], random.Random(seed))


def values(array: Array, draw: random.Random) -> Array:
    """Extreme or scaled numbers in one place or everywhere."""
    plain = np.array(array.numpy())
    with np.errstate(all="ignore"):
        if draw.random() < 0.5 and plain.size:
            flat = plain.reshape(-1)
            flat[draw.randrange(flat.size)] = np.array(draw.choice(STRANGE)).astype(plain.dtype)
        else:
            plain = (plain * np.array(draw.choice(STRANGE))).astype(plain.dtype)
    return Array(plain)


def typed(array: Array, draw: random.Random) -> Array:
    with np.errstate(all="ignore"):
        return Array(np.array(array.numpy()).astype(draw.choice(DTYPES)))


def shaped(array: Array, draw: random.Random) -> Array:
    plain = np.array(array.numpy())
    return Array(
        draw.choice(
            (
                lambda a: a.T,
                lambda a: a.reshape(-1),
                lambda a: a[None],
                lambda a: a[:-1],
                lambda a: a[:0],
                lambda a: np.concatenate([a, a]),
                np.asfortranarray,
                lambda a: np.array(0.0, a.dtype),
                lambda a: np.zeros((0, 2**20), a.dtype),
                lambda a: np.broadcast_to(np.float32(1), (300, 300)),
            )
        )(plain)
    )


def bytes_of(array: Array, draw: random.Random) -> Array:
    data = bytearray(array.data)
    kind = draw.randrange(4)
    if kind == 0:
        data = bytearray(draw.choice(HEADERS))
    elif kind == 1:
        del data[draw.randrange(len(data) + 1) :]
    elif kind == 2:
        data += draw.randbytes(draw.choice((1, 8, 4096)))
    else:
        for _ in range(draw.choice((1, 8))):
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    return Array(array.dtype, array.shape, array.stype, bytes(data))


def said(array: Array, draw: random.Random) -> Array:
    shapes = ((), (0, 2**63), (2**70,), (-1,), (3,), (*tuple(array.shape), 1))
    choice = draw.randrange(3)
    dtype = draw.choice((*DTYPES, "object", "", "é")) if choice == 0 else array.dtype
    shape = draw.choice(shapes) if choice == 1 else array.shape
    stype = draw.choice(("", "pickle", "torch")) if choice == 2 else array.stype
    return Array(dtype, shape, stype, array.data)


def named(content: RecordDict, draw: random.Random) -> None:
    """Names of a record or within one: gone, new, exchanged, in another order."""
    record: Any = content if draw.random() < 0.4 else draw.choice(list(content.values()))
    keys = list(record)
    key, kind = draw.choice(keys), draw.randrange(5)
    if kind == 0:
        del record[key]
    elif kind == 1:
        record[draw.choice(NAMES)] = record.pop(key)
    elif kind == 2:
        record[draw.choice(NAMES)] = deepcopy(record[key])
    elif kind == 3:
        draw.shuffle(keys)
        _replace(record, {k: record[k] for k in keys})
    else:
        other = draw.choice(keys)
        record[key], record[other] = record[other], record[key]


def another_record(content: RecordDict, draw: random.Random) -> None:
    """A record of another kind in its place, an empty one, or many more."""
    key = draw.choice(list(content))
    kinds = [ArrayRecord(), MetricRecord(), ConfigRecord(), MetricRecord({"num-examples": 1})]
    if draw.random() < 0.3:
        for i in range(200):
            content[f"{key}{i}"] = deepcopy(content[key])
    else:
        content[key] = draw.choice(kinds)


def a_metric(content: RecordDict, draw: random.Random) -> None:
    """A number of a metric, of another value or type, or another metric."""
    record = draw.choice(list(content.metric_records.values()))
    key = draw.choice([*record, *NAMES])
    record[key] = draw.choice((draw.choice(STRANGE), [draw.choice(STRANGE)] * draw.choice((0, 1, 3)), [1, 2, 3]))


def a_config(content: RecordDict, draw: random.Random) -> None:
    """A value of a config, of another value or type; in the legacy API metrics and evidence are some."""
    record = draw.choice(list(content.config_records.values()))
    key = draw.choice([*record, *record, draw.choice(NAMES)])
    new: list[Any] = [draw.choice(STRANGE), "x", b"", b"FAA\x01", True, [1.5], ["x"], [b"x"], draw.randbytes(99)]
    old = record.get(key)
    if isinstance(old, bytes) and draw.random() < 0.7:
        record[key] = message(old, draw)
    else:
        record[key] = draw.choice(new)


def evidence(content: RecordDict, draw: random.Random) -> None:
    """A message of the verification: one field of it, in an array of bytes or a config."""
    for record in content.array_records.values():
        for name, array in record.items():
            data = bytes(array.numpy().tobytes()) if array.dtype == "uint8" else b""
            if data.startswith(b"FAA"):
                record[name] = Array(np.frombuffer(message(data, draw), np.uint8).copy())
                return
    a_config(content, draw)


def message(data: bytes, draw: random.Random) -> bytes:
    """A packed message with other fields, or other bytes."""
    try:
        kind = wire.kind_of(data)
        fields = _fields(data)
    except wire.WireError:
        return bytes(draw.choice(HEADERS))
    if not fields or draw.random() < 0.2:
        cut = bytearray(data)
        cut[draw.randrange(len(cut))] ^= 1 << draw.randrange(8)
        return bytes(cut[: draw.choice((len(cut), draw.randrange(len(cut))))])
    key = draw.choice(list(fields))
    how = draw.random()
    if how < 0.1:
        del fields[key]
    elif how < 0.2:
        fields[draw.choice(("", "zz", "é", "a" * 200))] = fields[key]
    elif how < 0.3:
        fields[key] = fields[draw.choice(list(fields))]
    else:
        fields[key] = _field(fields[key], draw)
    try:
        return wire.pack(draw.choice((kind, kind, kind, "x")), fields)
    except (ValueError, struct.error, UnicodeError):
        return data[: len(data) // 2]


def _field(value: Any, draw: random.Random) -> Any:
    if isinstance(value, int):
        return draw.choice((0, 1, -1, value + 1, -value, 2**31, 2**62, 2**63 - 1, -(2**63), "x", b""))
    if isinstance(value, (str, bytes)):
        return draw.choice((value[:-1], value * 2, value[:0], "é", b"\xff" * 64, 3))
    with np.errstate(all="ignore"):
        changed = np.array(draw.choice((values, shaped))(Array(np.array(value)), draw).numpy())
        if draw.random() < 0.3:
            changed = changed.astype(draw.choice(("u1", "<i2", "<i4", "<i8", "<f4", "<f8")))
    return changed


def _fields(data: bytes) -> dict[str, Any]:
    reader = wire._Reader(data)
    reader.take(4), reader.text()
    return {reader.text(): reader.value() for _ in range(reader.byte())}


def _place(records: list[ArrayRecord], draw: random.Random) -> tuple[ArrayRecord, str]:
    record = draw.choice(records)
    return record, draw.choice(list(record))


def _replace(record: MutableMapping[str, Any], by: dict[str, Any]) -> None:
    for key in list(record):
        del record[key]
    for key, value in by.items():
        record[key] = value


CHANGES: tuple[Callable[[RecordDict, random.Random], None], ...] = (
    one_array, one_array, all_arrays, named, another_record, a_metric, a_config, evidence, evidence,
)  # fmt: skip
