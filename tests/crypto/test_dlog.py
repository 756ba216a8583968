"""Small discrete logarithms: every edge, every miss, and tables that are stale, broken or not to be kept."""

import hashlib
import math
import secrets
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from pathlib import Path

import numpy as np
import pytest

from flwr_faa.crypto import dlog
from flwr_faa.crypto.dlog import DiscreteLog, OutOfRange, solver
from flwr_faa.crypto.group import Group
from flwr_faa.crypto.groups import multiples
from tests.crypto.oracle import CURVES


def points(group: Group, values: list[int]) -> list[object]:
    return multiples(group, group.generator, values)


@pytest.mark.parametrize("bound", [0, 1, 255, 256, 257, 512, 769, 770, 4096, 2**14 + 3])
def test_every_edge_of_a_bound(group: Group, bound: int) -> None:
    around = {0, 1, bound // 2, bound - 1, bound}
    values = [v for a in around for v in (a, -a) if abs(v) <= bound]
    values += [secrets.randbelow(2 * bound + 1) - bound for _ in range(50)]
    assert solver(group).solve(points(group, values), bound).tolist() == values
    for beyond in (bound + 1, -bound - 1, 10 * bound + 7, 2**40):
        with pytest.raises(OutOfRange, match=rf"expected \|value\| <= {bound}, got none such at position 1 of 3"):
            solver(group).solve(points(group, [bound, beyond, 0]), bound)


def test_giant_steps(group: Group, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the smallest table, so that the steps number hundreds; the multiples of the stride are the awkward ones."""
    monkeypatch.setattr(dlog, "_blocks", lambda bound: 1)
    last, bound = dlog._size(1) - 1, 400_000
    stride = 2 * last + 1
    values = [k * stride + d for k in (1, 2, 127, 128, 129, 200) for d in (-last, -1, 0, 1, last)]
    values += [secrets.randbelow(2 * bound + 1) - bound for _ in range(30)] + [bound, bound - 1, 0]
    values += [-v for v in values]
    lone = DiscreteLog(group, tmp_path)
    assert lone.solve(points(group, values), bound).tolist() == values
    for beyond in (bound + 1, -bound - 1, 10**9):
        with pytest.raises(OutOfRange):
            lone.solve(points(group, [beyond]), bound)


@pytest.mark.parametrize("steps", [1, 2, 127, 128, 129])
def test_as_many_giant_steps_as_the_bound_needs(
    group: Group, steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last value that so many steps reach, and the first that needs one more."""
    monkeypatch.setattr(dlog, "_blocks", lambda bound: 1)
    last = dlog._size(1) - 1
    lone = DiscreteLog(group, tmp_path)
    for bound in (steps * (2 * last + 1) + last, steps * (2 * last + 1) + last + 1):
        assert lone.solve(points(group, [bound, -bound, 1]), bound).tolist() == [bound, -bound, 1]


def test_every_value_of_a_table(group: Group, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DiscreteLog, "_far", lambda *_: pytest.fail("not in the table"))
    last = dlog._size(dlog._blocks(1)) - 1
    values = list(range(-last, last + 1))
    assert DiscreteLog(group, tmp_path).solve(points(group, values), last).tolist() == values


def test_a_larger_table_has_giant_steps_of_its_own(
    group: Group, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dlog, "_blocks", lambda bound: 1 if bound < 10**4 else 3)
    lone = DiscreteLog(group, tmp_path)
    for value in (9999, 10**4, 9000):
        assert lone.solve(points(group, [value]), value).tolist() == [value]


def test_fingerprints_of_neighbours_are_those_of_the_oracle(group: Group) -> None:
    curve = CURVES[group.name]
    times = [None, *accumulate([curve.g] * 13, curve.add)]
    found = dlog._neighbours(group.prime, times[5], times[1:9]).tolist()
    expected = [times[abs(5 + sign * o)] for sign in (-1, 1) for o in range(1, 9)]
    expected[4] = expected[8 + 4] = None  # 5 - 5 is the identity, and 5 + 5 is left out with it
    assert found == [point[0] % 2**64 if point else 0 for point in expected]


def test_a_table_says_where_there_is_nothing() -> None:
    table = dlog._Table(np.array([3, 7, 2**64 - 2], np.uint64), np.array([20, 10, 30], np.uint32))
    asked = np.array([0, 3, 5, 7, 2**64 - 2, 2**64 - 1], np.uint64)
    assert table.find(asked).tolist() == [-1, 20, -1, 10, 30, -1]


def test_a_random_point_is_out_of_range(group: Group) -> None:
    point = group.mul(group.generator, secrets.randbelow(group.order))
    with pytest.raises(OutOfRange):
        solver(group).solve([point], 2**16)


def test_hostile_values_cost_one_search_together(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    searched = []
    far = DiscreteLog._far
    monkeypatch.setattr(DiscreteLog, "_far", lambda *args: searched.append(1) or far(*args))
    with pytest.raises(OutOfRange, match="at position 2 of 52"):
        solver(group).solve(points(group, [1, 2] + [10**9] * 50), 100)
    assert len(searched) == 1


def test_the_first_of_several_that_are_beyond_is_named(group: Group) -> None:
    with pytest.raises(OutOfRange, match="at position 1 of 4"):
        solver(group).solve(points(group, [100, -101, 300, 5]), 100)


@pytest.mark.parametrize("bound", [0, 2**33])
def test_nothing_to_solve(group: Group, bound: int) -> None:
    """Whatever the bound, within what can be served: no table is made."""
    assert solver(group).solve([], bound).tolist() == []


@pytest.mark.parametrize("bound", [-1, 2**33 + 1])
def test_bounds_that_cannot_be_served(group: Group, bound: int) -> None:
    with pytest.raises(ValueError, match=f"expected a bound from 0 to {2**33}, got {bound}"):
        solver(group).solve([], bound)


def test_tables_grow_with_the_bound_and_stay_small() -> None:
    """All values of bounds up to 2^16; then twice as many for every 3 bits more, up to 2^20."""
    sizes = [dlog._size(dlog._blocks(2**bits)) for bits in range(34)]
    assert all(2**bits < size for bits, size in enumerate(sizes[:17])) and sizes[9] < 1000
    assert [math.floor(math.log2(size)) for size in sizes[9:]] == [
        *range(9, 17), *[17] * 3, *[18] * 3, *[19] * 3, *[20] * 8
    ]  # fmt: skip
    assert sizes[33] < 1.1 * 2**20


def test_a_table_is_kept_and_read_again(group: Group, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = DiscreteLog(group, tmp_path)
    assert first.solve(points(group, [-1234]), 4000).tolist() == [-1234]
    (file,) = tmp_path.iterdir()
    assert group.curve in file.name

    monkeypatch.setattr(dlog, "_build", lambda *_: pytest.fail("built again"))
    assert DiscreteLog(group, tmp_path).solve(points(group, [3999]), 4000).tolist() == [3999]


def test_a_table_in_memory_is_not_read_again(group: Group, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = DiscreteLog(group, tmp_path / "new" / "cache")
    assert first.solve(points(group, [4000]), 4000).tolist() == [4000]
    (file,) = (tmp_path / "new" / "cache").iterdir()
    file.unlink()
    monkeypatch.setattr(dlog, "_build", lambda *_: pytest.fail("built again"))
    for bound in (4000, 10):
        assert first.solve(points(group, [-9]), bound).tolist() == [-9]


def test_a_table_of_another_size_is_built_again(group: Group, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whole, but under the wrong name."""
    for bound in (1000, 4000):
        DiscreteLog(group, tmp_path).solve([group.generator], bound)
    small, large = sorted(tmp_path.iterdir(), key=lambda file: file.stat().st_size)
    one, other = small.read_bytes(), large.read_bytes()
    small.write_bytes(other)
    large.write_bytes(one)
    assert not caplog.messages
    for file, bound, good in ((small, 1000, one), (large, 4000, other)):
        assert DiscreteLog(group, tmp_path).solve(points(group, [bound]), bound).tolist() == [bound]
        assert file.read_bytes() == good and caplog.messages.pop() == f"{file.name} is corrupt; building it again"
        caplog.clear()


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "longer"])
def test_a_corrupt_table_is_built_again(group: Group, tmp_path: Path, damage: str) -> None:
    DiscreteLog(group, tmp_path).solve([group.generator], 1000)
    (file,) = tmp_path.iterdir()
    good = file.read_bytes()
    flipped = bytearray(good)
    flipped[1000] ^= 1
    file.write_bytes({"flip": bytes(flipped), "truncate": good[:-1], "empty": b"", "longer": good + b"x"}[damage])

    values = list(range(-1000, 1001, 7))
    assert DiscreteLog(group, tmp_path).solve(points(group, values), 1000).tolist() == values
    assert file.read_bytes() == good


def test_a_forged_table_cannot_give_a_wrong_value(group: Group, tmp_path: Path) -> None:
    DiscreteLog(group, tmp_path).solve([group.generator], 700)
    (file,) = tmp_path.iterdir()
    body = bytearray(file.read_bytes()[len(dlog._MAGIC) + 32 :])
    count = len(body) // 12
    values = np.frombuffer(bytes(body[8 * count :]), "<u4")
    body[8 * count :] = ((values + 1) % count).astype("<u4").tobytes()
    file.write_bytes(dlog._MAGIC + hashlib.sha256(body).digest() + body)

    with pytest.raises(OutOfRange):
        DiscreteLog(group, tmp_path).solve(points(group, [5]), 700)


def test_a_directory_that_cannot_be_used_costs_only_time(group: Group, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")
    assert DiscreteLog(group, tmp_path / "file" / "x").solve(points(group, [-77]), 100).tolist() == [-77]


def test_a_user_without_a_home_has_no_cache(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", homeless)
    assert DiscreteLog(group).solve(points(group, [-77]), 100).tolist() == [-77]


def test_one_solver_a_group(group: Group) -> None:
    assert solver(group) is solver(group)


def test_where_tables_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert dlog._cache() == tmp_path / "flwr-anomaly"
    for relative in ("", "cache"):
        monkeypatch.setenv("XDG_CACHE_HOME", relative)
        monkeypatch.setenv("HOME", "/home/x")
        assert dlog._cache() == Path("/home/x/.cache/flwr-anomaly")


def test_threads_do_not_mix_up_their_bounds(group: Group, tmp_path: Path) -> None:
    shared = DiscreteLog(group, tmp_path)
    with ThreadPoolExecutor(4) as pool:
        jobs = [(b, pool.submit(shared.solve, points(group, [b, -b]), b)) for b in (100, 5000, 900, 9000, 3, 12000)]
    assert all(job.result().tolist() == [b, -b] for b, job in jobs)
