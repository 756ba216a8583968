"""What a round costs the server beyond the memory that it has to read: `python -m benchmarks.round`.

Validation, detection and averaging of n made-up replies, each as a multiple of one bare float32 product of the same
updates with themselves (``X @ X.T``, of which NumPy computes half). CPU time, everything in turns in one process,
medians of several runs. Memory: the most that Python and NumPy have allocated at once beside the replies (tracemalloc),
as a multiple of the replies' bytes.
"""

from __future__ import annotations

import argparse
import statistics
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from flwr_faa.detection import OCSVM, Detector, MultiView, Sequential, as_detector
from flwr_faa.replies.averaging import average
from flwr_faa.replies.updates import Arrays, Batch, Reply, read_replies
from flwr_lomar import LoMarDetector

DETECTORS: dict[str, Detector] = {"MultiView": MultiView(), "Sequential": Sequential(), "OCSVM": OCSVM()}
SHAPES = ((20, 7_850), (100, 7_850), (1000, 7_850), (20, 1_200_000), (100, 1_200_000), (20, 11_000_000))


def model_of(d: int) -> list[npt.NDArray[np.float32]]:
    """Arrays of d numbers in all: ten layers and a classifier of ten labels."""
    width = min(512, d // 20)
    body = d - 10 * (width + 1)
    sizes = [len(part) for part in np.array_split(np.empty(body, np.bool_), 10)]
    rng = np.random.default_rng(d)
    shapes: list[tuple[int, ...]] = [*((size,) for size in sizes), (10, width), (10,)]
    return [rng.standard_normal(shape, dtype=np.float32) for shape in shapes]


def replies_of(n: int, model: Arrays) -> list[Reply]:
    """Honest replies: a step that all share, and one of their own."""
    rng = np.random.default_rng(n)
    step = [0.01 * rng.standard_normal(w.shape, dtype=np.float32) for w in model]

    def arrays() -> Arrays:
        return [
            w + s + np.float32(0.01) * rng.standard_normal(w.shape, dtype=np.float32)
            for w, s in zip(model, step, strict=True)
        ]

    return [Reply(i, arrays(), 100) for i in range(n)]


def fresh(batch: Batch) -> Batch:
    """The batch as it comes from validation: nothing measured yet."""
    return Batch(
        batch.node_ids, batch.given, batch.weights, batch.layout, batch.rejected, None, batch.models, batch.key,
        batch.prints, batch.largest,
    )  # fmt: skip


def in_turns(acts: dict[str, Callable[[], object]], runs: int) -> dict[str, float]:
    """Median CPU milliseconds of each, after one run that does not count."""
    seen: dict[str, list[float]] = {name: [] for name in acts}
    for run in range(runs + 1):
        for name, act in acts.items():
            start = time.process_time()
            act()
            if run:
                seen[name].append((time.process_time() - start) * 1e3)
    return {name: statistics.median(times) for name, times in seen.items()}


def peak(act: Callable[[], object]) -> int:
    """Bytes allocated at once while it runs, beside what there was."""
    tracemalloc.start()
    try:
        act()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def acts_of(n: int, d: int) -> tuple[dict[str, Callable[[], object]], int]:
    """What is measured, and the replies' bytes."""
    model = model_of(d)
    replies = replies_of(n, model)
    batch = read_replies(replies, model)
    acts: dict[str, Callable[[], object]] = {
        "validation": lambda: read_replies(replies, model),
        **{name: lambda each=each: each.detect(fresh(batch), 0) for name, each in DETECTORS.items()},  # type: ignore[misc]
        "LoMar": lambda: as_detector(LoMarDetector()).detect(fresh(batch), 0),
        "average": lambda: average(batch, range(n), model),
    }
    return acts, sum(np.asarray(a).nbytes for r in replies for a in r.arrays)


def table(shapes: list[tuple[int, int]], runs: int) -> None:
    """One line a shape."""
    for n, d in shapes:
        acts, size = acts_of(n, d)
        memory = {name: peak(act) / size for name, act in acts.items()}
        matrix = np.random.default_rng(0).standard_normal((n, d), dtype=np.float32)
        ms = in_turns({"Gram": lambda matrix=matrix: matrix @ matrix.T, **acts}, runs)  # type: ignore[misc]
        del matrix
        print(f"n = {n}, d = {d:,}: one Gram {ms['Gram']:.1f} ms, the replies {size / 1e6:.0f} MB")
        for name in acts:
            print(
                f"    {name:12s} {ms[name]:9.1f} ms {ms[name] / ms['Gram']:7.2f} x Gram {memory[name]:6.2f} x replies"
            )
        for name in (*DETECTORS, "LoMar"):
            whole = ms["validation"] + ms[name] + ms["average"]
            print(f"    round, {name:12s} {whole:6.1f} ms {whole / ms['Gram']:7.2f} x Gram")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, nargs="*", default=[1], help="numbers of BLAS threads (default: 1)")
    parser.add_argument("--shapes", nargs="*", default=[f"{n}x{d}" for n, d in SHAPES], help="like 20x1200000")
    arguments: Any = parser.parse_args()
    shapes = [(int(n), int(d)) for n, d in (shape.split("x") for shape in arguments.shapes)]
    for threads in arguments.threads:
        with threadpool_limits(threads):
            print(f"--- BLAS threads: {threads}")
            table(shapes, arguments.runs)


if __name__ == "__main__":
    main()
