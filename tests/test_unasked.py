"""A device gives nothing away unasked: only the protocols that the client's own code switched on, for its eyes only."""

import os
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, Message, Metadata, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from flwr_faa import Device, VerifiableClient, verifiable
from flwr_faa.authority import LocalAuthority
from flwr_faa.client import CHALLENGE, EVIDENCE, PROTOCOLS, answer, to_record
from flwr_faa.verification import paper, replay
from flwr_faa.verification.base import Case
from flwr_faa.verification.paper import Paper
from flwr_faa.verification.replay import Replay
from flwr_faa.verification.spotcheck import enrolment, messages
from flwr_faa.verification.wire import WireError, pack
from tests.helpers.toy import PLANS, slice_of
from tests.verification.spotcheck.spot import SHAPE, Node

PLAN, DATA = PLANS["logistic"], slice_of(0)
START = PLAN.initial_arrays(0)
CASE = Case(1, 7, 23, START, START, 40)
AUTHORITY = LocalAuthority("arkworks")
PINNED = Device(Path("/nonexistent"), authority=AUTHORITY.verify_key)


def requests() -> dict[str, bytes]:
    """A well-formed request of every kind that there is, by kind."""
    node = 9
    enrol = messages.Enrol("commitments", node, "arkworks", b"")
    encrypt = messages.Enrol("encryption", node, "arkworks", AUTHORITY.signed_public_key(node, 64).to_bytes())
    challenge = messages.Challenge(bytes(32), bytes(32), bytes(32), (0,), bytes(32))
    return {
        replay.REQUEST: Replay(PLAN).challenge(CASE),
        paper.REQUEST: Paper(PLAN, SHAPE, authority=AUTHORITY, max_value=16).challenge(CASE),
        messages.ENROL: enrol.to_bytes(),
        messages.ENCRYPT: encrypt.to_bytes(),
        messages.CHALLENGE: challenge.to_bytes(),
    }


def ask(api: str, request: bytes, **switches: Any) -> Any:
    """What a client with these switches answers, through that API."""
    if api == "legacy":
        return VerifiableClient(PLAN, DATA, **switches).get_properties({CHALLENGE: request})[EVIDENCE]
    content = RecordDict({CHALLENGE: to_record(CHALLENGE, request)})
    message = Message(content, metadata=Metadata(1, "1", 0, 1, "", "", 1.0, 60.0, "query.verify"))
    return verifiable(PLAN, DATA, **switches).verify(message, Context(1, 1, {}, RecordDict(), {}))


@pytest.mark.parametrize("api", ["legacy", "message"])
@pytest.mark.parametrize(
    "switches",
    [{}, {"device": Device(Path("/nonexistent"))}, {"device": PINNED}, {"plaintext": True}, {"answers": ("paper",)}],
    ids=["nothing", "device", "pinned", "plaintext", "paper"],
)
def test_a_client_answers_only_what_its_own_code_switched_on(api: str, switches: dict[str, Any]) -> None:
    on = {"paper"} & set(switches.get("answers", ()))
    on |= {"spotcheck"} if "device" in switches else set()
    on |= {"encrypted"} if switches.get("device") == PINNED else set()
    on |= {"replay"} if "plaintext" in switches else set()
    asked = requests()
    assert set(asked) == set(PROTOCOLS)
    for kind, request in asked.items():
        if PROTOCOLS[kind] not in on:
            with pytest.raises(WireError, match=f"{PROTOCOLS[kind]!r}: refused; its own code would have to switch it"):
                ask(api, request, **switches)
        elif PROTOCOLS[kind] not in ("spotcheck", "encrypted"):  # which needs an enrolment: tests/verification
            assert ask(api, request, **switches)


@given(st.text(max_size=12), st.sampled_from([(), ("paper",), ("paper", "replay", "spotcheck")]))
def test_a_request_of_no_known_kind_is_refused_whatever_is_switched_on(kind: str, answers: tuple[str, ...]) -> None:
    with pytest.raises(WireError, match=r"refused|switch"):
        answer(PLAN, DATA, pack(f"x{kind}", {}), answers=answers)


def test_the_papers_mode_never_goes_with_a_pinned_authority() -> None:
    for make in (verifiable, VerifiableClient):
        with pytest.raises(ValueError, match="expected no 'paper' where an authority is pinned"):
            make(PLAN, DATA, device=PINNED, answers=("paper",))
        for nonsense in ("paper", ("papre",), ["spotcheck", 3]):
            with pytest.raises(ValueError, match="expected answers to be protocols"):
                make(PLAN, DATA, answers=nonsense)


@pytest.mark.parametrize("device", [None, "here"])
def test_a_commitment_is_made_only_by_a_client_that_would_open_it(device: str | None, tmp_path: Path) -> None:
    own = Device(tmp_path / device) if device else None
    _, _, metrics = VerifiableClient(PLAN, DATA, device=own).fit(START, {"faa.nonce": 1, "faa.commit": True})
    assert bool(metrics) == (device is not None)


def test_nobody_else_can_read_what_a_device_keeps_nor_recognise_samples_by_their_names(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        node = Node(tmp_path / "parent" / "device", "logistic")
        node.enrol()
        assert not node.judge(node.train()).convicted
    finally:
        os.umask(before)
    modes = {p.relative_to(tmp_path): stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / "parent").rglob("*")}
    names = {p.name for p in modes}
    assert {"disclosed.sqlite", "identity.key", "enrolled", "bound.npy", "samples.npy", "meta.json"} <= names
    for path, mode in modes.items():
        assert mode == (0o700 if (tmp_path / path).is_dir() else 0o600), f"{path}: {mode:o}"
    # The same data on another device have other names: an outsider with the candidates learns nothing from them.
    other = replace(node, folder=tmp_path / "other")
    other.enrol()
    kept = [next((n.folder / "enrolments").glob("*")) for n in (node, other)]
    assert kept[0].name != kept[1].name
    found = [{row.tobytes() for row in np.load(path / "samples.npy")} for path in kept]
    assert len(found[0]) == 40 and not found[0] & found[1]


def test_a_folder_is_one_clients_alone(tmp_path: Path) -> None:
    node = Node(tmp_path, "logistic")
    node.enrol()
    node.enrolled = node.verifier.challenge(case := node.train())  # type: ignore[attr-defined]
    request = node.verifier._binding.enrolment(node.node_id + 1, 64)
    enrolment.enrol(node.device, slice_of(1), request.to_bytes())
    with pytest.raises(WireError, match="a folder each"):
        node.answer(node.enrolled)  # type: ignore[attr-defined]
    node.enrol()  # as the server asks it to, since the challenge is open: and then it is this client's folder again
    assert not node.judge(case).convicted


def test_counts_of_another_release_are_refused_not_forgotten(tmp_path: Path) -> None:
    import sqlite3

    node = Node(tmp_path, "logistic")
    node.enrol()
    db = sqlite3.connect(tmp_path / "disclosed.sqlite")
    db.execute("CREATE TABLE disclosed (sample BLOB PRIMARY KEY, known INTEGER NOT NULL)")
    db.commit()
    db.close()
    with pytest.raises(WireError, match=r"disclosed\.sqlite: expected version"):
        node.judge(node.train())
