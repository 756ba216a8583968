"""Functional encryption against plain inner products and a second implementation; then against cheats."""

import dataclasses
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flwr_faa.crypto import groups, ipfe
from flwr_faa.crypto.backends import open_group
from flwr_faa.crypto.dlog import OutOfRange
from flwr_faa.crypto.group import Group
from flwr_faa.crypto.ipfe import (
    Ciphertext,
    FunctionalKey,
    PublicKey,
    ciphertexts_from_bytes,
    ciphertexts_to_bytes,
    claim_holds,
    decrypt,
    decrypt_rows,
    derive_key,
    encrypt,
    encrypt_rows,
    setup,
)
from tests.crypto.oracle import ModpIPFE

RNG = np.random.default_rng(0)


def test_a_thousand_random_vectors_agree_with_two_oracles(group: Group) -> None:
    n, bound = 8, 8 * 50 * 40
    x, y = RNG.integers(-50, 51, (1000, n)), RNG.integers(-40, 41, (3, n))
    public, master = setup(group, n)
    got = decrypt_rows(encrypt_rows(public, x), [derive_key(master, row) for row in y], bound)

    assert got.dtype == np.int64 and (got == x @ y.T).all()
    modp = ModpIPFE(n, bound)
    assert [modp.decrypt(modp.encrypt(row), y[0].tolist()) for row in x.tolist()] == got[:, 0].tolist()


@pytest.mark.parametrize("n", [1, 2, 28])
def test_the_edges_of_the_bound(group: Group, n: int) -> None:
    """Largest pixels and weights: exactly the bound is right, one below is an error, on both sides."""
    public, master = setup(group, n)
    x = np.full((2, n), 255)
    x[1] = -255
    key, bound = derive_key(master, [3] * n), 255 * 3 * n
    ciphertexts = encrypt_rows(public, x)
    assert decrypt_rows(ciphertexts, [key], bound).tolist() == [[bound], [-bound]]
    for ciphertext in ciphertexts:
        with pytest.raises(OutOfRange):
            decrypt(ciphertext, key, bound - 1)
    zero = encrypt(public, [0] * n)
    assert decrypt(zero, key, 0) == 0
    assert decrypt(zero, derive_key(master, [0] * n), 0) == 0


def test_unit_vectors_read_the_row(group: Group) -> None:
    public, master = setup(group, 28)
    x = RNG.integers(0, 256 * 29, (5, 28))
    keys = [derive_key(master, e) for e in np.eye(28, dtype=np.int64)]
    assert (decrypt_rows(encrypt_rows(public, x), keys, 2**14) == x).all()


def test_integers_of_any_kind_and_size(group: Group) -> None:
    public, master = setup(group, 2)
    for x in ([3, -4], np.array([3, -4], np.int8), (np.int64(3), np.int32(-4)), np.array([3, -4], object)):
        assert decrypt(encrypt(public, x), derive_key(master, x), 25) == 25
    big = 2**100
    assert decrypt(encrypt(public, [big, 1 - big]), derive_key(master, [7, 7]), 10) == 7
    assert decrypt(encrypt(public, [1, 1]), derive_key(master, [big, 5 - big]), 10) == 5


@given(data=st.data())
@settings(max_examples=40)
def test_any_small_vectors(group: Group, data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 6))
    vector = st.lists(st.integers(-300, 300), min_size=n, max_size=n)
    x, y = data.draw(vector), data.draw(vector)
    public, master = setup(group, n)
    expected = sum(a * b for a, b in zip(x, y, strict=True))
    assert decrypt(encrypt(public, x), derive_key(master, y), abs(expected)) == expected


def test_encryption_is_randomised(group: Group) -> None:
    public, _ = setup(group, 3)
    first, second = (ciphertexts_to_bytes([c])[11:] for c in encrypt_rows(public, [[1, 2, 3]] * 2))
    size = group.point_size
    assert all(first[i : i + size] != second[i : i + size] for i in range(0, len(first), size))
    assert setup(group, 3)[0].to_bytes() != public.to_bytes()


def test_every_row_has_randomness_of_its_own(group: Group) -> None:
    public, master = setup(group, 2)
    rows = encrypt_rows(public, [[1, 2], [3, 4], [1, 2]])
    assert len(set(group.coordinates([row.points[0] for row in rows]))) == 3
    assert [row.n for row in rows] == [2] * 3
    assert decrypt_rows(rows, [derive_key(master, [10, 1])], 34)[:, 0].tolist() == [12, 34, 12]


def test_no_rows(group: Group) -> None:
    assert encrypt_rows(setup(group, 3)[0], np.zeros((0, 3), int)) == ()


