"""What a round of FAA-DL's clients costs to train and to measure: `python -m benchmarks.training [--docs]`.

CPU seconds on one thread of 20 clients with 600 images of 28 x 28 each (one epoch of batches of 50), and of the model's
outputs for 10,000 test images; the median of five runs in turns. The lab's CNN keeps its weights channels last. The
same network beside it has them as torch makes them. The last line says what is left to gain: how long a round's
convolutions alone take where this core multiplies as fast as it multiplies matrices.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from apps.lab.markdown import untitled, write_region
from apps.lab.models import cnn
from flwr_faa import TrainingPlan

CLIENTS, IMAGES, TEST, RUNS = 20, 600, 10_000, 5
SHAPE, CLASSES = (1, 28, 28), 10
DOC = Path(__file__).parents[1] / "docs" / "performance.md"
#: Multiplications and additions of both convolutions an image, forward; backward there are once as many for the
#: gradients of the weights, and of the inputs of the second.
FIRST, SECOND = 2 * 25 * 24 * 24 * 32, 2 * 25 * 8 * 8 * 64 * 32


def as_torch_makes_it(shape: Sequence[int], classes: int) -> nn.Module:
    """Return the lab's CNN with its weights in rows and columns."""
    return cnn(shape, classes).to(memory_format=torch.contiguous_format)


def seconds(act: Callable[[], object]) -> float:
    """CPU seconds that it takes."""
    start = time.process_time()
    act()
    return time.process_time() - start


def main() -> None:
    """Print a line for each layout, and what a matrix product reaches; write them into the docs if asked to."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--docs", action="store_true", help=f"write the table into {DOC.name} too")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (TEST, *SHAPE), np.uint8), rng.integers(0, CLASSES, TEST)
    plans = {
        "as torch makes it": TrainingPlan(partial(as_torch_makes_it, SHAPE, CLASSES), lr=0.1),
        "channels last": TrainingPlan(partial(cnn, SHAPE, CLASSES), lr=0.1),
    }
    torch.set_num_threads(1)
    square, found = torch.rand(1024, 1024), dict[tuple[str, str], list[float]]()
    for _, (name, plan) in ((run, item) for run in range(RUNS) for item in plans.items()):
        arrays, client = plan.initial_arrays(0), (images[:IMAGES], labels[:IMAGES])
        found.setdefault((name, "train"), []).append(CLIENTS * seconds(partial(plan.train, arrays, client, 1)))
        found.setdefault((name, "measure"), []).append(seconds(partial(plan.predict, arrays, images)))
        found.setdefault(("", "product"), []).append(seconds(lambda: [square @ square for _ in range(5)]))
    middle = {key: statistics.median(times) for key, times in found.items()}
    peak = 5 * 2 * 1024**3 / middle["", "product"]
    lines = [[name, *(f"{middle[name, part]:.1f}" for part in ("train", "measure"))] for name in plans]
    least = [CLIENTS * IMAGES * (2 * FIRST + 3 * SECOND) / peak, TEST * (FIRST + SECOND) / peak]
    lines.append(
        [f"convolutions alone, at the {peak / 1e9:.0f} GFLOP/s of a matrix product", *(f"{t:.1f}" for t in least)]
    )
    text = untitled(["CPU s", "to train 20 clients", "to measure the model"], lines)
    print(text)
    if options.docs:
        write_region(DOC, "training", text)


if __name__ == "__main__":
    main()
