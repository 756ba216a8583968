"""Registration, keys for registered sets only, and a budget that nothing resets."""

from __future__ import annotations

import json

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from flwr_faa.authority import Authority, BudgetExceeded, LocalAuthority, Refused, Registration, SignedPublicKey
from flwr_faa.authority.core import KeyAuthority
from flwr_faa.crypto import ipfe
from tests.authority.parties import WIDTH, Signer, facts, functions
from tests.authority.test_budget import rank

ROOT, OTHER = b"r" * 32, b"o" * 32


def test_keys_open_what_the_registered_client_encrypted(authority: LocalAuthority, client: Signer) -> None:
    seam: Authority = authority
    root = client.enrol(seam)
    x = np.arange(WIDTH)
    ciphertext = ipfe.encrypt(seam.public_key(client.node, WIDTH), x)
    (key,) = seam.functional_keys(client.node, [np.ones(WIDTH, int)], root=root, rows=np.arange(3))
    assert ipfe.decrypt(ciphertext, key, 1000) == x.sum()
    found = seam.disclosure(client.node)
    assert (found.dimension, found.samples, found.samples_opened) == (WIDTH, 20, 3)
    assert (found.max_rank, found.budget, found.enrolments, found.keys_issued) == (1, WIDTH // 4, 1, 1)
    assert found.remaining == 3


def test_a_key_for_one_clients_set_opens_nothing_of_another(authority: LocalAuthority) -> None:
    one, two = Signer(1), Signer(2)
    root = one.enrol(authority)
    two.enrol(authority)
    x = [1] * WIDTH
    (key,) = authority.functional_keys(1, [x], root=root)
    assert ipfe.decrypt(ipfe.encrypt(authority.public_key(1, WIDTH), x), key, 1000) == WIDTH
    with pytest.raises(ValueError, match="expected"):
        ipfe.decrypt(ipfe.encrypt(authority.public_key(2, WIDTH), x), key, 1000)


def test_a_key_asked_for_one_sample_opens_the_others_which_is_why_it_counts_for_all(
    authority: LocalAuthority, client: Signer
) -> None:
    root = client.enrol(authority)
    (key,) = authority.functional_keys(client.node, [[1] * WIDTH], root=root, rows=[0])
    other = ipfe.encrypt(authority.public_key(client.node, WIDTH), [3] * WIDTH)
    assert ipfe.decrypt(other, key, 1000) == 3 * WIDTH
    assert authority.disclosure(client.node).remaining == WIDTH // 4 - 1


def test_over_budget_is_refused_without_a_change(authority: LocalAuthority, client: Signer) -> None:
    root = client.enrol(authority)
    asked = functions(WIDTH // 4)
    authority.functional_keys(client.node, asked[:2], root=root, rows=[0, 1], disclosed=asked[2:])
    before = facts(authority)
    for arguments in (
        {"functions": functions(1), "rows": []},  # opens the rows above too
        {"functions": [], "rows": [1], "disclosed": functions(1)},
        {"functions": [], "rows": [5], "disclosed": functions(3)},
    ):
        with pytest.raises(BudgetExceeded, match="expected at most 4 of 16 dimensions"):
            authority.functional_keys(client.node, root=root, **arguments)
        assert facts(authority) == before
    authority.functional_keys(client.node, asked[:2], root=root, rows=[0, 1], disclosed=asked[2:])
    authority.functional_keys(client.node, [], root=root, rows=[5], disclosed=functions(2))
    assert authority.disclosure(client.node).samples_opened == 3


def test_a_steps_gradient_counts_for_its_rows_in_equal_shares_and_once(client: Signer) -> None:
    authority = LocalAuthority(budget=0.75)
    root = client.enrol(authority)
    stated, step = functions(3), {"root": root, "rows": [2, 5, 7, 9, 11]}
    for _ in range(2):  # the second time costs nothing
        authority.functional_keys(client.node, [], **step, disclosed=stated, units=1)
        assert authority.disclosure(client.node).max_rank == 3 + 4  # 16 equations between five rows
    with pytest.raises(BudgetExceeded, match="got 14"):
        authority.functional_keys(client.node, [], **step, disclosed=functions(3), units=1)
    authority.functional_keys(client.node, [], **{**step, "rows": [1, 3]}, disclosed=stated, units=1)
    found = authority.disclosure(client.node)
    assert (found.max_rank, found.remaining) == (11, 1)
    assert '"units": 1' in authority.store.lines(1)[0].detail


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"units": 1}, "functions stated to be units"),
        ({"units": -1}, "functions stated to be units"),
        ({"root": OTHER}, "the set that is registered"),
        ({"root": b""}, "the set that is registered"),
        ({"root": None}, "the registered set of node"),
        ({"rows": [20]}, "rows from 0 to 19"),
        ({"rows": [-1]}, "rows from 0 to 19"),
        ({"rows": [1, 1]}, "every row concerned, once"),
        ({"rows": [], "disclosed": [[1] * WIDTH]}, "every row concerned"),
        ({"functions": [[1] * (WIDTH + 1)]}, "length 16"),
        ({"functions": [[]]}, "length 16"),
        ({"functions": [[2**256] * WIDTH]}, "below half the group's order"),
        ({"disclosed": [[1] * 3]}, "length 16"),
        ({"node_id": 5}, "the set that is registered"),
        ({"node_id": -1, "root": None}, "64 bits"),
    ],
)
def test_what_does_not_fit_is_refused_logged_and_changes_nothing(
    authority: LocalAuthority, client: Signer, arguments: dict, reason: str
) -> None:
    client.enrol(authority)
    before, count = facts(authority), authority.store.check_log()
    request = {"node_id": client.node, "functions": [[1] * WIDTH], "root": ROOT, "rows": [0]} | arguments
    if request["root"] is None:
        request["rows"] = []
    with pytest.raises(Refused, match=reason):
        authority.functional_keys(**request)
    assert facts(authority) == before
    assert authority.store.check_log() == count + 1
    (line,) = authority.store.lines(1)
    assert line.event == "refused" and reason in json.loads(line.detail)["reason"]


