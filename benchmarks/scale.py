"""What many clients cost: ``python -m benchmarks.scale [--docs]``; ``make scale`` is all of it (half an hour of CPU).

Each measurement is a process of its own, at low priority, and a line of ``runs/scale/measured.jsonl`` when it is done:
stopped and started again, the command goes on where it was. CPU time is that of all threads; memory is the most that
the process had at once, without what the disk can give back: the pages of a mapped file (Linux's ``RssAnon``).

LoMar is fitted on made-up updates of a logistic regression on MNIST (7,850 parameters, ten labels). How many verdicts
of its approximate answer are those of the exact one is counted on real updates: 10,000 clients with 60 images each, a
tenth of them attackers. FAA-DL's views are computed from replies in a file that is mapped, not read.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from apps.lab.journal import lines, run_missing
from apps.lab.markdown import untitled, write_region

ROOT = Path(__file__).parents[1]
DOC, OUT = ROOT / "docs" / "scale.md", ROOT / "runs" / "scale" / "measured.jsonl"
D, LABELS = 7_850, 10
#: What is measured: kind and arguments, the cheapest first.
CELLS: tuple[tuple[str | int, ...], ...] = (
    *(("exact", n) for n in (1_000, 2_000, 4_000, 10_000)),
    *(("approximate", n) for n in (5_000, 10_000, 100_000)),
    *(("stream", n, d) for n, d in ((100, 1_200_000), (1_000, 120_000), (1_000, 1_200_000))),
    *(("verdicts", attack) for attack in ("none", "label_flip attack.tau=null", "alie", "clones")),
)
Floats = npt.NDArray[np.float32]


@contextmanager
def metered() -> Iterator[dict[str, float]]:
    """CPU and wall-clock seconds of what is done inside, and the peak of the process's own memory in GB."""
    found, done, peak = dict[str, float](), threading.Event(), 0

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.02):
            peak = max(peak, anonymous())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    wall, cpu = time.perf_counter(), time.process_time()
    try:
        yield found
    finally:
        found |= {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
        done.set()
        watcher.join()
        found |= {"gb": max(peak, anonymous()) / 1e9, "load": os.getloadavg()[0]}


def anonymous() -> int:
    """Bytes of memory that this process has now and no file can give back."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("RssAnon")).split()[1])


def lomar(n: int, approximate: bool) -> dict[str, float]:
    """Fit LoMar on n made-up updates, a fiftieth of them odd."""
    from benchmarks.lomar import matrix
    from flwr_lomar import LoMarDetector

    x = matrix(n, D)
    x[: n // 50] *= -3
    blocks = [np.append(np.arange(r * 784, (r + 1) * 784), D - LABELS + r) for r in range(LABELS)]
    with metered() as found:
        detector = LoMarDetector(label_blocks=blocks, approximate=approximate).fit(x)
    return found | {"odd": int(detector.labels_[: n // 50].sum()), "others": int(detector.labels_[n // 50 :].sum())}


def verdicts(attack: str) -> dict[str, float]:
    """Count the verdicts on 10,000 real updates that are the same, approximate and exact."""
    from benchmarks.crowd import updates_of
    from flwr_lomar import LoMarDetector

    x, blocks, malicious = updates_of(attack, 10_000)
    labels = [LoMarDetector(label_blocks=blocks, approximate=a).fit(x).labels_ == 1 for a in (False, True)]
    found = {"same": float((labels[0] == labels[1]).mean())}
    for name, odd in zip(("exact", "approximate"), labels, strict=True):
        found |= {f"{name} honest": float(odd[~malicious].mean())}
        found |= {f"{name} malicious": float(odd[malicious].mean())} if malicious.any() else {}
    return found


def stream(n: int, d: int) -> dict[str, float]:
    """Read, judge by MultiView, and average n replies of d parameters that are in a file."""
    from benchmarks.round import model_of
    from flwr_faa.detection import MultiView
    from flwr_faa.replies.averaging import average
    from flwr_faa.replies.updates import Reply, read_replies

    model = model_of(d)
    ends = np.cumsum([w.size for w in model])
    with tempfile.TemporaryDirectory(dir=OUT.parent) as folder:
        path = Path(folder) / "replies"
        write_replies(path, n, np.concatenate([w.ravel() for w in model]))
        rows = np.memmap(path, np.float32, "r", shape=(n, d))
        replies = [
            Reply(i, [part.reshape(w.shape) for part, w in zip(np.split(row, ends[:-1]), model, strict=True)], 100)
            for i, row in enumerate(rows)
        ]
        with metered() as found:
            batch = read_replies(replies, model)
            detection = MultiView().detect(batch, 0)
            average(batch, [row for row in range(n) if row not in set(detection.suspects)], model)
    return found | {"file": rows.nbytes / 1e9, "odd": sum(s < n // 50 for s in detection.suspects)}


def write_replies(path: Path, n: int, w: Floats) -> None:
    """Write n replies one after the other: a step that all share and one of their own, a fiftieth of them turned."""
    common = np.random.default_rng(0).standard_normal(len(w), np.float32)
    with path.open("wb") as file:
        for i in range(n):
            step = common + np.random.default_rng([1, i]).standard_normal(len(w), np.float32)
            file.write((w + np.float32(0.01 if i >= n // 50 else -0.03) * step).astype(np.float32).data)


KINDS: Mapping[str, Callable[..., dict[str, float]]] = {
    "exact": lambda n: lomar(int(n), False),
    "approximate": lambda n: lomar(int(n), True),
    "verdicts": verdicts,
    "stream": lambda n, d: stream(int(n), int(d)),
}


def in_a_process(cell: tuple[str | int, ...]) -> dict[str, Any]:
    """Measure a cell in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.scale", "--cell", *map(str, cell)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return {"cell": list(cell), **json.loads(done.stdout.splitlines()[-1])}


def lomar_tables(found: Mapping[Any, Mapping[str, Any]]) -> str:
    """What LoMar takes, and how that grows; and how many verdicts are the same."""
    lines, before = [], dict[str, tuple[int, float]]()
    for cell, row in found.items():
        if cell[0] not in ("exact", "approximate"):
            continue
        n, last = int(cell[1]), before.get(cell[0])
        grown = f"n^{math.log(row['cpu'] / last[1]) / math.log(n / last[0]):.2f}" if last else ""
        before[cell[0]] = n, row["cpu"]
        odd = f"{row['odd']} of {n // 50}, {row['others']}"
        lines.append((cell[0], f"{n:,}", *_figures(row), grown, odd))
    head = ("answer", "clients", "CPU s", "wall s", "GB", "load", "CPU grows with", "odd found, others suspected")
    text = [untitled(head, lines)]
    shares = [
        (cell[1], f"{row['same']:.4f}", *(_share(row, k) for k in SHARES))
        for cell, row in found.items()
        if cell[0] == "verdicts"
    ]
    return "\n\n".join([*text, untitled(("attack", "same verdict", *SHARES), shares)] if shares else text)


SHARES = ("exact malicious", "approximate malicious", "exact honest", "approximate honest")


def stream_table(found: Mapping[Any, Mapping[str, Any]]) -> str:
    """What FAA-DL's views take from disk."""
    lines = [
        (
            f"{int(cell[1]):,}",
            f"{int(cell[2]):,}",
            f"{row['file']:.2f}",
            *_figures(row),
            f"{row['odd']} of {cell[1] // 50}",
        )
        for cell, row in found.items()
        if cell[0] == "stream"
    ]
    return untitled(
        ("clients", "parameters", "replies, GB", "CPU s", "wall s", "memory, GB", "load", "odd found"), lines
    )


def extrapolated(found: Mapping[Any, Mapping[str, Any]]) -> str:
    """What was not run, from what was: CPU grows at most with n^2 d, and memory with n^2."""
    lines = []
    few, many = (found.get(("stream", n, 1_200_000)) for n in (100, 1_000))
    if few and many:
        cpu, memory = many["cpu"] * 100, few["gb"] + (many["gb"] - few["gb"]) * 100
        lines.append(("FAA-DL's views, 10,000 x 1,200,000, from a file of 48 GB", f"{cpu / 60:.0f}", f"{memory:.0f}"))
    if exact := found.get(("exact", 10_000)):
        memory = (4 * 0.4e5 * 2 + 2 * 4 * D) * 1e5 / 1e9
        lines.append(("LoMar exactly, 100,000 x 7,850", f"{exact['cpu'] * 100 / 60:.0f}", f"{memory:.0f}"))
    if ("approximate", 100_000) not in found and (approximate := found.get(("approximate", 10_000))):
        memory = (8 * D + 4 * 0.4 * 4096 * 2) * 1e5 / 1e9
        cpu = approximate["cpu"] * 10**1.5 / 60  # of the index; the sample takes n times m
        lines.append(("LoMar approximately, 100,000 x 7,850", f"{cpu:.0f}", f"{memory:.0f}"))
    return untitled(("what", "CPU minutes, at most", "memory, GB"), lines)


def _figures(row: Mapping[str, float]) -> list[str]:
    return [f"{row['cpu']:.1f}", f"{row['wall']:.0f}", f"{row['gb']:.2f}", f"{row['load']:.0f}"]


def _share(row: Mapping[str, float], name: str) -> str:
    return f"{row[name]:.4f}" if name in row else "-"


def main() -> None:
    """Measure what is missing and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--cell", nargs="+", help="measure one thing in this process, as its own command does")
    parser.add_argument("--only", nargs="+", default=list(KINDS), choices=KINDS, help="kinds of measurements")
    parser.add_argument("--finished", action="store_true", help="measure nothing: the tables of what there is")
    parser.add_argument("--docs", action="store_true", help=f"write the tables into {DOC.name}")
    options = parser.parse_args()
    if options.cell:
        kind, *arguments = options.cell
        print(json.dumps(KINDS[kind](*arguments)))
        return
    os.nice(10)
    if not options.finished:
        cells = {cell: cell for cell in CELLS if cell[0] in options.only}
        run_missing(cells, OUT, 1, in_a_process, lambda row: tuple(row["cell"]))
    done = {tuple(row["cell"]): row for row in lines(OUT)}
    found = {cell: done[cell] for cell in CELLS if cell in done}
    tables = {
        "scale-lomar": lomar_tables(found),
        "scale-stream": stream_table(found),
        "scale-more": extrapolated(found),
    }
    for name, text in tables.items():
        print(text, end="\n\n")
        if options.docs:
            write_region(DOC, name, text)


if __name__ == "__main__":
    main()
