"""Both strategies over Flower's real ServerApp and ClientApp: the same verdicts, and no way to break them."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, RecordDict

from flwr_faa import Ledger, Policy
from flwr_faa.detection import Everyone, Sequential
from flwr_faa.report import Outcome, RoundReport, Verdict
from flwr_faa.verification import paper
from flwr_faa.verification.paper import Paper
from flwr_faa.verification.replay import Replay
from flwr_faa.verification.wire import pack, unpack
from tests.helpers.federation import RUNNERS, closeness, edited, evidence_fault, run_legacy, run_message, sign_flip
from tests.helpers.toy import PLANS

PLAN = PLANS["mlp"]
BOTH = pytest.mark.parametrize("api", RUNNERS)


@BOTH
@pytest.mark.parametrize("name", PLANS)
def test_without_attack_the_result_is_fedavg(api: str, name: str) -> None:
    plan = PLANS[name]
    ours = RUNNERS[api](plan, verifier=Replay(plan), seed=1)
    assert all(len(r.accepted) == 6 for r in ours.reports)
    theirs = RUNNERS[api](plan, defended=False, seed=1)
    # Flower's legacy FedAvg truncates integer buffers (batch norm's counter); ours rounds.
    floats = [i for i, a in enumerate(ours.arrays) if a.dtype.kind == "f"]
    assert closeness([ours.arrays[i] for i in floats], [theirs.arrays[i] for i in floats]) < 1e-6


def test_both_apis_give_the_same_verdicts_and_weights() -> None:
    runs = [
        run(PLAN, attacks={1: sign_flip, 4: sign_flip}, verifier=Replay(PLAN), seed=5, rounds=3)
        for run in (run_legacy, run_message)
    ]
    for a, b in zip(runs[0].reports, runs[1].reports, strict=True):
        assert a.nodes == b.nodes
    assert all(x.tobytes() == y.tobytes() for x, y in zip(runs[0].arrays, runs[1].arrays, strict=True))
    grid = runs[0].grid
    assert {v.node_id for v in runs[0].reports[0].convicted} == {grid.node_ids[1], grid.node_ids[4]}


@BOTH
def test_convicted_nodes_are_out_for_good_and_minima_do_not_wait_for_them(api: str, tmp_path: Any) -> None:
    run = RUNNERS[api](PLAN, attacks={0: sign_flip}, verifier=Replay(PLAN), seed=2, rounds=3, ledger=Ledger(tmp_path))
    attacker = run.grid.node_ids[0]
    assert [v.node_id for v in run.reports[0].convicted] == [attacker]
    assert all(attacker not in {v.node_id for v in r.nodes} for r in run.reports[1:])
    again = RUNNERS[api](PLAN, attacks={0: sign_flip}, verifier=Replay(PLAN), seed=2, rounds=1, ledger=Ledger(tmp_path))
    assert attacker not in {v.node_id for v in again.reports[0].nodes}


@BOTH
def test_detection_only_removes_suspects_and_bans_nobody(api: str) -> None:
    run = RUNNERS[api](PLAN, nodes=10, attacks={3: sign_flip}, seed=2)
    assert run.grid.node_ids[3] in {v.node_id for v in run.reports[0].having(Outcome.REMOVED)}
    assert all(len(r.nodes) == 10 and not any(v.banned for v in r.nodes) for r in run.reports)


# --- replies that no honest client sends -------------------------------------------------------------------------


def edit_message(change: Callable[[RecordDict], None]) -> Callable[[Message], Message]:
    def fault(message: Message) -> Message:
        if message.metadata.message_type == "train":
            change(message.content)
        return message

    return fault


def edit_arrays(change: Callable[[list[np.ndarray]], list[np.ndarray]]) -> Callable[[RecordDict], None]:
    def edit(content: RecordDict) -> None:
        name, record = next(iter(content.array_records.items()))
        arrays = change([a.numpy() for a in record.values()])
        names = [*record, *(f"more.{i}" for i in range(len(arrays) - len(record)))][: len(arrays)]
        content[name] = ArrayRecord({n: Array(a) for n, a in zip(names, arrays, strict=True)})

    return edit


def edit_raw(change: Callable[[Array], None]) -> Callable[[RecordDict], None]:
    def edit(content: RecordDict) -> None:
        change(next(iter(next(iter(content.array_records.values())).values())))

    return edit


def set_raw(data: bytes) -> Callable[[RecordDict], None]:
    def change(array: Array) -> None:
        array.data = data

    return edit_raw(change)


def first(array: np.ndarray) -> Callable[[list[np.ndarray]], list[np.ndarray]]:
    return lambda arrays: [array, *arrays[1:]]


def examples(value: Any) -> Callable[[RecordDict], None]:
    def edit(content: RecordDict) -> None:
        for record in content.metric_records.values():
            for key in record:
                record[key] = value

    return edit


HUGE_HEADER = b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999, 99999), }"
HUGE_HEADER += b" " * (118 - len(HUGE_HEADER) + 9) + b"\n"

HOSTILE = {
    "nan": edit_arrays(lambda arrays: [np.full_like(a, np.nan) for a in arrays]),
    "1e30": edit_arrays(lambda arrays: [np.full_like(a, 1e30) for a in arrays]),
    "wrong shape": edit_arrays(first(np.zeros((3, 3), np.float32))),
    "wrong dtype": edit_arrays(first(np.zeros((16, 64), np.complex64))),
    "text": edit_arrays(first(np.array([["x"] * 64] * 16))),
    "ten times too many arrays": edit_arrays(lambda arrays: arrays * 10),
    "no arrays": edit_arrays(lambda arrays: []),
    "200 MB": edit_arrays(first(np.zeros((50_000, 1_000), np.float32))),
    "garbage": set_raw(b"garbage"),
    "empty": set_raw(b""),
    "a header that promises 40 TB": set_raw(HUGE_HEADER),
    "a pickle": set_raw(b"\x80\x04\x95\x00"),
    "examples -850": examples(-850),
    "examples 1e18": examples(10**18),
    "examples NaN": examples(float("nan")),
    "examples 0": examples(0),
    "nothing": lambda content: [content.pop(k) for k in list(content)] and None,
}


@BOTH
@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_reply_costs_its_sender_the_round_and_nobody_else(api: str, what: str) -> None:
    run = RUNNERS[api](PLAN, faults={2: edit_message(HOSTILE[what])}, verifier=Replay(PLAN), seed=1)
    bad = run.grid.node_ids[2]
    assert len(run.reports) == 2
    for report in run.reports:
        assert len(report.accepted) == 5
        (rejected,) = report.having(Outcome.REJECTED)
        assert rejected.node_id == bad
        assert f"node {bad}" in rejected.reason
        assert not report.convicted
    assert all(np.isfinite(a).all() for a in run.arrays)


@BOTH
@pytest.mark.parametrize("lost", [True, False])
def test_a_node_that_does_not_answer_the_training_is_on_record(api: str, lost: bool) -> None:
    def fault(message: Message) -> Message | None:
        if message.metadata.message_type == "train":
            if lost:
                return None
            raise_error(message)
        return message

    run = RUNNERS[api](PLAN, faults={2: fault}, verifier=Replay(PLAN), seed=1)
    for report in run.reports:
        (rejected,) = report.having(Outcome.REJECTED)
        assert rejected.node_id == run.grid.node_ids[2]
        assert not rejected.banned
        assert len(report.accepted) == 5


def raise_error(message: Message) -> None:
    for name in list(message.content):
        del message.content[name]


def no_content(message: Message) -> Message:
    raise_error(message)
    return message


def off_curve(evidence: bytes) -> bytes:
    """The last point of the ciphertexts with another y."""
    fields = unpack(evidence, paper.EVIDENCE, {"clear": np.ndarray, "encrypted": bytes, "labels": np.ndarray})
    return pack(
        paper.EVIDENCE, {**fields, "encrypted": fields["encrypted"][:-1] + bytes([fields["encrypted"][-1] ^ 1])}
    )


BAD_EVIDENCE = {
    "silent": lambda message: None,
    "empty": no_content,
    "truncated": edited(lambda evidence: evidence[:-1]),
    "garbage": edited(lambda evidence: np.random.default_rng(0).bytes(5000)),
    "off the curve": edited(off_curve),
    "200 MB": edited(lambda evidence: evidence + bytes(200_000_000)),
}


@BOTH
@pytest.mark.parametrize("what", BAD_EVIDENCE)
def test_no_valid_evidence_is_a_strike_and_after_some_a_ban(api: str, what: str) -> None:
    run = RUNNERS[api](
        PLAN,
        rounds=3,
        faults={2: evidence_fault(BAD_EVIDENCE[what])},
        verifier=Paper(PLAN, (1, 8, 8), max_value=16),
        detector=Everyone(),
        policy=Policy(max_strikes=2),
    )
    bad = run.grid.node_ids[2]
    assert [[v.node_id for v in r.having(Outcome.MISSING)] for r in run.reports] == [[bad], [bad], []]
    assert [v.banned for r in run.reports for v in r.having(Outcome.MISSING)] == [False, True]
    assert not any(r.convicted for r in run.reports)


@BOTH
def test_hostile_metrics_do_not_reach_the_average(api: str) -> None:
    spoiled = []

    def fault(message: Message) -> Message:
        if message.metadata.message_type in ("train", "evaluate"):
            for record in message.content.metric_records.values():
                for name in {"accuracy", "loss"} & set(record):
                    record[name] = float("nan")
                    spoiled.append(name)
                record["more"] = [1.0, 2.0]
        return message

    run = RUNNERS[api](PLAN, faults={2: fault}, verifier=Replay(PLAN), seed=1)
    assert len(run.evaluated) == 2
    assert len(spoiled) >= 2
    of_others = [m["accuracy"] if api == "message" else m[0] for m in run.evaluated]  # the legacy API has losses
    assert of_others == pytest.approx([0.5, 0.5])
    assert all(m["faa-accepted"] == 6 for m in run.metrics.values())


@BOTH
def test_all_banned_is_no_endless_wait(api: str) -> None:
    run = RUNNERS[api](PLAN, nodes=3, attacks=dict.fromkeys(range(3), sign_flip), verifier=Replay(PLAN), rounds=2,
                       detector=Sequential(audits=3))  # fmt: skip
    assert len(run.reports[0].convicted) == 3
    assert all(np.array_equal(a, b) for a, b in zip(run.arrays, PLAN.initial_arrays(0), strict=True))


def test_who_is_not_banned_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three nodes that took part one is banned; the other two are away for a while, and it is there."""
    from flwr_faa import defence

    verdicts = tuple(
        Verdict(n, Outcome.CONVICTED if n == 1 else Outcome.TRUSTED, n > 1, banned=n == 1) for n in (1, 2, 3)
    )
    own = defence.Defence(None, None, Policy(), None, 1.0, None)
    connected, slept = iter([{1}, set(), {1, 3}]), []
    monkeypatch.setattr(defence.time, "sleep", slept.append)
    assert own.present(lambda: {1}) == {1}  # nobody known yet to wait for
    own.reports.append(RoundReport(1, verdicts))
    own.ledger.record(own.reports[0])
    assert own.present(lambda: next(connected)) == {1, 3}
    assert slept == [1, 1]


