"""The messages of the spot check: what is honest is read back, and each field is refused just beyond its bounds."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, fields, replace
from typing import Any

import numpy as np
import pytest

from flwr_faa.authority.registration import Registration
from flwr_faa.verification.spotcheck import messages
from flwr_faa.verification.spotcheck.messages import Answer, Challenge, Commitment, Enrol, Enrolled
from flwr_faa.verification.wire import WireError, kind_of, pack, unpack

HASH, SEED = bytes(range(32)), bytes([7]) * 32
CHALLENGE = Challenge(HASH, bytes([1]) * 32, bytes([2]) * 32, (0, 3, 4), SEED, b"receipt")
MOVES = np.array([[0.0, 1.5], [2.0, 3.0], [4.0, 0.25]], np.float32)
COMMITMENT = Commitment(HASH, SEED, MOVES)


# Requests to enrol


@pytest.mark.parametrize("node_id", [0, 1, 2**32, 2**63 + 7, 2**64 - 1])
@pytest.mark.parametrize("binding", ["commitments", "encryption"])
def test_a_request_to_enrol_is_read_as_it_was_written(binding: Any, node_id: int) -> None:
    asked = Enrol(binding, node_id, "arkworks", b"parameters")
    assert Enrol.from_bytes(asked.to_bytes()) == asked


def test_the_two_bindings_are_two_kinds_of_request() -> None:
    """A client without an authority refuses to encrypt by the kind alone (``client.py``)."""
    kinds = [kind_of(Enrol(b, 1, "", b"").to_bytes()) for b in ("commitments", "encryption")]  # type: ignore[arg-type]
    assert kinds == [messages.ENROL, messages.ENCRYPT]
    with pytest.raises(WireError, match="kind 'spotcheck/enrol', got 'spotcheck/challenge'"):
        Enrol.from_bytes(CHALLENGE.to_bytes())


@pytest.mark.parametrize("size", [0, 7, 9])
def test_a_node_id_has_eight_bytes(size: int) -> None:
    data = pack(messages.ENROL, {"node": bytes(size), "group": "arkworks", "parameters": b""})
    with pytest.raises(WireError, match=f"^expected a node id of 8 bytes, got {size}$"):
        Enrol.from_bytes(data)


def test_a_node_id_is_big_endian() -> None:
    told = unpack(Enrol("commitments", 258, "g", b"p").to_bytes(), messages.ENROL, ENROL_FIELDS)
    assert told == {"node": bytes([0, 0, 0, 0, 0, 0, 1, 2]), "group": "g", "parameters": b"p"}


ENROL_FIELDS = {"node": bytes, "group": str, "parameters": bytes}


# What is enrolled


REGISTRATION = Registration(HASH, 40, 64, 16, SEED, bytes(64))


@pytest.mark.parametrize(("allowed", "spent"), [(0, 0), (64, 0), (16, 1), (0, 10**6)])
def test_a_budget_within_a_sample_is_read(allowed: int, spent: int) -> None:
    told = Enrolled(REGISTRATION, allowed, spent)
    assert Enrolled.from_bytes(told.to_bytes()) == told


@pytest.mark.parametrize(("allowed", "spent"), [(-1, 0), (65, 0), (16, -1), (65, -1)])
def test_a_budget_beyond_a_sample_is_none(allowed: int, spent: int) -> None:
    with pytest.raises(WireError, match=f"^expected a budget from 0 to 64 dimensions, got {allowed}, {spent} spent$"):
        Enrolled.from_bytes(Enrolled(REGISTRATION, allowed, spent).to_bytes())


def test_an_enrolment_states_its_registration_and_its_budget_and_nothing_else() -> None:
    told = unpack(Enrolled(REGISTRATION, 3, 2).to_bytes(), messages.ENROLLED, Enrolled.FIELDS)
    assert told == {**asdict(REGISTRATION), "allowed": 3, "spent": 2}


# Commitments


def test_a_commitment_is_read_as_it_was_written() -> None:
    read = Commitment.from_bytes(COMMITMENT.to_bytes(), 3, 2)
    assert (read.root, read.trace) == (HASH, SEED)
    assert read.moves.dtype == np.float32 and np.array_equal(read.moves, MOVES)  # a step may change nothing


@pytest.mark.parametrize(("steps", "measures"), [(2, 2), (4, 2), (3, 1), (3, 3)])
def test_moves_are_one_row_a_step_and_one_column_a_measure(steps: int, measures: int) -> None:
    wanted = rf"^expected {steps} moves by {measures} measures, got \(3, 2\) of float32$"
    with pytest.raises(WireError, match=wanted):
        Commitment.from_bytes(COMMITMENT.to_bytes(), steps, measures)


@pytest.mark.parametrize("dtype", [np.float64, np.int32, np.uint8])
def test_moves_are_of_single_precision(dtype: Any) -> None:
    sent = replace(COMMITMENT, moves=MOVES.astype(dtype)).to_bytes()
    with pytest.raises(WireError, match=rf"got \(3, 2\) of {np.dtype(dtype)}$"):
        Commitment.from_bytes(sent, 3, 2)


@pytest.mark.parametrize("field", ["root", "trace"])
@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_commitment_has_hashes_of_32_bytes(field: str, size: int) -> None:
    sizes = [size, 32] if field == "root" else [32, size]
    with pytest.raises(WireError, match=rf"^expected hashes of 32 bytes, got \[{sizes[0]}, {sizes[1]}\]$"):
        Commitment.from_bytes(replace(COMMITMENT, **{field: bytes(size)}).to_bytes(), 3, 2)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -1e-30])
def test_no_move_is_negative_or_no_number(value: float) -> None:
    moves = MOVES.copy()
    moves[1, 1] = value
    with pytest.raises(WireError, match=r"^expected finite moves, not negative, got others$"):
        Commitment.from_bytes(replace(COMMITMENT, moves=moves).to_bytes(), 3, 2)


# Challenges


@pytest.mark.parametrize("steps", [(0,), (5,), (0, 1), (0, 3, 4), (1, 2**62)])
def test_a_challenge_is_read_as_it_was_written(steps: tuple[int, ...]) -> None:
    for asked in (replace(CHALLENGE, steps=steps), replace(CHALLENGE, steps=steps, receipt=b"")):
        assert Challenge.from_bytes(asked.to_bytes()) == asked
    assert Challenge(HASH, HASH, HASH, steps, SEED).receipt == b""


@pytest.mark.parametrize("field", ["run", "data", "key", "seed"])
@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_challenge_has_hashes_of_32_bytes(field: str, size: int) -> None:
    with pytest.raises(WireError, match=r"^expected three hashes and a seed of 32 bytes, got others$"):
        Challenge.from_bytes(replace(CHALLENGE, **{field: bytes(size)}).to_bytes())


@pytest.mark.parametrize(
    "steps",
    [
        np.array([], np.int64), np.array([[0, 1]]), np.array(3), np.array([0, 1], np.int32), np.array([0.0, 1.0]),
        np.array([1, 1]), np.array([2, 1]), np.array([0, 1, 1]), np.array([0, 2, 1]),
    ],
)  # fmt: skip
def test_steps_ascend_each_once(steps: np.ndarray) -> None:
    told = {"run": HASH, "data": HASH, "key": HASH, "seed": SEED, "receipt": b"", "steps": steps}
    with pytest.raises(WireError, match=r"^expected steps in ascending order, got others$"):
        Challenge.from_bytes(pack(messages.CHALLENGE, told))


def test_vectors_are_a_hash_of_run_and_seed_without_a_zero() -> None:
    """Each byte of the stream is one of the 256 integers from -128 to 128 without 0."""
    said = hashlib.shake_256(b"flwr-anomaly/spotcheck/s/1\n" + HASH + SEED).digest(2 * 3 * 40 * 15)
    wanted = [byte - 128 if byte < 128 else byte - 127 for byte in said]
    found = CHALLENGE.vectors((3, 40, 15))
    assert found.shape == (2, 3, 40, 15) and found.dtype == np.int64
    assert found.ravel().tolist() == wanted
    assert {*range(-128, 129)} - {*found.ravel().tolist()} == {0}


def test_what_proofs_are_bound_to_is_the_whole_question_the_device_and_its_data() -> None:
    """No other round, node, seed, key or size of the data set has the same context."""
    whole = CHALLENGE.context(b"device", 40)
    assert whole == pack("spotcheck/context", {"asked": CHALLENGE.to_bytes(), "device": b"device", "samples": 40})
    others = [replace(CHALLENGE, **{name: bytes(32)}) for name in ("run", "data", "key", "seed", "receipt")]
    contexts = [asked.context(b"device", 40) for asked in (*others, replace(CHALLENGE, steps=(0, 3)))]
    contexts += [CHALLENGE.context(b"other", 40), CHALLENGE.context(b"device", 41), whole]
    assert len({*contexts}) == 9


# Answers


BYTES = np.arange(6, dtype=np.uint8).reshape(2, 3)
WHOLE, SINGLE, DOUBLE = np.array([[2**40, -1]]), np.ones((2, 1, 3), np.float32), np.full((2, 4), np.pi)
ANSWER = Answer(BYTES, BYTES + 1, BYTES[None], BYTES, BYTES, WHOLE[0], WHOLE, BYTES, SINGLE, DOUBLE)


def test_an_answer_is_read_as_it_was_written() -> None:
    read = Answer.from_bytes(ANSWER.to_bytes())
    for field in fields(Answer):
        sent, got = getattr(ANSWER, field.name), getattr(read, field.name)
        assert got.dtype == sent.dtype and np.array_equal(got, sent), field.name


@pytest.mark.parametrize("name", [field.name for field in fields(Answer)])
def test_each_array_of_an_answer_is_of_one_type(name: str) -> None:
    right = getattr(ANSWER, name)
    for dtype in (np.uint8, np.int16, np.int32, np.int64, np.float32, np.float64):
        sent = replace(ANSWER, **{name: right.astype(dtype)}).to_bytes()
        if dtype == right.dtype:
            Answer.from_bytes(sent)
            continue
        with pytest.raises(WireError, match=f"^{name}: expected {right.dtype}, got {np.dtype(dtype)}$"):
            Answer.from_bytes(sent)
