"""What a round costs the server: `python -m benchmarks.round [--docs]`; `make bench` is all of it.

n made-up replies of d float32 parameters, ten layers and a classifier of ten labels. Everything is measured in turns in
one process: CPU time, the median of several runs, also as a multiple of what bounds it, one bare product of the same
updates with themselves (``X @ X.T`` in float32, of which NumPy computes half). Memory is the most that Python and NumPy
have allocated at once beside the replies (tracemalloc), as a multiple of their bytes.

Two tables: the parts of our round, from decoded replies; and whole strategies, ours and Flower's own, from the
messages of a round to the new model. Flower's rules are told to expect a fifth of attackers; its Bulyan, which takes
hundreds of times as long as its Krum, is left out.

With one BLAS thread, unless ``--threads 1 2`` says otherwise: OpenBLAS's threads spin while they wait for each other,
which counts as CPU time.
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import time
import tracemalloc
from collections.abc import Callable
from copy import copy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg, FedMedian, FedTrimmedAvg, Krum, MultiKrum
from threadpoolctl import threadpool_limits

from apps.lab.markdown import untitled, write_region
from apps.lab.running.local_grid import task_identity
from flwr_faa import FAADL, protect
from flwr_faa.detection import OCSVM, MultiView, Sequential, as_detector
from flwr_faa.replies.averaging import average
from flwr_faa.replies.updates import Arrays, Reply, read_replies
from flwr_lomar import LoMar, LoMarDetector

DOC = Path(__file__).parents[1] / "docs" / "performance.md"
SHAPES = ((20, 7_850), (100, 7_850), (1000, 7_850), (20, 1_200_000), (100, 1_200_000), (20, 11_000_000))
Acts = dict[str, Callable[[], object]]
Line = tuple[str, float, float]


class Grid:
    """Nodes that nothing is sent to."""

    def __init__(self, n: int) -> None:
        self._n = n

    def get_node_ids(self) -> list[int]:
        """Return the ids of all nodes."""
        return list(range(1, self._n + 1))


def model_of(d: int) -> list[npt.NDArray[np.float32]]:
    """Return arrays of d numbers in all: ten layers and a classifier of ten labels."""
    width = min(512, d // 20)
    sizes = [len(part) for part in np.array_split(np.empty(d - 10 * (width + 1), np.bool_), 10)]
    rng = np.random.default_rng(d)
    shapes: list[tuple[int, ...]] = [*((size,) for size in sizes), (10, width), (10,)]
    return [rng.standard_normal(shape, dtype=np.float32) for shape in shapes]


def sent_by(node: int, model: Arrays) -> list[npt.NDArray[np.float32]]:
    """Return an honest reply: a step that all share, and one of its own."""
    common, own = np.random.default_rng(0), np.random.default_rng([1, node])
    return [
        w + np.float32(0.01) * (common.standard_normal(w.shape, np.float32) + own.standard_normal(w.shape, np.float32))
        for w in model
    ]


def in_turns(acts: Acts, runs: int) -> dict[str, float]:
    """Return the median CPU milliseconds of each, after one run that does not count."""
    seen: dict[str, list[float]] = {name: [] for name in acts}
    for run in range(runs + 1):
        for name, act in acts.items():
            start = time.process_time()
            act()
            if run:
                seen[name].append((time.process_time() - start) * 1e3)
    return {name: statistics.median(times) for name, times in seen.items()}


def peak(act: Callable[[], object]) -> int:
    """Return bytes allocated at once while it runs, beside what there was."""
    tracemalloc.start()
    try:
        act()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def gram(n: int, d: int) -> Acts:
    """Return the operation that all are compared with: one product of all updates with themselves."""
    x = np.random.default_rng(0).standard_normal((n, d), dtype=np.float32)
    return {"bare Gram": lambda: x @ x.T}


def parts(n: int, d: int) -> Acts:
    """Validation, each detector and the average, from decoded replies."""
    model = model_of(d)
    replies = [Reply(i, sent_by(i, model), 100) for i in range(n)]
    batch = read_replies(replies, model)
    # A batch that is replaced by itself has not been measured yet.
    return {
        "validation": lambda: read_replies(replies, model),
        "MultiView": lambda: MultiView().detect(replace(batch), 0),
        "Sequential's first look": lambda: Sequential().detect(replace(batch), 0),
        "OCSVM": lambda: OCSVM().detect(replace(batch), 0),
        "LoMar": lambda: as_detector(LoMarDetector()).detect(replace(batch), 0),
        "average": lambda: average(batch, range(n), model),
    }


def strategies(n: int, d: int) -> Acts:
    """Return whole rounds, from messages to the new model."""
    f, model = n // 5, model_of(d)
    arrays = ArrayRecord({str(i): Array(a) for i, a in enumerate(model)})
    ours: dict[str, Any] = {
        "FAADL (MultiView)": FAADL(),
        "FAADL (OCSVM)": FAADL(detector=OCSVM()),
        "LoMar": LoMar(),
        "protect(FedAvg)": protect(FedAvg()),
    }
    flowers: dict[str, Any] = {
        "Flower FedAvg (a mean)": FedAvg(),
        "Flower Krum": Krum(num_malicious_nodes=f),
        "Flower MultiKrum": MultiKrum(num_malicious_nodes=f, num_nodes_to_select=n - f),
        "Flower FedMedian": FedMedian(),
        "Flower FedTrimmedAvg": FedTrimmedAvg(beta=0.2),
    }
    with task_identity():
        sent = [list(s.configure_train(1, arrays, ConfigRecord(), Grid(n))) for s in ours.values()]
        replies = []
        for message in sent[0]:
            message.metadata.__dict__["_message_id"] = "m"  # as the SuperLink gives it
            own = {str(i): Array(a) for i, a in enumerate(sent_by(message.metadata.dst_node_id, model))}
            content = RecordDict({"arrays": ArrayRecord(own), "metrics": MetricRecord({"num-examples": 100})})
            replies.append(Message(content, reply_to=message))
    return {name: partial(_aggregate, s, replies) for name, s in (ours | flowers).items()}


def _aggregate(strategy: Any, replies: list[Message]) -> object:
    """Aggregate a copy of the messages: Flower's Krum writes into those that it gets."""
    own = []
    for reply in replies:
        message, content = copy(reply), dict(reply.content)
        content["arrays"] = ArrayRecord(dict(reply.content.array_records["arrays"]))
        message.content = RecordDict(content)
        own.append(message)
    return strategy.aggregate_train(1, own)


