"""What a defence costs a whole federation: CPU time of a run, by phase, as a ratio to undefended FedAvg.

    python -m benchmarks.federation [--rounds 30] [--dataset mnist5k] [--clients 100] [--runs NAME ...] [--docs]

The paper's setting (Sec. VII-A): its CNN on MNIST, two labels per client, 20 of 100 clients in each round, one epoch in
batches of 50; a fifth of the clients flip the sign of their weights and are banned when they are convicted. The paper
reports 1.64x for verifying everybody (FE) and 1.27x for FAA-DL (Tables IV and V).

Server and clients share this process, so its CPU time is what all of them spend. Measuring the model's accuracy is left
out: every run does it, and no federation needs it.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from apps.lab.config import load
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


def measure(overrides: str) -> tuple[dict[str, float], Mapping[str, Any]]:
    """Return CPU seconds by phase without evaluation, and the summary of one run."""
    with tempfile.TemporaryDirectory() as folder, clocks() as spent:
        scenario = load(f"{overrides} run.dir={folder}")
        scenario.client(0).fit(scenario.plan.initial_arrays(0), {})  # data loaded, torch warm
        spent.clear()
        start = time.process_time()
        record = run_locally(scenario, Path(folder))
        total = time.process_time() - start - spent.pop("evaluation")
    return {**spent, "the rest": total - sum(spent.values())}, record.summary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--dataset", default="mnist5k")
    parser.add_argument("--model", default="cnn")
    parser.add_argument("--runs", nargs="+", default=list(RUNS), choices=RUNS)
    parser.add_argument("--docs", action="store_true", help=f"write the table into {DOC.name} too")
    options = parser.parse_args()
    logging.getLogger("flwr").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    common = (
        f"dataset={options.dataset} partition=shards model={options.model} attack=sign_flip attack.share=0.2 "
        f"clients={options.clients} fraction=0.2 rounds={options.rounds} seed=1 api=message run.baseline=false"
    )
    phases = [*(phase for phase in PHASES if phase != "evaluation"), "the rest"]
    head = ["CPU seconds", "all", "of FedAvg", *phases, "accuracy", "recall", "honest convicted", "verified a round"]
    lines, base = [], 0.0
    for name in dict.fromkeys(["FedAvg", *options.runs]):
        spent, summary = measure(f"{common} {RUNS[name]}")
        total = sum(spent.values())
        base = base or total
        shown = [f"{spent.get(phase, 0.0):.1f}" for phase in phases]
        what = [f"{summary['final_accuracy']:.3f}", f"{summary['recall']:.2f}", str(summary["honest_convicted"])]
        lines.append(
            [name, f"{total:.1f}", f"{total / base:.2f}x", *shown, *what, f"{summary['verified_per_round']:.1f}"]
        )
        print(lines[-1], flush=True)
    title = f"{options.dataset}, {options.model}, {options.clients} clients, {options.rounds} rounds"
    text = markdown(title, head, lines)
    print(text)
    if options.docs:
        write_region(DOC, "federation", text)


if __name__ == "__main__":
    main()
