"""What a step of training costs a simulated client, alone and in a stack: `python -m benchmarks.fleet`.

CPU time, one thread, the better of two runs in turns: LoMar's clients (600 images of 28 x 28, 5 epochs, batches of 20,
logistic regression) and the lab's MLP, trained by their plan one after the other, and together.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from apps.lab.config import load
from apps.lab.running.fleet import STACK, train_together

#: Clients that are trained one after the other; the rest of a stack would cost as much again.
ALONE = 4


def compare(model: str) -> None:
    """Print one line."""
    plan = load(f"dataset=mnist5k model={model}").plan
    samples, labels = load("dataset=mnist5k").dataset.train
    rng = np.random.default_rng(0)
    data = [(samples[rows], labels[rows]) for rows in rng.integers(len(labels), size=(STACK, 600))]
    start, steps = plan.initial_arrays(1), sum(1 for _ in plan.batches(600, 0))
    alone = _best(lambda: [plan.train(start, d, 0) for d in data[:ALONE]]) / (ALONE * steps)
    together = _best(lambda: train_together(plan, start, data, 0)) / (STACK * steps)
    print(
        f"{model}: {1e6 * alone:.0f} us a step and client alone, {1e6 * together:.0f} us in a stack of {STACK}; "
        f"a round of 1,100 clients {1100 * steps * alone:.0f} s and {1100 * steps * together:.0f} s"
    )


def _best(act: Callable[[], object]) -> float:
    seconds = []
    for _ in range(2):
        start = time.process_time()
        act()
        seconds.append(time.process_time() - start)
    return min(seconds)


if __name__ == "__main__":
    for name in ("logistic_lomar", "mlp"):
        compare(name)