@pytest.mark.parametrize("change", ["root", "samples", "node", "public key", "signer", "signature"])
def test_a_registration_not_signed_as_it_stands_is_refused(
    authority: LocalAuthority, client: Signer, change: str
) -> None:
    good = client.registration(authority)
    authority.public_key(5, WIDTH)
    node, fields = client.node, dict(vars(good))
    if change == "node":
        node = 5
    elif change == "public key":
        fields = dict(vars(good.signed(client.key, node, authority.public_key(5, WIDTH).to_bytes())))
    else:
        fields |= {
            "root": {"root": OTHER},
            "samples": {"samples": 21},
            "signer": {"verify_key": Signer(1).owner},
            "signature": {"signature": bytes(64)},
        }[change]
    with pytest.raises(Refused, match="expected the client's signature"):
        authority.register(node, Registration(**fields))
    with pytest.raises(Refused, match="registered for node"):
        authority.functional_keys(node, [[1] * WIDTH], root=fields["root"])


def test_registrations_of_the_wrong_form_are_refused(authority: LocalAuthority) -> None:
    good = {"root": ROOT, "samples": 1, "width": 1, "verify_key": bytes(32), "signature": bytes(64)}
    for bad in ({"root": b""}, {"samples": 0}, {"samples": 2**32}, {"width": 0}, {"width": 2**17}, {"signature": b""}):
        with pytest.raises(Refused, match="expected"):
            authority.register(1, Registration(**(good | bad)))


def test_the_first_key_keeps_the_node(authority: LocalAuthority, client: Signer) -> None:
    root = client.enrol(authority)
    with pytest.raises(Refused, match="the client that registered node"):
        Signer(client.node).enrol(authority, OTHER)
    authority.functional_keys(client.node, functions(1), root=root)


def test_neither_another_set_nor_another_node_gives_a_fresh_budget(authority: LocalAuthority) -> None:
    authority.simulation = False
    key = Ed25519PrivateKey.generate()
    client, moved = Signer(1, key), Signer(2, key)
    root = client.enrol(authority)
    client.enrol(authority)  # the same again
    assert authority.disclosure(1).enrolments == 1
    authority.functional_keys(1, functions(1), root=root, rows=[0], disclosed=functions(2))
    for signer, other, times in ((client, OTHER, 2), (moved, b"p" * 32, 3)):
        signer.enrol(authority, other)
        found = authority.disclosure(signer.node)
        assert (found.enrolments, found.max_rank, found.keys_issued) == (times, 3, 1)
        assert found.remaining == 1
        with pytest.raises(BudgetExceeded):
            authority.functional_keys(signer.node, functions(2), root=other)
    for node, closed in ((1, root), (1, OTHER)):
        with pytest.raises(Refused, match="registered for last, 2, got 1"):
            authority.functional_keys(node, functions(1), root=closed)
    authority.functional_keys(2, functions(1), root=b"p" * 32)
    assert authority.disclosure(1) == authority.disclosure(2)
    assert [line.event for line in authority.store.lines(99)].count("re-registered") == 2


def test_going_back_to_an_old_set_resets_nothing(authority: LocalAuthority, client: Signer) -> None:
    client.enrol(authority)
    authority.functional_keys(client.node, functions(1), root=ROOT, rows=[0], disclosed=functions(1))
    client.enrol(authority, OTHER)
    authority.functional_keys(client.node, [], root=OTHER, rows=[1], disclosed=functions(1))
    with pytest.raises(Refused, match="the set that is registered"):
        authority.functional_keys(client.node, [], root=ROOT)
    client.enrol(authority, ROOT)
    found = authority.disclosure(client.node)
    assert (found.enrolments, found.max_rank, found.remaining) == (3, 3, 1)


def test_simulated_nodes_share_a_key_but_not_a_budget(authority: LocalAuthority) -> None:
    one = Signer(1)
    two = Signer(2, one.key)
    root = one.enrol(authority)
    two.enrol(authority)
    authority.functional_keys(1, functions(4), root=root, rows=[0])
    authority.functional_keys(2, functions(1), root=root, rows=[0])
    assert [authority.disclosure(node).max_rank for node in (1, 2)] == [4, 1]
    with pytest.raises(Refused, match="registered node 2 first"):
        Signer(2).enrol(authority, OTHER)


