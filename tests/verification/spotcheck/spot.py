"""One node's way through a spot check, with places to cheat at: enrol, train, challenge, answer, judge."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from apps.lab.clients.spotcheck_lies import Change
from flwr_faa.authority import LocalAuthority
from flwr_faa.verification.base import Case, Finding
from flwr_faa.verification.plan import TrainingPlan
from flwr_faa.verification.spotcheck import commitments, enrolment
from flwr_faa.verification.spotcheck.answer import answer
from flwr_faa.verification.spotcheck.device import Device
from flwr_faa.verification.spotcheck.messages import Answer
from flwr_faa.verification.spotcheck.verifier import SpotCheck
from flwr_faa.verification.training import Data
from tests.helpers.toy import NARROW, PLANS, seen_by, slice_of

SHAPE = (1, 8, 8)


def backends() -> list[str]:
    try:
        LocalAuthority("charm")
    except ImportError:
        return ["arkworks"]
    return ["charm", "arkworks"]


#: What can bind a node to its data.
BINDINGS = ["commitments", "encryption"]


@dataclass
class Node:
    """A node and its server."""

    folder: Path
    name: str = "mlp"
    back_end: str = "arkworks"
    binding: str = "encryption"
    budget: float = 1.0
    data: Data = field(default_factory=lambda: slice_of(0))
    node_id: int = 2**63 + 7
    plan: TrainingPlan = field(init=False)
    verifier: SpotCheck = field(init=False)
    device: Device = field(init=False)

    def __post_init__(self) -> None:
        self.plan = NARROW if self.name == "narrow" else PLANS[self.name]
        convolution = self.name == "cnn"
        top = round(1 / self.plan.scale)
        self.data = seen_by(self.plan, self.data)
        self.verifier = SpotCheck(
            self.plan, SHAPE, self.authority, steps=1, max_value=top, allow_convolution=convolution,
            back_end=self.back_end,
        )  # fmt: skip
        self.device = Device(self.folder, self.budget, progress=lambda done, total: None)

    @cached_property
    def authority(self) -> LocalAuthority | None:
        return LocalAuthority(self.back_end, self.budget) if self.binding == "encryption" else None

    @property
    def key(self) -> bytes:
        """As challenges name what its data are bound under."""
        return self.verifier._binding.promise(self.node_id, self.verifier._layer.width)[0]

    def enrol(self, data: Data | None = None) -> None:
        request = self.verifier.enrolment(self.node_id)
        assert request is not None
        self.verifier.enrol(self.node_id, enrolment.enrol(self.device, data or self.data, request))

    def train(
        self,
        nonce: int = 23,
        claimed: Callable[[Any], Any] | None = None,
        data: Data | None = None,
        plan: TrainingPlan | None = None,
    ) -> Case:
        start = self.plan.initial_arrays(0)
        folder = self.device.checkpoints
        done, commitment = commitments.train(plan or self.plan, start, data or self.data, nonce, folder)
        done = claimed(done) if claimed else done
        return Case(nonce, self.node_id, nonce, start, done, len(self.data[1]), commitment.to_bytes())

    def answer(self, challenge: bytes, data: Data | None = None) -> bytes:
        return answer(self.plan, data or self.data, self.device, challenge)

    def judge(self, case: Case, change: Change | None = None) -> Finding:
        evidence = self.answer(self.verifier.challenge(case))
        if change:
            evidence = change(Answer.from_bytes(evidence)).to_bytes()
        return self.verifier.judge(case, evidence)
