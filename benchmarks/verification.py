"""What the spot check costs: CPU time by phase, and as a ratio to the same round without verification.

    python -m benchmarks.verification [--bindings commitments encryption] [--back-end charm arkworks]
        [--models logistic mlp wide cnn] [--docs]

Images of the shape of digits and of MNIST, random pixels (the cost does not depend on their values), 200 of them in
batches of 50, one epoch: all four steps are challenged, the last, the one that moved most, and two others. CPU time,
not wall clock, medians of three runs; even so neighbours slow memory down, so what an addition of points takes is told.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import nn

from apps.lab.markdown import markdown, write_region
from apps.lab.models import cnn, logistic, mlp
from flwr_faa.authority import LocalAuthority
from flwr_faa.crypto import groups
from flwr_faa.crypto.backends import open_group
from flwr_faa.verification.base import Case
from flwr_faa.verification.plan import TrainingPlan
from flwr_faa.verification.spotcheck import commitments, enrolment
from flwr_faa.verification.spotcheck.answer import answer
from flwr_faa.verification.spotcheck.device import Device
from flwr_faa.verification.spotcheck.messages import Answer, Challenge
from flwr_faa.verification.spotcheck.verifier import SpotCheck

DOC = Path(__file__).parents[1] / "docs" / "explanation" / "spotcheck.md"
SAMPLES, RUNS = 200, 3
#: Shape and largest value.
DATASETS: dict[str, tuple[tuple[int, int, int], int]] = {"digits": ((1, 8, 8), 16), "MNIST": ((1, 28, 28), 255)}


MODELS: dict[str, Callable[[Sequence[int], int], nn.Module]] = {
    "logistic": logistic,
    "mlp": mlp,
    "wide": partial(mlp, units=128),
    "cnn": cnn,
}
#: Lines of the table, and how a figure is written.
FIGURES = {
    "enrolment, ms a sample, once": "{:.2f}",
    "plain round, s": "{:.3f}",
    "committed round / plain round": "{:.1f}",
    "answering / plain round": "{:.1f}",
    "of it proving, ms a challenged step": "{:.0f}",
    "server: challenge, ms a suspect": "{:.1f}",
    "server: judging, s a suspect": "{:.2f}",
    "server: judging / plain round": "{:.0f}",
    "server: judging, s a challenged step": "{:.3f}",
    "of it recomputing the step": "{:.3f}",
    "of it testing the claims": "{:.3f}",
    "the same, of four such nodes at once": "{:.3f}",
    "judging a step, in thousand additions": "{:.0f}",
    "an addition, us": "{:.2f}",
    "on the device's disk, kB a sample": "{:.1f}",
    "evidence, kB a challenged step": "{:.0f}",
    "of it what binds, and proofs": "{:.0f}",
}
#: Where the tables of each binding stand in the docs.
REGIONS = {"commitments": "cost-commitments", "encryption": "cost"}


def cpu(call: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    result = call()
    return time.process_time() - start, result


def timed(owner: Any, name: str) -> list[float]:
    """Return CPU seconds of each call of an object's method from now on."""
    method, spent = getattr(owner, name), list[float]()

    def call(*arguments: Any) -> Any:
        took, result = cpu(lambda: method(*arguments))
        spent.append(took)
        return result

    object.__setattr__(owner, name, call)
    return spent


def measure(binding: str, back_end: str, dataset: str, name: str) -> list[float]:
    """`FIGURES` of one run."""
    shape, largest = DATASETS[dataset]
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, largest + 1, (SAMPLES, *shape)) * (rng.random((SAMPLES, *shape)) < 0.2)
    data = pixels.astype(np.uint8), rng.integers(0, 10, SAMPLES)
    plan = TrainingPlan(model=partial(MODELS[name], shape, 10), lr=0.05, batch_size=50, momentum=0.9)
    authority = LocalAuthority(back_end, 1.0) if binding == "encryption" else None
    verifier = SpotCheck(plan, shape, authority, max_value=largest, allow_convolution=name == "cnn", back_end=back_end)
    proving = timed(enrolment.BONDS[binding], "prove")
    start = plan.initial_arrays(0)
    with tempfile.TemporaryDirectory() as folder:
        device = Device(Path(folder), 1.0, progress=lambda done, total: None)
        request = verifier.enrolment(1)
        enrolled, registered = cpu(lambda: enrolment.enrol(device, data, request))
        stored = sum(f.stat().st_size for f in Path(folder).rglob("*") if f.is_file())
        verifier.enrol(1, registered)
        plan.train(start, data, 0)  # torch warms up
        plain, _ = cpu(lambda: plan.train(start, data, 1))
        committed, (done, commitment) = cpu(lambda: commitments.train(plan, start, data, 1, device.checkpoints))
        case = Case(1, 1, 1, start, done, SAMPLES, commitment.to_bytes())
        asking, challenge = cpu(lambda: verifier.challenge(case))
        answering, evidence = cpu(lambda: answer(plan, data, device, challenge))
        opened = verifier._open(case, evidence)
        testing, four = (cpu(lambda n=n: verifier._binding.test([opened.tested] * n))[0] / n for n in (1, 4))
        steps_again = [partial(opened.shown.error, opened.checkpoints, step) for step in opened.tested.claims]
        redone, _ = cpu(lambda: [call() for call in steps_again])
        judging, finding = cpu(lambda: verifier.judge(case, evidence))
    assert not finding.convicted, finding
    steps = len(Challenge.from_bytes(challenge).steps)
    group, shown = open_group(back_end), Answer.from_bytes(evidence)
    points = groups.multiples(group, group.generator, list(range(5000, 10000)))
    addition = min(cpu(lambda: groups.total(group, points))[0] for _ in range(3)) / len(points)
    figures = [1e3 * enrolled / SAMPLES, plain, committed / plain, answering / plain, 1e3 * proving[-1] / steps]
    figures += [1e3 * asking, judging, judging / plain, judging / steps, redone / steps, testing / steps, four / steps]
    figures += [judging / steps / addition / 1e3, 1e6 * addition, stored / 1e3 / SAMPLES, len(evidence) / 1e3 / steps]
    return [*figures, (shown.bound.nbytes + shown.proofs.nbytes) / 1e3 / steps]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--bindings", nargs="+", default=list(REGIONS), choices=REGIONS)
    parser.add_argument("--back-end", nargs="+", default=["charm", "arkworks"])
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--docs", action="store_true", help=f"write the tables into {DOC.name} too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for binding in options.bindings:
        tables = []
        for back_end, dataset in product(options.back_end, DATASETS):
            columns = [
                [median(of) for of in zip(*(measure(binding, back_end, dataset, m) for _ in range(RUNS)), strict=True)]
                for m in options.models
            ]
            lines = [[name, *(form.format(c[i]) for c in columns)] for i, (name, form) in enumerate(FIGURES.items())]
            tables.append(markdown(f"{binding}, {back_end}, {dataset}", ["", *options.models], lines))
            print(tables[-1], flush=True)
        if options.docs:
            write_region(DOC, REGIONS[binding], "\n".join(tables))


if __name__ == "__main__":
    main()
