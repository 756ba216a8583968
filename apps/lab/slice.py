"""``python -m apps.lab.slice FOLDER [OVERRIDES]``: write one file for every client, with its samples.

E.g. ``python -m apps.lab.slice slices clients=5 dataset=digits partition=iid`` writes ``slices/0.npz`` to ``4.npz``.
A device reads its own, which ``data=`` in its SuperNode's ``--node-config`` names.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from apps.lab.config import load
from apps.lab.partitions.slice import Slice


def main(
    folder: Annotated[Path, typer.Argument(help="Where to put 0.npz, 1.npz, ...")],
    overrides: Annotated[list[str] | None, typer.Argument(help="E.g. clients=5 dataset=digits partition=iid.")] = None,
    samples: Annotated[int | None, typer.Option(help="At most so many a slice; encrypting takes time.")] = None,
) -> None:
    """Cut a lab data set into slices."""
    scenario = load(" ".join(overrides or []))
    for partition, rows in enumerate(scenario.partitions):
        train, labels = scenario.dataset.train
        chosen = rows[:samples]
        Slice((train[chosen], labels[chosen]), partition).write(folder / f"{partition}.npz")
    typer.echo(f"{len(scenario.partitions)} slices of {len(chosen)} samples in {folder}")


if __name__ == "__main__":
    typer.run(main)
