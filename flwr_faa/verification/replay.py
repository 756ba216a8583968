"""``replay``: the client hands over its data in the clear. For simulations; the yardstick of the other verifiers."""

from __future__ import annotations

from dataclasses import dataclass

from flwr_faa import expected
from flwr_faa.verification.base import Case, Finding
from flwr_faa.verification.settings import check_given
from flwr_faa.verification.training import Data, Training
from flwr_faa.verification.wire import WireError, pack, unpack

REQUEST, EVIDENCE = "replay/request", "replay/evidence"


@dataclass(frozen=True)
class Replay:
    """Verify by training again on the client's plain data (FAA-DL, Algorithm 1 without its cryptography).

    Parameters
    ----------
    plan : Training
        The client's.
    tau : float
        Relative L2 error above which a suspect is convicted. The paper's ``g' == g`` would convict honest clients
        (two threads alone differ by up to 1.1e-3); the smallest attack measured stands at .59.
    """

    plan: Training
    tau: float = 0.05

    def __post_init__(self) -> None:
        check_given(self.plan)
        expected.number("tau", self.tau, above=0)

    name = "replay"
    simulation_only = True
    notes = ("replay: clients send their data in the clear; simulation only",)

    def challenge(self, case: Case) -> bytes:
        return pack(REQUEST, {"round": case.round})

    def judge(self, case: Case, evidence: bytes) -> Finding:
        from numpy import ndarray

        fields = unpack(evidence, EVIDENCE, {"samples": ndarray, "labels": ndarray})
        return judge_data(self.plan, self.tau, case, (fields["samples"], fields["labels"]))


def answer(data: Data, request: bytes) -> bytes:
    """Answer for the client."""
    unpack(request, REQUEST, {"round": int})
    samples, labels = data
    return pack(EVIDENCE, {"samples": samples, "labels": labels.astype("<i8")})


def judge_data(plan: Training, tau: float, case: Case, data: Data, encrypted: bool = False) -> Finding:
    """Train on a suspect's data as it should have, and compare.

    ``encrypted`` replays the first layer in fixed point, from integers (see ``integer_layer.py``).
    """
    samples, labels = data
    if samples.dtype.kind not in "iu" or labels.dtype.kind != "i" or labels.ndim != 1 or not samples.ndim > 1:
        raise WireError("expected integer samples and a list of integer labels, got something else")
    if not len(samples) == len(labels) == case.num_examples:
        reason = f"reported {case.num_examples} examples, showed {len(samples)} with {len(labels)} labels"
        return Finding(True, float("nan"), tau, reason)
    try:
        if encrypted:
            from flwr_faa.verification.integer_layer import FINE, integer_first_layer

            replayed = plan.train(case.model, data, case.nonce, integer_first_layer(samples, plan.scale, FINE))
        else:
            replayed = plan.train(case.model, data, case.nonce)
    except (RuntimeError, IndexError, ValueError) as problem:  # torch's ways to say: wrong shape, label out of range
        raise WireError(f"expected data that the model can train on, got {type(problem).__name__}") from problem
    error = plan.error(case.model, case.claimed, replayed)
    if not error <= tau:
        return Finding(True, error, tau, f"update differs from its replay by {error:.3g}, tolerance {tau:g}")
    return Finding(False, error, tau, f"replay agrees to {error:.3g}, tolerance {tau:g}")