def measure(make: Callable[[int, int], Acts], n: int, d: int, runs: int) -> list[Line]:
    """Return name, CPU milliseconds and memory in replies, the bare Gram first."""
    acts = gram(n, d) | make(n, d)
    ms = in_turns(acts, runs)
    return [(name, ms[name], peak(act) / (4 * n * d)) for name, act in acts.items()]


def report(n: int, d: int, runs: int) -> list[str]:
    """Write what was measured at one shape as Markdown."""
    found = [f"### {n} clients, {d:,} parameters", ""]
    for title, make in (("part of our round", parts), ("whole strategy", strategies)):
        lines = measure(make, n, d, runs)
        bare, rows = lines[0][1], list[Line](lines)
        if make is parts:
            ends = sum(ms for name, ms, _ in lines if name in ("validation", "average"))
            rows += [(f"**round with {name}**", ms + ends, memory) for name, ms, memory in lines[2:-1]]
        table = [(name, f"{ms:.1f}", f"{ms / bare:.1f}", f"{memory:.2f}") for name, ms, memory in rows]
        found += [untitled((title, "CPU ms", "bare Grams", "memory, in replies"), table), ""]
    return found


def main() -> None:
    """Print the tables, or write them into the document."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, nargs="*", default=[1], help="numbers of BLAS threads (default: 1)")
    parser.add_argument("--shapes", nargs="*", default=[f"{n}x{d}" for n, d in SHAPES], help="like 20x1200000")
    parser.add_argument("--docs", action="store_true", help=f"write the tables into {DOC.name}")
    arguments: Any = parser.parse_args()
    for handler in logging.getLogger("flwr").handlers:
        handler.setLevel(logging.ERROR)
    found = list[str]()
    for threads in arguments.threads:
        with threadpool_limits(threads):
            found += [
                f"BLAS threads: {threads}. Load of the machine's {os.cpu_count()} cores: {os.getloadavg()[0]:.0f}.",
                "",
            ]
            for n, d in (shape.split("x") for shape in arguments.shapes):
                lines = report(int(n), int(d), arguments.runs)
                print("\n".join(lines), flush=True)
                found += lines
    if arguments.docs:
        write_region(DOC, "bench", "\n".join(found).rstrip())


if __name__ == "__main__":
    main()
