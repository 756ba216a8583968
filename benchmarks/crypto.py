"""What functional encryption costs beyond the bare group operations: `python -m benchmarks.crypto`.

CPU time of one row, median of several runs. "bare" is what the scheme cannot do without, timed in the same run:
n + 1 multiplications to encrypt, n products modulo the order to derive, one multiplication and n additions to decrypt
(a functional with 4-bit coefficients of pixels; the discrete logarithm included, its table built before). A ratio below
one is the gain of tables or of the native multi-scalar multiplication. "growth" is the exponent of n from the line
above: 1 is linear. No incumbent is timed here: Charm ships no such scheme, and PyMIFE's runs in other groups.
"""

import math
import statistics
import time
from collections.abc import Callable

import numpy as np

from flwr_faa.crypto.backends import open_group
from flwr_faa.crypto.group import Group
from flwr_faa.crypto.ipfe import (
    ciphertexts_from_bytes,
    ciphertexts_to_bytes,
    decrypt,
    decrypt_rows,
    derive_key,
    encrypt_rows,
    setup,
)

RUNS = 5
ROWS = 8


def cpu(act: Callable[[], object], times: int = 1) -> float:
    """Return the median CPU seconds of one call."""
    act()
    runs = []
    for _ in range(RUNS):
        start = time.process_time()
        for _ in range(times):
            act()
        runs.append((time.process_time() - start) / times)
    return statistics.median(runs)


def one_row(group: Group, n: int) -> tuple[dict[str, float], dict[str, float]]:
    """Return the seconds of each operation, and of its bare group operations."""
    rng = np.random.default_rng(n)
    x, y = rng.integers(0, 256, (ROWS, n)), rng.integers(-8, 8, n)
    public, master = setup(group, n)
    key, ciphertexts = derive_key(master, y), encrypt_rows(public, x)
    p, scalar = public.points[0], master.scalars[0]
    q = group.add(p, p)
    mul, add = cpu(lambda: group.mul(p, scalar), 200), cpu(lambda: group.add(p, q), 5000)
    modmul = cpu(lambda: scalar * 7 % group.order, 20000)
    return {
        "encrypt": cpu(lambda: encrypt_rows(public, x)) / ROWS,
        "derive": cpu(lambda: derive_key(master, y), 10),
        "decrypt": cpu(lambda: decrypt(ciphertexts[0], key, n * 255 * 8), 5),
    }, {"encrypt": (n + 1) * mul, "derive": n * modmul, "decrypt": mul + n * add}


def paper_batch(group: Group) -> None:
    """Measure the paper's mode: 200 images, one row of 28 values each, read back by 28 unit vectors."""
    x = np.random.default_rng(0).integers(0, 29 * 256, (200, 28))
    public, master = setup(group, 28)
    keys = [derive_key(master, e) for e in np.eye(28, dtype=np.int64)]
    data = ciphertexts_to_bytes(encrypt_rows(public, x))
    encrypting = cpu(lambda: encrypt_rows(public, x))
    parsing = cpu(lambda: ciphertexts_from_bytes(group, data))
    reading = cpu(lambda: decrypt_rows(ciphertexts_from_bytes(group, data), keys, 2**14))
    bare = 200 * 28 * cpu(lambda: group.mul(public.points[0], master.scalars[0]), 200)
    print(
        f"{group.name:9s} 200 rows of 28: encrypt {encrypting:.3f} s, parse {parsing:.3f} s, parse and decrypt 28 units"
        f" {reading:.3f} s; 5,600 bare multiplications {bare:.3f} s; {len(data):,} bytes"
    )


def main() -> None:
    """Print both tables."""
    print(
        f"{'':9s} {'n':>4s} "
        + " ".join(f"{name:>10s}    bare ratio growth" for name in ("encrypt", "derive", "decrypt"))
    )
    for name in ("charm", "arkworks"):
        try:
            group = open_group(name)
        except ImportError as error:
            print(error)
            continue
        before: tuple[int, dict[str, float]] | None = None
        for n in (8, 28, 64, 784):
            seconds, bare = one_row(group, n)
            cells = []
            for what, t in seconds.items():
                growth = math.log(t / before[1][what]) / math.log(n / before[0]) if before else math.nan
                cells.append(f"{t * 1e3:8.3f}ms {bare[what] * 1e3:7.3f} {t / bare[what]:5.2f} {growth:6.2f}")
            print(f"{name:9s} {n:4d} " + " ".join(cells))
            before = n, seconds
        paper_batch(group)


if __name__ == "__main__":
    main()
