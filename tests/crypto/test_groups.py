"""Both back ends against textbook curve arithmetic, and against bytes no honest sender writes."""

import secrets
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flwr_faa.crypto import groups
from flwr_faa.crypto.backends import open_group
from flwr_faa.crypto.group import Group, Point
from flwr_faa.crypto.groups import combine, decode, encode, msm, multiples, random_scalar, total
from tests.crypto.oracle import BLS12_381, CURVES

SCALARS = [0, 1, -1, 2, -2, 4095, 4096, -4096, 2**16, -(2**31), 2**64 - 1, 2**93 + 7, -(2**128) + 5]


def points(group: Group, *scalars: int) -> list[Point]:
    return [group.mul(group.generator, k) for k in scalars]


def test_the_group_is_the_curve_of_the_oracle(group: Group) -> None:
    curve = CURVES[group.name]
    assert (group.prime, group.order, group.b) == (curve.p, curve.q, curve.b)
    for k in [1, 2, 3, 12345, curve.q - 1, secrets.randbelow(curve.q)]:
        assert encode(group, points(group, k)) == curve.encode(curve.mul(curve.g, k))


def test_group_laws(group: Group) -> None:
    a, b = (secrets.randbelow(group.order) for _ in range(2))
    p, q, r = points(group, a, b, a + b)
    assert group.add(p, q) == r
    assert group.add(p, group.neg(p)) == group.identity
    assert group.add(p, group.identity) == p
    assert group.mul(p, group.order) == group.identity == group.mul(p, 0)
    assert group.mul(p, -5) == group.neg(group.mul(p, 5))
    assert total(group, [p, q, group.neg(q)]) == p and total(group, []) == group.identity


