"""Both bindings, each side by itself: what is counted, what is proved about what, and who is refused."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from torch import nn

from flwr_faa.authority import AuthorityUnavailable, LocalAuthority, Registration
from flwr_faa.authority.base import weights
from flwr_faa.authority.information import of_step
from flwr_faa.crypto import groups, ipfe
from flwr_faa.crypto.backends import open_group
from flwr_faa.verification.base import Exhausted
from flwr_faa.verification.plan import TrainingPlan
from flwr_faa.verification.spotcheck.binding import base, claim_proofs, encrypted
from flwr_faa.verification.spotcheck.binding.committed import CommittedBinding, CommittedBond
from flwr_faa.verification.spotcheck.binding.encrypted import Ask, EncryptedBinding, EncryptedBond, positive
from flwr_faa.verification.spotcheck.binding.step_claims import StepClaims
from flwr_faa.verification.spotcheck.device import Device
from flwr_faa.verification.spotcheck.first_layer import IntegerLayer, sizes_of
from flwr_faa.verification.spotcheck.messages import Challenge, Enrolled
from flwr_faa.verification.spotcheck.recompute import Contradiction
from flwr_faa.verification.wire import WireError

NODE, WIDTH, TOP = 2**64 - 3, 4, 255
DENSE = IntegerLayer.of(TrainingPlan(lambda: nn.Linear(WIDTH, 2), 0.1))
SPATIAL = IntegerLayer.of(TrainingPlan(lambda: nn.Conv2d(1, 1, 2), 0.1), (1, 2, 2))
ROOT, KEY = bytes([1]) * 32, Ed25519PrivateKey.from_private_bytes(bytes([9]) * 32)


@dataclass
class Bound:
    """Six samples of four values that a device has bound, and the claims of three steps of its run."""

    binding: Any
    bond: Any
    device: Device
    layer: IntegerLayer = DENSE

    def __post_init__(self) -> None:
        self.asked = Challenge(bytes(32), ROOT, bytes(32), (0, 1, 2), bytes(32))
        rng = np.random.default_rng(1)
        self.samples = rng.integers(0, TOP + 1, (6, WIDTH))
        request = self.binding.enrolment(NODE, WIDTH)
        self.group, self.parameters = self.bond.accept(self.device, request, WIDTH)
        self.asked = replace(self.asked, key=hashlib.sha256(self.parameters).digest())
        raw = self.bond.bind(self.device, self.group, self.parameters, self.samples)
        self.bound = {row: one.tobytes() for row, one in enumerate(raw)}
        self.kernels = [rng.integers(-999, 1000, (self.layer.outputs + 1, *self.layer.kernel)) for _ in range(3)]
        self.rows = [[4, 0, 1], [5, 3, 2], [0, 5]]

    def register(self, allowed: int = WIDTH, spent: int = 0, key: Ed25519PrivateKey | None = None) -> None:
        told = Registration(ROOT, 6, WIDTH, TOP, b"").signed(key or KEY, NODE, self.parameters)
        self.binding.register(NODE, WIDTH, Enrolled(told, allowed, spent))

    def claims(self, wrong: int | None = None) -> list[StepClaims]:
        """Of all three steps, one of them false."""
        shaped, found = self.samples.reshape(6, *self.layer.sample_shape), []
        for step, (rows, kernels) in enumerate(zip(self.rows, self.kernels, strict=True)):
            claimed = self.layer.claim(shaped[rows], kernels)
            found.append(StepClaims(self.layer, step, rows, kernels, claimed + (step == wrong)))
        return found

    def tested(self, wrong: int | None = None, **other: Any) -> base.Tested:
        device, samples = self.device.identity().public_key().public_bytes_raw(), self.samples
        proofs = self.bond.prove(self.device, self.group, self.asked, self.claims(), samples, self.bound)
        context = self.asked.context(device, 6)
        return replace(base.Tested(NODE, ROOT, context, self.claims(wrong), self.bound, proofs), **other)


def bound(name: str, folder: Path, layer: IntegerLayer = DENSE, budget: float = 1.0) -> Bound:
    device = Device(folder, progress=lambda done, total: None)
    if name == "commitments":
        return Bound(CommittedBinding("arkworks"), CommittedBond(), device, layer)
    return Bound(EncryptedBinding(LocalAuthority("arkworks", budget)), EncryptedBond(), device, layer)


BINDINGS = ["commitments", "encryption"]


@pytest.mark.parametrize("layer", [DENSE, SPATIAL])
@pytest.mark.parametrize("name", BINDINGS)
def test_true_claims_hold_and_each_false_one_does_not(name: str, layer: IntegerLayer, tmp_path: Path) -> None:
    node = bound(name, tmp_path, layer)
    node.register()
    true, *false = [node.tested(wrong) for wrong in (None, 0, 1, 2)]
    assert node.binding.test([]) == []
    found = node.binding.test([true, *false, true])
    assert found[0] is found[4] is None
    steps = [f" (steps [{step}])" if name == "commitments" else "" for step in range(3)]
    wanted = [f"a claim about the first layer is not true of the enrolled data{told}" for told in steps]
    assert [str(why) for why in found[1:4]] == wanted and all(isinstance(why, Contradiction) for why in found[1:4])
    assert node.bond.tells_all == node.binding.tells_all == (name == "encryption")
    assert node.binding.sizes(layer)[0] == len(node.bound[0])
    assert true.proofs.shape == (3, node.binding.sizes(layer)[1])


@pytest.mark.parametrize("width", [1, 3, 4, 784])
def test_a_commitment_is_one_point_and_a_ciphertext_one_a_value_and_one_more(width: int) -> None:
    """Of 96 bytes each."""
    layer = IntegerLayer.of(TrainingPlan(lambda: nn.Linear(width, 2), 0.1))
    assert CommittedBinding("arkworks").sizes(layer) == (96, 96 + 32 * (width + 2))
    assert EncryptedBinding(LocalAuthority("arkworks", 1.0)).sizes(layer) == (96 * (width + 1), 0)


@pytest.mark.parametrize("name", BINDINGS)
def test_what_is_no_point_at_all_is_a_contradiction_of_that_node_alone(name: str, tmp_path: Path) -> None:
    node = bound(name, tmp_path)
    node.register()
    off = {**node.bound, 3: node.bound[3][:-1] + bytes([node.bound[3][-1] ^ 1])}
    bad, good = node.binding.test([node.tested(bound=off), node.tested()])
    assert good is None and isinstance(bad, Contradiction)
    starts = {
        "commitments": "its commitments or proofs are none: ",
        "encryption": "the enrolled data are no ciphertexts: ",
    }
    assert str(bad).startswith(starts[name] + "expected a point of")


@pytest.mark.parametrize("name", BINDINGS)
def test_a_challenge_names_the_parameters_by_their_hash(name: str, tmp_path: Path) -> None:
    node = bound(name, tmp_path)
    node.register()
    key, receipt = node.binding.promise(NODE, WIDTH)
    assert key == hashlib.sha256(node.parameters).digest()
    asked, told = (
        replace(node.asked, receipt=receipt),
        Registration(ROOT, 6, WIDTH, TOP, KEY.public_key().public_bytes_raw()),
    )
    node.bond.check(node.device, told, asked)
    if name == "commitments":
        assert receipt == b""
        return
    pinned = replace(node.device, authority=node.binding.authority.verify_key)
    node.bond.check(pinned, told, asked)
    for other in (replace(asked, receipt=b""), replace(asked, receipt=bytes(64)), replace(asked, key=bytes(32))):
        node.bond.check(node.device, told, other)  # who pins nobody asks for nothing
        with pytest.raises(
            WireError, match=r"^expected the authority's receipt for this device's data, got another: ref"
        ):
            node.bond.check(pinned, told, other)


# Commitments


def test_parameters_are_the_release_the_node_the_width_and_the_curve() -> None:
    group = open_group("arkworks")
    wanted = b"flwr-anomaly/commitments/2\n" + NODE.to_bytes(8, "big") + WIDTH.to_bytes(4, "big") + group.curve.encode()
    assert claim_proofs.parameters(group, NODE, WIDTH) == wanted


def test_blindings_come_back_in_the_next_release() -> None:
    """Commitments lie on disk; what opens them is derived anew: keyed BLAKE2b of key, row number and sample."""
    group, rows = open_group("arkworks"), np.array([[1, 2], [3, 2**31 - 1]])
    for number, row, found in zip(
        (5, 2**40), rows, claim_proofs.blindings(group, b"s", b"k", (5, 2**40), rows), strict=True
    ):
        said = b"k" + number.to_bytes(8, "little") + b"".join(int(v).to_bytes(8, "little") for v in row)
        digest = hashlib.blake2b(said, key=b"s", digest_size=64, person=b"faa/blinding").digest()
        assert found == int.from_bytes(digest, "big") % group.order


@pytest.mark.parametrize(("layer", "size"), [(DENSE, 96 + 32 * (WIDTH + 2)), (SPATIAL, 32)])
def test_a_proof_is_a_point_and_a_scalar_a_value_or_one_scalar_alone(layer: IntegerLayer, size: int) -> None:
    assert claim_proofs.proof_size(open_group("arkworks"), layer) == size


def test_a_spatial_proof_is_a_scalar_below_the_order(tmp_path: Path) -> None:
    node = bound("commitments", tmp_path, SPATIAL)
    node.register()
    order = node.group.order

    def scalar(value: int) -> Any:
        return np.frombuffer(value.to_bytes(32, "big") * 3, np.uint8).reshape(3, 32)

    below, at = node.binding.test([node.tested(proofs=scalar(order - 1)), node.tested(proofs=scalar(order))])
    assert "not true of the enrolled data (steps [0, 1, 2])" in str(below)
    assert str(at).endswith("expected scalars below the group's order, got a larger one")


def test_the_server_counts_what_each_row_was_opened_for(tmp_path: Path) -> None:
    """From what was told before it registered; the most of any sample, and never more than there is."""
    layer = IntegerLayer.of(TrainingPlan(lambda: nn.Linear(400, 2), 0.1))
    binding = CommittedBinding("arkworks")
    parameters = claim_proofs.parameters(binding.group, NODE, 400)
    told = Registration(ROOT, 6, 400, TOP, b"").signed(KEY, NODE, parameters)
    binding.register(NODE, 400, Enrolled(told, 300, 7))
    first = binding.disclosure(NODE)
    assert (first.dimension, first.samples, first.samples_opened, first.max_rank) == (400, 6, 0, 7)
    assert (first.budget, first.remaining, first.enrolments, first.keys_issued) == (300, 293, 1, 0)

    kernels = np.random.default_rng(0).integers(-999, 999, (3, 400))
    cost = {size: of_step(sizes_of(kernels), 2, 400, size, TOP).opened for size in (1, 10, 11)}
    assert cost[10] < 350 < cost[1]

    def opens(*batches: list[int]) -> Any:
        steps = [
            StepClaims(layer, i, rows, kernels, np.zeros((len(rows), 3), np.int64)) for i, rows in enumerate(batches)
        ]
        binding.test(
            [base.Tested(NODE, ROOT, b"", steps, {}, np.zeros((len(steps), 1), np.uint8))]
        )  # whether true or not
        return binding.disclosure(NODE)

    known = opens([*range(10)])
    assert (known.samples_opened, known.max_rank, known.remaining) == (10, 7 + cost[10], max(0, 293 - cost[10]))
    known = opens([*range(5, 15)], [*range(14, 25)])
    most = 7 + max(2 * cost[10], cost[10] + cost[11])
    assert (known.samples_opened, known.max_rank) == (25, min(400, most))
    known = opens([3])
    assert (known.max_rank, known.remaining) == (min(400, 7 + cost[10] + cost[1]), 0)
    # Another registration starts with the larger of both counts.
    for spent, before in ((0, known.max_rank), (399, max(399, known.max_rank))):
        binding.register(NODE, 400, Enrolled(told, 300, spent))
        again = binding.disclosure(NODE)
        assert (again.samples_opened, again.max_rank) == (0, before)
    assert again.enrolments == 3


def test_a_node_is_its_first_devices(tmp_path: Path) -> None:
    node = bound("commitments", tmp_path)
    node.register()
    for first in range(4):  # keys before and after it
        with pytest.raises(WireError, match=rf"^expected the device that enrolled as node {NODE} before, got another$"):
            node.register(key=Ed25519PrivateKey.from_private_bytes(bytes([first]) * 32))
    node.register()
    with pytest.raises(WireError, match="signature"):
        node.binding.register(NODE + 1, WIDTH, node.binding._accounts[NODE].enrolled)


@pytest.mark.parametrize("width", [WIDTH - 1, WIDTH + 1])
def test_a_device_commits_under_its_own_parameters_alone(width: int, tmp_path: Path) -> None:
    request = CommittedBinding("arkworks").enrolment(NODE, width)
    with pytest.raises(
        ValueError, match=rf"^expected commitments by this release to {WIDTH} values, got other parameters$"
    ):
        CommittedBond().accept(Device(tmp_path), request, WIDTH)


# Encryption


def test_samples_are_encrypted_a_hundred_at_a_time_and_reported(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    device = Device(tmp_path, progress=lambda done, total: told.append((done, total)))
    node = Bound(EncryptedBinding(LocalAuthority("arkworks", 1.0)), EncryptedBond(), device)
    assert told == [(6, 6)]
    told.clear()
    raw = node.bond.bind(device, node.group, node.parameters, np.zeros((130, WIDTH), np.int64))
    assert raw.shape == (130, (WIDTH + 1) * 96) and len({row.tobytes() for row in raw}) == 130
    assert [total for _, total in told] == [130] * len(told)
    done = [done for done, _ in told]
    assert done == sorted({*done}) and 0 < done[0] < done[-1] == 130


def test_a_device_takes_a_public_key_of_its_own_width(tmp_path: Path) -> None:
    authority = LocalAuthority("arkworks", 1.0)
    for width in (WIDTH - 1, WIDTH + 1):
        request = EncryptedBinding(authority).enrolment(NODE, width)
        with pytest.raises(ValueError, match=rf"^expected a public key for {WIDTH} values, got one for {width}$"):
            EncryptedBond().accept(Device(tmp_path), request, WIDTH)
        with pytest.raises(ValueError, match=rf"^expected a public key of width {WIDTH}, got {width}$"):
            EncryptedBond().accept(Device(tmp_path, authority=authority.verify_key), request, WIDTH)
    request = EncryptedBinding(authority).enrolment(NODE, WIDTH)
    assert (request.binding, request.node_id, request.group) == ("encryption", NODE, "arkworks")
    for pinned in (None, authority.verify_key):
        group, public = EncryptedBond().accept(Device(tmp_path, authority=pinned), request, WIDTH)
        assert public == authority.public_key(NODE, WIDTH).to_bytes() and group.name == "arkworks"
    with pytest.raises(ValueError, match="signed by the pinned authority"):
        EncryptedBond().accept(Device(tmp_path, authority=bytes(32)), request, WIDTH)


@pytest.mark.parametrize(("drawn", "found"), [(0, 1), (1, 2), (6, 7), (7, 1), (8, 2), (2**64 - 1, 2)])
def test_weights_are_from_one_to_below_a_power_of_two(drawn: int, found: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight bytes each, little-endian; of three bits the seven numbers without 0. ``2^64 - 1`` is 1 modulo 7."""
    raw = {"token_bytes": lambda count: (drawn.to_bytes(8, "little") * 9)[:count]}
    monkeypatch.setattr(encrypted, "secrets", type("Drawn", (), {k: staticmethod(v) for k, v in raw.items()}))
    assert positive(3, 3).tolist() == [found] * 3


