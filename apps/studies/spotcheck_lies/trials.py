"""One line of the spot check's table: the same lie told many times, to the real verifier by the real client code.

A life is a node's time with a server that verifies everybody: enrolment, and in each round training, challenge, answer
and verdict, as both strategies have it (``Defence``). Nodes answer in this process, without Flower between them.
"""

from __future__ import annotations

import shutil
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from hydra.utils import instantiate

from apps.lab.config import load
from flwr_faa import Policy, TrainingPlan
from flwr_faa.client import CHALLENGE, COMMIT, COMMITMENT, EVIDENCE, NONCE
from flwr_faa.defence import Defence
from flwr_faa.detection import Everyone
from flwr_faa.replies.updates import Arrays, Reply
from flwr_faa.report import Outcome, RoundReport, Verdict
from flwr_faa.verification.wire import WireError

#: Small nodes: 35 samples of 64 pixels in seven steps, of which four are opened.
COMMON = "clients=40 model.batch_size=5 verification=spotcheck run.baseline=false"
#: Honest nodes beside one that is to be banned.
BYSTANDERS = 4


@dataclass(frozen=True)
class Cell:
    """One line: who lies how, how often, and what should come of it.

    Parameters
    ----------
    name : str
    overrides : str
        Of the scenario, beyond ``COMMON``.
    stated : str
        What the docs say of the probability, in words.
    probability : float
        And as a number.
    trials : int
    counts : {"convicted", "rejected", "stopped", "banned", "kept out", "cleared"}
        What has that probability: a conviction, a reply that is not even valid, any verdict that keeps the update out,
        a ban by the end of a life, a life in which nothing but its first update is taken, and for the honest to be
        cleared.
    at_least : bool
        The number is a lower bound.
    rounds : int
        Of a life.
    afresh : bool
        Enrol anew for every life, with a new server; else all lives share one enrolment.
    first : bool
        The first of several attackers does not lie, and is not counted.
    warm_up : int
        Lives before the first that counts.
    threads : int
        Of the client.
    mkldnn : bool
        Whether the client's torch may use oneDNN.
    back_end : str
    """

    name: str
    overrides: str
    stated: str
    probability: float = 1.0
    trials: int = 200
    counts: str = "convicted"
    at_least: bool = False
    rounds: int = 1
    afresh: bool = False
    first: bool = True
    warm_up: int = 0
    threads: int = 1
    mkldnn: bool = True
    back_end: str = "auto"


def run_cell(cell: Cell) -> dict[str, Any]:
    """Tell one lie as often as a cell asks for; what came of it, ready for JSON."""
    found: Counter[str] = Counter()
    hits, trials, number, worst = 0, 0, 0, 0.0
    with TemporaryDirectory() as folder:
        house = House(cell, Path(folder))
        while trials < cell.trials:
            if cell.afresh and number:
                shutil.rmtree(folder)
                house = House(cell, Path(folder))
            lives = house.live(number)
            number += 1
            if number <= cell.warm_up:
                continue
            for verdicts in lives.values():
                found.update(str(v.verdict) for v in verdicts)
                worst = max([worst, *(v.error for v in verdicts if v.error is not None and v.error < torch.inf)])
                if cell.counts in ("banned", "kept out"):
                    hits, trials = hits + _lived(cell, verdicts), trials + 1
                else:
                    hits, trials = hits + sum(_hit(cell, v) for v in verdicts), trials + len(verdicts)
    figures = {"done": trials, "hits": hits, "worst_error": worst}
    return {**asdict(cell), **figures, "verdicts": {str(o): found[str(o)] for o in Outcome if found[str(o)]}}


def _lived(cell: Cell, verdicts: list[Verdict]) -> bool:
    if cell.counts == "banned":
        return any(v.banned for v in verdicts)
    return [v.accepted for v in verdicts] == [True] + [False] * (cell.rounds - 1)


