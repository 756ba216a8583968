"""Claims about committed data: what is true is proved, and every lie that commitments invite fails."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from flwr_faa.crypto import groups, linear
from flwr_faa.crypto.backends import open_group
from flwr_faa.crypto.generators import generators
from flwr_faa.crypto.group import Group
from flwr_faa.verification.plan import TrainingPlan
from flwr_faa.verification.spotcheck.binding import claim_proofs
from flwr_faa.verification.spotcheck.binding.step_claims import StepClaims
from flwr_faa.verification.spotcheck.claims import check_range
from flwr_faa.verification.spotcheck.first_layer import IntegerLayer
from flwr_faa.verification.spotcheck.recompute import Contradiction
from tests.crypto.oracle import CURVES
from tests.verification.spotcheck import independent
from tests.verification.spotcheck.spot import backends

CONTEXT = b"round 3, node 7, challenge 1"
SECRET = b"a device's secret"


def _plan(model: Callable[[], nn.Module]) -> TrainingPlan:
    return TrainingPlan(model=model, lr=0.1, batch_size=2)


#: Layer, and how the independent verifier tests its proofs.
LAYERS = {
    "dense": (IntegerLayer.of(_plan(lambda: nn.Linear(4, 2))), independent.accepts),
    "convolution": (IntegerLayer.of(_plan(lambda: nn.Conv2d(1, 1, 2)), (1, 3, 3)), independent.opens),
}


@dataclass
class Device:
    """A node that has committed to eight samples, and makes claims about four steps of two."""

    group: Group
    layer: IntegerLayer = LAYERS["dense"][0]
    secret: bytes = SECRET
    node_id: int = 7
    seed: int = 0

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        width = self.layer.width
        self.key = hashlib.sha256(claim_proofs.parameters(self.group, self.node_id, width)).digest()
        self.samples = rng.integers(0, 256, (8, width))
        encoded = claim_proofs.commit(self.group, self.secret, self.key, self.samples)
        self.bound = {i: row.tobytes() for i, row in enumerate(encoded)}
        kernels = [rng.integers(-(2**20), 2**20, (self.layer.outputs + 1, *self.layer.kernel)) for _ in range(4)]
        shaped = self.samples.reshape(-1, *self.layer.sample_shape)
        self.claims = [
            StepClaims(self.layer, i, rows := [2 * i + 1, 2 * i], k, self.layer.claim(shaped[rows], k))
            for i, k in enumerate(kernels)
        ]

    def prove(self, context: bytes = CONTEXT) -> np.ndarray:
        return claim_proofs.prove(self.group, self.secret, self.key, context, self.claims, self.samples, self.bound)

    def holds(self, proofs: np.ndarray, claims: list[StepClaims] | None = None, context: bytes = CONTEXT) -> list[bool]:
        return linear.hold(claim_proofs.equations(self.group, context, claims or self.claims, self.bound, proofs))

    def points(self, step: StepClaims) -> list[bytes]:
        return [self.bound[row] for row in step.rows]


@pytest.fixture(scope="module", params=backends())
def device(request: pytest.FixtureRequest) -> Device:
    return Device(open_group(request.param))


def seconded(device: Device, step: StepClaims, proof: bytes, context: bytes = CONTEXT) -> bool:
    accepts = next(by for layer, by in LAYERS.values() if layer is device.layer)
    kernels, claimed = step.kernels.reshape(len(step.kernels), -1), step.claimed.reshape(len(step.rows), -1)
    return accepts(
        device.group.name, context, step.step, step.rows, kernels.tolist(), claimed.tolist(), device.points(step),
        proof, device.layer.width,
    )  # fmt: skip


# What is true


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("name", backends())
def test_true_claims_are_proved_and_an_independent_verifier_agrees(name: str, layer: str) -> None:
    device = Device(open_group(name), LAYERS[layer][0])
    proofs = device.prove()
    assert proofs.shape == (4, claim_proofs.proof_size(device.group, device.layer))
    assert device.holds(proofs) == [True] * 4
    assert seconded(device, device.claims[2], proofs[2].tobytes())
    false = replace(device.claims[2], claimed=device.claims[2].claimed + 1)
    assert not seconded(device, false, proofs[2].tobytes())


def test_folding_is_exact_for_weights_of_any_size() -> None:
    layer, _ = LAYERS["dense"]
    rng = np.random.default_rng(1)
    kernels = rng.integers(-(2**30), 2**30, (layer.outputs + 2, *layer.kernel))
    samples = rng.integers(0, 256, (3, *layer.sample_shape))
    claims = StepClaims(layer, 0, [0, 1, 2], kernels, layer.apply(samples, kernels))
    sigma, k = [1, 2**127 + 5, 2**128], len(kernels)
    for rho in ([2**128] * k, [1] * k, [2**64 + 3 * i for i in range(k)]):
        y, value = claims.fold(sigma, rho)
        rows = samples.reshape(3, -1).tolist()
        folded = [sum(s * row[j] for s, row in zip(sigma, rows, strict=True)) for j in range(layer.width)]
        assert sum(a * b for a, b in zip(folded, y, strict=True)) == value


def test_a_commitment_hides_by_a_blinding_of_its_own(device: Device) -> None:
    """Equal samples have other commitments, in one data set, under another node id and with another secret."""
    twice = np.repeat(device.samples[:1], 2, axis=0)
    made = [claim_proofs.commit(device.group, SECRET, device.key, twice) for _ in range(2)]
    assert (made[0] == made[1]).all()  # nothing but the secret is kept
    others = [claim_proofs.commit(device.group, s, k, twice) for s, k in ((b"x", device.key), (SECRET, bytes(32)))]
    assert len({row.tobytes() for rows in (made[0], *others) for row in rows}) == 6
    drawn = claim_proofs.blindings(device.group, SECRET, device.key, range(8), device.samples)
    assert len(set(drawn)) == 8 and max(drawn) > 2**250  # of the order's size, no short keys
    other = claim_proofs.blindings(device.group, SECRET, device.key, range(8), device.samples + 1)
    assert not set(drawn) & set(other)  # another sample in the same place has another


# What is false


def test_any_wrong_entry_of_any_claim_is_found(device: Device) -> None:
    proofs = device.prove()
    rng = np.random.default_rng(2)
    for _ in range(40):
        claims, at = list(device.claims), int(rng.integers(4))
        outputs = claims[at].claimed.copy()
        outputs[tuple(rng.integers(n) for n in outputs.shape)] += rng.choice([1, -1, 2**40])
        claims[at] = replace(claims[at], claimed=outputs)
        assert device.holds(proofs, claims) == [i != at for i in range(4)]


@pytest.mark.parametrize("name", backends())
def test_any_other_sample_than_the_enrolled_is_found_where_samples_are_shown(name: str) -> None:
    """A convolution: one value off, errors that cancel, another sample's, another blinding, and one that is none."""
    device = Device(open_group(name), LAYERS["convolution"][0])
    proofs, step = device.prove(), device.claims[1]
    for lie in ((0, 0, 1, 1), (1, 0, 2, 0)):
        shown = step.claimed.copy()
        shown[lie] += 1
        assert device.holds(proofs[:2], [device.claims[0], replace(step, claimed=shown)]) == [True, False]
    cancel = step.claimed + np.array([1, -1])[:, None, None, None]
    assert device.holds(proofs[1:2], [replace(step, claimed=cancel)]) == [False]
    assert device.holds(proofs[1:2], [replace(step, claimed=step.claimed[::-1])]) == [False]
    assert device.holds(proofs[::-1]) == [False] * 4
    assert device.holds(device.prove(b"another challenge")) == [False] * 4
    false = device.group.order.to_bytes(32, "big")
    with pytest.raises(ValueError, match="order"):
        device.holds(np.stack([np.frombuffer(false, np.uint8)] * 4))


