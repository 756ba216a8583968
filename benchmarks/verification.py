"""What the spot check costs: CPU time by phase, and as a ratio to the same round without verification.

    python benchmarks/verification.py [--back-end charm] [--models logistic mlp cnn] [--samples 200]

MNIST's shape, random pixels (the cost does not hang on their values), batches of 50, one epoch, two steps at random
besides the last and the largest. CPU time, not wall clock: the machine may be shared. Even so, neighbours slow memory
down, so the cost of one addition of points is printed with it.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from flwr_faa.authority import LocalAuthority
from flwr_faa.crypto import groups
from flwr_faa.verification import commitments, enrolment, spotanswer
from flwr_faa.verification.base import Case
from flwr_faa.verification.enrolment import Device
from flwr_faa.verification.plan import TrainingPlan
from flwr_faa.verification.spotcheck import SpotCheck
from flwr_faa.verification.spotwire import Challenge

SHAPE = (1, 28, 28)


class CNN(nn.Module):
    """The paper's: two 5x5 convolutions, two dense layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 32, 5), nn.Conv2d(32, 64, 5)
        self.fc1, self.fc2 = nn.Linear(1024, 128), nn.Linear(128, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.max_pool2d(torch.relu(self.conv1(x)), 2)
        x = torch.max_pool2d(torch.relu(self.conv2(x)), 2)
        return self.fc2(torch.relu(self.fc1(x.flatten(1))))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "logistic": lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 10)),
    "mlp": lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 32), nn.ReLU(), nn.Linear(32, 10)),
    "cnn": CNN,
}


def cpu(call: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    result = call()
    return time.process_time() - start, result


def measure(back_end: str, name: str, samples: int) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (samples, *SHAPE)) * (rng.random((samples, *SHAPE)) < 0.2)
    data = pixels.astype(np.uint8), rng.integers(0, 10, samples)
    plan = TrainingPlan(model=MODELS[name], lr=0.05, batch_size=50, momentum=0.9)
    authority = LocalAuthority(back_end, 1.0)
    verifier = SpotCheck(plan, SHAPE, authority, allow_convolution=name == "cnn")
    start = plan.initial_arrays(0)
    with tempfile.TemporaryDirectory() as folder:
        device = Device(Path(folder), 1.0, progress=lambda done, total: None)
        setup, request = cpu(lambda: verifier.enrolment(1))
        enrolled, answer = cpu(lambda: enrolment.enrol(device, data, request))
        verifier.enrol(1, answer)
        plan.train(start, data, 0)  # torch warms up
        plain, _ = cpu(lambda: plan.train(start, data, 1))
        committed, (done, commitment) = cpu(lambda: commitments.train(plan, start, data, 1, device.checkpoints))
        case = Case(1, 1, 1, start, done, samples, commitment.to_bytes())
        asking, challenge = cpu(lambda: verifier.challenge(case))
        answering, evidence = cpu(lambda: spotanswer.answer(plan, data, device, challenge))
        judging, finding = cpu(lambda: verifier.judge(case, evidence))
    assert not finding.convicted, finding
    steps = len(Challenge.from_bytes(challenge).steps)
    group = authority.group
    points = groups.multiples(group, group.generator, list(range(5000, 10000)))
    addition = min(cpu(lambda: groups.total(group, points))[0] for _ in range(3)) / len(points)
    print(
        f"{back_end:9} {name:9} | setup {setup:.2f} s, enrolment {1e3 * enrolled / samples:.1f} ms a sample | plain "
        f"round {plain:.3f} s, committed {committed / plain:.2f}x, answer {answering / plain:.2f}x | server: challenge "
        f"{1e3 * asking:.1f} ms, suspect {judging:.2f} s ({judging / plain:.1f}x), a step {judging / steps:.3f} s | "
        f"evidence {len(evidence) / 1e6 / steps:.1f} MB a step | addition {1e6 * addition:.2f} us, "
        f"a step as many as {judging / steps / addition / 1e3:.0f} thousand | error "
        f"{finding.error:.1e}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--back-end", nargs="+", default=["charm", "arkworks"])
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--samples", type=int, default=200)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for back_end in options.back_end:
        for name in options.models:
            measure(back_end, name, options.samples)


if __name__ == "__main__":
    main()
