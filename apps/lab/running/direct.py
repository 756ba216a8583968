"""Runs without Flower: the same clients and the same pipeline, for tables of a thousand runs.

Flower's ServerApp and ClientApp cost a millisecond per client and round, several times what training costs in a
:class:`Fleet`. Verdicts and models are those of the same run over a grid, bit for bit; the tests compare them.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from apps.lab.recording.record import Record
from apps.lab.running.local_grid import node_of, reason_of
from apps.lab.running.local_run import Enough, Watch
from apps.lab.scenario import Scenario
from flwr_faa.client import CHALLENGE, EVIDENCE, NONCE
from flwr_faa.defence import Defence, failure
from flwr_faa.replies.updates import Arrays, Reply


def run_directly(scenario: Scenario, watch: Watch = lambda *_: None) -> Record:
    """Run a scenario in which every client takes part in every round, with a verifier that needs no enrolment.

    Parameters
    ----------
    scenario : Scenario
    watch : callable
        See :class:`Record`. May raise :class:`Enough`.

    Raises
    ------
    ValueError
        If not every client takes part.
    """
    config = scenario.config
    if config.fraction != 1:
        raise ValueError(f"expected fraction=1.0, got fraction={config.fraction}")
    record, nodes = (
        Record(scenario, watch=watch),
        {node_of(partition): partition for partition in range(config.clients)},
    )
    for node, partition in nodes.items():
        record.census.note(node, partition)
    defence = _defence(record)
    record.reports = defence.reports
    model: Arrays = scenario.plan.initial_arrays(config.seed)

    def ask(challenges: Mapping[int, bytes]) -> dict[int, bytes | str]:
        return {node: _answer(scenario, nodes[node], challenge) for node, challenge in challenges.items()}

    with suppress(Enough):
        record.evaluate(0, model)
        for number in range(1, config.rounds + 1):
            banned, nonce = defence.ledger.bans, defence.nonce(number)
            replies = [_reply(scenario, node, nodes[node], model, nonce) for node in nodes if node not in banned]
            model, _ = defence.decide(number, replies, model, ask, {})
            record.evaluate(number, model)
    return record


def _defence(record: Record) -> Defence:
    parts = record.defence()
    return Defence(
        parts["detector"],
        parts["verifier"],
        parts["policy"],
        parts["ledger"],
        parts["verify_timeout"],
        parts["seed"],
        parts.get("rule"),
        holdout=parts.get("holdout"),
    )


def _reply(scenario: Scenario, node: int, partition: int, model: Arrays, nonce: int) -> Reply:
    try:
        arrays, examples, _ = scenario.client(partition).fit(list(model), {NONCE: nonce})
    except RuntimeError as error:  # attack=absent
        return Reply(node, problem=failure(reason_of(error)), absent=True)
    return Reply(node, arrays, examples)


def _answer(scenario: Scenario, partition: int, challenge: bytes) -> bytes | str:
    try:
        evidence = scenario.client(partition).get_properties({CHALLENGE: challenge})[EVIDENCE]
    except RuntimeError as error:  # attack=refuse
        return failure(reason_of(error))
    assert isinstance(evidence, bytes)
    return evidence
