"""What the commands of the studies share: their options, cells that are run or read, attacks and partitions by name."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from apps.lab.attacks import Attack
from apps.lab.config import load
from apps.lab.journal import Row, lines, run_missing
from apps.lab.markdown import write_region
from apps.lab.papers.experiments import meaning

C = TypeVar("C")


def options_of(study: str, says: str | None, out: str, jobs: int = 1) -> ArgumentParser:
    """Return a parser with the options that every study has; a study adds its own."""
    parser = ArgumentParser(prog=f"python -m apps.studies.{study}", description=(says or "").strip().split("\n")[0])
    parser.add_argument("--jobs", type=int, default=jobs, help="processes")
    parser.add_argument("--out", type=Path, default=Path(out), help="where finished runs are kept, one line each")
    parser.add_argument("--finished", action="store_true", help="run nothing: tables of the runs there are")
    parser.add_argument("--write", "--docs", action="store_true", help="write the tables into docs/ too")
    return parser


def key_by(kind: type) -> Callable[[Any], tuple[Any, ...]]:
    """Return what tells the key of a cell, a dataclass of this kind, or of a line that came of one: all its fields."""
    names = [field.name for field in fields(kind)]
    return lambda one: tuple((one if isinstance(one, Mapping) else vars(one))[name] for name in names)


def results(options: Namespace, cells: Iterable[C], work: Callable[[C], Row], key: Callable[[Any], Any]) -> list[Row]:
    """Return the lines of all cells, after running those that are missing; with ``--finished`` those that there are."""
    wanted = {key(cell): cell for cell in cells}
    if options.finished:
        return [row for row in lines(options.out) if key(row) in wanted]
    return list(run_missing(wanted, options.out, options.jobs, work, key).values())


def publish(text: str, page: Path, region: str, write: bool) -> None:
    """Print a study's tables, and write them into a page between the marks of their region."""
    print(text)
    if write:
        write_region(page, region, text)


@cache
def attack_of(name: str) -> Attack:
    """Return the attack that conf/experiment/axes.yaml gives a name."""
    return load(str(meaning("attack", name))).attack
