"""The wire format: canonical, and every other sequence of bytes is a WireError."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from flwr_faa.verification.wire import WireError, kind_of, pack, unpack

EXPECTED = {"a": np.ndarray, "b": bytes, "i": int, "s": str}
MESSAGE = pack("test", {"a": np.arange(6, dtype=np.int32).reshape(2, 3), "b": b"xyz", "i": -7, "s": "ä"})


@given(
    hnp.arrays(st.sampled_from(["u1", "<i4", "<i8", "<f4"]), hnp.array_shapes(min_dims=0, max_dims=3, min_side=0)),
    st.binary(max_size=20),
    st.integers(-(2**63), 2**63 - 1),
    st.text(max_size=20),
)
def test_round_trip_and_one_encoding(array: np.ndarray, blob: bytes, number: int, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        text = ""
    fields = {"a": array, "b": blob, "i": number, "s": text}
    data = pack("k", fields)
    got = unpack(data, "k", EXPECTED)
    np.testing.assert_array_equal(got["a"], array)
    assert got["a"].dtype == array.dtype
    assert (got["b"], got["i"], got["s"]) == (blob, number, text)
    assert pack("k", got) == data == pack("k", dict(reversed(fields.items())))


@pytest.mark.parametrize("end", range(len(MESSAGE)))
def test_every_truncation_is_an_error(end: int) -> None:
    with pytest.raises(WireError):
        unpack(MESSAGE[:end], "test", EXPECTED)


@given(st.binary(max_size=300))
def test_garbage_is_an_error(data: bytes) -> None:
    with pytest.raises(WireError):
        unpack(data, "test", EXPECTED)
    with pytest.raises(WireError):
        unpack(b"FAA\x01\x04test" + data, "test", EXPECTED)


@given(st.integers(0, len(MESSAGE) - 1), st.integers(1, 255))
def test_a_changed_byte_is_an_error_or_another_value(at: int, change: int) -> None:
    data = bytearray(MESSAGE)
    data[at] ^= change
    try:
        fields = unpack(bytes(data), "test", EXPECTED)
    except WireError:
        return
    assert pack("test", fields) == bytes(data)


def test_a_huge_declared_array_allocates_nothing() -> None:
    head = MESSAGE[:4] + b"\x04test" + b"\x01" + b"\x01a" + b"a" + bytes([5, 2])
    for side, why in ((2**40, "at most"), (2**14, "more bytes")):
        with pytest.raises(WireError, match=why):
            unpack(head + side.to_bytes(8, "little") * 2, "test", {"a": np.ndarray})


def test_fields_and_types_must_be_the_expected() -> None:
    with pytest.raises(WireError, match="kind"):
        unpack(MESSAGE, "other", EXPECTED)
    with pytest.raises(WireError, match="expected fields"):
        unpack(MESSAGE, "test", {"a": np.ndarray})
    with pytest.raises(WireError, match="i: expected str, got int"):
        unpack(MESSAGE, "test", {**EXPECTED, "i": str})
    with pytest.raises(WireError, match="more bytes"):
        unpack(MESSAGE + b"\0", "test", EXPECTED)
    assert kind_of(MESSAGE) == "test"