@pytest.mark.parametrize("n", [0, -1, 2**16 + 1])
def test_widths_that_are_refused(group: Group, n: int) -> None:
    with pytest.raises(ValueError, match=f"expected vectors of length 1 to 65536, got {n}"):
        setup(group, n)


def test_the_largest_width_has_keys(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ipfe, "MAX_WIDTH", 3)  # 65,536 take seconds
    assert setup(group, 3)[0].n == 3
    with pytest.raises(ValueError, match="of length 1 to 3, got 4"):
        setup(group, 4)


@pytest.mark.parametrize(
    "x", [[1, 2], [1, 2, 3, 4], [1.0, 2.0, 3.0], [1, 2, 3.5], [True, 1, 2], ["1", 2, 3], [[1]] * 3]
)
def test_vectors_that_are_refused(group: Group, x: list[int]) -> None:
    public, master = setup(group, 3)
    for act in (lambda: encrypt(public, x), lambda: encrypt_rows(public, [x]), lambda: derive_key(master, x)):
        with pytest.raises(ValueError, match=r"expected .*, got"):
            act()


def test_the_first_value_that_is_no_integer_is_told(group: Group) -> None:
    with pytest.raises(ValueError, match=r"expected integers, got 2\.5$"):
        encrypt(setup(group, 4)[0], [1, 2.5, 3, 4.5])


def test_values_beyond_half_the_order_are_refused(group: Group) -> None:
    public, master = setup(group, 2)
    half = group.order // 2
    for value in (half, -half, group.order):
        for vector in ([value, 0], [0, value]):
            with pytest.raises(ValueError, match="below half the group's order"):
                encrypt(public, vector)
            with pytest.raises(ValueError, match="below half the group's order"):
                derive_key(master, vector)
    largest = encrypt(public, [half - 1, 1 - half])
    assert decrypt(largest, derive_key(master, [1, 1]), 0) == 0
    assert claim_holds([largest], [1], derive_key(master, [0, 1]), 1 - half)
    assert decrypt(encrypt(public, [1, 1]), derive_key(master, [half - 1, 2 - half]), 1) == 1


def test_secrets_are_not_shown(group: Group) -> None:
    _, master = setup(group, 2)
    key = derive_key(master, [1, 2])
    shown = repr(master) + str(master) + repr(key)
    assert not any(str(s) in shown or f"{s:x}" in shown for s in (*master.scalars, key.secret))
    assert dataclasses.replace(master) != master  # nor compared, by a comparison that takes longer the more is equal


# What a cheat may try: an error or a wrong value, never a crash, and never the right value.


def outcome(ciphertext: Ciphertext, key: FunctionalKey, bound: int = 1000) -> int | None:
    try:
        return decrypt(ciphertext, key, bound)
    except OutOfRange:
        return None


def test_tampering_with_ciphertexts_and_keys(group: Group) -> None:
    public, master = setup(group, 3)
    key, ciphertext = derive_key(master, [1, 2, 3]), encrypt(public, [4, 5, 6])
    other_public, other_master = setup(group, 3)
    points = list(ciphertext.points)

    def altered(i: int, point: object) -> Ciphertext:
        return Ciphertext(group, tuple(point if j == i else p for j, p in enumerate(points)))

    assert outcome(ciphertext, key) == 32
    for i in range(4):
        for point in (group.generator, group.identity, group.neg(points[i]), points[(i + 1) % 4]):
            assert outcome(altered(i, point), key) != 32
    assert outcome(altered(1, group.add(points[1], group.generator)), key) == 33  # malleable, as the docstring says
    assert outcome(encrypt(other_public, [4, 5, 6]), key) is None
    assert outcome(ciphertext, derive_key(other_master, [1, 2, 3])) is None
    assert outcome(ciphertext, dataclasses.replace(key, secret=key.secret + 1)) is None
    assert outcome(ciphertext, dataclasses.replace(key, y=(1, 2, 4))) is None
    assert outcome(Ciphertext(group, (group.identity,) * 4), key) == 0


def test_what_does_not_fit_together(group: Group) -> None:
    (public, master), (wide, wide_master) = setup(group, 2), setup(group, 3)
    ciphertext, key = encrypt(public, [1, 2]), derive_key(master, [1, 1])
    with pytest.raises(ValueError, match="at least one ciphertext"):
        decrypt_rows([], [key], 10)
    with pytest.raises(ValueError, match=r"one width .* got \[2, 3\]"):
        decrypt_rows([ciphertext, encrypt(wide, [1, 2, 3])], [key], 10)
    with pytest.raises(ValueError, match=r"one width .* got \[2, 3\]"):
        decrypt(ciphertext, derive_key(wide_master, [1, 2, 3]), 10)
    for bound in (-1, 2**60):
        with pytest.raises(ValueError, match="expected a bound"):
            decrypt(ciphertext, key, bound)
    other = dataclasses.replace(ciphertext, group=open_group("arkworks") if group.name == "charm" else object())
    with pytest.raises(ValueError, match="one back end"):
        decrypt_rows([ciphertext, other], [key], 10)


