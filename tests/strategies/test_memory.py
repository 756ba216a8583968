"""A round holds no second copy of the replies, whoever judges and whoever aggregates."""

import tracemalloc
from functools import partial

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common import Code, FitRes, Status, ndarrays_to_parameters
from flwr.server.client_manager import SimpleClientManager
from flwr.server.strategy import FedAvg as LegacyFedAvg
from flwr.serverapp.strategy import FedAvg

from apps.lab.running.local_grid import task_identity
from flwr_faa import FAADL, legacy, protect
from flwr_faa.detection import OCSVM, MultiView, Sequential
from flwr_lomar import LoMarDetector
from tests.helpers.rounds import Grid, Proxy, record

IDS, SIZES = tuple(range(101, 121)), (300_000, 400_000, 1_000)
REPLIES = 4 * sum(SIZES) * len(IDS)
#: Of the replies' own bytes: what may be held beside them.
PART = 0.3


def model(seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(size, dtype=np.float32) for size in SIZES]


def peak(act) -> int:
    """Most bytes at once, beside what there was."""
    act()  # what is imported or compiled once
    tracemalloc.start()
    try:
        act()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


DETECTORS = {
    "MultiView": MultiView(),
    "threshold": MultiView(threshold=5.0),
    "Sequential": Sequential(),
    "OCSVM": OCSVM(),
    "LoMar": LoMarDetector(),
    "LoMar paper": LoMarDetector("paper"),
}


@pytest.mark.parametrize("detector", DETECTORS.values(), ids=DETECTORS)
@pytest.mark.parametrize("around", [FAADL, partial(protect, FedAvg())], ids=["FAADL", "protect"])
def test_a_round_of_the_message_api(around, detector):
    strategy, arrays = around(detector=detector), record({str(i): a for i, a in enumerate(model(0))})
    with task_identity():
        sent = list(strategy.configure_train(1, arrays, ConfigRecord(), Grid(IDS)))
        replies = []
        for message in sent:
            message.metadata.__dict__["_message_id"] = "m"
            own = record({str(i): a for i, a in enumerate(model(message.metadata.dst_node_id))})
            content = RecordDict({"arrays": own, "metrics": MetricRecord({"num-examples": 10})})
            replies.append(Message(content, reply_to=message))
        used = peak(lambda: strategy.aggregate_train(1, replies))
    assert len(replies) == len(IDS)
    assert used < PART * REPLIES


@pytest.mark.parametrize("detector", DETECTORS.values(), ids=DETECTORS)
@pytest.mark.parametrize("around", [legacy.FAADL, partial(protect, LegacyFedAvg())], ids=["FAADL", "protect"])
def test_a_round_of_the_legacy_api(around, detector):
    strategy, manager = around(detector=detector), SimpleClientManager()
    for node in IDS:
        manager.register(Proxy(str(node)))
    instructions = strategy.configure_fit(1, ndarrays_to_parameters(model(0)), manager)
    status = Status(Code.OK, "")
    results = [(p, FitRes(status, ndarrays_to_parameters(model(int(p.cid))), 10, {})) for p, _ in instructions]
    assert peak(lambda: strategy.aggregate_fit(1, results, [])) < PART * REPLIES
