"""Arrays from the bytes of ``.npy`` files that strangers sent, and back.

``numpy.load`` evaluates the header with Python's own parser and opens zip files and pickles on the way, and hostile
bytes make it raise a dozen different exceptions. This reader takes what ``numpy.save`` writes of an array of numbers,
and nothing else. The format: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
"""

from __future__ import annotations

import io
import math
import re
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from flwr_faa.errors import ArgumentValueError

_MAGIC = b"\x93NUMPY"
#: NumPy itself reads no longer headers unless it is told to.
_MAX_HEADER = 10_000
_MAX_DIMS = 32
#: Every repetition is possessive: a header of spaces must not make the search go back over all of them.
_HEADER = re.compile(
    rb"\{ *+'descr' *+: *+'([<>|=]?[biufc](?:1|2|4|8|16))' *+, *+'fortran_order' *+: *+(True|False) *+, *+"
    rb"'shape' *+: *+\( *+((?:\d{1,19}+ *+, *+)*+(?:\d{1,19}+)? *+)\) *+(?:, *+)?\} *+\n?"
)
#: What NumPy writes of a dtype that another package has added, as ml_dtypes adds bfloat16.
_VOID = re.compile(rb"\{ *+'descr' *+: *+'[<|]V2'")
_KINDS = {b"b": (1,), b"i": (1, 2, 4, 8), b"u": (1, 2, 4, 8), b"f": (2, 4, 8), b"c": (8, 16)}


def read(data: bytes, limit: int) -> npt.NDArray[Any]:
    """Return the array in the bytes of a ``.npy`` file, in native byte order.

    Parameters
    ----------
    data : bytes
    limit : int
        Most bytes that the file may have.

    Returns
    -------
    ndarray
        Booleans, integers, floats or complex numbers; read-only where it shares the memory of ``data``.

    Raises
    ------
    ValueError
        If the bytes are anything else: too many, of another version, with another header, objects or text, or with
        more or fewer values than their shape says.

    Examples
    --------
    >>> import io, numpy
    >>> file = io.BytesIO()
    >>> numpy.save(file, numpy.arange(3))
    >>> read(file.getvalue(), 1000)
    array([0, 1, 2])
    """
    if len(data) > limit:
        raise ArgumentValueError(f"expected at most {limit} bytes, got {len(data)}")
    if data[:6] != _MAGIC or len(data) < 10 or data[6] not in (1, 2, 3) or data[7] != 0:
        raise ArgumentValueError(f"expected a NumPy array, got {len(data)} other bytes")
    # Version 1 has two bytes for the length of the header, the others four.
    start = 10 if data[6] == 1 else 12
    size = int.from_bytes(data[8:start], "little")
    body = start + size
    if size > _MAX_HEADER or body > len(data):
        raise ArgumentValueError(f"expected a header within {_MAX_HEADER} bytes and the file, got one of {size}")
    found = _HEADER.fullmatch(data[start:body])
    if found is None and _VOID.match(data, start, body):
        raise ArgumentValueError(
            "expected an array of numbers, got values of 2 bytes that NumPy has no name for, which is what bfloat16 "
            "becomes: send float32 or float16"
        )
    if found is None:
        raise ArgumentValueError("expected the header of an array of numbers, got another one")
    code, fortran, extents = found.groups()
    kind, width = code.lstrip(b"<>|=")[:1], int(code.lstrip(b"<>|=")[1:])
    if width not in _KINDS[kind]:
        raise ArgumentValueError(f"expected a dtype of numbers, got {code.decode()}")
    shape = tuple(int(n) for n in extents.split(b",") if n.strip())
    if b"," not in extents and shape:
        raise ArgumentValueError("expected the header of an array of numbers, got a shape that is no tuple")
    # Python's integers: neither the product nor the comparison can overflow.
    if len(shape) > _MAX_DIMS or len(data) - body != math.prod(shape) * width:
        raise ArgumentValueError(f"expected the values of shape {shape[:_MAX_DIMS]}, got {len(data) - body} bytes")
    if max(shape, default=0) > np.iinfo(np.intp).max:
        raise ArgumentValueError("expected a shape that an array can have, got a longer axis")
    dtype = np.dtype(code.decode())
    flat = np.frombuffer(data, dtype, offset=body)
    try:
        array = flat.reshape(shape, order="F" if fortran == b"True" else "C")
    except ValueError as error:  # no values, and axes whose product NumPy cannot hold
        raise ArgumentValueError(f"expected a shape that an array can have, got {len(shape)} axes") from error
    if kind == b"b" and flat.view(np.uint8).max(initial=0) > 1:
        raise ArgumentValueError("expected booleans of 0 and 1, got other bytes")
    return array.astype(dtype.newbyteorder("="), copy=False)


def write(array: npt.NDArray[Any]) -> bytes:
    """Return the bytes that ``numpy.save`` writes of an array.

    If the array was read from just these bytes, they are returned and nothing is copied. Bytes that mean the same, with
    another header say, are written anew: what NumPy's own parser makes of a stranger's header need not be found out.

    Examples
    --------
    >>> data = write(numpy.arange(3))
    >>> write(read(data, 1000)) is data
    True
    """
    source: Any = array.base
    while isinstance(source, np.ndarray):
        source = source.base
    if isinstance(source, bytes):
        header = _header(array.dtype, array.shape, array.flags.fnc)
        start, size = len(header), len(source) - len(header)
        whole = array.nbytes == size and source.startswith(header)
        if whole and array.ctypes.data == np.frombuffer(source, np.uint8).ctypes.data + start:
            return source
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


@lru_cache(1024)
def _header(dtype: np.dtype[Any], shape: tuple[int, ...], fortran: bool) -> bytes:
    """Return the header that ``numpy.save`` writes of such an array: the same one for an array of every client."""
    file, told = io.BytesIO(), {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": fortran, "shape": shape}
    np.lib.format.write_array_header_1_0(file, told)
    return file.getvalue()