def test_claims(group: Group) -> None:
    n, m = 5, 6
    public, master = setup(group, n)
    x = RNG.integers(0, 256, (m, n)).tolist()
    y = [int(k) * 2**40 + 1 for k in RNG.integers(-(2**20), 2**20, n)]
    weights = [int(w) for w in RNG.integers(0, 2**32, m)]
    ciphertexts, key = encrypt_rows(public, x), derive_key(master, y)
    claim = sum(w * a * k for w, row in zip(weights, x, strict=True) for a, k in zip(row, y, strict=True))

    assert claim_holds(ciphertexts, weights, key, claim)
    assert claim_holds(ciphertexts[:1], [1], key, sum(a * k for a, k in zip(x[0], y, strict=True)))
    for wrong in (claim + 1, claim - 1, -claim, 0):
        assert not claim_holds(ciphertexts, weights, key, wrong)
    assert not claim_holds(ciphertexts[::-1], weights, key, claim)
    assert not claim_holds(ciphertexts, weights[::-1], key, claim)
    for count in (5, 7):
        with pytest.raises(ValueError, match=f"expected 6 weights, got {count}"):
            claim_holds(ciphertexts, [*weights, 1][:count], key, claim)
    with pytest.raises(ValueError, match="expected at least one claim, got none"):
        ipfe.claims_hold([])


def test_a_claim_has_one_value_modulo_the_order(group: Group) -> None:
    public, master = setup(group, 1)
    one, key, half = encrypt(public, [1]), derive_key(master, [-2]), group.order // 2
    for value in (half - 1, 1 - half):
        assert claim_holds([one], [(group.order - value) // 2 if value % 2 else -value // 2], key, value)
    for value in (half, -half, group.order - 2, -2 - group.order):
        bits = value.bit_length()
        with pytest.raises(ValueError, match=f"below half the group's order, got one of {bits} bits"):
            claim_holds([one], [1], key, value)


def test_many_claims_at_once(group: Group) -> None:
    """Of several keys and widths: one that is false is noticed, wherever it stands."""
    claims = []
    for n in (1, 3):
        public, master = setup(group, n)
        x, y = RNG.integers(0, 256, (2, n)), RNG.integers(-50, 50, n)
        value = int((np.array([3, -5]) @ x) @ y)
        claims.append(ipfe.Claim(encrypt_rows(public, x), [3, -5], derive_key(master, y), value))
    assert ipfe.claims_hold(claims)
    for i, claim in enumerate(claims):
        other_key = dataclasses.replace(claim.key, secret=1)
        for change in ({"value": claim.value + 1}, {"weights": [3, -4]}, {"key": other_key}):
            wrong = [*claims[:i], dataclasses.replace(claim, **change), *claims[i + 1 :]]
            assert not ipfe.claims_hold(wrong)


@pytest.mark.parametrize(("rows", "width"), [(300, 1), (1, 300)])
def test_hundreds_of_rows_and_of_values(group: Group, rows: int, width: int) -> None:
    public, master = setup(group, width)
    ciphertexts, key = encrypt_rows(public, np.full((rows, width), 2)), derive_key(master, [3] * width)
    assert claim_holds(ciphertexts, [5] * rows, key, 30 * rows * width)
    assert decrypt(ciphertexts[-1], key, 6 * width) == 6 * width


def test_claims_are_of_one_back_end() -> None:
    pytest.importorskip("charm_lite")
    claims = []
    for name in ("arkworks", "charm"):
        public, master = setup(open_group(name), 1)
        claims.append(ipfe.Claim([encrypt(public, [4])], [1], derive_key(master, [2]), 8))
    assert all(ipfe.claims_hold([claim]) for claim in claims)
    with pytest.raises(ValueError, match="expected claims of one back end, got several"):
        ipfe.claims_hold(claims)


# On the wire


@pytest.fixture(scope="module")
def sent(group: Group) -> dict[str, bytes]:
    public, _ = setup(group, 3)
    return {"K": public.to_bytes(), "C": ciphertexts_to_bytes(encrypt_rows(public, [[1, 2, 3], [4, 5, 6]]))}


def read(group: Group, kind: str, data: bytes) -> bytes:
    """Parse and write again."""
    if kind == "K":
        return PublicKey.from_bytes(group, data).to_bytes()
    return ciphertexts_to_bytes(ciphertexts_from_bytes(group, data))


def test_keys_and_ciphertexts_survive_the_wire(group: Group) -> None:
    public, master = setup(group, 4)
    x = RNG.integers(0, 100, (3, 4))
    received = PublicKey.from_bytes(group, public.to_bytes())
    ciphertexts = ciphertexts_from_bytes(group, ciphertexts_to_bytes(encrypt_rows(received, x)))
    assert (
        decrypt_rows(ciphertexts, [derive_key(master, [1, 2, 3, 4])], 1000)[:, 0].tolist()
        == (x @ [1, 2, 3, 4]).tolist()
    )


@pytest.mark.parametrize("kind", ["K", "C"])
def test_every_truncation_and_extension_is_refused(group: Group, sent: dict[str, bytes], kind: str) -> None:
    good = sent[kind]
    assert read(group, kind, good) == good
    for end in range(len(good)):
        with pytest.raises(ValueError, match=r"expected .*, got"):
            read(group, kind, good[:end])
    for more in (b"\0", good[11:], good):
        with pytest.raises(ValueError, match=r"expected .*, got"):
            read(group, kind, good + more)


@pytest.mark.parametrize("kind", ["K", "C"])
def test_every_byte_counts(group: Group, sent: dict[str, bytes], kind: str) -> None:
    """No flipped bit is overlooked: headers and lengths are exact, coordinates have one form."""
    for at in range(len(sent[kind])):
        flipped = bytearray(sent[kind])
        flipped[at] ^= 1 << at % 8
        with pytest.raises(ValueError, match=r"expected .*, got"):
            read(group, kind, bytes(flipped))


@given(data=st.data())
@settings(max_examples=150)
def test_fuzzed_bytes_are_refused_or_canonical(group: Group, sent: dict[str, bytes], data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["K", "C"]))
    good = sent[kind]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(good)), max_size=4)))
    pieces = [good[a:b] for a, b in pairwise([0, *cuts, len(good)])]
    mixed = b"".join(data.draw(st.permutations([*pieces, data.draw(st.binary(max_size=40))])))
    for hostile in (mixed, mixed[: len(good)], good[:11] + mixed[11 : len(good)].ljust(len(good) - 11, b"\1")):
        try:
            assert read(group, kind, hostile) == hostile
        except ValueError as error:
            assert "expected" in str(error) and "got" in str(error)


