"""What a round costs the server, beside Flower and peers: `python -m benchmarks.round`; `make bench` writes a page.

n made-up replies of d float32 parameters, ten layers and a classifier of ten labels. Everything is measured in turns in
one process, with one thread and with two: CPU time and time on the clock, medians of several runs, or of one where
that takes long. Beside each stands what bounds it, a bare operation on the same updates: the product ``X @ X.T`` in
float32, of which NumPy computes half, for what needs distances; a sort of each column for medians and trimmed means;
a mean. Memory is what the process holds at most beside what it held before (VmHWM, so this needs Linux), as a
multiple of the bytes of the replies; torch and Rust are seen too.

Two tables. Rules: from decoded replies, or for the peers from a matrix of updates, to the new model. Ours validate;
the peers' do not. Whole strategies: from the messages of a round. Every rule is told to expect a fifth of attackers.
Flower's Bulyan, which takes hundreds of times as long as its Krum, is left out, and geometric medians, which take as
long as one lets them.

The peers (``benchmarks.peers``) are in an environment of their own; this command makes it, and runs itself in it.
"""

from __future__ import annotations

import argparse
import ctypes
import logging
import math
import os
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.server.strategy import aggregate
from flwr.serverapp.strategy import FedAvg, FedMedian, FedTrimmedAvg, Krum, MultiKrum
from threadpoolctl import threadpool_limits

from apps.lab import baselines
from apps.lab.markdown import untitled
from apps.lab.running.local_grid import task_identity
from benchmarks import peers, round_page
from flwr_faa import FAADL, protect
from flwr_faa.detection import OCSVM, Detector, MultiView, Sequential, as_detector
from flwr_faa.replies.averaging import apply_update, average
from flwr_faa.replies.updates import Arrays, Batch, Reply, read_replies
from flwr_lomar import LoMar, LoMarDetector

SHAPES = ((20, 7_850), (100, 7_850), (1000, 7_850), (20, 1_200_000), (100, 1_200_000), (20, 11_000_000))
THREADS = (1, 2)
#: Seconds that all rules of a table may take, after which what was run once is not run again.
PATIENCE = 10.0
#: What a rule of others may raise over these updates.
FAILURES = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
Acts = dict[str, Callable[[], object]]


@dataclass(frozen=True)
class Cost:
    """What one act took, by number of threads: CPU and clock milliseconds; and its memory in replies."""

    cpu: dict[int, float]
    clock: dict[int, float]
    memory: float


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
    return {name: cpu for name, (cpu, _) in both_times(acts, runs, math.inf).items()}


def both_times(acts: Acts, runs: int, patience: float) -> dict[str, tuple[float, float]]:
    """Return the medians of each act's milliseconds, CPU and clock; the first run counts where it is the only one."""
    seen: dict[str, list[tuple[float, float]]] = {name: [] for name in acts}
    begun = time.process_time()
    for run in range(runs + 1):
        if run and time.process_time() - begun > patience:
            break
        for name, act in acts.items():
            start, clock = time.process_time(), time.perf_counter()
            act()
            seen[name].append((1e3 * (time.process_time() - start), 1e3 * (time.perf_counter() - clock)))
    counted = {name: times[1:] or times for name, times in seen.items()}
    return {
        name: (statistics.median(cpu for cpu, _ in times), statistics.median(clock for _, clock in times))
        for name, times in counted.items()
    }


