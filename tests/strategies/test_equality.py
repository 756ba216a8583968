"""With nobody attacking, a defended strategy is the strategy: random models, five rounds, both APIs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flwr.server.strategy as legacy_strategies
import flwr.serverapp.strategy as message_strategies
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from flwr_faa import FAADL, Policy, legacy, protect
from flwr_faa.detection.base import Detection
from flwr_faa.replies.updates import Batch
from flwr_faa.verification.base import Case, Finding
from tests.helpers.models import Model, models, trained
from tests.helpers.rounds import IDS, legacy_rounds, message_rounds

RUN = {"message": message_rounds, "legacy": legacy_rounds}


class Nobody:
    """Suspects nobody."""

    def detect(self, batch: Batch, seed: int) -> Detection:
        return Detection(np.zeros(len(batch)), 0.0, (), ("",) * len(batch))

    def more(self, batch: Batch, detection: Detection, judged: Mapping[int, bool]) -> tuple[int, ...]:
        return ()


class Lenient:
    """Asks nobody, since nobody is suspected; its presence is what is tested."""

    name, simulation_only, notes = "lenient", False, ()

    def challenge(self, case: Case) -> bytes:
        raise AssertionError("nobody is suspected")

    def judge(self, case: Case, evidence: bytes) -> Finding:
        raise AssertionError("nobody was asked")


def client(model: Model, node: int) -> tuple[Model, dict[str, Any]]:
    return trained(model, node), {"num-examples": 10 + node % 5, "loss": 0.5 + node % 3, "train_loss": 0.5}


def close(ours: list[Model], theirs: list[Model], start: Model) -> None:
    """Floats are the strategy's; counters and masks, of which plain strategies lose bits, are counted by hand."""
    for turn, (mine, other) in enumerate(zip(ours, theirs, strict=True), start=1):
        assert mine.keys() == start.keys()
        assert mine.get("norm.num_batches_tracked", 3 * turn) == 3 * turn
        for name, w in start.items():
            assert mine[name].dtype == w.dtype and mine[name].shape == w.shape
            if w.dtype.kind != "f":
                continue
            expected = np.asarray(other[name], np.float64)
            # Relative to what was averaged: Flower's legacy API adds up in float32, and optimisers keep float64.
            size = float(np.abs(w[np.isfinite(w)]).max(initial=0.0)) or 1.0
            scale = max(size, float(np.abs(expected[np.isfinite(expected)]).max(initial=0.0)))
            # Flower adds up float16 in float16; the least numbers of all have but a few bits.
            dtype = np.finfo(w.dtype)
            rounding = max(2e-6, 16 * float(dtype.eps))
            nothing = rounding * scale + 4 * float(dtype.smallest_subnormal)
            np.testing.assert_allclose(mine[name], expected, rtol=max(1e-5, rounding), atol=nothing)


def unchanged(ours: list[Model], start: Model) -> None:
    if "mask" in start:
        assert ours[-1]["mask"].tobytes() == start["mask"].tobytes()


@pytest.mark.parametrize("api", RUN)
@settings(max_examples=8, phases=(Phase.generate,))
@given(models(extreme=True))
def test_faadl_with_a_verifier_is_fedavg(api: str, start: Model) -> None:
    cls, plain = (FAADL, message_strategies.FedAvg) if api == "message" else (legacy.FAADL, legacy_strategies.FedAvg)
    ours = RUN[api](cls(detector=Nobody(), verifier=Lenient(), policy=Policy(weighting="reported")), start, client)
    mine, theirs = dict(start), []
    for _ in range(5):
        (step,) = RUN[api](plain(), mine, client, rounds=1)
        theirs.append(step)
        mine = {name: step[name].astype(w.dtype) if w.dtype.kind == "f" else w for name, w in start.items()}
    close(ours, theirs, start)
    unchanged(ours, start)


AVERAGING: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "message": [
        ("FedAvg", {}), ("FedProx", {"proximal_mu": 0.1}), ("FedMedian", {}), ("FedTrimmedAvg", {}), ("FedAvgM", {}),
        ("FedAdam", {}), ("FedAdagrad", {}), ("FedYogi", {}), ("Krum", {"num_malicious_nodes": 1}),
        ("MultiKrum", {"num_malicious_nodes": 1, "num_nodes_to_select": 3}), ("Bulyan", {"num_malicious_nodes": 0}),
        ("QFedAvg", {"client_learning_rate": 0.1}),
    ],
    "legacy": [
        ("FedAvg", {}), ("FedProx", {"proximal_mu": 0.1}), ("FedMedian", {}), ("FedTrimmedAvg", {}), ("FedAvgM", {}),
        ("FedAdam", {}), ("FedAdagrad", {}), ("FedYogi", {}), ("Krum", {"num_malicious_clients": 1}),
        ("FaultTolerantFedAvg", {}), ("DPFedAvgFixed", {}),
    ],
}  # fmt: skip


def made(api: str, name: str, more: dict[str, Any], start: Model) -> Any:
    from flwr.common import ndarrays_to_parameters

    if api == "message":
        return getattr(message_strategies, name)(**more)
    optimises = name in ("FedAvgM", "FedAdam", "FedAdagrad", "FedYogi")
    initial = {"initial_parameters": ndarrays_to_parameters(list(start.values()))} if optimises else {}
    return getattr(legacy_strategies, name)(**more, **initial)


CASES = [(api, name, more) for api, found in AVERAGING.items() for name, more in found if name != "DPFedAvgFixed"]