def test_a_budget_of_everything_is_never_exceeded(client: Signer) -> None:
    authority = LocalAuthority(budget=1.0)
    root = client.enrol(authority)
    authority.functional_keys(client.node, functions(2 * WIDTH), root=root, rows=[0], disclosed=functions(WIDTH))
    found = authority.disclosure(client.node)
    assert (found.max_rank, found.remaining) == (WIDTH, WIDTH)
    assert str(found) == "1 of 20 samples opened, rank at most 16 of 16, budget 16"


def test_unregistered_keys_are_for_nodes_that_never_register(authority: LocalAuthority, client: Signer) -> None:
    authority.functional_keys(1, np.eye(8, dtype=int).tolist())
    found = authority.disclosure(1)
    assert (found.dimension, found.samples, found.max_rank, found.keys_issued) == (8, 0, 8, 8)
    with pytest.raises(Refused, match="without keys for unregistered data"):
        Signer(1).enrol(authority)
    client.enrol(authority)
    with pytest.raises(Refused, match="expected the registered set"):
        authority.functional_keys(client.node, [[1] * WIDTH])
    with pytest.raises(Refused, match="expected the registered set"):
        KeyAuthority(authority.store).functional_keys(3, [[1] * WIDTH])
    with pytest.raises(Refused, match="a node with keys"):
        authority.disclosure(3)


small = st.lists(st.integers(-2, 2), min_size=5, max_size=5)
asked = st.tuples(
    st.lists(small, max_size=2), st.lists(small, max_size=2), st.sets(st.integers(0, 3), min_size=1, max_size=2)
)
moved = st.tuples(st.sampled_from([1, 2]), st.permutations(range(4)))  # the same samples, shuffled, on some node


@settings(max_examples=60)
@given(st.lists(asked | moved, max_size=12))
def test_whatever_happens_no_more_is_known_than_is_said_nor_than_allowed(happening: list) -> None:
    authority, key = LocalAuthority("arkworks", budget=0.6), Ed25519PrivateKey.generate()
    authority.simulation = False
    node, root, order = 1, ROOT, list(range(4))
    Signer(node, key).enrol(authority, root, 4, 5)
    keys: list[list[int]] = []
    stated: dict[int, list[list[int]]] = {sample: [] for sample in range(4)}  # by the sample itself, whatever its row
    for number, event in enumerate(happening):
        if len(event) == 2:
            (node, order), root = event, number.to_bytes(32, "big")
            Signer(node, key).enrol(authority, root, 4, 5)
        else:
            functions, values, rows = event
            before = facts(authority)
            try:
                authority.functional_keys(node, functions, root=root, rows=sorted(rows), disclosed=values)
            except BudgetExceeded:
                assert facts(authority) == before
                continue
            keys += functions
            for row in rows:
                stated[order[row]] += values
        found = authority.disclosure(node)
        assert max(rank(keys + known) for known in stated.values()) <= found.max_rank <= found.budget == 3
        assert all(rank(keys + stated[order[row]]) <= 3 - found.remaining for row in range(4))


def test_a_public_key_is_taken_from_anybody_if_the_authority_signed_it(authority: LocalAuthority) -> None:
    relayed = authority.signed_public_key(7, WIDTH).to_bytes()
    found = SignedPublicKey.from_bytes(relayed)
    public = found.verify(authority.verify_key, 7, authority.group, WIDTH)
    assert public.to_bytes() == authority.public_key(7, WIDTH).to_bytes()
    another = LocalAuthority()
    for pinned, node, width, reason in (
        (another.verify_key, 7, WIDTH, "signed by the pinned authority"),
        (authority.verify_key, 8, WIDTH, "of node 8"),
        (authority.verify_key, 7, WIDTH + 1, "of width 17"),
    ):
        with pytest.raises(ValueError, match=reason):
            found.verify(pinned, node, authority.group, width)
    for at in (5, 20, len(relayed) // 2, len(relayed) - 1):
        forged = relayed[:at] + bytes([relayed[at] ^ 1]) + relayed[at + 1 :]
        with pytest.raises(ValueError, match="expected"):
            SignedPublicKey.from_bytes(forged).verify(authority.verify_key, 7, authority.group, WIDTH)
    for cut in (b"", relayed[:10], relayed[:-1], relayed + b"x", b"X" + relayed[1:]):
        with pytest.raises(ValueError, match="expected"):
            SignedPublicKey.from_bytes(cut)


def test_secrets_are_not_shown(authority: LocalAuthority, client: Signer) -> None:
    root = client.enrol(authority)
    (key,) = authority.functional_keys(client.node, functions(1), root=root)
    master = authority._master(client.node, WIDTH)
    shown = repr(authority) + repr(key) + repr(master) + repr(authority.store.lines(99))
    assert not any(str(secret) in shown for secret in (key.secret, *master.scalars))
