"""The model that starts a run may come from one client, drawn at random: bytes like any others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context
from flwr.client import Client
from flwr.clientapp import ClientApp
from flwr.common import Code, FitIns, FitRes, GetParametersIns, GetParametersRes, Parameters, Status
from flwr.server import ServerApp, ServerAppComponents, ServerConfig
from flwr.server.strategy import FedAvg, FedMedian

from apps.lab.running.local_grid import LocalGrid, run_server_app
from flwr_faa import FAADL, legacy, protect
from tests.helpers.npy import HOSTILE, header

BFLOAT16 = header("{'descr': '<V2', 'fortran_order': False, 'shape': (1,), }", b"\0" * 2)
FIRST = {
    "no array": b"?",
    "a pickle": b"\x80\x04.",
    "a shape beyond memory": header("{'descr': '<f4', 'fortran_order': False, 'shape': (1180591620717411303424,), }"),
    "text": header("{'descr': '<U1', 'fortran_order': False, 'shape': (1,), }", b"\0" * 4),
    "bfloat16": BFLOAT16,
}
STRATEGIES = {
    "FAADL": legacy.FAADL,
    "protect": lambda **more: protect(FedMedian(**more)),
}


class First(Client):
    """Sends these bytes as its first model, and what it gets as its update."""

    def __init__(self, tensors: list[bytes], code: Code) -> None:
        self.first = GetParametersRes(Status(code, ""), Parameters(tensors, "numpy.ndarray"))

    def get_parameters(self, ins: GetParametersIns) -> GetParametersRes:
        return self.first

    def fit(self, ins: FitIns) -> FitRes:
        return FitRes(Status(Code.OK, ""), ins.parameters, 1, {})


def start_with(tensors: list[bytes], code: Code, **more: Any) -> Any:
    def client_fn(context: Context) -> Any:
        return First(tensors, code)

    made: list[FedAvg] = []

    def server_fn(context: Context) -> ServerAppComponents:
        made.append(more.pop("make")(fraction_evaluate=0.0, **more))
        return ServerAppComponents(strategy=made[0], config=ServerConfig(num_rounds=1))

    run_server_app(ServerApp(server_fn=server_fn), LocalGrid(ClientApp(client_fn=client_fn), 3))
    return made[0]


@pytest.mark.parametrize("evaluates", [False, True])
@pytest.mark.parametrize("make", STRATEGIES)
@pytest.mark.parametrize("what", FIRST)
def test_a_hostile_first_model_ends_in_one_clear_line(what: str, make: str, evaluates: bool) -> None:
    more = {"evaluate_fn": lambda *_: (0.0, {})} if evaluates else {}
    with pytest.raises(ValueError, match=r"expected a model of real numbers, got array 0 .*initial_parameters="):
        start_with([FIRST[what]], Code.OK, make=STRATEGIES[make], **more)


@pytest.mark.parametrize("make", STRATEGIES)
def test_a_client_without_a_first_model(make: str) -> None:
    with pytest.raises(ValueError, match=r"at least one array, got none.*initial_parameters="):
        start_with([], Code.GET_PARAMETERS_NOT_IMPLEMENTED, make=STRATEGIES[make])


@pytest.mark.parametrize("make", STRATEGIES)
def test_an_honest_first_model_starts_the_run(make: str) -> None:
    strategy = start_with([Array(np.zeros(3, np.float32)).data], Code.OK, make=STRATEGIES[make])
    assert len(strategy.reports[0].accepted) == 3


@pytest.mark.parametrize("data", [*HOSTILE, BFLOAT16], ids=range(len(HOSTILE) + 1))
def test_a_record_that_holds_no_model_is_one_clear_line(data: bytes) -> None:
    record = ArrayRecord({"weight": Array("float32", (1,), "numpy.ndarray", data)})
    with pytest.raises(ValueError, match="expected a model of real numbers, got array weight that is none: expected"):
        FAADL().configure_train(1, record, ConfigRecord(), LocalGrid(ClientApp(), 3))


def test_bfloat16_is_named_with_what_to_send_instead() -> None:
    record = ArrayRecord({"weight": Array("bfloat16", (1,), "numpy.ndarray", BFLOAT16)})
    with pytest.raises(ValueError, match=r"bfloat16 becomes: send float32 or float16"):
        FAADL().configure_train(1, record, ConfigRecord(), LocalGrid(ClientApp(), 3))