def test_a_false_claim_cannot_be_proved(device: Device) -> None:
    claims = [replace(device.claims[0], claimed=device.claims[0].claimed + 1)]
    with pytest.raises(ValueError, match="true"):
        claim_proofs.prove(device.group, SECRET, device.key, CONTEXT, claims, device.samples, device.bound)


def test_a_proof_is_for_one_context_step_and_batch(device: Device) -> None:
    """Replayed from another round, node or challenge (the context), step, or for other samples."""
    proofs = device.prove()
    assert device.holds(device.prove(b"round 2, node 7, challenge 1")) == [False] * 4
    assert device.holds(proofs[[1, 0, 2, 3]]) == [False, False, True, True]
    moved = [replace(device.claims[0], step=9), *device.claims[1:]]
    assert device.holds(proofs, moved) == [False, True, True, True]
    turned = replace(device.claims[0], rows=device.claims[0].rows[::-1], claimed=device.claims[0].claimed[::-1])
    assert device.holds(proofs, [turned, *device.claims[1:]]) == [False, True, True, True]


def test_who_registers_anothers_commitments_cannot_open_them(device: Device) -> None:
    thief = Device(device.group, secret=b"another", node_id=8, seed=1)
    own = thief.samples
    thief.bound = device.bound
    assert thief.holds(thief.prove()) == [False] * 4
    thief.samples = own[:, ::-1]  # nor with other samples in its hands
    with pytest.raises(ValueError, match="true"):
        thief.prove()