def peak(act: Callable[[], object]) -> int:
    """Return the bytes that the process holds at most while it runs, beside what it held before."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _held("VmRSS")
    act()
    return max(0, _held("VmHWM") - before)


def _held(field: str) -> int:
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return 1024 * int(found[1])


def measure(acts: Acts, runs: int, reply_bytes: int) -> dict[str, Cost]:
    """Return the cost of each act."""
    times = dict[int, dict[str, tuple[float, float]]]()
    for threads in THREADS:
        with limited_to(threads):
            times[threads] = both_times(acts, runs, PATIENCE)
    memory = {name: peak(act) / reply_bytes for name, act in acts.items()}
    return {
        name: Cost({t: times[t][name][0] for t in THREADS}, {t: times[t][name][1] for t in THREADS}, memory[name])
        for name in acts
    }


@contextmanager
def limited_to(threads: int) -> Iterator[None]:
    """So many threads for BLAS and for torch."""
    torch = import_module("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with threadpool_limits(threads):
            yield
    finally:
        torch.set_num_threads(before)


def gram(n: int, d: int) -> Acts:
    """Return the bare product."""
    x = np.random.default_rng(0).standard_normal((n, d), dtype=np.float32)
    return {"bare Gram": lambda: x @ x.T}


def bare(x: npt.NDArray[np.float32]) -> Acts:
    """Return the operations that bound the rules."""
    return {"bare Gram": lambda: x @ x.T, "bare sort": lambda: np.sort(x, axis=0), "bare mean": lambda: x.mean(axis=0)}


def parts(n: int, d: int) -> Acts:
    """Return validation, each detector and the average, from decoded replies."""
    model = model_of(d)
    replies = [Reply(i, sent_by(i, model), 100) for i in range(n)]
    batch = read_replies(replies, model)
    # A batch that is replaced by itself has not been measured yet.
    return {
        "validation": lambda: read_replies(replies, model),
        "average": lambda: average(batch, range(n), model),
        "MultiView": lambda: MultiView().detect(replace(batch), 0),
        "Sequential's first look": lambda: Sequential().detect(replace(batch), 0),
        "OCSVM": lambda: OCSVM().detect(replace(batch), 0),
        "LoMar": lambda: as_detector(LoMarDetector()).detect(replace(batch), 0),
    }


def rules(n: int, d: int) -> tuple[Acts, dict[str, str]]:
    """Return whole rules, ours, Flower's and the peers', from decoded replies to the new model; who is missing, why."""
    f, model = n // 5, model_of(d)
    replies = [Reply(i, sent_by(i, model), 100) for i in range(n)]
    x = np.ascontiguousarray(read_replies(replies, model).updates)

    def judged(detector: Detector) -> Callable[[], object]:
        def act() -> object:
            batch = read_replies(replies, model)
            suspects = detector.detect(batch, 0).suspects
            return average(batch, [row for row in range(n) if row not in suspects], model)

        return act

    def combined(rule: Callable[[Batch, Sequence[int]], npt.NDArray[np.float64]]) -> Callable[[], object]:
        def act() -> object:
            batch = read_replies(replies, model)
            return apply_update(model, rule(batch, range(n)), batch.layout)

        return act

    ours: Acts = {
        "ours MultiView": judged(MultiView()),
        "ours Sequential's first look": judged(Sequential()),
        "ours OCSVM": judged(OCSVM()),
        "ours LoMar": judged(as_detector(LoMarDetector())),
        "ours LoMar paper": judged(as_detector(LoMarDetector("paper"))),
        "ours Krum": judged(baselines.Krum(0.2)),
        "ours MultiKrum": judged(baselines.Krum(0.2, keep=None)),
        "ours median": combined(baselines.median),
        "ours trimmed mean": combined(partial(baselines.trimmed_mean, share=0.2)),
    }
    results = [(list(reply.arrays), 100) for reply in replies]
    flowers: Acts = {
        "Flower Krum": lambda: aggregate.aggregate_krum(results, f, 0),
        "Flower MultiKrum": lambda: aggregate.aggregate_krum(results, f, n - f),
        "Flower median": lambda: aggregate.aggregate_median(results),
        "Flower trimmed mean": lambda: aggregate.aggregate_trimmed_avg(results, 0.2),
    }
    theirs, missing = peers.rules(x, f)
    working: Acts = {}
    for name, act in theirs.items():
        try:
            act()
            working[name] = act
        except FAILURES as error:  # it is named, and the others are measured
            missing[name] = f"{type(error).__name__}: {error}".splitlines()[0]
    return bare(x) | ours | flowers | working, missing


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


def bound_of(name: str) -> str:
    """Return which bare operation bounds a rule."""
    low = name.lower()
    if low.startswith("bare"):
        return name
    if "median" in low or "trimmed" in low:
        return "bare sort"
    return "bare mean" if "a mean" in low or low == "average" else "bare Gram"


def table(title: str, costs: dict[str, Cost]) -> str:
    """Return the costs in Markdown."""
    lines = []
    for name, cost in costs.items():
        bound = bound_of(name)
        ratio = f"{cost.cpu[1] / costs[bound].cpu[1]:.1f} {bound.removeprefix('bare ')}s"
        times = (f"{cost.cpu[1]:.1f}", ratio, f"{cost.cpu[2]:.1f}", f"{cost.clock[2]:.1f}", f"{cost.memory:.2f}")
        lines.append((name, *times))
    head = title, "CPU ms", "of its bound", "CPU ms, 2 threads", "clock ms, 2 threads", "memory, in replies"
    return untitled(head, lines)


def slower(costs: dict[str, Cost]) -> list[str]:
    """Return one line for each of our rules that a peer's, or Flower's, of the same name beats, by one thread's CPU."""
    lines = []
    for name, cost in costs.items():
        rule = name.removeprefix("ours ")
        kind = rule if rule in ("Krum", "MultiKrum", "median", "trimmed mean") else "Krum"
        others = {other: c.cpu[1] for other, c in costs.items() if other.split(" ", 1)[0] not in ("ours", "bare")}
        others = {other: cpu for other, cpu in others.items() if other.endswith(f" {kind}")}
        if name.startswith("ours ") and others:
            fastest = min(others, key=lambda other: others[other])
            if cost.cpu[1] > others[fastest]:
                lines.append(f"* {rule}: {cost.cpu[1] / others[fastest]:.1f} times {fastest}.")
    return lines


