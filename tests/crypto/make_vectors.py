"""Write the test vectors: `python -m tests.crypto.make_vectors`.

By the second implementation in `oracle.py`, never by the code under test. Randomness is `Scalars(seed)`, drawn in this
order: the master key, then one r a row.
"""

import hashlib
import json
from pathlib import Path

from tests.crypto.oracle import CURVES, Curve, Scalars
from tests.crypto.schnorr import NAMES, commit, generator, prove

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


def commitments(name: str, curve: Curve) -> dict[str, object]:
    """Three samples of two values, and the proof of one statement about them; draws a, alpha of the proof last."""
    seed = f"flwr-anomaly commitments {name}"
    draw = Scalars(seed)
    samples, weights, function, context = [[0, 255], [17, 1], [0, 0]], [3, 2**127 + 5, 1], [2**90, -7], b"round 4"
    blindings = [draw(curve.q) for _ in samples]
    points = [commit(name, x, r) for x, r in zip(samples, blindings, strict=True)]
    value = sum(w * sum(a * b for a, b in zip(x, function, strict=True)) for w, x in zip(weights, samples, strict=True))
    proof = prove(name, points, samples, blindings, weights, function, context, draw)
    return {
        "back_end": name,
        "seed": seed,
        "generators": [curve.encode(generator(name, i)).hex() for i in range(20)],
        "sha256 of the first 101": hashlib.sha256(
            b"".join(curve.encode(generator(name, i)) for i in range(101))
        ).hexdigest(),
        "x": samples,
        "blindings": [f"{r:x}" for r in blindings],
        "commitments": [curve.encode(c).hex() for c in points],
        "weights": weights,
        "function": function,
        "value": value,
        "context": context.hex(),
        "proof": proof.hex(),
    }


def vectors() -> dict[str, object]:
    """File name -> contents."""
    files: dict[str, object] = {f"ipfe-{n}.json": ipfe(n, code, CURVES[n]) for code, n in enumerate(CURVES, start=1)}
    files |= {f"commitments-{name}.json": commitments(name, CURVES[name]) for name in NAMES}
    return files | {"aont.json": aont()}


if __name__ == "__main__":
    for file, contents in vectors().items():
        (HERE / file).write_text(json.dumps(contents, indent=1) + "\n")
