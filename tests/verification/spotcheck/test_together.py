"""The answers of a whole round, judged at once: the same verdicts as one by one, and nobody pays for another."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from apps.lab.clients.spotcheck_lies import changed
from flwr_faa.crypto import linear
from flwr_faa.verification.base import Case, Finding
from flwr_faa.verification.spotcheck.messages import Answer
from flwr_faa.verification.wire import WireError
from tests.helpers.toy import slice_of
from tests.verification.spotcheck.spot import BINDINGS, Node


def nodes(folder: Path, count: int, binding: str, name: str = "mlp") -> list[Node]:
    """Nodes of one server."""
    found = [Node(folder / str(i), name, binding=binding, data=slice_of(i), node_id=10 + i) for i in range(count)]
    for node in found:
        node.verifier = found[0].verifier
        node.enrol()
    return found


def answers(found: list[Node], lies: dict[int, Any]) -> list[tuple[Case, bytes]]:
    sent = []
    for i, node in enumerate(found):
        case = node.train()
        evidence = node.answer(node.verifier.challenge(case))
        change = lies.get(i, lambda evidence: evidence)
        sent.append((case, change(evidence)))
    return sent


def lie(**edits: Any) -> Any:
    return lambda evidence: changed(**edits)(Answer.from_bytes(evidence)).to_bytes()


def off(array: Any) -> None:
    array[0, 0] += 1


@pytest.mark.parametrize("binding", BINDINGS)
def test_the_guilty_of_a_round_are_named_and_nobody_else(binding: str, tmp_path: Path) -> None:
    """A false claim, an answer of none, a checkpoint of another run, and two honest nodes."""
    found = nodes(tmp_path, 5, binding)
    sent = answers(found, {1: lie(claims=off), 2: lambda evidence: evidence[:50], 4: lie(checkpoints=off)})
    first, second, third, fourth, fifth = found[0].verifier.judge_all(sent)
    assert isinstance(first, Finding) and isinstance(fourth, Finding) and not (first.convicted or fourth.convicted)
    assert isinstance(second, Finding) and second.convicted and "claim" in second.reason
    assert isinstance(third, WireError)
    assert isinstance(fifth, Finding) and fifth.convicted and "not the one committed" in fifth.reason
    assert set(found[0].verifier._pending) == {12}  # it has shown nothing: it is asked to enrol again


def test_a_parser_that_fails_for_one_node_fails_for_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = nodes(tmp_path, 3, "commitments")
    verifier, sent = found[0].verifier, answers(found, {})
    equations = verifier._binding._equations

    def hole(node: Any) -> Any:
        if node.node_id == 11:
            raise KeyError("a hole")
        return equations(node)

    monkeypatch.setattr(verifier._binding, "_equations", hole)
    first, second, third = verifier.judge_all(sent)
    assert isinstance(second, KeyError)  # which the pipeline turns into that node's lost round
    assert isinstance(first, Finding) and isinstance(third, Finding) and not (first.convicted or third.convicted)


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_a_round_without_lies_takes_one_product(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = nodes(tmp_path, 4, "commitments", name)
    sent, products = answers(found, {}), []
    together = linear._together
    monkeypatch.setattr(linear, "_together", lambda cases: products.append(len(cases)) or together(cases))
    judged = found[0].verifier.judge_all(sent)
    assert all(isinstance(f, Finding) and not f.convicted for f in judged)
    assert len(products) == 1 and products[0] >= 8  # steps of all nodes


def test_false_proofs_of_two_nodes_do_not_cancel(tmp_path: Path) -> None:
    """Off by G_0 and by -G_0: with equal weights the sum of all equations would hold."""
    found = nodes(tmp_path, 3, "commitments")
    group = found[0].verifier._binding.group
    at = slice(group.point_size + 32, group.point_size + 64)  # zeta of the first step

    def by(amount: int) -> Any:
        def edit(proofs: Any) -> None:
            value = (int.from_bytes(proofs[0, at].tobytes(), "big") + amount) % group.order
            proofs[0, at] = list(value.to_bytes(32, "big"))

        return lie(proofs=edit)

    judged = found[0].verifier.judge_all(answers(found, {0: by(1), 2: by(-1)}))
    assert [isinstance(f, Finding) and f.convicted for f in judged] == [True, False, True]


def test_a_node_that_was_not_asked_is_no_problem_of_the_others(tmp_path: Path) -> None:
    found = nodes(tmp_path, 2, "commitments")
    sent = answers(found, {})
    stranger = replace(sent[0][0], node_id=99)
    first, second = found[0].verifier.judge_all([(stranger, sent[0][1]), sent[1]])
    assert isinstance(first, WireError) and isinstance(second, Finding) and not second.convicted