def test_swapped_commitments_are_found(device: Device) -> None:
    proofs, honest = device.prove(), device.bound
    swapped = replace_bound(device, {**honest, 0: honest[1], 1: honest[0]})
    assert swapped.holds(proofs) == [False, True, True, True]


def replace_bound(device: Device, bound: dict[int, bytes]) -> Device:
    other = Device(device.group, device.layer, device.secret, device.node_id, device.seed)
    other.bound = bound
    return other


def commit_to(device: Device, values: list[list[int]], secret: int = 5) -> tuple[dict[int, bytes], list[int]]:
    """Commitments to any integers modulo the order, which ``commit_rows`` refuses; and their blindings."""
    bases, r = generators(device.group, device.layer.width), [secret + i for i in range(len(values))]
    points = [groups.msm(device.group, bases, [b, *x]) for b, x in zip(r, values, strict=True)]
    return {i: groups.encode(device.group, [p]) for i, p in enumerate(points)}, r


def prove_anything(
    device: Device, claims: StepClaims, bound: dict[int, bytes], values: list[list[int]], r: list[int]
) -> linear.Proof:
    """A proof by the protocol, about openings of any kind; raises ValueError where the claim is not true of them."""
    points = dict(zip(bound, groups.decode(device.group, b"".join(bound.values())), strict=True))
    statement = claim_proofs._statement(device.group, CONTEXT, claims, points, bound)
    return linear.prove(statement, [values[i] for i in claims.rows], [r[i] for i in claims.rows])


