"""Registration, keys for registered sets only, and a budget that nothing resets."""

from __future__ import annotations

import json

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from flwr_faa.authority import (
    Authority,
    BudgetExceeded,
    LocalAuthority,
    Refused,
    Registration,
    SignedPublicKey,
    Stated,
)
from flwr_faa.authority.base import combine, weights
from flwr_faa.authority.core import KeyAuthority
from flwr_faa.authority.information import of_function, of_key
from flwr_faa.crypto import ipfe
from tests.authority.parties import FUNCTION, KEY, TOP, WIDTH, Signer, check, count, facts, functions, told_at_most

ROOT, OTHER = b"r" * 32, b"o" * 32


def test_keys_open_what_the_registered_client_encrypted(authority: LocalAuthority, client: Signer) -> None:
    seam: Authority = authority
    root = client.enrol(seam)
    x = np.arange(WIDTH)
    ciphertext = ipfe.encrypt(seam.public_key(client.node, WIDTH), x)
    asked = np.eye(WIDTH, dtype=int)[:2]
    found = check(seam, client.node, root, asked, rows=np.arange(3))
    rho = weights(found.seed, 2)
    assert list(found.key.y) == combine(rho, asked.tolist()) == [*rho, *[0] * (WIDTH - 2)]
    assert ipfe.claim_holds([ciphertext], [1], found.key, rho[1])
    known = seam.disclosure(client.node)
    assert (known.dimension, known.samples, known.samples_opened) == (WIDTH, 20, 3)
    assert (known.max_rank, known.budget, known.enrolments, known.keys_issued) == (2 + KEY, WIDTH // 4, 1, 1)
    assert known.remaining == 4


def test_the_server_chooses_no_key(authority: LocalAuthority, client: Signer) -> None:
    """Attack (a): y = (1, 256, 65536, 2^24) over four pixels at a time. Weights come from the authority's secret."""
    root = client.enrol(authority)
    packed = [[256**i if i < 4 else 0 for i in range(WIDTH)]]
    for seed in (b"s" * 32, b"t" * 32):
        with pytest.raises(Refused, match="paper's mode"):
            authority.functional_keys(client.node, packed)
        found = check(authority, client.node, root, packed, seed=seed)
        assert found.key.y[0] > 1 and all(v == 256**i * found.key.y[0] for i, v in enumerate(found.key.y[:4]))
        # What it packs it pays for: 31 bits, and the weight's 24, on top of what is packed.
        assert of_function(sum(packed[0]), TOP) == 2 and of_key([sum(packed[0])], TOP) == 3


def test_the_same_request_has_the_same_key_and_any_other_another_that_counts(client: Signer) -> None:
    authority = LocalAuthority(budget=0.9)
    root, asked, seed = client.enrol(authority), functions(2), b"s" * 32
    first = check(authority, client.node, root, asked, seed)
    known = authority.disclosure(client.node)
    assert check(authority, client.node, root, asked, seed) == first
    assert authority.disclosure(client.node).max_rank == known.max_rank == 2 * FUNCTION + KEY
    keys = {first.key.y}
    for number, change in enumerate(({"stated": asked[::-1]}, {"seed": b"t" * 32}, {"rows": [1]})):
        found = check(authority, client.node, root, **({"stated": asked, "seed": seed} | change))
        keys.add(found.key.y)
        assert len(keys) == number + 2
        spent = authority.disclosure(client.node).max_rank
        assert spent == 2 * FUNCTION + KEY * (number + 2)


def test_a_key_for_one_clients_set_opens_nothing_of_another(authority: LocalAuthority) -> None:
    one, two = Signer(1), Signer(2)
    root = one.enrol(authority)
    two.enrol(authority)
    x = [1] * WIDTH
    key = check(authority, 1, root).key
    for node, opens in ((1, True), (2, False)):
        encrypted = ipfe.encrypt(authority.public_key(node, WIDTH), x)
        assert ipfe.claim_holds([encrypted], [1], key, sum(key.y)) == opens


def test_a_key_asked_for_one_sample_opens_the_others_which_is_why_it_counts_for_all(
    authority: LocalAuthority, client: Signer
) -> None:
    root = client.enrol(authority)
    key = check(authority, client.node, root, rows=[0]).key
    other = ipfe.encrypt(authority.public_key(client.node, WIDTH), [3] * WIDTH)
    assert ipfe.claim_holds([other], [1], key, 3 * sum(key.y))
    count(authority, client.node, root, rows=[1])
    assert authority.disclosure(client.node).max_rank == KEY + FUNCTION


def test_over_budget_is_refused_without_a_change(authority: LocalAuthority, client: Signer) -> None:
    root, asked, seed = client.enrol(authority), functions(6), b"s" * 32
    check(authority, client.node, root, asked, seed, rows=[0, 1])  # 6 and a key of 2: all there is
    before = facts(authority)
    for more in (
        lambda: check(authority, client.node, root, rows=[5]),  # opens the rows above too
        lambda: count(authority, client.node, root, rows=[1]),
        lambda: count(authority, client.node, root, 7, rows=[5]),
    ):
        with pytest.raises(BudgetExceeded, match="expected at most 8 of 32 dimensions"):
            more()
        assert facts(authority) == before
    check(authority, client.node, root, asked, seed, rows=[0, 1])
    count(authority, client.node, root, 6, rows=[5])
    assert authority.disclosure(client.node).samples_opened == 3


def test_a_steps_gradient_counts_for_its_rows_in_equal_shares_and_once(client: Signer) -> None:
    authority = LocalAuthority(budget=0.75)
    root = client.enrol(authority)
    asked = functions(3)
    share = -(-WIDTH * 2 // 8)  # 32 floats of 32 bits, 2 dimensions each, between eight rows
    for _ in range(2):  # the second time costs nothing
        count(authority, client.node, root, asked, rows=range(2, 10), units=1)
        assert authority.disclosure(client.node).max_rank == 3 + share == 11
    with pytest.raises(BudgetExceeded, match="got 30"):
        count(authority, client.node, root, 11, rows=range(2, 10), units=1)
    count(authority, client.node, root, asked, rows=range(1, 9), units=1)
    found = authority.disclosure(client.node)
    assert (found.max_rank, found.remaining) == (19, 5)
    assert '"units": 1' in authority.store.lines(1)[0].detail


def test_what_a_convolution_tells_is_the_sample(client: Signer) -> None:
    authority = LocalAuthority(budget=0.9)
    root = client.enrol(authority)
    with pytest.raises(BudgetExceeded, match="got 32"):
        count(authority, client.node, root, whole=True)
    authority = LocalAuthority(budget=1.0)
    client.enrol(authority)
    check(authority, client.node, root, whole=True)
    assert authority.disclosure(client.node).max_rank == WIDTH


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"units": 2}, "to be units"),
        ({"units": -1}, "to be units"),
        ({"functions": []}, "expected functions"),
        ({"root": OTHER}, "the set that is registered"),
        ({"root": b""}, "the set that is registered"),
        ({"rows": [20]}, "rows from 0 to 19"),
        ({"rows": [-1]}, "rows from 0 to 19"),
        ({"rows": [1, 1]}, "every row concerned, once"),
        ({"rows": []}, "every row concerned"),
        ({"functions": [[1] * (WIDTH + 1)]}, "length 32"),
        ({"functions": [[]]}, "length 32"),
        ({"functions": [[2**256] * WIDTH]}, "below half the group's order"),
        ({"functions": [[2**230] * WIDTH]}, "combinations stay below half the group's order"),
        ({"node_id": 5}, "the set that is registered"),
    ],
)
def test_what_does_not_fit_is_refused_logged_and_changes_nothing(
    authority: LocalAuthority, client: Signer, arguments: dict, reason: str
) -> None:
    client.enrol(authority)
    before, lines = facts(authority), authority.store.check_log()
    request = {"functions": [[1] * WIDTH], "root": ROOT, "rows": [0]} | arguments
    node = request.pop("node_id", client.node)
    for ask in (
        lambda: authority.check_key(node, Stated(**request), b"s" * 32),
        lambda: authority.count(node, Stated(**request)),
    ):
        with pytest.raises(Refused, match=reason):
            ask()
    assert facts(authority) == before
    assert authority.store.check_log() == lines + 2
    (line,) = authority.store.lines(1)
    assert line.event == "refused" and reason in json.loads(line.detail)["reason"]