@pytest.mark.parametrize(("api", "name", "more"), CASES, ids=[f"{api}-{name}" for api, name, _ in CASES])
@settings(max_examples=3, phases=(Phase.generate,))
@given(start=models(), seed=st.integers(0, 10))
def test_a_protected_strategy_is_the_strategy(
    api: str, name: str, more: dict[str, Any], start: Model, seed: int
) -> None:
    if name in ("Krum", "MultiKrum", "Bulyan"):  # beside -1e9 or 2^64 Flower's distances in float32 are rounding alone
        start = {k: a for k, a in start.items() if k != "mask"}
    sent: dict[tuple[int, int], Model] = {}
    turn = dict.fromkeys(IDS, 0)

    def honest(model: Model, node: int) -> tuple[Model, dict[str, Any]]:
        turn[node] += 1
        sent[node, turn[node]] = trained({k: model[k].astype(w.dtype) for k, w in start.items()}, 100 * seed + node)
        return sent[node, turn[node]], client(model, node)[1]

    def the_same(model: Model, node: int) -> tuple[Model, dict[str, Any]]:
        turn[node] += 1
        return sent[node, turn[node]], client(model, node)[1]

    wrapped = protect(made(api, name, more, start), detector=Nobody(), policy=Policy(weighting="reported"))
    try:
        ours, problem = RUN[api](wrapped, start, honest), None
    except Exception as error:  # noqa: BLE001 - whatever it is, the strategy alone must raise it too
        ours, problem = [], error
    turn = dict.fromkeys(IDS, 0)
    if problem is not None:  # Flower's own faults stay Flower's
        sent_then = client
        with pytest.raises(type(problem)) as plain:
            RUN[api](made(api, name, more, start), start, sent_then)
        assert str(plain.value) == str(problem)
        return
    theirs = RUN[api](made(api, name, more, start), start, the_same)
    # Where steps are divided by their own size, float32 between the rounds soon is another run of a tiny weight.
    rounds = 1 if name in ("FedAdam", "FedAdagrad", "FedYogi") else 5
    close(ours[:rounds], theirs[:rounds], start)
    if start.get("mask", np.zeros(0)).dtype.kind != "f":  # a float the strategy itself may move by a rounding
        unchanged(ours, start)


PLAIN: dict[str, Any] = {"detector": Nobody(), "policy": Policy(weighting="reported")}
FEDAVG: dict[str, Any] = {"message": message_strategies.FedAvg, "legacy": legacy_strategies.FedAvg}
#: What guards FedAvg, by API. Without a verifier, since an empty first model gives nothing to replay from.
GUARDED: dict[str, list[Any]] = {
    "message": [lambda: FAADL(**PLAIN), lambda: protect(message_strategies.FedAvg(), **PLAIN)],
    "legacy": [lambda: legacy.FAADL(**PLAIN), lambda: protect(legacy_strategies.FedAvg(), **PLAIN)],
}


@pytest.mark.parametrize("which", [0, 1])
@settings(max_examples=8, phases=(Phase.generate,))
@given(start=models(), personal=st.sampled_from(["first", "last", "all but one"]))
def test_layers_that_stay_with_the_clients(which: int, start: Model, personal: str) -> None:
    names = [*start, "head"]
    own = {"first": names[:1], "last": names[-1:], "all but one": names[1:]}[personal]
    whole: Model = {**start, "head": np.ones(2, np.float32)}

    def partly(model: Model, node: int) -> tuple[Model, dict[str, Any]]:
        """Where plain FedAvg has dropped what nobody sends, its clients have their own."""
        moved, metrics = client({k: model.get(k, w) for k, w in whole.items()}, node)
        return {k: a for k, a in moved.items() if k not in own}, metrics

    ours = message_rounds(GUARDED["message"][which](), whole, partly)
    theirs = message_rounds(message_strategies.FedAvg(), whole, partly)
    for model, k in ((m, k) for m in ours for k in own):
        if which == 0:
            assert model[k].tobytes() == whole[k].tobytes()
        else:  # a rule of the project's own averages them too, with its own roundings
            f2 = np.finfo("f2")
            np.testing.assert_allclose(
                model[k].astype(float), whole[k], rtol=5 * f2.eps, atol=5 * f2.smallest_subnormal
            )
    shared = {k: w for k, w in whole.items() if k not in own}
    close([{k: m[k] for k in shared} for m in ours], theirs, shared)


@pytest.mark.parametrize("which", [0, 1])
@settings(max_examples=8, phases=(Phase.generate,))
@given(start=models())
def test_the_clients_first_models_start_the_run(which: int, start: Model) -> None:
    def first(model: Model, node: int) -> tuple[Model, dict[str, Any]]:
        return client(model or start, node)

    ours = message_rounds(GUARDED["message"][which](), {}, first)
    theirs = message_rounds(message_strategies.FedAvg(), {}, first)
    close(ours, theirs, start)


@pytest.mark.parametrize("api", RUN)
@pytest.mark.parametrize("which", [0, 1])
@settings(max_examples=8, phases=(Phase.generate,))
@given(start=models(), wire=st.sampled_from(["f8", ">f4", "f4"]))
def test_other_floats_on_the_wire(api: str, which: int, start: Model, wire: str) -> None:
    def sends(model: Model, node: int) -> tuple[Model, dict[str, Any]]:
        moved, metrics = client({k: model[k].astype(w.dtype) for k, w in start.items()}, node)
        return {k: a.astype(wire) if a.dtype.kind == "f" else a for k, a in moved.items()}, metrics

    ours, theirs = (RUN[api](strategy, start, sends, 1) for strategy in (GUARDED[api][which](), FEDAVG[api]()))
    close(ours, theirs, start)
