"""``python -m benchmarks.holdout [--docs]``: what held-out data cost, in seconds of CPU.

Twenty updates of the paper's CNN, eight of them turned round, beside the training of the twenty clients (667 images
each); and a thousand updates of a logistic regression, two hundred of them label flips, beside LoMar. The server holds
100 samples. The shortest of three.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from apps.lab.baselines import holdout
from apps.lab.config import load
from apps.lab.datasets import HeldOut
from apps.lab.markdown import untitled, write_region
from apps.lab.running.fleet import Fleet
from apps.lab.scenario import CONF
from flwr_faa.detection import as_detector
from flwr_faa.holdout.base import Holdout
from flwr_faa.replies.updates import Arrays, Reply, read_replies
from flwr_lomar import LoMarDetector

TIMES = 3
DOC = CONF.parent / "docs" / "how-to" / "holdout.md"
Row = tuple[str, str, str, str, str]


def main() -> None:
    """Print both, or write them into the document."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--docs", action="store_true", help=f"write the table into {DOC.name}")
    write = parser.parse_args().docs
    table = untitled(("what", "CPU s", "losses", "gradients", "left out"), [*images(), *rows()])
    print(table)
    if write:
        write_region(DOC, "cost", table)


def images() -> Iterator[Row]:
    """The CNN."""
    scenario = load("dataset=mnist5k model=cnn clients=6 partition=iid attack=none heldout.samples=100 seed=1")
    plan, model = scenario.plan, scenario.plan.initial_arrays(1)
    # 667 images a client; from the seventh on they are the first ones' again, trained in another order.
    trained = [plan.train(model, scenario.data_of(i % 6), nonce) for nonce, i in enumerate(range(20))]
    models = [[2 * w - a for w, a in zip(model, t, strict=True)] if i < 8 else t for i, t in enumerate(trained)]
    yield report("20 updates of the CNN", holdout(plan, HeldOut(scenario.dataset, 100, 1)), models, model)
    yield beside("the clients' training", 20 * shortest(lambda: plan.train(model, scenario.data_of(0), 0)))


def rows() -> Iterator[Row]:
    """Logistic regression."""
    fleet = Fleet.of(
        load(
            "dataset=mnist5k model=logistic clients=1000 partition=lambda partition.size=100 attack=label_flip "
            "attack.share=0.2 heldout.samples=100 seed=1"
        )
    )
    plan, model = fleet.plan, fleet.plan.initial_arrays(1)
    models = fleet.train(model, 3)
    held = holdout(plan, HeldOut(fleet.dataset, 100, 1))
    yield report("1,000 updates of a logistic regression", held, models, model)
    yield report("the same, by a callable without a gradient", replace(held, loss=held.loss.__call__), models, model)
    replies = [Reply(i, m, 100) for i, m in enumerate(models)]
    yield beside("`LoMar`", shortest(lambda: as_detector(LoMarDetector()).detect(read_replies(replies, model), 1)))


def report(what: str, held: Holdout, models: Sequence[Arrays], model: Arrays) -> Row:
    """Return what one choice takes."""
    replies = [Reply(i, m, 100) for i, m in enumerate(models)]
    batch = read_replies(replies, model)
    choice = held.choose(batch, model, (), range(len(batch)))
    seconds = shortest(lambda: held.choose(read_replies(replies, model), model, (), range(len(models))))
    return what, f"{seconds:.2f}", f"{choice.evaluations:,}", str(choice.gradients), str(len(choice.rises))


def beside(what: str, seconds: float) -> Row:
    """Return what something else takes."""
    return f"beside it: {what}", f"{seconds:.2f}", "", "", ""


def shortest(work: Callable[[], object]) -> float:
    """Return the seconds of CPU that the quickest of some times took."""
    found = []
    for _ in range(TIMES):
        start = time.process_time()
        work()
        found.append(time.process_time() - start)
    return min(found)


if __name__ == "__main__":
    main()
