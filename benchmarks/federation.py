"""What a defence costs a whole federation: CPU time of a run, by phase, as a ratio to undefended FedAvg.

    python -m benchmarks.federation [small] [paper] [--rounds 30 ...] [--runs NAME ...] [--docs]

The paper's setting (Sec. VII-A): its CNN on MNIST, two labels a client, 20 of 100 clients a round, one epoch in batches
of 50; a fifth of the clients flip the sign of their weights and are banned when they are convicted. ``paper`` has 600
images a client, of MNIST where it is placed (docs/how-to/data.md), else of ``mnist5k_shifted``, which is of its size;
``small`` has 40 images a client, of ``mnist5k``. The paper reports 1.64x for verifying everybody (FE) and 1.27x for
FAA-DL (Tables IV and V).

Server and clients share this process, so its CPU time is what all of them spend. Measuring the model's accuracy is left
out: every run does it, and no federation needs it. A run that is finished is a line of ``--out``; a killed command goes
on with the next one.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain, repeat
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from apps.lab.config import load
from apps.lab.datasets.store import root
from apps.lab.journal import Row, run_missing
from apps.lab.markdown import markdown, write_region
from apps.lab.recording.record import Record
from apps.lab.running.local_run import run_locally
from flwr_faa import client
from flwr_faa.pipeline import Pipeline
from flwr_faa.verification.spotcheck import enrolment

DOC = Path(__file__).parents[1] / "docs" / "explanation" / "spotcheck.md"
FAA = "strategy=faa detector=sequential"
RUNS = {
    "FedAvg": "strategy=fedavg",
    "FAA-DL, detection only": f"{FAA} verification=none",
    "FAA-DL, replay": f"{FAA} verification=replay",
    "FAA-DL, paper": f"{FAA} verification=paper",
    "FAA-DL, spotcheck": f"{FAA} verification=spotcheck",
    "FAA-DL, spotcheck, encrypted": f"{FAA} verification=spotcheck_encrypted",
    "FE, paper": "strategy=fe verification=paper",
}
#: What of a run's summary stands in the table.
TOLD = ("final_accuracy", "recall", "honest_convicted", "verified_per_round")
#: Who spends CPU time on what: a phase, and the function that all of it passes through.
PHASES: dict[str, tuple[Any, str]] = {
    "clients: train": (client, "_train"),
    "clients: enrol": (enrolment, "enrol"),
    "clients: answer": (client, "answer"),
    "server: decide": (Pipeline, "run"),
    "evaluation": (Record, "evaluate"),
}


@contextmanager
def clocks() -> Iterator[Counter[str]]:
    """CPU seconds of each phase; nested phases count for the inner one alone."""
    spent: Counter[str] = Counter()
    outer: list[str] = []

    def timed(phase: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            start = time.process_time()
            outer.append(phase)
            try:
                return call(*args, **kwargs)
            finally:
                took = time.process_time() - start
                outer.pop()
                spent[phase] += took
                if outer:
                    spent[outer[-1]] -= took

        return wrapper

    with ExitStack() as stack:
        for phase, (owner, name) in PHASES.items():
            stack.enter_context(patch.object(owner, name, timed(phase, getattr(owner, name))))
        yield spent


def measure(cell: tuple[str, str]) -> Row:
    """Return CPU seconds by phase without evaluation, and how one run ended."""
    name, overrides = cell
    with tempfile.TemporaryDirectory() as folder, clocks() as spent:
        scenario = load(f"{overrides} run.dir={folder}")
        scenario.client(0).fit(scenario.plan.initial_arrays(0), {})  # data loaded, torch warm
        spent.clear()
        start = time.process_time()
        record = run_locally(scenario, Path(folder))
        total = time.process_time() - start - spent.pop("evaluation")
    told = {key: record.summary[key] for key in TOLD}
    return {"run": name, "of": overrides, **spent, "the rest": total - sum(spent.values()), "all": total, **told}


def common(setting: str, rounds: int) -> str:
    """What all runs of a setting share."""
    full = "mnist" if any((root() / name).exists() for name in ("mnist.npz", "MNIST/raw")) else "mnist5k_shifted"
    return (
        f"dataset={full if setting == 'paper' else 'mnist5k'} partition=shards model=cnn attack=sign_flip "
        f"attack.share=0.2 clients=100 fraction=0.2 rounds={rounds} seed=1 api=message run.baseline=false"
    )


def table(title: str, rows: list[Row]) -> str:
    """The runs of a setting beside its first, which is FedAvg."""
    phases = [*(phase for phase in PHASES if phase != "evaluation"), "the rest"]
    head = ["CPU seconds", "all", "of FedAvg", *phases, "accuracy", "recall", "honest convicted", "verified a round"]
    lines = [
        [row["run"], f"{row['all']:.1f}", f"{row['all'] / rows[0]['all']:.2f}x"]
        + [f"{row.get(phase, 0.0):.1f}" for phase in phases]
        + [f"{row['final_accuracy']:.3f}", f"{row['recall']:.2f}", str(row["honest_convicted"])]
        + [f"{row['verified_per_round']:.1f}"]
        for row in rows
    ]
    return markdown(title, head, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("settings", nargs="*", default=["small"], choices=["small", "paper"])
    parser.add_argument("--rounds", type=int, nargs="+", default=[30], help="of each setting; the last counts for more")
    parser.add_argument("--runs", nargs="+", default=list(RUNS), choices=RUNS)
    parser.add_argument("--out", type=Path, default=Path("runs/federation.jsonl"), help="finished runs")
    parser.add_argument("--docs", action="store_true", help=f"write the tables into {DOC.name} too")
    options = parser.parse_args()
    logging.getLogger("flwr").setLevel(logging.ERROR)
    logging.getLogger("flwr_faa").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    tables = []
    for setting, rounds in zip(options.settings, chain(options.rounds, repeat(options.rounds[-1])), strict=False):
        base = common(setting, rounds)
        cells = {(n, f"{base} {RUNS[n]}"): (n, f"{base} {RUNS[n]}") for n in dict.fromkeys(["FedAvg", *options.runs])}
        done = run_missing(cells, options.out, 1, measure, lambda row: (row["run"], row["of"]))
        images = 600 if setting == "paper" else 40
        data = base.split()[0].removeprefix("dataset=")
        title = f"{setting}: {data}, cnn, 100 clients with {images} images, {rounds} rounds"
        tables.append(table(title, list(done.values())))
        print(tables[-1], flush=True)
    if options.docs:
        write_region(DOC, "federation", "\n".join(tables))


if __name__ == "__main__":
    main()
