"""Write the test vectors: `python -m tests.crypto.make_vectors`.

By the second implementation in `oracle.py`, never by the code under test. Randomness is `Scalars(seed)`, drawn in this
order: the master key, then one r a row.
"""

import json
from pathlib import Path

from tests.crypto.oracle import CURVES, Curve, Scalars

HERE = Path(__file__).parent / "vectors"
X = [[0, 1, 255], [-7, 7395, -(2**31)], [2**70, 0, -1]]
Y = [[1, 0, 0], [3, -2, 5], [2**40, 1, -1]]
AONT = [[[1, 2], [3, 4], [5, 6], [7, 8]], [[255, 0], [0, 255], [255, 255], [0, 0]]]


def ipfe(name: str, code: int, curve: Curve) -> dict[str, object]:
    seed = f"flwr-anomaly {name}"
    draw = Scalars(seed)
    master = [draw(curve.q) for _ in X[0]]
    public = [curve.mul(curve.g, s) for s in master]
    body = b""
    for row in X:
        r = draw(curve.q)
        body += curve.encode(curve.mul(curve.g, r))
        for h, x in zip(public, row, strict=True):
            body += curve.encode(curve.add(curve.mul(h, r), curve.mul(curve.g, x)))

    def header(kind: bytes, m: int) -> bytes:
        return bytes([1, code]) + kind + m.to_bytes(4, "big") + len(master).to_bytes(4, "big")

    return {
        "back_end": name,
        "seed": seed,
        "x": X,
        "y": Y,
        "values": [[sum(a * b for a, b in zip(x, y, strict=True)) for y in Y] for x in X],
        "master": [f"{s:x}" for s in master],
        "public": (header(b"K", 1) + b"".join(map(curve.encode, public))).hex(),
        "secrets": [f"{sum(s * k for s, k in zip(master, y, strict=True)) % curve.q:x}" for y in Y],
        "ciphertexts": (header(b"C", len(X)) + body).hex(),
    }


def aont() -> list[dict[str, object]]:
    cases = []
    for x in AONT:
        clear = [[a + b for a, b in zip(row, x[-1], strict=True)] for row in x[:-1]]
        last = [sum(column[:-1]) + 2 * column[-1] for column in zip(*x, strict=True)]
        cases.append({"x": x, "u": [*clear, last]})
    return cases


def vectors() -> dict[str, object]:
    """File name -> contents."""
    files: dict[str, object] = {f"ipfe-{n}.json": ipfe(n, code, CURVES[n]) for code, n in enumerate(CURVES, start=1)}
    return files | {"aont.json": aont()}


if __name__ == "__main__":
    for file, contents in vectors().items():
        (HERE / file).write_text(json.dumps(contents, indent=1) + "\n")