@pytest.mark.parametrize("change", ["root", "samples", "top", "node", "public key", "signer", "signature"])
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
            "top": {"top": 255},
            "signer": {"verify_key": Signer(1).owner},
            "signature": {"signature": bytes(64)},
        }[change]
    with pytest.raises(Refused, match="expected the client's signature"):
        authority.register(node, Registration(**fields))
    with pytest.raises(Refused, match="registered for node"):
        check(authority, node, fields["root"])


def test_registrations_of_the_wrong_form_are_refused(authority: LocalAuthority) -> None:
    good = {"root": ROOT, "samples": 1, "width": 1, "top": 1, "verify_key": bytes(32), "signature": bytes(64)}
    for bad in (
        {"root": b""},
        {"top": 0},
        {"top": TOP + 1},
        {"samples": 0},
        {"samples": 2**32},
        {"width": 0},
        {"width": 2**17},
        {"signature": b""},
    ):
        with pytest.raises(Refused, match="expected"):
            authority.register(1, Registration(**(good | bad)))


def test_the_first_key_keeps_the_node(authority: LocalAuthority, client: Signer) -> None:
    root = client.enrol(authority)
    with pytest.raises(Refused, match="the client that registered node"):
        Signer(client.node).enrol(authority, OTHER)
    check(authority, client.node, root)