def test_a_servers_weights_have_23_bits(tmp_path: Path) -> None:
    """A false claim passes with probability 2^-23, and 2^-24 by the authority's."""
    step = StepClaims(DENSE, 0, [*range(300)], np.ones((3, WIDTH), np.int64), np.zeros((300, 3), np.int64))
    ask, other = Ask.about(ROOT, step), Ask.about(ROOT, step)
    assert len(ask.sigma) == 300 and min(ask.sigma) > 0 and 2**22 < max(ask.sigma) < 2**23
    assert ask.sigma != other.sigma and ask.seed != other.seed and len(ask.seed) == 32


@pytest.mark.parametrize(("layer", "units"), [(DENSE, 2), (SPATIAL, 0)])
def test_an_authority_is_told_the_functions_and_their_units(layer: IntegerLayer, units: int, tmp_path: Path) -> None:
    """And the key that it gives tests the values, combined by its weights and the server's."""
    node = bound("encryption", tmp_path, layer)
    step = node.claims()[1]
    ask = Ask.about(ROOT, step)
    stated = ask.stated
    told = stated.root, list(stated.rows), stated.units, stated.whole
    assert told == (ROOT, [5, 3, 2], units, bool(layer.spatial))
    flat = node.samples[[5, 3, 2]].astype(object)
    assert len(stated.functions) == layer.outputs + 1
    assert (flat @ np.array(stated.functions, object).T == ask.values).all()
    node.register()
    key = node.binding.authority.check_key(NODE, stated, ask.seed)
    cut = {row: ipfe.ciphertexts_from_bytes(node.group, ipfe_rows(node, row))[0] for row in range(6)}
    claim = ask.claim(cut, key)
    rho = weights(key.seed, len(stated.functions))
    assert claim.value == sum(
        s * sum(r * int(v) for r, v in zip(rho, row, strict=True)) for s, row in zip(ask.sigma, ask.values, strict=True)
    )
    assert ipfe.claims_hold([claim]) and not ipfe.claims_hold([replace(claim, value=claim.value + 1)])


