"""Pieces of a round are shared out to the cores that linear algebra may use; no bit depends on how many these are."""

import os
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from flwr_faa.detection import MultiView, geometry
from flwr_faa.replies import averaging, kernels, rows, threads
from flwr_faa.replies.averaging import average
from flwr_faa.replies.threads import cores, shared_out, single_threaded
from flwr_faa.replies.updates import Reply, read_replies


@pytest.fixture
def two_cores(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    with threadpool_limits(2):
        yield


def test_two_pieces_are_in_work_at_once_and_come_back_in_order(two_cores):
    both = threading.Barrier(2, timeout=10)

    def act(item):
        both.wait()  # broken, and an error, unless another thread gets here
        return item, threading.get_ident()

    with shared_out(kernels.LARGE) as each:
        found = list(each(act, range(6)))
    assert [item for item, _ in found] == list(range(6))
    assert {thread for _, thread in found}.isdisjoint({threading.get_ident()})


def test_no_more_pieces_are_drawn_than_are_worked_on(two_cores):
    drawn = []
    with shared_out(kernels.LARGE) as each:
        results = iter(each(lambda item: item, map(drawn.append, range(100))))
        next(results)
    assert len(drawn) <= 3


def test_what_goes_wrong_in_a_thread_is_raised(two_cores):
    with shared_out(kernels.LARGE) as each, pytest.raises(ZeroDivisionError):
        list(each(lambda item: 1 // item, [1, 0, 1]))


@pytest.mark.parametrize(("entries", "allowed"), [(kernels.LARGE - 1, 2), (kernels.LARGE, 1)])
def test_a_small_round_and_one_core_need_no_thread(two_cores, entries, allowed):
    with threadpool_limits(allowed), shared_out(entries) as each:
        assert each is map


def test_the_user_s_limit_counts_also_while_linear_algebra_has_one_thread(two_cores):
    assert cores() == 2
    with single_threaded():
        assert cores() == 2
        found = []
        thread = threading.Thread(target=lambda: found.append(cores()))  # of a piece: it asks for no more
        thread.start()
        thread.join()
        assert found == [1]
    with threadpool_limits(1):
        assert cores() == 1


@pytest.mark.parametrize(("told", "expected"), [("1", 1), ("7", 2), ("", 2), ("2,1", 2), ("0", 1)])
@pytest.mark.parametrize("libraries", [None, SimpleNamespace(lib_controllers=[])], ids=["no threadpoolctl", "unknown"])
def test_where_nothing_is_known_of_linear_algebra_the_environment_counts(
    monkeypatch, two_cores, libraries, told, expected
):
    monkeypatch.setattr(threads, "_libraries", lambda: libraries)
    monkeypatch.setenv("OMP_NUM_THREADS", told)
    assert cores() == expected


def test_the_number_of_threads_changes_no_bit_of_a_round(monkeypatch, two_cores):
    """Many pieces each: validation, hashes, measures, scores, average."""
    monkeypatch.setattr(kernels, "LARGE", 0)
    monkeypatch.setattr(geometry, "CHUNK", 500)
    monkeypatch.setattr(rows, "WIDTH", 500)
    monkeypatch.setattr(averaging, "PIECE", 500)
    rng = np.random.default_rng(0)
    model = [rng.standard_normal(s, np.float32) for s in ((30_000,), (10, 99), (10,))]
    replies = [Reply(i, [w + rng.standard_normal(w.shape, np.float32) for w in model], 10) for i in range(21)]
    found = []
    for allowed in (1, 2):
        with threadpool_limits(allowed):
            batch = read_replies(replies, model, key=7)
            mean = average(batch, range(20), model, renormalise=False)
            cloud = geometry.Cloud.of(batch)
            found.append((batch.prints, batch.largest, cloud.whole.squared, MultiView().detect(batch, 0).scores, mean))
    for one, two in zip(*found, strict=True):
        for a, b in zip(one, two, strict=True):
            np.testing.assert_array_equal(a, b)
