"""What LoMar's score costs beyond a matrix product: `python -m benchmarks.lomar`.

CPU time of all threads (`time.process_time`), median of several runs, everything in one line measured in turns in one
run. "GEMM" is one bare pairwise float32 product of the same matrix with a copy of itself; "SYRK" is ``X @ X.T``, which
NumPy sees to be symmetric and computes in half the work: the least that pairwise distances can cost. "kNN" is
scikit-learn's brute force neighbours alone, k = .4N, no score. Bounds: both presets within 2.0 x GEMM, and
faster than kNN.

With one BLAS thread, unless ``--threads 1 2`` says otherwise: OpenBLAS's threads spin while they wait for each other,
which is counted as CPU time, and on a busy machine makes the bare product alone six times as expensive. "growth" is the
exponent between a line and the one above.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_limits

from flwr_lomar import LoMarDetector

Floats = npt.NDArray[np.float32]


def in_turns(acts: dict[str, Callable[[], object]], runs: int) -> dict[str, float]:
    """Return the median CPU milliseconds of each, after one run that does not count."""
    seen: dict[str, list[float]] = {name: [] for name in acts}
    for _ in range(runs + 1):
        for name, act in acts.items():
            start = time.process_time()
            act()
            seen[name].append((time.process_time() - start) * 1e3)
    return {name: statistics.median(times[1:]) for name, times in seen.items()}


def matrix(n: int, d: int) -> Floats:
    """Return updates with something in common."""
    rng = np.random.default_rng(n + d)
    return rng.standard_normal((n, d), dtype=np.float32) + rng.standard_normal(d, dtype=np.float32)


def classifier(d: int, width: int, labels: int = 10) -> list[npt.NDArray[np.intp]]:
    """Return columns of a last layer: rows of `width` weights one after the other, then the biases."""
    start = d - labels * (width + 1)
    return [
        np.append(np.arange(start + r * width, start + (r + 1) * width), d - labels + r).astype(np.intp)
        for r in range(labels)
    ]


def against_peers(n: int, d: int, width: int, runs: int) -> None:
    """Print one line: both presets by label, robust on whole updates, and the bare products."""
    x = matrix(n, d)
    copy, blocks = x.copy(), classifier(d, width)
    ms = in_turns(
        {
            "GEMM": lambda: x @ copy.T,
            "SYRK": lambda: x @ x.T,
            "kNN": lambda: NearestNeighbors(n_neighbors=int(0.4 * n), algorithm="brute").fit(x).kneighbors(),
            "robust R=10": lambda: LoMarDetector(label_blocks=blocks).fit(x),
            "robust R=1": lambda: LoMarDetector().fit(x),
            "paper R=10": lambda: LoMarDetector("paper", label_blocks=blocks).fit(x),
        },
        runs,
    )
    print(f"n = {n}, d = {d:,}: " + ", ".join(f"{name} {t:.0f} ms" for name, t in ms.items()))
    for name in ("robust R=10", "robust R=1", "paper R=10"):
        within = "within" if ms[name] <= 2 * ms["GEMM"] else "BEYOND"
        print(
            f"    {name:11s} {ms[name] / ms['GEMM']:5.2f} x GEMM ({within} 2.0)"
            f" {ms[name] / ms['SYRK']:5.2f} x SYRK {ms[name] / ms['kNN']:5.2f} x kNN"
        )


def growth(sizes: list[tuple[int, int]], runs: int) -> None:
    """Print one line per size."""
    before: tuple[int, float] | None = None
    for n, d in sizes:
        x, blocks = matrix(n, d), classifier(d, 512)
        ms = in_turns({"LoMar": lambda x=x, blocks=blocks: LoMarDetector(label_blocks=blocks).fit(x)}, runs)["LoMar"]  # type: ignore[misc]
        exponent = f"{math.log(ms / before[1]) / math.log(n * d / before[0]):.2f}" if before else ""
        print(f"    n = {n:5d} d = {d:9,d} {ms:8.1f} ms {exponent}")
        before = n * d, ms


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--threads", type=int, nargs="*", default=[1], help="numbers of BLAS threads (default: 1)")
    arguments = parser.parse_args()
    for threads in arguments.threads:
        with threadpool_limits(threads):
            print(f"--- BLAS threads: {threads}")
            against_peers(1000, 7_850, 784, arguments.runs)
            against_peers(100, 1_200_000, 512, max(3, arguments.runs // 2))
    with threadpool_limits(1):
        print("--- growth with n, one thread")
        growth([(n, 7_850) for n in (125, 250, 500, 1000, 2000)], 3)
        print("--- growth with d, one thread")
        growth([(100, d) for d in (10_000, 100_000, 1_000_000)], 3)


if __name__ == "__main__":
    main()