def test_neither_another_set_nor_another_node_gives_a_fresh_budget(authority: LocalAuthority) -> None:
    authority.simulation = False
    key = Ed25519PrivateKey.generate()
    client, moved = Signer(1, key), Signer(2, key)
    root = client.enrol(authority)
    client.enrol(authority)  # the same again
    assert authority.disclosure(1).enrolments == 1
    check(authority, 1, root, 3)
    for signer, other, times in ((client, OTHER, 2), (moved, b"p" * 32, 3)):
        signer.enrol(authority, other)
        found = authority.disclosure(signer.node)
        assert (found.enrolments, found.max_rank, found.keys_issued) == (times, 3 + KEY, 1)
        assert found.remaining == 3
        with pytest.raises(BudgetExceeded):
            check(authority, signer.node, other, 2)
    for node, closed in ((1, root), (1, OTHER)):
        with pytest.raises(Refused, match="registered for last, 2, got 1"):
            check(authority, node, closed)
    check(authority, 2, b"p" * 32)
    assert authority.disclosure(1) == authority.disclosure(2)
    assert [line.event for line in authority.store.lines(99)].count("re-registered") == 2


def test_going_back_to_an_old_set_resets_nothing(authority: LocalAuthority, client: Signer) -> None:
    client.enrol(authority)
    check(authority, client.node, ROOT)
    client.enrol(authority, OTHER)
    count(authority, client.node, OTHER, rows=[1])
    with pytest.raises(Refused, match="the set that is registered"):
        count(authority, client.node, ROOT)
    client.enrol(authority, ROOT)
    found = authority.disclosure(client.node)
    assert (found.enrolments, found.max_rank, found.remaining) == (3, 2 * FUNCTION + KEY, 4)