def test_half_a_pixel_passes_only_where_every_output_of_it_is_whole(device: Device) -> None:
    """1/2 modulo the order: an odd weight or an odd s makes an output of it no integer that can be claimed."""
    half = pow(2, -1, device.group.order)
    values = [[half, 3, 4, 5], [7, 8, 9, 10]]
    bound, r = commit_to(device, values)
    odd = np.array([[3, 1, 1, 1], [2, 1, 1, 1], [4, 1, 1, 1]])  # first weight of one unit alone is odd
    even = odd + np.array([[1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    for kernels, whole in ((odd, False), (even, True)):
        exact = [[sum(k * v for k, v in zip(kernel, [0.5, *x[1:]] if x[0] == half else x, strict=True))
                  for kernel in kernels.tolist()] for x in values]  # fmt: skip
        for rounded in (np.floor(exact), np.ceil(exact)):
            claims = StepClaims(device.layer, 0, [0, 1], kernels, rounded.astype(np.int64))
            if whole:
                proof = prove_anything(device, claims, bound, values, r)
                raw = np.frombuffer(proof.to_bytes(device.group), np.uint8)[None]
                assert linear.hold(claim_proofs.equations(device.group, CONTEXT, [claims], bound, raw)) == [True]
            else:
                with pytest.raises(ValueError, match="true"):
                    prove_anything(device, claims, bound, values, r)


@pytest.mark.parametrize("pixel", [-1, -(2**20), 2**20, 2**62])
def test_a_pixel_outside_the_range_is_its_own_integer(pixel: int, device: Device) -> None:
    """It is -1 for order - 1: its true claims are proved, and what is large fails the bound on P."""
    values = [[pixel % device.group.order, 3, 4, 5], [7, 8, 9, 10]]
    bound, r = commit_to(device, values)
    vectors = np.random.default_rng(0).integers(-(2**15), 2**15, (2, 4))
    vectors[:, 0] = [-20000, 30000]  # s is uniform: these are as likely as any
    kernels = np.concatenate([[[5, -7, 9, 2]], vectors])
    exact = [
        [sum(a * b for a, b in zip(k, x, strict=True)) for k in kernels.tolist()] for x in ([pixel, 3, 4, 5], values[1])
    ]
    wrapped = (np.array(exact, object) % 2**64).astype(np.uint64).astype(np.int64)
    claims = StepClaims(device.layer, 0, [0, 1], kernels, wrapped)
    if abs(pixel) >= 2**62:  # what is true does not fit an int64, and what it wraps to is false
        with pytest.raises(ValueError, match="true"):
            prove_anything(device, claims, bound, values, r)
        return
    raw = np.frombuffer(prove_anything(device, claims, bound, values, r).to_bytes(device.group), np.uint8)[None]
    assert linear.hold(claim_proofs.equations(device.group, CONTEXT, [claims], bound, raw)) == [True]
    if pixel != -1:
        with pytest.raises(Contradiction, match="from 0 to 255"):
            check_range(claims.outputs[:, 1:], vectors, 255)


def test_other_generators_bind_nothing(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """A liar whose G_1 and G_2 are swapped, or known multiples of the base point."""
    base, true = device.group.generator, generators(device.group, device.layer.width)
    swapped = (true[0], true[2], true[1], *true[3:])
    known = tuple(device.group.mul(base, 3 + i) for i in range(len(true)))
    for lie in (lambda g, n: swapped, lambda g, n: known):
        with monkeypatch.context() as patch:
            for module in ("linear", "pedersen"):
                patch.setattr(f"flwr_faa.crypto.{module}.generators", lie)
            liar = Device(device.group)
            proofs = liar.prove()
            assert liar.holds(proofs) == [True] * 4  # by its own bases
        assert liar.holds(proofs) == [False] * 4


def test_weights_of_ones_own_choice_do_not_count(device: Device) -> None:
    """A sigma for which the errors of a false claim cancel: a good proof, of another statement."""
    step = device.claims[0]
    false = replace(step, claimed=step.claimed + np.array([[1, 0, 0], [-1, 0, 0]]))
    points = groups.decode(device.group, b"".join(device.points(step)))
    y, value = false.fold([1, 1], [1, 1, 1])  # equal sigma: +1 and -1 cancel
    rows = device.samples[step.rows]
    r = claim_proofs.blindings(device.group, SECRET, device.key, step.rows, rows)
    statement = linear.Statement(device.group, points, [1, 1], y, value, b"")
    proof = linear.prove(statement, rows.tolist(), r)
    assert linear.verify([statement], [proof]) == [True]
    raw = np.frombuffer(proof.to_bytes(device.group), np.uint8)[None]
    assert device.holds(raw, [false]) == [False]


def test_trying_transcripts_offline_does_not_pay(device: Device) -> None:
    """What a client can vary freely changes all weights, none of which it can make small."""
    step, seen = device.claims[0], set()
    points = dict(zip(step.rows, groups.decode(device.group, b"".join(device.points(step))), strict=True))
    for trial in range(300):
        lie = replace(step, claimed=step.claimed + np.array([[trial, 0, 1], [-1, 0, 0]]))
        statement = claim_proofs._statement(device.group, CONTEXT, lie, points, device.bound)
        true = sum(
            w * sum(a * b for a, b in zip(x, statement.function, strict=True))
            for w, x in zip(statement.weights, device.samples[step.rows].tolist(), strict=True)
        )
        assert (true - statement.value) % device.group.order
        seen.update(statement.weights)
    assert len(seen) == 600 and min(seen) > 2**110 and max(seen) > 2**127


# What is no proof


def test_no_scalar_or_point_has_two_encodings(device: Device) -> None:
    """Scalars z + q, the identity, points off the curve or outside the subgroup: refused in proofs and commitments."""
    group, honest, size = device.group, device.prove(), device.group.point_size
    curve = CURVES[group.name]
    off = bytearray(honest[0, :size].tobytes())
    off[-1] ^= 1
    bad = [bytes(size), bytes(off), b"\xff" * size]
    if group.name == "arkworks":  # P-256 has cofactor 1: every point of the curve is in the group
        bad.append(curve.encode(curve.outside(5)))
    for raw in bad:
        proofs = honest.copy()
        proofs[0, :size] = np.frombuffer(raw, np.uint8)
        with pytest.raises(ValueError, match="expected"):
            device.holds(proofs)
        with pytest.raises(ValueError, match="expected"):
            replace_bound(device, {**device.bound, 3: raw}).holds(honest)
    for at in range(size, honest.shape[1], 32):
        proofs = honest.copy()
        malleated = int.from_bytes(proofs[0, at : at + 32].tobytes(), "big") + group.order
        if malleated < 2**256:
            proofs[0, at : at + 32] = np.frombuffer(malleated.to_bytes(32, "big"), np.uint8)
            with pytest.raises(ValueError, match="order"):
                device.holds(proofs)


def test_errors_that_cancel_between_steps_are_found(device: Device) -> None:
    """Two false proofs whose equations are off by G_0 and by -G_0: their plain sum would hold."""
    proofs, size, q = device.prove().copy(), device.group.point_size, device.group.order
    for step, by in ((0, 1), (1, -1)):
        at = slice(size + 32, size + 64)  # zeta
        changed = (int.from_bytes(proofs[step, at].tobytes(), "big") + by) % q
        proofs[step, at] = np.frombuffer(changed.to_bytes(32, "big"), np.uint8)
    assert device.holds(proofs) == [False, False, True, True]


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(["proof", "point", "claimed", "kernels", "context"]), st.integers(0, 10**6), st.integers(1, 255))
def test_any_changed_byte_is_refused_and_both_verifiers_say_so(device: Device, what: str, at: int, by: int) -> None:
    step = device.claims[1]
    proof = bytearray(_proof_of(device)[1].tobytes())
    changed: dict[str, Any] = {}
    bound, context = dict(device.bound), bytearray(CONTEXT)
    if what == "proof":
        proof[at % len(proof)] ^= by
    elif what == "context":
        context[at % len(context)] ^= by
    elif what == "point":
        raw = bytearray(bound[step.rows[0]])
        raw[at % len(raw)] ^= by
        bound[step.rows[0]] = bytes(raw)
    else:
        array = getattr(step, what).copy()
        array.view(np.uint8).reshape(-1)[at % array.nbytes] ^= by
        changed[what] = array
    other, claims = replace_bound(device, bound), replace(step, **changed)
    try:
        told = other.holds(np.frombuffer(bytes(proof), np.uint8)[None], [claims], bytes(context))
    except ValueError:
        told = [False]
    assert told == [False]
    if at % 8 == 0:  # plain Python takes its time
        assert not seconded(other, claims, bytes(proof), bytes(context))


_PROOFS: dict[str, np.ndarray] = {}


def _proof_of(device: Device) -> np.ndarray:
    return _PROOFS.setdefault(device.group.name, device.prove())
