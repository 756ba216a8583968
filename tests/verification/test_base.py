"""What goes wrong with one node costs that node alone, and an error that is no number is the worst."""

import math

import numpy as np
import pytest

from flwr_faa.verification.base import (
    Case,
    Collective,
    Disclosing,
    Enrolling,
    Exhausted,
    Misconfigured,
    one_node,
    outcome,
    worst,
)
from flwr_faa.verification.wire import WireError


@pytest.mark.parametrize("why", [Exhausted("spent"), Misconfigured("set scale"), WireError("short")])
def test_what_a_verifier_says_on_purpose_keeps_its_meaning(why: Exception, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(type(why)) as caught, one_node(7):
        raise why
    assert caught.value is why and not caplog.records


@pytest.mark.parametrize("why", [KeyError("x"), ValueError("y"), RuntimeError("z" * 999)])
def test_anything_else_is_a_hole_in_a_parser_and_logged(why: Exception, caplog: pytest.LogCaptureFixture) -> None:
    kind = type(why).__name__
    with pytest.raises(WireError, match=rf"^it made the verifier fail \({kind}\)$") as caught, one_node(7):
        raise why
    assert caught.value.__cause__ is why
    (line,) = (record.getMessage() for record in caplog.records)
    assert line == f"faa node=7: the verifier raised {kind}: {why!r:.200}"


def test_who_stops_the_program_is_no_node() -> None:
    with pytest.raises(KeyboardInterrupt), one_node(7):
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        outcome(lambda: (_ for _ in ()).throw(KeyboardInterrupt))


def test_an_outcome_is_what_is_returned_or_raised() -> None:
    why = ValueError("mine")

    def fail() -> int:
        raise why

    assert outcome(lambda: 3) == 3 and outcome(fail) is why


@pytest.mark.parametrize(
    ("errors", "largest"),
    [
        ([], 0.0),
        ([0.5, 0.2], 0.5),
        ([0.2, np.float32(0.5)], 0.5),
        ([math.nan], math.inf),
        ([0.1, math.nan, 2.0], math.inf),
        ([math.nan, 0.1], math.inf),
        ([0.1, math.inf], math.inf),
    ],
)
def test_the_worst_error_is_infinite_if_one_is_no_number(errors: list[float], largest: float) -> None:
    found = worst(iter(errors))
    assert found == largest and type(found) is float


def test_a_claim_may_come_without_a_commitment() -> None:
    assert Case(1, 7, 23, [], [], 40).commitment == b""


@pytest.mark.parametrize(
    ("ability", "names"),
    [
        (Collective, ["judge_all"]),
        (Disclosing, ["disclosure", "affordable"]),
        (Enrolling, ["enrol_timeout", "enrolment", "enrol", "samples"]),
    ],
)
def test_a_verifier_says_by_its_methods_what_it_can_do(ability: type, names: list[str]) -> None:
    able = type("Able", (), dict.fromkeys(names, lambda self: None))
    assert isinstance(able(), ability) and not isinstance(object(), ability)
    for name in names:
        less = type("Less", (), dict.fromkeys(set(names) - {name}, lambda self: None))
        assert not isinstance(less(), ability)
