"""What each back end does by itself; `test_groups.py` has what is made of it."""

from __future__ import annotations

import pytest

from flwr_faa.crypto import backends
from flwr_faa.crypto.backends import open_group
from flwr_faa.crypto.group import Group
from tests.crypto.oracle import CURVES
from tests.crypto.schnorr import NAMES

#: How many points are tested by sums over random buckets, and how often.
MANY, ROUNDS = 1024, 11


def test_the_curve_is_the_one_of_the_oracle(group: Group) -> None:
    curve = CURVES[group.name]
    assert (group.curve, group.prime, group.a, group.b, group.order) == (
        NAMES[group.name][0], curve.p, curve.a, curve.b, curve.q
    )  # fmt: skip
    assert group.point_size == 2 * curve.half and group.code == 1 + list(CURVES).index(group.name)


@pytest.mark.parametrize("k", [0, 1, 2, -1, -2, 2**64, 2**200 + 1])
def test_multiples_have_the_oracle_s_coordinates(group: Group, k: int) -> None:
    curve = CURVES[group.name]
    expected = curve.mul(curve.g, k) or (0, 0)
    for scalar in (k, k + group.order, k - group.order):
        point = group.mul(group.generator, scalar)
        assert group.coordinates([point, group.generator]) == [expected, curve.g]
        assert group.fingerprints([point]).tolist() == [expected[0] % 2**64]
    if k:
        assert group.load(curve.encode(expected)) == point and group.in_subgroup([point])


def test_a_sum_of_multiples_of_its_own(group: Group) -> None:
    """For scalars in [1, order), the largest included."""
    if group.multiexp:
        points = [group.mul(group.generator, k) for k in (1, 5, -3)]
        assert group.multiexp(points, [1, 2**100, group.order - 1]) == group.mul(group.generator, 4 + 5 * 2**100)


@pytest.mark.parametrize("seed", [1, 5])
def test_a_cleared_point_is_in_the_group(group: Group, seed: int) -> None:
    """A fixed multiple, the same for sums: h_eff of RFC 9380, 8.8.1, which leaves a group of prime order as it is."""
    curve, factor = CURVES[group.name], NAMES[group.name][1]
    outside = group.load(curve.encode(curve.outside(seed)))
    cleared = group.clear_cofactor(outside)
    assert group.in_subgroup([cleared]) and cleared != group.identity
    assert group.clear_cofactor(group.generator) == group.mul(group.generator, factor)
    assert group.clear_cofactor(group.add(outside, group.generator)) == group.add(
        cleared, group.mul(group.generator, factor)
    )


class Drawn:
    """In place of ``secrets``: two points stand in the buckets that a test wants, all others in the first."""

    def __init__(self, *pairs: tuple[int, int]) -> None:
        self.pairs = list(pairs)

    def token_bytes(self, count: int) -> bytes:
        return bytes([*self.pairs.pop(0), *[0] * (count - 2)])


@pytest.mark.parametrize("bit", [1, 2, 4, 8, 16, 32])
def test_two_that_cancel_are_seen_as_soon_as_their_buckets_differ(bit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Buckets are told apart by six bits, and there are eleven rounds: a pair goes unseen with 2^-66."""
    group, curve = open_group("arkworks"), CURVES["arkworks"]
    pair = [group.load(curve.encode(point)) for point in ((0, 2), (0, curve.p - 2))]
    points = [*pair, *[group.generator] * (MANY - 2)]
    together = [(9, 9 + 64)] * (ROUNDS - 1)
    monkeypatch.setattr(backends, "secrets", Drawn(*together, (63, 63 ^ bit)))
    assert not group.in_subgroup(points)
    monkeypatch.setattr(backends, "secrets", Drawn(*together, (63, 63)))
    assert group.in_subgroup(points)  # the 2^-66
    assert not group.in_subgroup(points[:-1])  # few are tested one by one


@pytest.mark.parametrize("count", [0, 1, MANY - 1, MANY, MANY + 76])
def test_any_number_of_the_group_s_points_are_in_it(group: Group, count: int) -> None:
    assert group.in_subgroup([group.generator, group.identity, *[group.generator] * MANY][:count])


def test_the_least_that_is_opened_by_a_name() -> None:
    assert open_group("arkworks").name == "arkworks"
    for name in ("Charm", "", "openssl"):
        with pytest.raises(ValueError, match=f"expected back end 'auto', 'charm' or 'arkworks', got '{name}'"):
            open_group(name)
