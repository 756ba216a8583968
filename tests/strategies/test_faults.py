"""What one client sends, or one verifier does with it, ends no round: any exception is that node's missing evidence."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flwr_faa.defence import Defence
from flwr_faa.detection import Everyone
from flwr_faa.pipeline import Pipeline
from flwr_faa.policy import Policy
from flwr_faa.report import Outcome
from flwr_faa.verification import paper
from flwr_faa.verification.base import Case, Exhausted, Finding
from flwr_faa.verification.paper import Paper
from flwr_faa.verification.wire import WireError, pack, unpack
from tests.helpers.federation import RUNNERS, edited, evidence_fault
from tests.helpers.toy import PLANS, honest_replies

PLAN = PLANS["mlp"]
START = PLAN.initial_arrays(0)
REPLIES = honest_replies(PLAN, START, 17, 6)
KINDS = (ValueError, TypeError, KeyError, IndexError, OverflowError, ZeroDivisionError, MemoryError, RuntimeError,
         RecursionError, AssertionError, EOFError, OSError, AttributeError, StopIteration, ArithmeticError,
         UnicodeDecodeError, WireError, Exhausted)  # fmt: skip


def made(kind: type[Exception]) -> Exception:
    return UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad") if kind is UnicodeDecodeError else kind("\x1b[31mboo\n")


@dataclass
class Brittle:
    """Clears everybody, but raises at some nodes, in some step."""

    raises: Mapping[tuple[str, int], type[Exception]] = field(default_factory=dict)
    name: str = "brittle"
    simulation_only: bool = False
    notes: tuple[str, ...] = ()
    enrol_timeout: float = 1.0
    enrolled: set[int] = field(default_factory=set)

    def _maybe(self, step: str, node: int) -> None:
        if kind := self.raises.get((step, node)):
            raise made(kind)

    def challenge(self, case: Case) -> bytes:
        self._maybe("challenge", case.node_id)
        return b"?"

    def judge(self, case: Case, evidence: bytes) -> Finding:
        self._maybe("judge", case.node_id)
        return Finding(False, 0.0, 1.0, "fine")

    def enrolment(self, node_id: int) -> bytes | None:
        self._maybe("enrolment", node_id)
        return None if node_id in self.enrolled else b"?"

    def samples(self, node_id: int) -> int | None:
        return None

    def enrol(self, node_id: int, answer: bytes) -> None:
        self._maybe("enrol", node_id)
        self.enrolled.add(node_id)


NODES = [r.node_id for r in REPLIES]
FAULTS = st.dictionaries(
    st.tuples(st.sampled_from(["challenge", "judge"]), st.sampled_from(NODES)), st.sampled_from(KINDS), max_size=4
)


@given(FAULTS)
def test_whatever_challenge_and_judge_raise_costs_that_node_alone(raises: Any) -> None:
    pipeline = Pipeline(Everyone(), Brittle(raises), Policy())
    _, report = pipeline.run(1, REPLIES, START, lambda challenges: dict.fromkeys(challenges, b"!"))
    failing = {node for _, node in raises}
    assert {v.node_id for v in report.accepted} == set(NODES) - failing
    for verdict in report.nodes:
        if verdict.node_id in failing:
            kind = raises.get(("challenge", verdict.node_id)) or raises["judge", verdict.node_id]
            assert verdict.verdict is (Outcome.EXHAUSTED if kind is Exhausted else Outcome.MISSING)


@given(st.dictionaries(st.tuples(st.sampled_from(["enrolment", "enrol"]), st.sampled_from(NODES)),
                       st.sampled_from(KINDS), max_size=4))  # fmt: skip
def test_whatever_enrolment_raises_costs_that_node_alone(raises: Any) -> None:
    defence = Defence(Everyone(), Brittle(raises), Policy(), None, 1.0, 1)
    failed = defence.enrol(NODES, lambda requests, timeout: dict.fromkeys(requests, b"!"))
    assert failed.keys() == {node for _, node in raises}
    assert all("not enrolled" in why for why in failed.values())


@pytest.mark.parametrize("kind", [OSError, TimeoutError, ValueError])
def test_a_grid_that_cannot_ask_is_nobodys_guilt(kind: type[Exception]) -> None:
    def ask(challenges: Any) -> Any:
        raise kind("no network")

    _, report = Pipeline(Everyone(), Brittle(), Policy(max_strikes=1)).run(1, REPLIES, START, ask)
    assert {v.verdict for v in report.nodes} == {Outcome.EXHAUSTED}
    assert not any(v.banned for v in report.nodes)
    assert all("could not be asked" in v.reason for v in report.nodes)


def reshaped(name: str, shape: tuple[int, ...]) -> Any:
    def change(evidence: bytes) -> bytes:
        fields = unpack(evidence, paper.EVIDENCE, {"clear": np.ndarray, "encrypted": bytes, "labels": np.ndarray})
        return pack(paper.EVIDENCE, {**fields, name: np.zeros(shape, fields[name].dtype)})

    return change


@pytest.mark.parametrize("api", RUNNERS)
@pytest.mark.parametrize("name", ["labels", "clear"])
@pytest.mark.parametrize("shape", [(), (0,), (0, 0), (1, 1, 1), (3,)])
def test_evidence_of_any_shape_is_at_worst_no_evidence(api: str, name: str, shape: tuple[int, ...]) -> None:
    run = RUNNERS[api](
        PLAN,
        rounds=1,
        faults={2: evidence_fault(edited(reshaped(name, shape)))},
        verifier=Paper(PLAN, (1, 8, 8), max_value=16),
        detector=Everyone(),
    )
    bad = run.grid.node_ids[2]
    assert {v.node_id for v in run.reports[0].accepted} == set(run.grid.node_ids) - {bad}
