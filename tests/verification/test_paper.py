"""The paper's Algorithm 1 with real encryption: honest clients pass with margin, nothing else does."""

import contextlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from flwr_faa.authority import AuthorityUnavailable, LocalAuthority
from flwr_faa.crypto import aont, ipfe
from flwr_faa.report import DataDisclosure
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


FEW = slice_of(0, 3)


def few(plan=PLANS["logistic"], data=FEW, max_value: int = 16) -> tuple[Paper, Case]:
    """A verifier, and the honest update of a node that holds three samples."""
    start = plan.initial_arrays(0)
    authority = LocalAuthority("arkworks")
    verifier = Paper(plan, SHAPE, authority=authority, max_value=max_value)
    return verifier, Case(1, 7, NONCE, start, plan.train(start, data, NONCE), len(data[1]))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda f: {"labels": f["labels"].astype(np.int32)}, r"got int32 \(3,\), int32"),
        (lambda f: {"labels": f["labels"].astype(float)}, r"got float64 \(3,\), int32"),
        (lambda f: {"clear": f["clear"].astype(np.int16)}, r"got int64 \(3,\), int16"),
        (lambda f: {"labels": f["labels"][:, None]}, r"got int64 \(3, 1\), int32"),
        (lambda f: {"labels": f["labels"][:0]}, r"got int64 \(0,\), int32"),
        (lambda f: {"clear": f["clear"].astype(np.int64)}, r"got int64 \(3,\), int64"),
        (lambda f: {"clear": f["clear"][:2]}, r"rows of shape \(m, 7, 8\), got \(2, 7, 8\) with 3 labels"),
        (lambda f: {"clear": f["clear"][:, :6]}, r"rows of shape \(m, 7, 8\), got \(3, 6, 8\) with 3 labels"),
        (lambda f: {"clear": f["clear"][:, :, :7]}, r"rows of shape \(m, 7, 8\), got \(3, 7, 7\) with 3 labels"),
        (lambda f: {"clear": f["clear"].reshape(3, -1)}, r"rows of shape \(m, 7, 8\), got \(3, 56\)"),
        (lambda f: {"labels": f["labels"][:2], "clear": f["clear"][:2]}, "expected 2 ciphertexts of width 8, got"),
        (lambda f: {"encrypted": f["encrypted"][:-1]}, r"expected \d+ bytes, got"),
        (lambda f: {"encrypted": b""}, "expected at least 11 bytes, got 0"),
    ],
)
def test_evidence_of_another_form_is_none(change, says: str) -> None:
    verifier, case = few()
    evidence = paper.answer(FEW, verifier.challenge(case))
    fields = unpack(evidence, paper.EVIDENCE, {"clear": np.ndarray, "encrypted": bytes, "labels": np.ndarray})
    with pytest.raises(WireError, match=says):
        verifier.judge(case, pack(paper.EVIDENCE, {**fields, **change(fields)}))
    assert verifier.disclosure(case.node_id) is None  # nothing was opened


@pytest.mark.parametrize(("width", "count"), [(7, 3), (9, 3), (8, 2), (8, 4)])
def test_ciphertexts_of_another_number_or_width_are_no_evidence(width: int, count: int) -> None:
    verifier, case = few()
    evidence = paper.answer(FEW, verifier.challenge(case))
    fields = unpack(evidence, paper.EVIDENCE, {"clear": np.ndarray, "encrypted": bytes, "labels": np.ndarray})
    public, _ = ipfe.setup(verifier.authority.group, width)
    fields["encrypted"] = ipfe.ciphertexts_to_bytes(ipfe.encrypt_rows(public, np.zeros((count, width), int)))
    with pytest.raises(WireError, match="expected 3 ciphertexts of width 8, got others"):
        verifier.judge(case, pack(paper.EVIDENCE, fields))


@pytest.mark.parametrize(
    ("values", "says"), [((0, 16), None), ((16, 16), None), ((0, 17), "got 0 to 17"), ((-1, 16), "got -1 to 16")]
)
def test_samples_are_integers_from_zero_to_the_largest(values: tuple[int, int], says: str | None) -> None:
    samples = np.full((2, *SHAPE), 16)
    samples[1, 0, 0] = 0  # or 17 would not pass as the transform of such samples
    samples[1, 0, 3, 4:6] = values
    data = samples, FEW[1][:2]
    verifier, case = few(data=data)
    finding = verifier.judge(case, paper.answer(data, verifier.challenge(case)))
    if says is None:
        assert not finding.convicted
    else:
        assert finding.convicted and np.isnan(finding.error) and finding.threshold == verifier.tau
        expected = f"encrypted rows do not decrypt to samples: expected values from 0 to 16, {says}"
        assert finding.reason == expected


@pytest.mark.parametrize("count", [1, 300])
def test_a_node_may_have_one_sample_or_hundreds(count: int) -> None:
    data = slice_of(0, count)
    verifier, case = few(data=data)
    finding = verifier.judge(case, paper.answer(data, verifier.challenge(case)))
    assert not finding.convicted
    # The first layer is replayed from integers, as it was decrypted, so it rounds otherwise than the client's.
    assert finding == replay.judge_data(verifier.plan, verifier.tau, case, data, encrypted=True)
    assert replay.judge_data(verifier.plan, verifier.tau, case, data).error == 0
    assert finding.error < 1e-5 and (count == 1 or finding.error > 0)


def test_the_settings_of_the_paper_s_verifier() -> None:
    plain = Paper(PLANS["logistic"], SHAPE)
    assert (plain.tau, plain.max_value, plain.name, plain.simulation_only) == (0.05, 255, "paper", False)
    assert plain.affordable(7) == float("inf")
    assert Paper(PLANS["logistic"], [1, 8, 8], max_value=1, tau=1e-9).sample_shape == SHAPE
    with pytest.raises(ValueError, match="expected max_value to be an integer of at least 1, got 0"):
        Paper(PLANS["logistic"], SHAPE, max_value=0)
    with pytest.raises(ValueError, match="expected tau to be a finite number above 0, got 0"):
        Paper(PLANS["logistic"], SHAPE, tau=0)
    with pytest.raises(TypeError, match="expected plan to be a TrainingPlan"):
        Paper(PLANS["logistic"].model, SHAPE)
    with pytest.raises(TypeError, match="expected authority with public_key"):
        Paper(PLANS["logistic"], SHAPE, authority="https://there")


def test_it_remembers_the_most_that_a_node_has_shown() -> None:
    verifier, _ = few()
    assert verifier.disclosure(7) is None
    for count, shown in ((2, 2), (3, 3), (1, 3)):
        _, case = few(data=slice_of(0, count))
        assert not verifier.judge(case, paper.answer(slice_of(0, count), verifier.challenge(case))).convicted
        told = {"samples": shown, "samples_opened": shown, "max_rank": 64, "dimension": 64, "budget": 64}
        assert verifier.disclosure(7) == DataDisclosure(7, "", **told, remaining=0, enrolments=0, keys_issued=8)
    assert verifier.disclosure(8) is None
    twin = replace(verifier)
    assert twin == verifier and twin.disclosure(7) is None and "_shown" not in repr(verifier)


def test_a_client_refuses_rows_that_its_samples_do_not_have() -> None:
    verifier, case = few()
    asked = unpack(verifier.challenge(case), paper.REQUEST, {"group": str, "public_key": bytes, "rows": int})
    assert asked["rows"] == 8 and asked["group"] == "arkworks"
    for rows in (7, 9, 0):
        with pytest.raises(WireError):
            paper.answer(FEW, pack(paper.REQUEST, {**asked, "rows": rows}))


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