@BOTH
def test_a_ban_lifted_while_waiting_holds_no_more(api: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    from flwr.server.client_proxy import ClientProxy

    from flwr_faa import FAADL, defence, legacy

    strategy: Any = FAADL() if api == "message" else legacy.FAADL()
    own = strategy.defence
    away, banned = Verdict(2, Outcome.TRUSTED, True), Verdict(1, Outcome.CONVICTED, False, banned=True)
    own.reports.append(RoundReport(1, (banned, away)))
    own.ledger.record(own.reports[0])
    monkeypatch.setattr(defence.time, "sleep", lambda seconds: own.ledger.lift(1))
    proxy: Any = type("Proxy", (ClientProxy,), dict.fromkeys(ClientProxy.__abstractmethods__))
    there = SimpleNamespace(get_node_ids=lambda: [1], all=lambda: {"1": proxy("1")})
    minimum = "min_train_nodes" if api == "message" else "min_fit_clients"
    with strategy._faa.without_banned(strategy, there, minimum) as view:
        assert view is not None
        assert list(view.get_node_ids() if api == "message" else map(int, view.all())) == [1]


def test_replay_refuses_a_deployment() -> None:
    from flwr_faa.defence import Defence

    class HttpGrid:
        pass

    defence = Defence(None, Replay(PLAN), Policy(), None, 1.0, None)
    with pytest.raises(RuntimeError, match="refuses to run in a deployment"):
        defence.check_grid(HttpGrid())


def test_importing_the_package_is_cheap() -> None:
    code = "import flwr_faa, sys; print(*[m for m in ('torch', 'pyod', 'sklearn', 'flwr', 'ray') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""


def test_a_device_needs_neither_pyod_nor_ray() -> None:
    code = (
        "import flwr_faa.client, flwr_faa.verification.replay, sys;"
        "print(*[m for m in ('torch', 'pyod', 'sklearn', 'ray', 'torchvision', 'flwr_datasets') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""


def test_summary_reads_like_flowers(caplog: pytest.LogCaptureFixture) -> None:
    from flwr_faa import FAADL

    caplog.set_level("INFO", "flwr")
    FAADL(fraction_train=0.5, verifier=Replay(PLAN)).summary()
    for words in ("Detector: Sequential(", "Verifier: replay", "weighting: capped", "Sampling:", "train (0.50)"):
        assert words in caplog.text
