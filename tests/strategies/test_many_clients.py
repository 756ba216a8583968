"""More replies than fit: read from a file without a copy, or refused with a number where that is not enough."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ConfigRecord
from flwr.common import ndarrays_to_parameters
from flwr.server.client_manager import SimpleClientManager

from apps.lab.running.local_grid import task_identity
from flwr_faa import FAADL, expected, legacy
from flwr_faa.detection import MultiView, as_detector, pyod
from flwr_faa.detection.geometry import Cloud
from flwr_faa.errors import FlwrAnomalyError, NoRoomError
from flwr_faa.replies.averaging import average
from flwr_faa.replies.updates import Reply, read_replies
from flwr_lomar import LoMarDetector, detector
from tests.helpers.rounds import Grid, Proxy, record

N, SHAPES = 40, ((300, 500), (10, 5), (10,))
SIZES = [int(np.prod(shape)) for shape in SHAPES]


def model():
    return [np.random.default_rng(i).standard_normal(shape, np.float32) for i, shape in enumerate(SHAPES)]


def replies_in(rows):
    parts = [np.split(row, np.cumsum(SIZES)[:-1]) for row in rows]
    return [Reply(i, [a.reshape(s) for a, s in zip(own, SHAPES, strict=True)], 10) for i, own in enumerate(parts)]


@pytest.fixture
def rows(tmp_path: Path):
    """Replies in a file, the first five turned."""
    base = np.concatenate([w.ravel() for w in model()])
    steps = np.random.default_rng(1).standard_normal((N + 1, base.size), np.float32)
    sent = base + 0.01 * np.where(np.arange(N) < 5, -3, 1).astype(np.float32)[:, None] * (steps[0] + steps[1:])
    sent.astype(np.float32).tofile(tmp_path / "replies")
    return np.memmap(tmp_path / "replies", np.float32, "r", shape=(N, base.size))


def test_replies_in_a_file_are_judged_as_in_memory_and_never_copied(rows):
    def decide(rows):
        batch = read_replies(replies_in(rows), model())
        detection = MultiView().detect(batch, 0)
        kept = [row for row in range(N) if row not in detection.suspects]
        return detection, average(batch, kept, model())

    found, new = decide(np.array(rows))
    tracemalloc.start()
    try:
        mapped, same = decide(rows)
        used = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert set(mapped.suspects) == set(range(5))
    np.testing.assert_array_equal(mapped.scores, found.scores)
    for one, other in zip(new, same, strict=True):
        np.testing.assert_array_equal(one, other)
    assert used < 0.5 * rows.nbytes


class TestNoRoom:
    def test_a_round_whose_replies_do_not_fit_is_refused_before_it_is_sent(self, monkeypatch):
        size, nodes = 4 * sum(SIZES), tuple(range(1, 11))
        arrays = record({str(i): a for i, a in enumerate(model())})
        old, manager = legacy.FAADL(min_available_clients=2), SimpleClientManager()
        for node in nodes:
            manager.register(Proxy(str(node)))
        with task_identity():
            monkeypatch.setattr(expected, "memory", lambda: 10 * size)
            assert len(list(FAADL().configure_train(1, arrays, ConfigRecord(), Grid(nodes)))) == 10
            assert len(old.configure_fit(1, ndarrays_to_parameters(model()), manager)) == 10
            monkeypatch.setattr(expected, "memory", lambda: 10 * size - 1)
            told = r"expected room for the replies of 10 clients, 0\.6 MB each, .* GB, got .*docs/scale\.md"
            with pytest.raises(NoRoomError, match=told):
                list(FAADL().configure_train(1, arrays, ConfigRecord(), Grid(nodes)))
            with pytest.raises(NoRoomError, match=told):
                old.configure_fit(1, ndarrays_to_parameters(model()), manager)

    def test_a_detector_that_needs_a_matrix_says_so(self, rows, monkeypatch):
        batch = read_replies(replies_in(rows), model())
        monkeypatch.setattr(expected, "memory", lambda: rows.nbytes - 1)
        assert set(MultiView().detect(batch, 0).suspects) == set(range(5))
        monkeypatch.setattr(detector, "LARGE", N)  # fewer are judged by their distances
        with pytest.raises(MemoryError, match="a matrix of 40 updates of 150,060 parameters"):
            as_detector(LoMarDetector()).detect(batch, 0)

    def test_distances_that_do_not_fit_say_so(self, rows, monkeypatch):
        batch = read_replies(replies_in(rows), model())
        monkeypatch.setattr(expected, "memory", lambda: 3 * 8 * N * N - 1)
        with pytest.raises(FlwrAnomalyError, match="the distances between 40 updates"):
            MultiView().detect(batch, 0)


def test_lomar_of_many_updates_asks_for_no_distance_between_all(rows, monkeypatch):
    monkeypatch.setattr(detector, "LARGE", N)
    monkeypatch.setattr(pyod, "MANY", N)
    batch = read_replies(replies_in(rows), model())
    monkeypatch.setattr(Cloud, "_measure", None)
    assert set(as_detector(LoMarDetector()).detect(batch, 0).suspects) == set(range(5))