def test_one_kind_is_not_taken_for_another(group: Group, sent: dict[str, bytes]) -> None:
    for wrong, right in (("K", "C"), ("C", "K")):
        with pytest.raises(ValueError, match="expected version, back end and kind"):
            read(group, wrong, sent[right])
    with pytest.raises(ValueError, match="expected version, back end and kind"):
        read(group, "K", bytes([2]) + sent["K"][1:])
    with pytest.raises(ValueError, match="expected version, back end and kind"):
        read(group, "K", bytes([1, 3 - group.code]) + sent["K"][2:])


@pytest.mark.parametrize("kind", ["K", "C"])
@pytest.mark.parametrize(("m", "n"), [(0, 1), (0, 3), (1, 0), (2, 0), (2**32 - 1, 2**32 - 1), (1, 2**16 + 1)])
def test_sizes_that_lie(group: Group, kind: str, m: int, n: int) -> None:
    """Even if as many points follow."""
    body = groups.encode(group, [group.generator] * (m * (n + (kind == "C")) if m < 9 else 0))
    with pytest.raises(ValueError, match=f"expected at least one row of 1 to 65536 values, got {m} of {n}"):
        read(group, kind, ipfe._HEADER.pack(1, group.code, kind.encode(), m, n) + body)


def test_a_key_is_one_row_and_a_header_more_than_nothing(group: Group, sent: dict[str, bytes]) -> None:
    with pytest.raises(ValueError, match="got 3 of 1"):
        PublicKey.from_bytes(group, ipfe._HEADER.pack(1, group.code, b"K", 3, 1) + sent["K"][11:])
    for n in (1, 2**16):
        with pytest.raises(ValueError, match=f"expected {11 + (n + 1) * group.point_size} bytes, got 11"):
            ciphertexts_from_bytes(group, ipfe._HEADER.pack(1, group.code, b"C", 1, n))
    with pytest.raises(ValueError, match="expected at least 11 bytes, got 10"):
        PublicKey.from_bytes(group, sent["K"][:10])


def test_what_cannot_be_written(group: Group) -> None:
    public, _ = setup(group, 1)
    with pytest.raises(ValueError, match="at least one"):
        ciphertexts_to_bytes([])
    with pytest.raises(ValueError, match="one width"):
        ciphertexts_to_bytes([encrypt(public, [1]), encrypt(setup(group, 2)[0], [1, 2])])
    with pytest.raises(ValueError, match="identity"):
        PublicKey(group, (group.identity,)).to_bytes()
