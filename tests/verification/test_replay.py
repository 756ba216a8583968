"""Plain replay: what is no evidence, what convicts, and where the tolerance ends."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from flwr_faa.verification import replay
from flwr_faa.verification.base import Case
from flwr_faa.verification.replay import Replay, judge_data
from flwr_faa.verification.wire import WireError, unpack
from tests.helpers.toy import PLANS, slice_of

PLAN, (X, Y) = PLANS["logistic"], slice_of(0)
START = PLAN.initial_arrays(0)
CASE = Case(3, 7, 23, START, PLAN.train(START, (X, Y), 23), len(Y))


def test_the_tolerance_is_five_percent_and_above_zero() -> None:
    assert Replay(PLAN).tau == 0.05
    for tau in (0, -1, math.nan):
        with pytest.raises(ValueError, match="expected tau to be a finite number above 0"):
            Replay(PLAN, tau)
    with pytest.raises(TypeError, match="expected plan"):
        Replay(None)
    assert Replay.simulation_only and "data in the clear" in Replay.notes[0]


def test_an_error_of_just_the_tolerance_is_cleared() -> None:
    claimed = [w + 1.1 * (a - w) for w, a in zip(START, CASE.claimed, strict=True)]
    case = replace(CASE, claimed=claimed)
    error = judge_data(PLAN, 1.0, case, (X, Y)).error
    assert error == pytest.approx(0.1, rel=1e-3)
    cleared, convicted = (judge_data(PLAN, tau, case, (X, Y)) for tau in (error, math.nextafter(error, 0)))
    assert not cleared.convicted and cleared.reason == f"replay agrees to {error:.3g}, tolerance {error:g}"
    assert convicted.convicted and convicted.error == error and convicted.threshold < error
    assert convicted.reason == f"update differs from its replay by {error:.3g}, tolerance {error:g}"


def test_a_client_answers_with_its_data_to_a_request_of_this_kind() -> None:
    verifier = Replay(PLAN)
    request = verifier.challenge(CASE)
    assert unpack(request, "replay/request", {"round": int}) == {"round": 3}
    evidence = replay.answer((X, Y.astype(np.uint8)), request)
    shown = unpack(evidence, "replay/evidence", {"samples": np.ndarray, "labels": np.ndarray})
    assert (shown["samples"] == X).all() and (shown["labels"] == Y).all() and shown["labels"].dtype == np.int64
    assert not verifier.judge(CASE, evidence).convicted
    with pytest.raises(WireError, match="kind"):
        replay.answer((X, Y), evidence)
    with pytest.raises(WireError, match="kind"):
        verifier.judge(CASE, request)


@pytest.mark.parametrize(
    ("samples", "labels", "says"),
    [
        (X / 16, Y, "integer samples"),
        (X > 0, Y, "integer samples"),
        (X, Y / 2, "integer samples"),
        (X, Y.astype(np.uint64), "integer samples"),
        (X, Y[:, None], "integer samples"),
        (X, np.array(3), "integer samples"),
        (np.array(3), Y, "integer samples"),
        (Y, Y, "integer samples"),  # samples without an axis of their own
        (X[:, 0, 0], Y, "got RuntimeError"),
        (X, np.where(Y[0] == Y, -1, Y), "got ArgumentValueError"),
        (X, np.where(Y[0] == Y, 10, Y), "got ArgumentValueError"),
    ],
)
def test_what_cannot_be_trained_on_is_no_evidence(samples: Any, labels: Any, says: str) -> None:
    with pytest.raises(WireError, match=says):
        judge_data(PLAN, 0.05, CASE, (samples, labels))


@pytest.mark.parametrize("error", [RuntimeError, IndexError, ValueError])
def test_whatever_torch_says_to_such_data_is_no_evidence(error: type[Exception]) -> None:
    def loss(*_: object) -> Any:
        raise error("not these")

    with pytest.raises(WireError, match=f"expected data that the model can train on, got {error.__name__}"):
        judge_data(replace(PLAN, loss=loss), 0.05, CASE, (X, Y))


@pytest.mark.parametrize(("samples", "labels"), [(39, 40), (40, 39), (39, 39), (41, 40), (40, 41), (41, 41)])
def test_other_numbers_of_samples_than_reported_convict(samples: int, labels: int) -> None:
    more = slice_of(0, 41)
    found = judge_data(PLAN, 0.05, CASE, (more[0][:samples], more[1][:labels]))
    assert found.convicted and math.isnan(found.error)
    assert found.reason == f"reported 40 examples, showed {samples} with {labels} labels"


def test_samples_of_any_integers_are_replayed_few_or_many() -> None:
    for count in (1, 300):
        data = slice_of(0, count)
        case = replace(CASE, claimed=PLAN.train(START, data, 23), num_examples=count)
        assert judge_data(PLAN, 0.05, case, data).error == 0
    for kind in (np.uint8, np.int16, np.int64):
        for encrypted in (False, True):
            for shape in (X.shape, (40, 64)):
                assert not judge_data(PLAN, 0.05, CASE, (X.astype(kind).reshape(shape), Y), encrypted).convicted
