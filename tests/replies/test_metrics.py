"""Metrics of any kind, from anybody, are mended without an error, and the sound ones' average stays what it is."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flwr_faa.replies.metrics import mend

ODD = (math.nan, math.inf, -math.inf, 1.7e308, 10**400, -(10**400), 2**63, True, "text", b"raw", None, [], ["a"], [b""])
VALUES = st.one_of(
    st.floats(), st.integers(), st.sampled_from(ODD), st.lists(st.floats(), max_size=3), st.lists(st.sampled_from(ODD)),
)  # fmt: skip
NAMES = st.sampled_from(["loss", "accuracy", "own"])
TOLD = st.dictionaries(st.integers(1, 9), st.dictionaries(NAMES, VALUES), min_size=1)


@given(TOLD, st.lists(st.floats(1e-3, 1e9), min_size=9, max_size=9))
def test_nothing_that_is_told_raises_and_all_end_with_the_same_names(
    told: dict[int, dict[str, Any]], weights: list[float]
) -> None:
    found = mend(told, {node: weights[node - 1] for node in told})
    assert found.keys() == told.keys()
    for name in ("loss", "accuracy", "own"):
        holders = [node for node in told if name in told[node]]
        if 2 * len(holders) > len(told):
            assert all(name in metrics for metrics in found.values())
            assert len({_form(metrics[name]) for metrics in found.values()}) == 1


def _form(value: Any) -> object:
    if isinstance(value, list) and all(isinstance(v, (int, float)) for v in value):
        return len(value)
    return float if isinstance(value, (int, float)) else type(value)


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=4, max_size=9), st.sampled_from([math.nan, "text", [1.0], 10**400, None])
)
def test_a_bad_value_leaves_the_average_of_the_others(values: list[float], bad: Any) -> None:
    told = {i: {"loss": v} for i, v in enumerate(values)} | {99: {} if bad is None else {"loss": bad}}
    weights = {node: 1.0 + node for node in told}
    found = mend(told, weights)
    total = sum(weights[n] * found[n]["loss"] for n in told) / sum(weights.values())
    sound = sum(weights[i] * v for i, v in enumerate(values)) / sum(weights[i] for i in range(len(values)))
    assert total == pytest.approx(sound, rel=1e-9, abs=1e-9)