def test_what_is_known_counts_more_where_a_new_set_is_said_to_hold_less(authority: LocalAuthority) -> None:
    """The same samples, one left out, and a smaller largest value: as many bits are more dimensions."""
    client = Signer(3)
    check(authority, client.node, client.enrol(authority))
    public = authority.public_key(client.node, WIDTH).to_bytes()
    smaller = Registration(OTHER, 19, WIDTH, 2**16 - 1, b"").signed(client.key, client.node, public)
    authority.register(client.node, smaller)
    assert authority.disclosure(client.node).max_rank == -(-31 * (FUNCTION + KEY) // 16) == 6


def test_simulated_nodes_share_a_key_but_not_a_budget(authority: LocalAuthority) -> None:
    one = Signer(1)
    two = Signer(2, one.key)
    root = one.enrol(authority)
    two.enrol(authority)
    check(authority, 1, root, 4)
    check(authority, 2, root, 1)
    assert [authority.disclosure(node).max_rank for node in (1, 2)] == [4 + KEY, 1 + KEY]
    with pytest.raises(Refused, match="registered node 2 first"):
        Signer(2).enrol(authority, OTHER)


def test_a_budget_of_everything_is_never_exceeded(client: Signer) -> None:
    authority = LocalAuthority(budget=1.0)
    root = client.enrol(authority)
    check(authority, client.node, root, 2 * WIDTH)
    check(authority, client.node, root, 2 * WIDTH)
    found = authority.disclosure(client.node)
    assert (found.max_rank, found.remaining) == (WIDTH, WIDTH)
    assert str(found) == "1 of 20 samples opened, at most 32 of 32 dimensions known, budget 32"


def test_unregistered_keys_are_for_nodes_that_never_register(authority: LocalAuthority, client: Signer) -> None:
    authority.functional_keys(1, np.eye(8, dtype=int).tolist())
    found = authority.disclosure(1)
    assert (found.dimension, found.samples, found.max_rank, found.keys_issued) == (8, 0, 8, 8)
    with pytest.raises(Refused, match="without keys for unregistered data"):
        Signer(1).enrol(authority)
    client.enrol(authority)
    with pytest.raises(Refused, match="never registered data"):
        authority.functional_keys(client.node, [[1] * WIDTH])
    with pytest.raises(Refused, match="never registered data"):
        KeyAuthority(authority.store).functional_keys(3, [[1] * WIDTH])
    with pytest.raises(Refused, match="64 bits"):
        authority.functional_keys(-1, [[1] * WIDTH])
    with pytest.raises(Refused, match="a node with keys"):
        authority.disclosure(3)


SAMPLES, VALUES, LARGEST = 3, 5, 2
small = st.lists(st.integers(-2, 2), min_size=VALUES, max_size=VALUES)
asked = st.tuples(st.lists(small, min_size=1, max_size=2), st.booleans(), st.sets(st.integers(0, 2), min_size=1))
moved = st.tuples(st.sampled_from([1, 2]), st.permutations(range(SAMPLES)))  # the same samples, shuffled, on some node


@settings(max_examples=40, deadline=None)
@given(st.lists(asked | moved, max_size=8))
def test_whatever_happens_no_more_is_known_than_is_said_nor_than_allowed(happening: list) -> None:
    """By counting: of all samples that there can be, as many can be told apart as what is counted holds, at most."""
    authority, key = LocalAuthority("arkworks", budget=0.9), Ed25519PrivateKey.generate()
    authority.simulation = False

    def enrol(node: int, root: bytes) -> bytes:
        public = authority.public_key(node, VALUES).to_bytes()
        authority.register(node, Registration(root, SAMPLES, VALUES, LARGEST, b"").signed(key, node, public))
        return root

    node, root, order = 1, enrol(1, ROOT), list(range(SAMPLES))
    keys: list[list[int]] = []
    stated: dict[int, list[list[int]]] = {sample: [] for sample in range(SAMPLES)}  # by the sample, whatever its row
    for number, event in enumerate(happening):
        if len(event) == 2:
            node, order = event
            root = enrol(node, number.to_bytes(32, "big"))
        else:
            functions, with_key, rows = event
            before = facts(authority)
            try:
                if with_key:
                    keys.append(list(check(authority, node, root, functions, rows=sorted(rows)).key.y))
                else:
                    count(authority, node, root, functions, rows=sorted(rows))
            except BudgetExceeded:
                assert facts(authority) == before
                continue
            for row in rows:
                stated[order[row]] += functions
        found = authority.disclosure(node)
        assert found.max_rank <= found.budget == 4
        for known in stated.values():
            assert told_at_most(keys + known, VALUES, LARGEST, found.max_rank)


def test_a_public_key_is_taken_from_anybody_if_the_authority_signed_it(authority: LocalAuthority) -> None:
    relayed = authority.signed_public_key(7, WIDTH).to_bytes()
    found = SignedPublicKey.from_bytes(relayed)
    public = found.verify(authority.verify_key, 7, authority.group, WIDTH)
    assert public.to_bytes() == authority.public_key(7, WIDTH).to_bytes()
    another = LocalAuthority()
    for pinned, node, width, reason in (
        (another.verify_key, 7, WIDTH, "signed by the pinned authority"),
        (authority.verify_key, 8, WIDTH, "of node 8"),
        (authority.verify_key, 7, WIDTH + 1, "of width 33"),
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
    key = check(authority, client.node, root)
    master = authority._master(client.node, WIDTH)
    shown = repr(authority) + repr(key) + repr(master) + repr(authority.store.lines(99))
    assert not any(str(secret) in shown for secret in (key.key.secret, *master.scalars))
