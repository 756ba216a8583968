"""A server that starts again in mid-run forgets nothing, and no log line tells data or keys."""

import base64
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flwr_faa import Ledger, Policy, SpotCheck
from flwr_faa.authority.core import KeyAuthority
from flwr_faa.authority.store import Store
from flwr_faa.detection import Everyone
from flwr_faa.verification.spotcheck.device import Device
from tests.helpers.federation import RUNNERS, sign_flip
from tests.helpers.toy import FINE, NARROW, seen_by, slice_of

PLAN, NODES = NARROW, 4


def silent(message: Any) -> Any:
    """A node that enrols and then answers no challenge."""
    raw = b"".join(bytes(a.data) for r in message.content.array_records.values() for a in r.values())
    return None if b"spotcheck/answer" in raw else message


def test_a_server_restarted_between_rounds_forgets_nothing_and_its_log_tells_no_secret(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level("DEBUG")
    caplog.set_level("DEBUG", logger="flwr")
    monkeypatch.setattr(logging.getLogger("flwr"), "propagate", True)  # Flower's logger keeps to itself
    first = Store(tmp_path / "authority.db")
    KeyAuthority.create(first, "arkworks", 1.0)
    first.close()
    device = Device(tmp_path / "device", 1.0, progress=lambda done, total: None)
    known: list[dict[int, int]] = []
    for start in range(2):  # each a server, a ledger and an authority of its own, opened from disk
        store = Store(tmp_path / "authority.db")
        authority, ledger = KeyAuthority(store, simulation=True), Ledger(tmp_path / "ledger")
        run = RUNNERS["message"](
            PLAN, nodes=NODES, rounds=1, attacks={1: sign_flip}, faults={2: silent}, seed=3 + start, device=device,
            verifier=SpotCheck(PLAN, authority=authority, steps=1, max_value=FINE), detector=Everyone(), ledger=ledger,
            policy=Policy(max_strikes=2), verify_timeout=0.5,
        )  # fmt: skip
        attacker, mute = run.grid.node_ids[1], run.grid.node_ids[2]
        known.append({n: authority.disclosure(n).max_rank for n in run.grid.node_ids if n not in (attacker, mute)})
        if start == 0:
            assert ledger.bans.keys() == {attacker} and ledger.strikes == {mute: 1}
        else:
            assert attacker not in {v.node_id for v in run.reports[0].nodes}  # banned before
            assert ledger.bans.keys() == {attacker, mute}  # the strike before counted
        ledger.close()
        store.close()
    assert all(0 < known[0][n] < known[1][n] for n in known[0])  # the count goes on where it was

    told = caplog.text + "".join(capfd.readouterr()) + (tmp_path / "ledger/rounds.jsonl").read_text()
    assert "faa round=1" in told
    secrets = [p.read_bytes() for p in (tmp_path / "device").rglob("*.key")]
    store = Store(tmp_path / "authority.db")
    secrets += [v for name in ("digest key", "signing key") if (v := store.meta(name)) is not None]
    assert len(secrets) >= 3
    for secret in secrets:
        for form in (secret.hex(), repr(secret)[2:-1], base64.b64encode(secret).decode()):
            assert form not in told
    for partition in range(NODES):
        for sample in seen_by(PLAN, slice_of(partition))[0].reshape(
            -1, 64
        ):  # eight pixels in a row, however they are printed
            for row in (sample[16:24], sample[32:40]):
                if np.count_nonzero(row) >= 4:
                    values = [str(v) for v in row]
                    assert ", ".join(values) not in told and " ".join(values) not in told