def _hit(cell: Cell, verdict: Verdict) -> bool:
    if cell.counts == "stopped":
        return verdict.verdict in (Outcome.CONVICTED, Outcome.MISSING)
    return str(verdict.verdict) == cell.counts


class House:
    """A server and the nodes of a cell: all attackers, or one honest node where there are none.

    Where bans are counted, honest ones stand by: nobody is banned for a silence of most.
    """

    def __init__(self, cell: Cell, folder: Path) -> None:
        overrides = f"{COMMON} verification.back_end={cell.back_end} run.dir={folder} {cell.overrides}"
        self.cell, self.scenario = cell, load(overrides)
        self.verifier = instantiate(self.scenario.config.verification, _convert_="all")
        self.partitions = {1000 + i: i for i in sorted(self.scenario.malicious) or [0]}
        self.lying = list(self.partitions)[0 if cell.first else 1 :]
        if cell.counts == "banned":
            honest = (i for i in range(len(self.scenario.partitions)) if i not in self.scenario.malicious)
            self.partitions |= {1000 + i: i for i in islice(honest, BYSTANDERS)}

    def live(self, number: int) -> dict[int, list[Verdict]]:
        """Return the verdicts on every node that lies, in a life of its own."""
        defence = Defence(Everyone(), self.verifier, Policy(), None, 1.0, number)
        model: Arrays = self.scenario.plan.initial_arrays(number)
        for server_round in range(1, self.cell.rounds + 1):
            present = [node for node in self.partitions if node not in defence.ledger.bans]
            if present:
                model, _ = self._round(defence, server_round, present, model)
        return {node: [v for r in defence.reports for v in r.nodes if v.node_id == node] for node in self.lying}

    def _round(
        self, defence: Defence, server_round: int, present: list[int], model: Arrays
    ) -> tuple[Arrays, RoundReport]:
        unenrolled = defence.enrol(present, self._ask)
        config = {NONCE: defence.nonce(server_round), COMMIT: True}
        replies = [
            Reply(node, problem=unenrolled[node]) if node in unenrolled else self._train(node, model, config)
            for node in present
        ]
        return defence.decide(server_round, replies, model, partial(self._ask, timeout=0.0), {})

    def _train(self, node: int, model: Arrays, config: dict[str, Any]) -> Reply:
        client = self.scenario.client(self.partitions[node])
        with self._kernels(client):
            arrays, examples, metrics = client.fit(list(model), config)
        commitment = metrics[COMMITMENT]
        assert isinstance(commitment, bytes)
        return Reply(node, arrays, examples, commitment=commitment)

    def _ask(self, requests: Mapping[int, bytes], timeout: float) -> dict[int, bytes | str]:
        """Ask as a strategy does; what a client raises on purpose is no answer, anything else is a bug of ours."""
        answers: dict[int, bytes | str] = {}
        for node, request in requests.items():
            client = self.scenario.client(self.partitions[node])
            try:
                with self._kernels(client):
                    evidence = client.get_properties({CHALLENGE: request})[EVIDENCE]
                assert isinstance(evidence, bytes | str)
                answers[node] = evidence
            except (WireError, RuntimeError) as why:
                answers[node] = f"no answer ({type(why).__name__})"
        return answers

    @contextmanager
    def _kernels(self, client: Any) -> Iterator[None]:
        """Run as on the client's machine, with other kernels or more threads."""
        if self.cell.threads > 1:
            client.plan = on_threads(client.plan, self.cell.threads)
        if self.cell.mkldnn:
            yield
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, about a kind of GPU that is not here
            with torch.backends.mkldnn.flags(enabled=False):
                yield


def on_threads(plan: TrainingPlan, threads: int) -> TrainingPlan:
    """Return a plan for a client that does not keep to one thread."""

    def model() -> torch.nn.Module:
        torch.set_num_threads(threads)  # within the plan's contract, which sets it back afterwards
        return plan.model()

    return replace(plan, model=model)
