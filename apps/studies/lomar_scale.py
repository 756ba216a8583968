"""``python -m apps.studies.lomar_scale``: LoMar's federation at its paper's size, 1,000 honest clients, 100 flippers.

Every client holds 600 images of MNIST (drawn with overlap, since 600,000 of 60,000 must be), and trains logistic
regression for 5 epochs in batches of 20; the flippers call a 7 a 1 (Li et al., Sec. 4.1). Each strategy is a run of its
own with its own folder. The command can be stopped; started again, also with more ``--rounds``, it goes on with the
round where it was. Further arguments are Hydra's, e.g. ``attack.tau=0.1``. Where MNIST is not here
(``docs/how-to/data.md``), the 5,000 of its images that come with a library are drawn from instead.
"""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from rich.console import Console

from apps.lab import datasets
from apps.lab.config import load
from apps.lab.markdown import Table, decimal, markdown
from apps.lab.recording.progress import rounds_bar
from apps.lab.running.continued import CHECKPOINT, Continued, run_continued
from apps.lab.running.fleet import Fleet
from apps.lab.scenario import CONF, Scenario
from apps.studies.command import publish

SETTING = (
    "clients=1100 partition=lambda partition.share=0 partition.size=600 attack=label_flip attack.share=0.0909 "
    "api=message run.baseline=false"
)
STRATEGIES = ("fedavg", "krum", "lomar_paper", "lomar")
DOC = CONF.parent / "docs" / "results" / "lomar-accuracy.md"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing and print the table; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m apps.studies.lomar_scale", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=20, help="the paper has 200")
    parser.add_argument("--strategies", nargs="+", default=list(STRATEGIES), help="files in conf/strategy")
    parser.add_argument("--out", type=Path, default=Path("runs/scale"), help="a folder for each strategy goes in here")
    parser.add_argument("--finished", action="store_true", help="run nothing: the table of the rounds there are")
    parser.add_argument("--write", "--docs", action="store_true", help=f"write the table into {DOC.name} too")
    parser.add_argument("overrides", nargs="*", help="of the setting, e.g. attack.tau=0.1")
    options = parser.parse_intermixed_args(arguments)
    logging.getLogger("flwr").setLevel(logging.ERROR)  # one line per node and round; it is all in rounds.jsonl
    console, records = Console(), {}
    for strategy in options.strategies:
        scenario = setting(strategy, options.rounds, options.overrides)
        folder = options.out / strategy
        if options.finished:
            if not (folder / CHECKPOINT).exists():
                continue
            records[strategy] = Continued(scenario, folder)
        else:
            with rounds_bar(console, options.rounds) as bar:
                watch = bar(strategy) if console.is_terminal else partial(_line, strategy)
                records[strategy] = run_continued(scenario, folder, watch)
        records[strategy].write({})
    publish(markdown(*table(records)), DOC, "lomar-scale", options.write)
    return 0


def setting(strategy: str, rounds: int, overrides: Sequence[str] = ()) -> Scenario:
    """Return the scenario, on MNIST if it is here, else on mnist5k."""
    try:
        datasets.mnist()
        dataset = "mnist"
    except datasets.DataMissingError:
        dataset = "mnist5k"
    words = f"dataset={dataset} model=logistic_lomar strategy={strategy} rounds={rounds} {SETTING}"
    return Fleet.of(load(f"{words} {shlex.join(overrides)}"))


def table(records: Mapping[str, Continued]) -> Table:
    """Return a table with one line per strategy."""
    head = ["strategy", "accuracy, round 20", "rounds", "accuracy", "accuracy on 7", "7 taken for 1", "other labels"]
    head += ["attackers left out", "honest left out", "minutes, first 20 rounds", "CPU minutes, first 20"]
    head += ["minutes, all", "seconds a round: training and messages", "detection", "aggregation"]
    lines = []
    for strategy, record in records.items():
        summary = record.summary
        last = {name: values[-1] for name, values in summary["labels"].items()}
        figures = [summary["final_accuracy"], last["source"], last["attack_success"], last["other"]]
        shares = [summary["scores"]["tpr_left_out"], summary["scores"]["fpr_left_out"]]
        minutes = [sum(record.wall[:20]) / 60, sum(record.cpu[:20]) / 60, sum(record.wall) / 60]
        early = summary["accuracy"][min(20, record.done)]  # the list starts with the untrained model
        lines.append([strategy, decimal(early), str(record.done), *map(decimal, figures), *map(decimal, shares)])
        lines[-1] += [f"{m:.1f}" for m in minutes]
        phases = [summary["seconds"].get(phase, 0.0) / record.done for phase in ("train", "detect", "aggregate")]
        lines[-1] += [f"{seconds:.1f}" for seconds in phases]
    config = next(iter(records.values())).scenario
    title = f"1,000 honest clients, 100 that flip 7 to 1, 600 images of {config.choices['dataset']} each"
    return title, head, lines


def _line(strategy: str, number: int, accuracy: float) -> None:
    print(f"{time.strftime('%H:%M:%S')} {strategy} round {number}: accuracy {accuracy:.3f}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