@pytest.mark.parametrize("count", [1, 2, 300])
@pytest.mark.parametrize("generator", [True, False])
def test_multiples_by_table_or_not(group: Group, generator: bool, count: int) -> None:
    base = group.generator if generator else points(group, 77)[0]
    scalars = ([*SCALARS, group.order - 1, group.order // 2, group.order + 3, random_scalar(group)] * 18)[:count]
    assert multiples(group, base, scalars) == [group.mul(base, k) for k in scalars]
    assert multiples(group, base, []) == []


def test_a_table_may_grow_in_many_threads(group: Group) -> None:
    base, scalars = points(group, 77)[0], [1 << (8 * i) for i in range(15)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            for _ in range(3):
                table = groups._Windows(group, base, 8)
                done = [pool.submit(table.multiply, [k]) for k in scalars]
                assert [job.result()[0] for job in done] == [group.mul(base, k) for k in scalars]
    finally:
        sys.setswitchinterval(interval)


def test_scalars_are_taken_nearest_to_zero(group: Group) -> None:
    """So that a small negative one costs no more than a positive one."""
    q = group.order
    for k in (0, 1, -1, 4095, -4096, 2**200, -(2**200), q // 2, -(q // 2)):
        assert groups._centred(group, k) == groups._centred(group, k + q) == groups._centred(group, k - 7 * q) == k


@pytest.mark.parametrize("n", [0, 1, 5, 60])
@pytest.mark.parametrize("bits", [1, 3, 16, 256])
def test_multi_scalar_multiplication(group: Group, n: int, bits: int) -> None:
    bases = [secrets.randbelow(group.order) for _ in range(n)]
    scalars = [secrets.randbelow(2**bits) * secrets.choice([1, -1]) for _ in range(n)]
    expected = sum(b * k for b, k in zip(bases, scalars, strict=True))
    assert msm(group, points(group, *bases), scalars) == points(group, expected)[0]


@pytest.mark.parametrize("m", [1, 2, 50])
@pytest.mark.parametrize("bits", [1, 5, 32, 64])
def test_combinations_of_rows(group: Group, m: int, bits: int) -> None:
    values = [[secrets.randbelow(group.order) for _ in range(3)] for _ in range(m)]
    scalars = [secrets.randbelow(2**bits) * secrets.choice([1, -1]) for _ in range(m)]
    scalars[0] = 2**bits - 1
    expected = [sum(k * row[j] for k, row in zip(scalars, values, strict=True)) for j in range(3)]
    assert combine(group, [points(group, *row) for row in values], scalars) == points(group, *expected)
    assert combine(group, [points(group, *row) for row in values], [0] * m) == [group.identity] * 3


def test_msm_wants_as_many_scalars_as_points(group: Group) -> None:
    with pytest.raises(ValueError):
        msm(group, [group.generator], [1, 2])


def test_random_scalars_are_never_zero(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups.secrets, "randbelow", lambda n: 0)
    assert random_scalar(group) == 1
    monkeypatch.setattr(groups.secrets, "randbelow", lambda n: n - 1)
    assert random_scalar(group) == group.order - 1


def test_fingerprints_forget_the_sign_only(group: Group) -> None:
    keys = group.fingerprints(points(group, 5, -5, 6, 0)).tolist()
    x, _ = CURVES[group.name].mul(CURVES[group.name].g, 5)
    assert keys[0] == keys[1] == x % 2**64 != keys[2]
    assert keys[3] == 0


def test_encoding_there_and_back(group: Group) -> None:
    some = points(group, *range(1, 20), group.order - 1, random_scalar(group))
    data = encode(group, some)
    assert len(data) == len(some) * group.point_size
    assert decode(group, data) == some
    assert encode(group, decode(group, data)) == data
    assert decode(group, b"") == []


def test_the_identity_has_no_encoding(group: Group) -> None:
    with pytest.raises(ValueError, match=r"got the identity \(point 1\)"):
        encode(group, [group.generator, group.identity])
    with pytest.raises(ValueError, match="expected a point"):
        decode(group, bytes(group.point_size))


def test_hostile_points_are_refused(group: Group) -> None:
    half, (x, y) = group.point_size // 2, CURVES[group.name].g

    def raw(x: int, y: int) -> bytes:
        return x.to_bytes(half, "big") + y.to_bytes(half, "big")

    hostile = {
        "off the curve": raw(x, y + 1),
        "on a twist": raw(x + 1, y),
        "x = p": raw(group.prime, pow(group.b, (group.prime + 1) // 4, group.prime)),  # as (0, sqrt b), of the curve
        "y above p": raw(x, group.prime + 1),
        "ones": b"\xff" * group.point_size,
    }
    if x + group.prime < 256**half:
        hostile["x not reduced"] = raw(x + group.prime, y)
    if y + group.prime < 256**half:
        hostile["y not reduced"] = raw(x, y + group.prime)
    for data in hostile.values():
        for _ in range(200):  # Charm's own parser would lose a reference at each
            with pytest.raises(ValueError, match="expected a point of"):
                decode(group, data)
        with pytest.raises(ValueError, match=r"\(point 1\)"):
            decode(group, raw(x, y) + data)
    for length in (1, group.point_size - 1, group.point_size + 1):
        with pytest.raises(ValueError, match=f"expected points of {group.point_size} bytes, got {length} bytes"):
            decode(group, (raw(x, y) * 2)[:length])


@pytest.mark.parametrize("honest", [0, 3, 1100], ids=["alone", "few", "many"])
def test_points_outside_the_subgroup_are_refused(honest: int) -> None:
    """(0, 2) has order 3, where a random combination could be lucky; the others have large orders."""
    group, curve = open_group("arkworks"), BLS12_381
    good = encode(group, [group.generator]) * honest
    for bad in [(0, 2), (0, curve.p - 2), curve.outside(5)]:
        with pytest.raises(ValueError, match="subgroup"):
            decode(group, good + curve.encode(bad))
    with pytest.raises(ValueError, match="subgroup"):  # two that cancel in the sum of all
        decode(group, good + curve.encode((0, 2)) + curve.encode((0, curve.p - 2)))
    assert len(decode(group, good)) == honest


@given(data=st.binary(max_size=300))
@settings(max_examples=200)
def test_garbage_is_no_point(group: Group, data: bytes) -> None:
    if len(data):
        with pytest.raises(ValueError, match=r"expected .*, got"):
            decode(group, data)


def test_unknown_back_end() -> None:
    with pytest.raises(ValueError, match="got 'openssl'"):
        open_group("openssl")


def test_one_object_a_back_end(group: Group) -> None:
    assert open_group(group.name) is group
    assert open_group("auto") is open_group()


def test_without_charm() -> None:
    """By name it is an error of one line; "auto" says once that it goes on without."""
    script = """if True:
        import sys, logging
        logging.basicConfig(format="%(message)s")
        sys.modules["charm_lite"] = None
        from flwr_faa.crypto.backends import open_group
        try:
            open_group("charm")
        except ImportError as error:
            print(error)
        print(open_group().name, open_group("auto").name)
        print(sorted({"torch", "pyod", "flwr"} & set(sys.modules)))
    """
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    missing = "expected charm-crypto-lite for the charm back end, got none: pip install 'flwr-anomaly[charm]'"
    assert done.stdout.splitlines() == [missing, "arkworks arkworks", "[]"]
    assert done.stderr.splitlines() == [f"{missing}; using arkworks"]
