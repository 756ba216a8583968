"""The authority in process: registrations are signed, budgets hold, refusals change nothing."""

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from flwr_faa.authority import BudgetExceeded, LocalAuthority, Refused, Registration
from flwr_faa.crypto import ipfe

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
WIDTH = 8


def registered(budget: float = 0.5, node: int = 2**63 + 5) -> tuple[LocalAuthority, int, Registration]:
    authority = LocalAuthority("arkworks", budget)
    public = authority.public_key(node, WIDTH).to_bytes()
    registration = Registration(bytes(32), 3, WIDTH, b"").signed(KEY, node, public)
    authority.register(node, registration)
    return authority, node, registration


def test_only_what_the_node_signed_is_registered() -> None:
    authority, node, good = registered()
    other = Ed25519PrivateKey.generate()
    public = authority.public_key(node, WIDTH).to_bytes()
    bad = [
        replace(good, root=b"1" * 32),
        replace(good, samples=4),
        replace(good, samples=0),
        replace(good, width=9),
        replace(good, width=0),
        replace(good, signature=bytes(64)),
        replace(good, signature=b""),
        replace(good, verify_key=bytes(32)),
        Registration(b"1" * 32, 3, WIDTH, b"").signed(other, node, public),
        Registration(b"1" * 32, 3, WIDTH, b"").signed(KEY, node + 1, public),
    ]
    for registration in bad:
        with pytest.raises(Refused):
            authority.register(node, registration)
    assert authority.disclosure(node).enrolments == 1
    with pytest.raises(Refused, match="none"):
        authority.disclosure(1)


def test_another_data_set_is_counted_and_going_back_resets_nothing() -> None:
    authority, node, first = registered()
    one = [[1] * WIDTH]
    authority.functional_keys(node, one, root=first.root, rows=[0, 2], disclosed=one)
    second = Registration(b"1" * 32, 2, WIDTH, b"").signed(KEY, node, authority.public_key(node, WIDTH).to_bytes())
    authority.register(node, second)
    authority.register(node, second)
    assert authority.disclosure(node).enrolments == 2
    assert authority.disclosure(node).samples_opened == 0
    with pytest.raises(Refused, match="another"):
        authority.functional_keys(node, one, root=first.root, rows=[0])
    authority.register(node, first)
    report = authority.disclosure(node)
    assert (report.enrolments, report.remaining, report.samples_opened, report.max_rank) == (3, (2, 4, 2), 2, 2)


def test_over_budget_no_key_is_issued_and_nothing_counted() -> None:
    authority, node, registration = registered()
    ones = [[1] * WIDTH]

    def ask(rows, disclosed=0):
        return authority.functional_keys(node, ones, root=registration.root, rows=rows, disclosed=ones * disclosed)

    assert len(ask([0], 2)) == 1
    before = authority.disclosure(node)
    assert before.remaining == (1, 4, 4)
    for bad in ((0, 1), (1, 1, 0), (1, 1, 1)):
        with pytest.raises(BudgetExceeded):
            ask(bad, 1)
    for bad in ((3,), (-1,)):
        with pytest.raises(Refused):
            ask(bad)
    with pytest.raises(Refused):
        authority.functional_keys(node, [[1] * 7], root=registration.root, rows=[1])
    assert authority.disclosure(node) == before
    assert "1 of 3 samples opened, rank at most 3 of 8, budget 4" in str(before)


def test_a_budget_of_everything_is_never_exceeded() -> None:
    authority, node, registration = registered(1.0)
    for _ in range(30):
        authority.functional_keys(node, [[1] * WIDTH], root=registration.root, rows=[0])
    assert authority.disclosure(node).max_rank == WIDTH
    with pytest.raises(ValueError, match="above 0"):
        LocalAuthority(budget=0)


def test_a_key_for_one_node_opens_nothing_of_another() -> None:
    authority, node, _ = registered()
    x = list(range(WIDTH))
    (key,) = authority.functional_keys(node, [[1] * WIDTH])
    own = ipfe.encrypt(authority.public_key(node, WIDTH), x)
    other = ipfe.encrypt(authority.public_key(node + 1, WIDTH), x)
    assert ipfe.claim_holds([own], [1], key, sum(x))
    assert not ipfe.claim_holds([other], [1], key, sum(x))