def ipfe_rows(node: Bound, row: int) -> bytes:
    points = groups.decode(node.group, node.bound[row])
    return ipfe.ciphertexts_to_bytes([ipfe.Ciphertext(node.group, tuple(points))])


def test_what_was_stated_while_the_authority_was_away_is_owed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the step on whose key did not come; one by one when it is back, also if it refuses some."""
    node = bound("encryption", tmp_path)
    node.register()
    authority, given, counted = node.binding.authority, [], []
    issue, count = authority.check_key, authority.count

    def away_after_one(*what: Any) -> Any:
        if given:
            raise AuthorityUnavailable("expected an authority, got none")
        given.append(issue(*what))
        return given[0]

    monkeypatch.setattr(authority, "check_key", away_after_one)
    (found,) = node.binding.test([node.tested()])
    assert isinstance(found, Exhausted) and "no authority to ask" in str(found)
    assert [stated.rows for stated in node.binding._owed[NODE]] == node.rows[1:]

    def away_after_two(node_id: int, stated: Any) -> None:
        if len(counted) == 1:
            counted.append(None)
            raise AuthorityUnavailable("expected an authority, got none")
        counted.append(stated.rows)
        count(node_id, stated)

    monkeypatch.setattr(authority, "count", away_after_two)
    with pytest.raises(Exhausted, match="no authority"):
        node.binding.disclosure(NODE)
    assert [stated.rows for stated in node.binding._owed[NODE]] == node.rows[2:]
    before = authority.disclosure(NODE).samples_opened
    known = node.binding.disclosure(NODE)
    assert node.binding._owed[NODE] == [] and counted == [node.rows[1], None, node.rows[2]]
    assert (before, known.samples_opened) == (6, 6) and known.max_rank == WIDTH
    # What the authority refuses to count, as of another set, is owed no more.
    node.binding._owed[NODE].extend(
        [replace(Ask.about(bytes(32), step).stated, root=bytes(32)) for step in node.claims()]
    )
    monkeypatch.setattr(authority, "count", count)
    node.register()
    assert node.binding._owed[NODE] == [] and node.binding.disclosure(NODE).enrolments >= 1


def test_a_spent_budget_is_the_authoritys_word(tmp_path: Path) -> None:
    node = bound("encryption", tmp_path, budget=0.25)
    assert node.binding.budget == 0.25 and CommittedBinding("arkworks").budget == 1.0
    node.register()
    (found,) = node.binding.test([node.tested()])
    assert isinstance(found, Exhausted) and str(found).startswith("disclosure budget spent: ")
