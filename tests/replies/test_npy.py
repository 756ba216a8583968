"""The reader of .npy files: what NumPy writes it reads, anything else is a ValueError and nothing else."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from flwr_faa.replies import npy
from tests.helpers.npy import HOSTILE, header

NUMBERS = st.one_of(
    hnp.boolean_dtypes(),
    hnp.integer_dtypes(endianness="?"),
    hnp.unsigned_integer_dtypes(endianness="?"),
    hnp.floating_dtypes(endianness="?", sizes=(16, 32, 64)),
    hnp.complex_number_dtypes(endianness="?", sizes=(64, 128)),
)
ARRAYS = hnp.arrays(NUMBERS, hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=4))


def saved(array: np.ndarray, version: tuple[int, int] | None = None) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version=version, allow_pickle=False)
    return file.getvalue()


@given(ARRAYS, st.sampled_from([None, (1, 0), (2, 0), (3, 0)]), st.booleans())
def test_what_numpy_writes_is_read(array: np.ndarray, version: tuple[int, int] | None, fortran: bool) -> None:
    array = np.asfortranarray(array) if fortran and array.ndim else array
    data = saved(array, version)
    found = npy.read(data, len(data))
    assert found.shape == array.shape
    assert found.dtype == array.dtype.newbyteorder("=")
    np.testing.assert_array_equal(found, array)


@given(ARRAYS, st.sampled_from([None, (1, 0), (2, 0), (3, 0)]), st.booleans())
def test_it_writes_what_numpy_writes(array: np.ndarray, version: tuple[int, int] | None, fortran: bool) -> None:
    array = np.asfortranarray(array) if fortran and array.ndim else array
    data = saved(array, version)
    found = npy.read(data, len(data))
    assert npy.write(found) == saved(found)
    if data == saved(found) and array.size:
        assert npy.write(found) is data  # nothing is copied
    assert npy.write(found.ravel()) == saved(found.ravel())
    part = found[..., :1] if found.ndim else found
    assert npy.write(part) == saved(part)


def test_a_header_of_another_hand_is_not_handed_on() -> None:
    """NumPy's parser does not know a 03."""
    data = header("{'descr': '<f4', 'fortran_order': False, 'shape': (03,), }", b"\0" * 12)
    assert npy.write(npy.read(data, 1000)) == saved(np.zeros(3, np.float32))


@pytest.mark.parametrize("data", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_bytes_are_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError, match="expected"):
        npy.read(data, 10**6)


def test_a_limit_holds() -> None:
    data = saved(np.zeros(100))
    with pytest.raises(ValueError, match="at most 100 bytes"):
        npy.read(data, 100)


TEXT = st.builds(
    lambda descr, order, shape, tail: f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}{tail}",
    st.sampled_from(["'<f4'", "'>i8'", "'|b1'", "'|u1'", "'|O'", "'<f8", "[('a', '<f4')]", "None", "'<c8'", "''"]),
    st.sampled_from(["False", "True", "None", "0"]),
    st.one_of(
        st.lists(st.sampled_from([0, 1, 2, -1, 2**31, 2**63 - 1, 2**63, 2**70]), max_size=40).map(tuple).map(repr),
        st.sampled_from(["()", "(", "1", "(1,", "None", "(1.0,)", "(True,)"]),
    ),
    st.text(max_size=5),
)


@given(TEXT, st.binary(max_size=40), st.sampled_from([1, 2, 3, 4]), st.integers(-3, 3))
def test_nearly_right_files_are_read_or_a_value_error(text: str, body: bytes, version: int, off: int) -> None:
    data: Any = header(text.encode("utf8").decode("latin1"), body, version)
    for candidate in (data, data[: max(0, len(data) + off)]):
        try:
            found = npy.read(candidate, 10**6)
        except ValueError:
            continue
        assert found.nbytes <= len(candidate)
