"""The wire format: canonical, and every other sequence of bytes is a WireError."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from flwr_faa.verification.wire import WireError, kind_of, pack, unpack
from tests.verification.hostile import message, raw, raw_array

EXPECTED = {"a": np.ndarray, "b": bytes, "i": int, "s": str}
MESSAGE = pack("test", {"a": np.arange(6, dtype=np.int32).reshape(2, 3), "b": b"xyz", "i": -7, "s": "ä"})


@given(
    hnp.arrays(
        st.sampled_from(["u1", "<i2", "<i4", "<i8", "<f4", "<f8"]), hnp.array_shapes(min_dims=0, max_dims=3, min_side=0)
    ),
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


def test_the_bytes_are_those_of_the_format() -> None:
    """As the module's docstring says: version 1 of it is spoken by devices that are out there."""
    array = b"a\x02\x02" + (2).to_bytes(8, "little") + (3).to_bytes(8, "little")
    array += b"".join(i.to_bytes(4, "little") for i in range(6))
    blob, number = b"b" + (3).to_bytes(8, "little") + b"xyz", b"i" + (-7).to_bytes(8, "little", signed=True)
    text = b"s" + (2).to_bytes(8, "little") + "ä".encode()
    assert b"FAA\x01\x04test\x04\x01a" + array + b"\x01b" + blob + b"\x01i" + number + b"\x01s" + text == MESSAGE
    assert pack("", {}) == b"FAA\x01\x00\x00" and unpack(b"FAA\x01\x00\x00", "", {}) == {}
    big = pack("test", {"a": np.arange(6, dtype=">i4").reshape(2, 3).T})
    assert big == pack("test", {"a": np.arange(6, dtype="<i4").reshape(2, 3).T})


def read_array(code: int, *shape: int, data: bytes = b"") -> np.ndarray:
    """An array with that header, as the only field of a message."""
    return unpack(message("k", [("a", raw_array(code, shape, data))]), "k", {"a": np.ndarray})["a"]


@pytest.mark.parametrize(("code", "size"), [(0, 1), (1, 2), (2, 4), (3, 8), (4, 4), (5, 8)])
def test_an_array_has_at_most_two_to_the_32_bytes_were_its_empty_axes_one(code: int, size: int) -> None:
    assert read_array(code, 0, 2**32 // size).shape == (0, 2**32 // size)
    assert read_array(code, 2**31 // size, 0, 2).shape == (2**31 // size, 0, 2)
    for shape in ((0, 2**32 // size + 1), (0, 2**64 - 1), (2**32, 2**32, 0)):
        with pytest.raises(WireError, match="expected an array of at most 4294967296 bytes, got shape"):
            read_array(code, *shape)
    with pytest.raises(WireError, match=f"expected {2**32} more bytes, got 0"):
        read_array(code, 2**32 // size)
    with pytest.raises(WireError, match=f"expected {6 * size} more bytes, got {6 * size - 1}"):
        read_array(code, 2, 3, data=bytes(6 * size - 1))


def test_an_array_has_at_most_six_axes_and_a_known_type() -> None:
    assert read_array(0, 1, 1, 1, 1, 1, 2, data=b"\3\4").tolist() == [[[[[[3, 4]]]]]]
    for code, axes in ((0, 7), (6, 6), (255, 255)):
        with pytest.raises(WireError, match=f"at most 6 axes, got code {code} and {axes} axes"):
            read_array(code, *[1] * axes, data=bytes(8))


@pytest.mark.parametrize("names", ["aa", "ba", "acb", "abb"])
def test_fields_come_once_and_in_order(names: str) -> None:
    with pytest.raises(WireError, match="in the order of their names"):
        unpack(message("k", [(name, raw(0)) for name in names]), "k", dict.fromkeys(names, int))
    assert unpack(message("k", [("", raw(0)), ("a", raw(1))]), "k", {"": int, "a": int}) == {"": 0, "a": 1}


@pytest.mark.parametrize("head", [b"FAA\x02", b"FAA", b"", b"fAA\x01"])
def test_other_versions_and_other_bytes_are_no_messages(head: bytes) -> None:
    for read in (kind_of, lambda data: unpack(data, "test", EXPECTED)):
        with pytest.raises(WireError, match=r"expected a version 1 message, got other|more bytes"):
            read(head + MESSAGE[4:])


def test_text_is_utf8_and_a_field_has_a_type() -> None:
    for field in (b"s" + (1).to_bytes(8, "little") + b"\xff",):
        with pytest.raises(WireError, match="expected text in UTF-8"):
            unpack(message("k", [("s", field)]), "k", {"s": str})
    with pytest.raises(WireError, match="expected a field type, got b'x'"):
        unpack(message("k", [("s", b"x")]), "k", {"s": str})
    with pytest.raises(WireError, match="expected text in UTF-8"):
        kind_of(b"FAA\x01\x01\xff")


def test_an_array_is_a_copy_that_can_be_written() -> None:
    got = unpack(MESSAGE, "test", EXPECTED)["a"]
    got[0, 0] = 9
    assert got.flags.writeable and unpack(MESSAGE, "test", EXPECTED)["a"][0, 0] == 0


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