def warm_up() -> None:
    """Run our rules once, few parameters and many: the compiled loops are loaded, which is no round's cost."""
    for n, d in ((20, 250_000), (1000, 7_850)):
        for name, act in rules(n, d)[0].items():
            if name.startswith("ours"):
                act()


def main() -> None:
    """Print the tables, or write them into the document."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--shapes", nargs="*", default=[f"{n}x{d}" for n, d in SHAPES], help="like 20x1200000")
    parser.add_argument(
        "--docs", action="store_true", help=f"write the tables into {round_page.DOC.name}, and draw the plot"
    )
    parser.add_argument("--draw", action="store_true", help="measure nothing: show the page's tables in short")
    arguments: Any = parser.parse_args()
    if arguments.draw:
        round_page.show()
        return
    home = peers.environment()
    if Path(sys.prefix) != peers.HOME:
        os.execv(home, [str(home), "-W", "ignore", "-m", "benchmarks.round", *sys.argv[1:]])
    for handler in logging.getLogger("flwr").handlers:
        handler.setLevel(logging.ERROR)
    missing = dict[str, str]()
    warm_up()
    for n, d in (map(int, shape.split("x")) for shape in arguments.shapes):
        acts, lacking = rules(n, d)
        missing |= lacking
        costs = measure(acts, arguments.runs, 4 * n * d)
        del acts
        whole = measure(
            bare(np.random.default_rng(0).standard_normal((n, d), np.float32)) | strategies(n, d),
            arguments.runs,
            4 * n * d,
        )
        load = f"Load of the machine's {os.cpu_count()} cores: {os.getloadavg()[0]:.0f}."
        title, told = f"{n} clients, {d:,} parameters", [load, table("rule", costs), table("whole strategy", whole)]
        if behind := slower(costs):
            told += ["Of ours, slower than the fastest of others:", "\n".join(behind)]
        tables = "\n\n".join(told)
        print(f"### {title}\n\n{tables}\n", flush=True)
        if arguments.docs:  # what there is, if the command is stopped
            round_page.put(title, tables, missing)


if __name__ == "__main__":
    main()
