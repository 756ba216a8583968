"""A round holds no second copy of the replies, whoever judges and whoever aggregates."""

import tracemalloc

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common import Code, FitRes, Status, ndarrays_to_parameters
from flwr.server.client_manager import SimpleClientManager
from flwr.server.strategy import FedAvg as LegacyFedAvg
from flwr.serverapp.strategy import FedAvg

from apps.lab.running.local_grid import task_identity
from flwr_faa import FAADL, protect
from flwr_faa.detection import OCSVM, MultiView
from flwr_lomar import LoMarDetector
from tests.helpers.rounds import Grid, Proxy, record

IDS, SIZES = tuple(range(101, 121)), (300_000, 400_000, 1_000)
REPLIES = 4 * sum(SIZES) * len(IDS)


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


@pytest.mark.parametrize(
    ("strategy", "part"),
    [
        (FAADL, 0.3),
        (lambda: FAADL(detector=OCSVM()), 0.3),
        (lambda: FAADL(detector=LoMarDetector()), 0.3),
        (lambda: FAADL(detector=LoMarDetector("paper")), 0.3),
        (lambda: protect(FedAvg()), 0.3),
        (lambda: protect(FedAvg(), detector=MultiView(threshold=5.0)), 0.3),
    ],
    ids=["FAADL", "OCSVM", "LoMar", "LoMar paper", "protect", "threshold"],
)
def test_a_round_of_the_message_api(strategy, part):
    strategy, arrays = strategy(), record({str(i): a for i, a in enumerate(model(0))})
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
    assert used < part * REPLIES


def test_a_round_of_the_legacy_api():
    strategy, manager = protect(LegacyFedAvg()), SimpleClientManager()
    for node in IDS:
        manager.register(Proxy(str(node)))
    instructions = strategy.configure_fit(1, ndarrays_to_parameters(model(0)), manager)
    status = Status(Code.OK, "")
    results = [(p, FitRes(status, ndarrays_to_parameters(model(int(p.cid))), 10, {})) for p, _ in instructions]
    assert peak(lambda: strategy.aggregate_fit(1, results, [])) < 0.3 * REPLIES
