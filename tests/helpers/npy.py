"""Bytes that no reader of arrays should take."""


def header(text: str, body: bytes = b"", version: int = 1) -> bytes:
    raw = text.encode("latin1")
    return b"\x93NUMPY" + bytes([version, 0]) + len(raw).to_bytes(2 if version == 1 else 4, "little") + raw + body


HOSTILE = [
    b"",
    b"PK\x03\x04" + b"\0" * 60,
    b"\x80\x04.",
    b"\x93NUMPY\x01\x00",
    b"\x93NUMPY\x01\x00\xff\xff",
    b"\x93NUMPY\x02\x00\xff\xff\xff\xff",
    b"\x93NUMPY\x09\x00\x00\x00",
    header("{'descr': ("),
    header("{'descr': '<f4', 'fortran_order': False, 'shape': (1180591620717411303424,), }"),
    header("{'descr': '<f4', 'fortran_order': False, 'shape': (0, 9223372036854775808), }"),
    header("{'descr': '<f4', 'fortran_order': False, 'shape': (0, 9223372036854775807, 9223372036854775807), }"),
    header("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }"),
    header("{'descr': '<f4', 'fortran_order': False, 'shape': (1), }", b"\0" * 4),
    header("{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }", b"\0" * 5),
    header("{'descr': '<f4', 'fortran_order': 2, 'shape': (1,), }", b"\0" * 4),
    header("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", b"\x80\x04."),
    header("{'descr': '<U1', 'fortran_order': False, 'shape': (1,), }", b"\0" * 4),
    header("{'descr': '<V2', 'fortran_order': False, 'shape': (1,), }", b"\0" * 2),
    header("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,), }", b"\0" * 4),
    header("{'descr': '|b1', 'fortran_order': False, 'shape': (1,), }", b"\x02"),
    header("{'descr': '<f16', 'fortran_order': False, 'shape': (1,), }", b"\0" * 16),
    header("{'descr': '<f1', 'fortran_order': False, 'shape': (1,), }", b"\0"),
    header("{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }".ljust(20_000), b"\0" * 4, version=2),
    header("{'descr': '<f4', 'fortran_order': False, 'shape': (" + "1, " * 40 + "), }", b"\0" * 4),
    header("__import__('os').system('true')"),
    # Spaces that two repetitions could share: a search that goes back over them takes seconds for one reply.
    *(header(f"{{'descr': '<f4', 'fortran_order': False, 'shape': {s}".ljust(9_990), version=2) for s in ("(", "(1,")),
]
