"""The paper's Algorithm 1 with real encryption: honest clients pass with margin, nothing else does."""

import contextlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from flwr_faa.authority import AuthorityUnavailable, LocalAuthority
from flwr_faa.crypto import aont, ipfe
from flwr_faa.verification import paper, replay
from flwr_faa.verification.base import Case, Exhausted
from flwr_faa.verification.paper import Paper
from flwr_faa.verification.replay import Replay
from flwr_faa.verification.wire import WireError, pack, unpack
from tests.helpers.toy import PLANS, slice_of

SHAPE = (1, 8, 8)
NONCE = 23


def backends() -> list[str]:
    try:
        LocalAuthority("charm")
    except ImportError:
        return ["arkworks"]
    return ["charm", "arkworks"]


def case_of(plan, claimed=None, partition=0) -> Case:
    start = plan.initial_arrays(0)
    honest = plan.train(start, slice_of(partition), NONCE)
    return Case(1, 7, NONCE, start, claimed(honest) if claimed else honest, len(slice_of(partition)[1]))


@pytest.mark.parametrize("back_end", backends())
@pytest.mark.parametrize("name", PLANS)
def test_honest_clients_pass_with_margin(name: str, back_end: str) -> None:
    plan = PLANS[name]
    verifier = Paper(plan, SHAPE, authority=LocalAuthority(back_end), max_value=16)
    case = case_of(plan)
    finding = verifier.judge(case, paper.answer(slice_of(0), verifier.challenge(case)))
    assert not finding.convicted
    assert finding.error < 1e-3 * verifier.tau / 0.05, finding


@pytest.mark.parametrize("name", PLANS)
def test_verdicts_equal_those_of_plain_replay(name: str) -> None:
    plan = PLANS[name]
    verifier, plain = Paper(plan, SHAPE, max_value=16), Replay(plan)
    rng = np.random.default_rng(0)
    claims = {
        "honest": lambda arrays: arrays,
        "sign flip": lambda arrays: [-a for a in arrays],
        "noise": lambda arrays: [a + rng.normal(0, 0.1, a.shape).astype(a.dtype) for a in arrays],
        "slight noise": lambda arrays: [a + rng.normal(0, 1e-7, a.shape).astype(a.dtype) for a in arrays],
        "no training": lambda arrays: plan.initial_arrays(0),
    }
    for what, claimed in claims.items():
        case = case_of(plan, claimed)
        ours = verifier.judge(case, paper.answer(slice_of(0), verifier.challenge(case)))
        theirs = plain.judge(case, replay.answer(slice_of(0), plain.challenge(case)))
        assert ours.convicted == theirs.convicted == (what not in ("honest", "slight noise")), (what, ours, theirs)
        assert ours.error == pytest.approx(theirs.error, abs=1e-3) or ours.error == theirs.error


def tampered(change) -> bytes:
    """An honest answer with its parts changed."""
    plan = PLANS["mlp"]
    verifier = Paper(plan, SHAPE, max_value=16)
    case = case_of(plan)
    evidence = paper.answer(slice_of(0), verifier.challenge(case))
    fields = unpack(evidence, paper.EVIDENCE, {"clear": np.ndarray, "encrypted": bytes, "labels": np.ndarray})
    fields = change(fields, verifier, case) or fields
    return verifier.judge(case, pack(paper.EVIDENCE, fields))


def test_other_ciphertexts_convict() -> None:
    def other_key(fields, verifier, case):
        samples = aont.transform(slice_of(0)[0].reshape(-1, 8, 8).astype(np.int64))
        public = verifier.authority.public_key(case.node_id + 1, 8)
        fields["encrypted"] = ipfe.ciphertexts_to_bytes(ipfe.encrypt_rows(public, samples[:, -1, :]))

    def shifted(fields, verifier, case):
        group = verifier.authority.group
        rows = ipfe.ciphertexts_from_bytes(group, fields["encrypted"])
        fields["encrypted"] = ipfe.ciphertexts_to_bytes([rows[-1], *rows[:-1]])

    def beyond_range(fields, verifier, case):
        public = verifier.authority.public_key(case.node_id, 8)
        rows = np.full((len(fields["labels"]), 8), 10**6)
        fields["encrypted"] = ipfe.ciphertexts_to_bytes(ipfe.encrypt_rows(public, rows))

    def other_rows(fields, verifier, case):
        fields["clear"] = fields["clear"] + 1

    def other_labels(fields, verifier, case):
        fields["labels"] = np.roll(fields["labels"], 1)

    for change in (other_key, shifted, beyond_range, other_rows, other_labels):
        finding = tampered(change)
        assert finding.convicted, change.__name__
        assert finding.reason


def test_malformed_answers_are_no_evidence() -> None:
    def flip_byte(fields, verifier, case):
        data = bytearray(fields["encrypted"])
        data[40] ^= 0xFF
        fields["encrypted"] = bytes(data)

    def truncated(fields, verifier, case):
        fields["encrypted"] = fields["encrypted"][:-3]

    def off_curve(fields, verifier, case):
        size = verifier.authority.group.point_size
        fields["encrypted"] = fields["encrypted"][:-size] + b"\x02" + b"\xff" * (size - 1)

    def wrong_width(fields, verifier, case):
        fields["clear"] = fields["clear"][:, :, :-1].copy()

    def fewer_labels(fields, verifier, case):
        fields["labels"] = fields["labels"][:-1]

    def nothing(fields, verifier, case):
        fields["clear"], fields["labels"] = fields["clear"][:0], fields["labels"][:0]

    for change in (truncated, off_curve, wrong_width, fewer_labels, nothing):
        with pytest.raises(WireError):
            tampered(change)
    with contextlib.suppress(WireError):  # a flipped byte may still be some point, which decrypts to something else
        assert tampered(flip_byte).convicted


def test_a_client_refuses_a_malformed_challenge() -> None:
    verifier = Paper(PLANS["mlp"], SHAPE, max_value=16)
    challenge = verifier.challenge(case_of(PLANS["mlp"]))
    for bad in (challenge[:-1], challenge + b"0", pack(paper.REQUEST, {"group": "x", "public_key": b"", "rows": 8})):
        with pytest.raises(WireError):
            paper.answer(slice_of(0), bad)


def test_shapes_that_cannot_be_verified_are_refused() -> None:
    class Three(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(9, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(x.flatten(1))

    with pytest.raises(ValueError, match="singular"):
        Paper(replace(PLANS["mlp"], model=Three), (1, 3, 3))

    class Centred(Three):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(x.flatten(1) - 0.5)

    with pytest.raises(ValueError, match="nothing but reshaping"):
        Paper(replace(PLANS["mlp"], model=Centred), (9,))


def test_it_says_what_it_hides() -> None:
    assert "hides nothing" in Paper(PLANS["mlp"], SHAPE).notes[0]


def test_an_authority_that_refuses_or_is_away_convicts_nobody() -> None:
    verifier = Paper(PLANS["mlp"], SHAPE, max_value=16)
    case = case_of(PLANS["mlp"])
    evidence = paper.answer(slice_of(0), verifier.challenge(case))
    verifier.authority.unregistered = False
    with pytest.raises(WireError, match="refused by the authority"):
        verifier.judge(case, evidence)

    def away(*_: object) -> None:
        raise AuthorityUnavailable("expected an authority, got none")

    verifier.authority.functional_keys = away
    with pytest.raises(Exhausted, match="no authority to ask"):
        verifier.judge(case, evidence)
    assert verifier.disclosure(case.node_id).max_rank == verifier.disclosure(case.node_id).dimension == 64
