"""What hides the updates ends the run in its first round, with the reason; what only looks odd goes on."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import pytest

from flwr_faa import protect
from tests.helpers.federation import RUNNERS, Arrays, Attack
from tests.helpers.toy import PLANS

PLAN, NODES = PLANS["logistic"], 4


def each(change: Any) -> Attack:
    return lambda model, honest: [change(a, i) for i, a in enumerate(honest)]


def masked(array: np.ndarray, dtype: Any, bits: int) -> np.ndarray:
    """As SecAgg+ sends it: quantised, and a mask added that only the sum of all loses, modulo 2^bits."""
    quantised = np.rint((np.clip(array, -8, 8) + 8) * 2**18).astype(np.uint64)
    mask = np.random.default_rng(int(quantised.sum())).integers(0, 2**bits, array.shape, np.uint64)
    return ((quantised + mask) % np.uint64(2**bits)).astype(dtype)


def noisy(array: np.ndarray, dtype: Any) -> np.ndarray:
    return (array + np.random.default_rng(array.size).normal(0, 0.01, array.shape)).astype(dtype)


HOPELESS: dict[str, tuple[Attack, str]] = {
    "masked, 32 bits": (each(lambda a, i: masked(a, np.uint32, 32)), "expected floats, got integers from most"),
    "masked, 64 bits": (each(lambda a, i: masked(a, np.int64, 40)), "expected floats, got integers from most"),
    "quantised": (each(lambda a, i: np.rint(a / np.abs(a).max() * 127).astype(np.int8)), "masked or quantised"),
    "signs": (each(lambda a, i: a > 0), "masked or quantised"),
    "compressed": (
        each(lambda a, i: np.frombuffer(zlib.compress(a.tobytes()), np.uint8)), "expected shape .*, got",
    ),
    "the largest entries": (each(lambda a, i: np.sort(np.abs(a.ravel()))[-5:]), "expected shape .*, got"),
    "flat": (each(lambda a, i: a.ravel()), "expected shape .*, got"),
    "complex": (each(lambda a, i: a.astype(np.complex64)), "expected dtype float32, got complex64"),
    "bfloat16": (each(lambda a, i: np.zeros(a.shape, "V2")), "bfloat16 becomes: send float32 or float16"),
    "text": (each(lambda a, i: a.astype("U8")), "expected (the header of an array of numbers|at most)"),
    "not a number": (each(lambda a, i: a * np.float32("nan")), "expected finite values"),
}  # fmt: skip
FINE: dict[str, Attack] = {
    str(np.dtype(dtype)): each(lambda a, i, dtype=dtype: noisy(a, dtype)) for dtype in ("f8", "f4", "f2", ">f4")
}
WRAPS = {"FAADL": lambda own: own, "protect": protect}


def run(api: str, wrap: str, attacks: dict[int, Attack], **more: Any) -> Any:
    if wrap == "protect":
        more |= {"defended": False, "seed": 3}
    return RUNNERS[api](PLAN, nodes=NODES, attacks=attacks, wrap=WRAPS[wrap], **more)


def project_metrics(told: list[tuple[int, dict[str, Any]]]) -> dict[str, Any]:
    """A project's own, which thinks of no round without results."""
    return {"loss": sum(n * m["loss"] for n, m in told) / sum(n for n, _ in told)}


@pytest.mark.parametrize("api", RUNNERS)
@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize("what", HOPELESS)
def test_what_cannot_work_stops_in_the_first_round(what: str, wrap: str, api: str) -> None:
    attack, says = HOPELESS[what]
    more = {"fit_metrics_aggregation_fn": project_metrics} if api == "legacy" else {}
    with pytest.raises(RuntimeError, match=rf"can be judged one by one, got none .* x rejected.*{says}"):
        run(api, wrap, dict.fromkeys(range(NODES), attack), rounds=2, **more)


@pytest.mark.parametrize("api", RUNNERS)
@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize("what", FINE)
def test_noise_of_the_clients_own_is_averaged(what: str, wrap: str, api: str) -> None:
    done = run(api, wrap, dict.fromkeys(range(NODES), FINE[what]), rounds=2)
    assert [len(r.accepted) for r in done.reports] == [NODES, NODES]
    assert all(a.dtype == np.float32 for a in done.arrays)


@pytest.mark.parametrize("api", RUNNERS)
@pytest.mark.parametrize("what", ["masked, 32 bits", "compressed", "bfloat16"])
def test_of_one_client_it_costs_that_client(what: str, api: str) -> None:
    done = run(api, "FAADL", {2: HOPELESS[what][0]}, rounds=2)
    bad = done.grid.node_ids[2]
    assert all({v.node_id for v in r.nodes if not v.accepted} == {bad} for r in done.reports)


@pytest.mark.parametrize("wrap", WRAPS)
def test_a_later_round_of_nobody_divides_nothing_by_zero(wrap: str) -> None:
    turns: list[int] = []

    def breaks_down(model: Arrays, honest: Arrays) -> Arrays:
        turns.append(1)
        return honest if len(turns) <= NODES else [a * np.float32("nan") for a in honest]

    attacks = dict.fromkeys(range(NODES), breaks_down)
    done = run("legacy", wrap, attacks, rounds=3, fit_metrics_aggregation_fn=project_metrics)
    assert [len(r.accepted) for r in done.reports] == [NODES, 0, 0]
    assert "loss" in done.metrics[1] or wrap == "protect"
