"""Commitments and the proofs about them, against plain integers and against whoever would like to cheat."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flwr_faa.crypto import groups, linear, pedersen
from flwr_faa.crypto.backends import open_group
from flwr_faa.crypto.generators import generators
from flwr_faa.crypto.group import Group
from flwr_faa.crypto.linear import Proof, Statement
from tests.crypto import schnorr
from tests.crypto.make_vectors import HERE
from tests.crypto.oracle import CURVES, Scalars

WIDTH = 3


def _case(group: Group, samples: list[list[int]], context: bytes = b"here") -> tuple[Statement, list[int]]:
    """A true statement with random weights, and the blindings of its commitments."""
    blindings = [groups.random_scalar(group) for _ in samples]
    points = pedersen.commit_rows(group, np.array(samples, np.int64), blindings)
    weights = linear.challenge_weights(context, b"sigma", len(samples))
    function = linear.challenge_weights(context, b"rho", len(samples[0]))
    value = sum(w * int(np.dot(x, np.array(function, object))) for w, x in zip(weights, samples, strict=True))
    return Statement(group, points, weights, function, value, context), blindings


def _proved(group: Group, samples: list[list[int]], context: bytes = b"here") -> tuple[Statement, Proof]:
    statement, blindings = _case(group, samples, context)
    return statement, linear.prove(statement, samples, blindings)


def _affine(group: Group, points: list[object]) -> list[tuple[int, int]]:
    return group.coordinates(points)


def test_bases_commitments_and_proof_byte_by_byte(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    vector = json.loads((HERE / f"commitments-{group.name}.json").read_text())
    draw = Scalars(vector["seed"])
    assert [groups.encode(group, [g]).hex() for g in generators(group, 19)] == vector["generators"]
    blindings = [draw(group.order) for _ in vector["x"]]
    points = pedersen.commit_rows(group, np.array(vector["x"]), blindings)
    assert [groups.encode(group, [c]).hex() for c in points] == vector["commitments"]
    monkeypatch.setattr(linear, "_random_scalar", lambda g: draw(g.order))
    context = bytes.fromhex(vector["context"])
    statement = Statement(group, points, vector["weights"], vector["function"], vector["value"], context)
    proof = linear.prove(statement, vector["x"], blindings)
    assert proof.to_bytes(group).hex() == vector["proof"]
    assert linear.verify([statement], [Proof.from_bytes(group, bytes.fromhex(vector["proof"]), 2)]) == [True]


def test_bases_are_different_points_of_the_group(group: Group) -> None:
    bases = list(generators(group, 800))
    assert group.in_subgroup(bases)
    assert len(set(group.coordinates([*bases, group.generator]))) == 802


@settings(max_examples=40)
@given(
    st.lists(
        st.lists(st.integers(0, 999) | st.just(pedersen.MAX_VALUE), min_size=WIDTH, max_size=WIDTH),
        min_size=1,
        max_size=4,
    )
)
@pytest.mark.parametrize("name", ["arkworks", "charm"])
def test_a_commitment_is_the_sum_it_is_defined_as(name: str, samples: list[list[int]]) -> None:
    group = _open(name)
    blindings = [groups.random_scalar(group) for _ in samples]
    points = pedersen.commit_rows(group, np.array(samples, np.int64), blindings)
    for x, r, point in zip(samples, blindings, points, strict=True):
        assert group.coordinates([point]) == [schnorr.commit(name, x, r)]


@given(
    st.lists(st.lists(st.integers(0, 255), min_size=WIDTH, max_size=WIDTH), min_size=1, max_size=4),
    st.sampled_from(["value", "weight", "function", "context", "order", "nothing"]),
    st.integers(0, 3),
)
@pytest.mark.parametrize("name", ["arkworks", "charm"])
def test_both_implementations_accept_and_refuse_the_same(
    name: str, samples: list[list[int]], change: str, at: int
) -> None:
    group = _open(name)
    statement, proof = _proved(group, samples)
    at %= len(samples)
    weights, function = list(statement.weights), list(statement.function)
    if change == "value":
        statement = replace(statement, value=statement.value + 1)
    elif change == "weight":
        weights[at] += 1
        statement = replace(statement, weights=weights)
    elif change == "function":
        function[at % WIDTH] -= 1
        statement = replace(statement, function=function)
    elif change == "context":
        statement = replace(statement, context=b"elsewhere")
    elif change == "order":
        statement = replace(statement, commitments=[*statement.commitments[1:], statement.commitments[0]])
    told = linear.verify([statement], [proof]) == [True]
    points = _affine(group, list(statement.commitments))
    assert told is schnorr.accepts(
        name, points, list(statement.weights), list(statement.function), statement.value, statement.context,
        proof.to_bytes(group),
    )  # fmt: skip
    assert told is (change == "nothing" or (change == "order" and len(samples) == 1))


@given(st.integers(0, 10**6), st.integers(1, 255))
@pytest.mark.parametrize("name", ["arkworks", "charm"])
def test_any_changed_byte_is_refused(name: str, at: int, by: int) -> None:
    group = _open(name)
    statement, proof = _proved(group, [[1, 2, 3], [0, 255, 7]])
    raw = bytearray(proof.to_bytes(group))
    raw[at % len(raw)] ^= by
    try:
        changed = Proof.from_bytes(group, bytes(raw), WIDTH)
    except ValueError:
        return  # no point of the group, or a scalar out of range
    assert linear.verify([statement], [changed]) == [False]


@given(st.binary(max_size=300))
@pytest.mark.parametrize("name", ["arkworks", "charm"])
def test_other_bytes_raise_value_error_alone(name: str, raw: bytes) -> None:
    group = _open(name)
    size = group.point_size + 32 * (WIDTH + 2)
    for data in (raw, raw.ljust(size, b"\0")[:size]):
        with pytest.raises(ValueError, match="expected"):
            Proof.from_bytes(group, data, WIDTH)


@pytest.mark.parametrize("at", range(WIDTH + 2))
def test_a_scalar_has_one_encoding(group: Group, at: int) -> None:
    _, proof = _proved(group, [[1, 2, 3]])
    raw, start = bytearray(proof.to_bytes(group)), group.point_size + 32 * at
    for value in (group.order - 1, group.order):
        raw[start : start + 32] = value.to_bytes(32, "big")
        if value < group.order:
            assert Proof.from_bytes(group, bytes(raw), WIDTH).to_bytes(group) == raw
        else:
            with pytest.raises(ValueError, match="below the group's order"):
                Proof.from_bytes(group, bytes(raw), WIDTH)


def test_a_proof_has_one_length(group: Group) -> None:
    _, proof = _proved(group, [[1, 2, 3]])
    raw = proof.to_bytes(group)
    for data in (raw[:-1], raw + b"\0", raw[:-32], raw + bytes(32)):
        with pytest.raises(ValueError, match=f"expected a proof of {len(raw)} bytes, got {len(data)}"):
            Proof.from_bytes(group, data, WIDTH)


@given(st.binary(max_size=70), st.sampled_from([b"", b"sigma", b"rho"]), st.integers(0, 20))
def test_weights_are_those_of_the_second_implementation(seed: bytes, purpose: bytes, count: int) -> None:
    found = linear.challenge_weights(seed, purpose, count)
    assert found == schnorr.weights(seed, purpose, count)
    assert all(1 <= weight <= 2**128 for weight in found)


def test_a_weight_is_at_least_one_and_at_most_two_to_the_128(monkeypatch: pytest.MonkeyPatch) -> None:
    class Constant:
        def digest(self, size: int) -> bytes:
            return (bytes(16) + b"\xff" * 16)[:size]

    monkeypatch.setattr(linear.hashlib, "shake_256", lambda said: Constant())
    assert linear.challenge_weights(b"", b"", 2) == [1, 2**128]


@pytest.mark.parametrize("vectors", [[[1, 2, 3], [0, 255, 7]], [[2**70, 0, -1], [5, 2**200, -(2**90)]]])
def test_folding_is_exact_for_samples_and_for_any_integers(group: Group, vectors: list[list[int]]) -> None:
    weights = [2**127 + 3, 5]
    expected = [(weights[0] * a + weights[1] * b) % group.order for a, b in zip(*vectors, strict=True)]
    assert linear.fold(group, weights, vectors) == expected
    assert linear.fold(group, weights, np.array(vectors, object)) == expected
    blindings = [groups.random_scalar(group) for _ in vectors]
    bases = generators(group, 3)
    points = [groups.msm(group, bases, [r, *x]) for x, r in zip(vectors, blindings, strict=True)]
    value = sum(a * b for a, b in zip(expected, [3, -1, 2**100], strict=True)) % group.order
    statement = Statement(group, points, weights, [3, -1, 2**100], value, b"")
    assert linear.verify([statement], [linear.prove(statement, vectors, blindings)]) == [True]


def test_what_is_in_commitments_is_shown_by_one_number(group: Group) -> None:
    samples = np.array([[1, 2, 3], [0, 255, 7], [4, 4, 4]])
    blindings = [groups.random_scalar(group) for _ in samples]
    points = pedersen.commit_rows(group, samples, blindings)
    weights = linear.challenge_weights(b"seed", b"sigma", 3)
    folded = sum(w * r for w, r in zip(weights, blindings, strict=True)) % group.order
    other = samples.copy()
    other[2, 0] += 1
    cases = [(points, samples, folded), (points, other, folded), (points, samples, folded + 1)]
    cases.append(([points[1], points[0], points[2]], samples, folded))
    shown = [linear.opening(group, where, weights, what, told) for where, what, told in cases]
    assert linear.hold([*shown, None]) == [True, False, False, False, False]
    assert linear.hold([None, None]) == [False, False] and linear.hold([]) == []


def test_a_mask_outside_the_subgroup_is_refused() -> None:
    group = open_group("arkworks")
    _, proof = _proved(group, [[1, 2, 3]])
    outside = CURVES["arkworks"].encode(CURVES["arkworks"].outside(5))
    with pytest.raises(ValueError, match="subgroup"):
        Proof.from_bytes(group, outside + proof.to_bytes(group)[group.point_size :], WIDTH)


def test_a_false_statement_cannot_be_proved(group: Group) -> None:
    statement, blindings = _case(group, [[1, 2, 3]])
    with pytest.raises(ValueError, match="true"):
        linear.prove(replace(statement, value=statement.value + 1), [[1, 2, 3]], blindings)


def test_a_proof_is_of_all_openings(group: Group) -> None:
    statement, blindings = _case(group, [[1, 2, 3], [4, 5, 6]])
    for vectors, secrets in (
        ([[1, 2, 3]], blindings),
        ([[1, 2, 3], [4, 5, 6]], blindings[:1]),
        ([[1, 2]] * 2, blindings),
    ):
        with pytest.raises(ValueError):
            linear.prove(statement, vectors, secrets)
    with pytest.raises(ValueError):
        linear.fold(group, [1, 2], [[2**70, 1], [3]])


def test_the_guilty_are_named_wherever_they_stand(group: Group) -> None:
    proved = [_proved(group, [[i, 2, 3]], b"%d" % i) for i in range(9)]
    for guilty in ({0}, {8}, {3, 4}, {1, 6, 7}, set(range(9))):
        statements = [replace(s, weights=[s.weights[0] + (i in guilty)]) for i, (s, _) in enumerate(proved)]
        found = linear.verify(statements, [p for _, p in proved])
        assert found == [i not in guilty for i in range(9)]


def test_two_errors_that_cancel_with_equal_weights_do_not(group: Group) -> None:
    statement, proof = _proved(group, [[1, 2, 3]])
    other, second = _proved(group, [[4, 5, 6]], b"there")
    # Equations (2) are off by +G_0 and by -G_0, so their plain sum holds.
    one = replace(proof, blinding=(proof.blinding + 1) % group.order)
    two = replace(second, blinding=(second.blinding - 1) % group.order)
    assert linear.verify([statement, other], [one, two]) == [False, False]


def test_a_proof_is_good_for_its_own_context_alone(group: Group) -> None:
    statement, proof = _proved(group, [[1, 2, 3]], b"round 1, node 4")
    again = replace(statement, context=b"round 2, node 4")
    assert linear.verify([statement, again], [proof, proof]) == [True, False]


def test_a_proof_tells_nothing_but_its_statement(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    """Zero knowledge: whoever knows e beforehand makes a proof that holds, of the statement alone, true or false.

    Its scalars are drawn uniformly, as an honest proof's are.
    """
    statement, _ = _proved(group, [[1, 2, 3], [0, 255, 7]])
    for told in (statement, replace(statement, value=statement.value + 1)):
        e, zeta, *z = (groups.random_scalar(group) for _ in range(WIDTH + 2))
        masked = (sum(a * b for a, b in zip(z, told.function, strict=True)) - e * told.value) % group.order
        points = [*generators(group, WIDTH), *told.commitments]
        mask = groups.msm(group, points, [zeta, *z, *(-e * s for s in told.weights)])
        made = Proof(mask, masked, tuple(z), zeta)
        assert linear.verify([told], [made]) == [False]
        with monkeypatch.context() as patch:
            patch.setattr(linear, "_challenge", lambda *said, e=e: e)
            assert linear.verify([told], [made]) == [True]


def test_forms_that_do_not_fit_are_no_proofs(group: Group) -> None:
    statement, proof = _proved(group, [[1, 2, 3]])
    odd = [replace(proof, response=response) for response in (proof.response[:-1], (*proof.response, 0))]
    assert linear.verify([statement, statement], odd) == [False, False]
    weights = [replace(statement, weights=weights) for weights in ([], [*statement.weights, 0])]
    assert linear.verify([*weights, statement], [proof] * 3) == [False, False, True]
    assert linear.verify([], []) == []
    for proofs in ([], [proof, proof]):
        with pytest.raises(ValueError, match=f"expected 1 proofs, got {len(proofs)}"):
            linear.verify([statement], proofs)


@pytest.mark.parametrize(("rows", "width"), [(300, 1), (1, 300)])
def test_hundreds_of_commitments_and_of_values(group: Group, rows: int, width: int) -> None:
    statement, proof = _proved(group, [[7] * width] * rows)
    raw = proof.to_bytes(group)
    assert linear.verify([statement], [Proof.from_bytes(group, raw, width)]) == [True]
    assert all(0 <= scalar < group.order for scalar in (proof.masked_value, proof.blinding, *proof.response))


def test_statements_of_several_groups_or_widths_are_not_mixed(group: Group) -> None:
    cases = [_proved(group, [[1, 2, 3]]), _proved(group, [[1, 2]])]
    other = open_group("arkworks" if group.name == "charm" else "charm") if _both() else None
    cases += [_proved(other, [[1, 2, 3]])] if other else []
    for statement, proof in cases:
        assert linear.verify([statement], [proof]) == [True]
    for statement, proof in cases[1:]:
        with pytest.raises(ValueError, match="expected statements of one group and one width, got several"):
            linear.verify([cases[0][0], statement], [cases[0][1], proof])


def test_weights_of_the_verifier_are_never_zero(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    """A weight of zero would let anything pass."""
    statement, proof = _proved(group, [[1, 2, 3]])
    monkeypatch.setattr(linear.secrets, "randbits", lambda bits: 0)
    assert linear.verify([statement], [replace(proof, blinding=proof.blinding ^ 1)]) == [False]


def _both() -> bool:
    return importlib.util.find_spec("charm_lite") is not None


def _open(name: str) -> Group:
    try:
        return open_group(name)
    except ImportError:
        pytest.skip("charm is not installed")
