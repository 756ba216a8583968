"""The ``paper`` verifier on honest clients: how far their replay is off, and what it costs.

``python -m benchmarks.paper`` prints, for each data set, model and back end, the relative error of an honest client's
update against its replay through real encryption (tolerance tau = .05), CPU seconds of client and server, and their
ratio to one plain local training. Median of three verifications; errors are the largest seen.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.table import Table

from apps.lab.config import load
from flwr_faa.authority import LocalAuthority
from flwr_faa.verification import paper
from flwr_faa.verification.base import Case
from flwr_faa.verification.paper import Paper

REPEATS = 3
CLIENTS = {"digits": 20, "mnist5k": 20}


def main() -> None:
    """Print the table."""
    columns = [
        "data",
        "model",
        "back end",
        "samples",
        "error",
        "train s",
        "client s",
        "server s",
        "(client+server)/train",
    ]
    table = Table(*columns, title="Honest clients under the paper's verification, tau = 0.05")
    for dataset, clients in CLIENTS.items():
        for model in ("logistic", "mlp", "cnn"):
            for back_end in ("charm", "arkworks"):
                table.add_row(dataset, model, back_end, *_measure(dataset, model, back_end, clients))
    Console(width=120).print(table)


def _measure(dataset: str, model: str, back_end: str, clients: int) -> list[str]:
    scenario = load(f"dataset={dataset} model={model} clients={clients}")
    plan, data = scenario.plan, scenario.data_of(0)
    verifier = Paper(plan, tuple(scenario.config.dataset.shape), authority=LocalAuthority(back_end))
    start = plan.initial_arrays(1)
    errors, costs = [], []
    for nonce in range(REPEATS + 1):  # the first builds tables and loads torch's kernels
        train, claimed = _timed(lambda nonce=nonce: plan.train(start, data, nonce))
        case = Case(1, 1, nonce, start, claimed, len(data[1]))
        client, evidence = _timed(lambda case=case: paper.answer(data, verifier.challenge(case)))
        server, finding = _timed(lambda case=case, evidence=evidence: verifier.judge(case, evidence))
        if finding.convicted:
            raise RuntimeError(f"expected an honest client to be cleared, got {finding}")
        errors.append(finding.error)
        costs.append((train, client, server))
    train, client, server = (statistics.median(c) for c in zip(*costs[1:], strict=True))
    figures = [
        f"{max(errors):.1e}",
        f"{train:.3f}",
        f"{client:.2f}",
        f"{server:.2f}",
        f"{(client + server) / train:.0f}",
    ]
    return [str(len(data[1])), *figures]


def _timed(call: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    result = call()
    return time.process_time() - start, result


if __name__ == "__main__":
    main()
