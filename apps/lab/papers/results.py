"""``python -m apps.lab.papers.results``: pages of ``docs/results`` and ``timings.json`` from the runs in ``runs/``.

Every claim of both papers, what is measured here, and whether it holds: ``results.md`` from runs at size ``quick``,
``paper-size.md`` from those at size ``paper``; ``heatmap.md`` is the table of what is harder than the papers. A page of
which there are no runs stays as it is. No figure in them is typed by hand.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from apps.lab.markdown import untitled, write_region
from apps.lab.papers.claims import Claim, all_claims, not_run
from apps.lab.papers.data import Figure, Results, at_common_round, interval, number, read
from apps.lab.papers.experiments import SIZES, Size, cells, folder, names, spec
from apps.lab.papers.run import replace_file
from apps.lab.papers.tables import Table, table, worst
from apps.lab.scenario import CONF
from flwr_faa import __version__

DOCS = CONF.parent / "docs" / "results"
#: A part of an experiment over all its rounds, for several nights; and its page.
WHOLE, PART_OF, RUNNING = "faa/table2_whole", "faa/table2", "table2.md"
#: Harder than the papers, and its page.
HARDER, HARDER_PAGE = "harder/heatmap", "heatmap.md"
PAGES: dict[Size, str] = {"quick": "results.md", "paper": "paper-size.md"}
MEANING: dict[Size, str] = {
    "quick": "embedded data and small federations; what a name stands for is in `conf/experiment/axes.yaml`",
    "paper": "the paper's data, clients and model",
}

VERSION = f"Measured with version {__version__}."
INTRODUCTION = """
Written by `python -m apps.lab.papers.results`; change no figure by hand. Means over seeds, 95% intervals (Student's t).
A claim holds if the whole interval is on the right side of its bound, and does not if all of it is on the wrong side.
FAA-DL's tables have no bodies in our text; its prose is taken at its word. `(printed)` is the method as printed, the
same name without it is this project's version. A data set's name stands for the paper's; what takes its place at
`quick`, what each experiment leaves open and what was chosen stands in `conf/experiment/`.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m apps.lab.papers.results", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--docs", type=Path, default=DOCS, help="where to write")
    parser.add_argument("--whole", action="store_true", help=f"write what {WHOLE} has into {RUNNING}, nothing else")
    options = parser.parse_args(arguments)
    if options.whole:
        of = collect(options.runs, "paper")[WHOLE]
        ran = set(of.values("defence"))
        claims = [c for c in all_claims() if c.experiment == PART_OF and c.defences <= ran]
        judged = _claims([(claim, of) for claim in claims])
        write_region(options.docs / RUNNING, "whole", f"{_section(WHOLE, of)}\n\n**Claims**\n\n{judged}")
        return 0
    written = {}
    for size in SIZES:
        there = collect(options.runs, size)
        if size == "quick" and there:
            took = _kept(options.docs) | timings(there)
            written["timings.json"] = json.dumps(took, indent=2, sort_keys=True) + "\n"
            if HARDER in there:
                written[HARDER_PAGE] = heatmap(there[HARDER])
        if papers := {name: of for name, of in there.items() if name not in (HARDER, WHOLE)}:
            written[PAGES[size]] = page(size, papers)
    for name, text in written.items():
        replace_file(options.docs / name, text)
        print(options.docs / name)
    return 0


def _kept(docs: Path) -> dict[str, Any]:
    """Return the times of earlier runs: an experiment that was not run again keeps its own."""
    path = docs / "timings.json"
    kept: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return kept


def collect(runs: Path, size: Size) -> dict[str, Results]:
    """Return the finished runs of each experiment; at size ``paper`` those of the folder with most runs."""
    found = {}
    for name in names():
        exact = folder(spec(name), size, (), runs)
        folders = [exact] if size == "quick" else sorted(runs.glob(f"{exact.name}*"))
        there = [
            read(path)
            for path in folders
            if (path / "results.csv").exists() and (path / "results.csv").stat().st_size > 1
        ]
        if there:
            found[name] = max(there, key=lambda of: len(of.runs))
    return found


def verdict(claim: Claim, measured: Figure, unfinished: bool = False) -> str:
    """Return whether a claim holds, as far as the interval tells; with what should be known about the runs."""
    half = measured.half or 0.0
    low, high = measured.mean - half, measured.mean + half
    least = -float("inf") if claim.least is None else claim.least
    most = float("inf") if claim.most is None else claim.most
    known = ["one seed"] * (measured.half is None) + ["unfinished runs"] * unfinished
    note = f" ({', '.join(known)})" if known else ""
    if least <= low and high <= most:
        return f"holds{note}"
    if high < least or low > most:
        return f"**does not hold**{note}"
    return f"not decided: the interval crosses the bound{note}"


def page(size: Size, found: Mapping[str, Results]) -> str:
    """Return the page of a size in Markdown."""
    there = [(claim, found[claim.experiment]) for claim in all_claims() if claim.experiment in found]
    head = "# What the papers claim, and what is measured here"
    parts = [f"{head}{', at their size' if size == 'paper' else ''}", f"{VERSION} {' '.join(INTRODUCTION.split())}"]
    parts += [f"## Claims at size `{size}`: {MEANING[size]}", _claims(there)]
    if size == "paper":
        for name, of in found.items():
            parts += [f"## {of.spec.paper}: {of.spec.title}", _section(name, of)]
    else:
        parts += ["## Could not be run", untitled(["where", "claim", "why"], not_run())]
    return "\n\n".join([*parts, "## What the runs took", _times(found)]) + "\n"


def heatmap(harder: Results) -> str:
    """Return the page of what is harder than the papers in Markdown."""
    parts = [
        "# Harder than the papers",
        f"{VERSION} From `python -m apps.lab experiment={HARDER} seeds=5` by `python -m apps.lab.papers.results`; "
        f"change no figure by hand. {_count(harder)}; {harder.spec.title.lower()}.",
        *(_table(worst(harder, view)) for view in harder.spec.plots),
        _times({HARDER: harder}),
    ]
    return "\n\n".join(parts) + "\n"


def _section(name: str, of: Results) -> str:
    """Return an experiment's count of runs and its tables, at the last round that all of them reached."""
    same, rounds = at_common_round(of)
    head = f"{_count(of)} (`{name}`)."
    if of.unfinished:
        planned = of.runs["planned_rounds"].max()
        head += f" Ended with their time: of {planned} rounds all defences reached, and are compared at, {rounds}."
    return "\n\n".join([head, *(_table(table(same, view)) for view in of.spec.tables)])


def timings(quick: Mapping[str, Results]) -> dict[str, dict[str, float | int | str]]:
    """Return each experiment's CPU seconds, including runs that it shares with others."""
    return {
        name: {
            "cpu_seconds": round(float(of.runs.drop_duplicates(["cell", "seed"])["cpu_seconds"].sum()), 1),
            "runs": len(of.runs.drop_duplicates(["cell", "seed"])),
            "seeds": int(of.runs["seed"].nunique()),
        }
        for name, of in quick.items()
    }


def _claims(claims: Sequence[tuple[Claim, Results]]) -> str:
    """Return a table of claims, each judged by what its experiment has; those without a figure are left out."""
    lines = []
    for claim, of in claims:
        measured = interval(claim.measure(at_common_round(of)[0]).dropna())
        if measured is None:
            continue
        bound = [f"at least {number(claim.least)}"] if claim.least is not None else []
        bound += [f"at most {number(claim.most)}"] if claim.most is not None else []
        seeds = f"{measured.seeds} seed{'s' if measured.seeds > 1 else ''}"
        shown = f"{measured}, {seeds}"
        if claim.absolute and of.size != "paper":
            decided = "the paper's figure is of other data: not comparable"
        elif claim.absolute and of.unfinished:
            decided = "the paper's figure is of more rounds: not comparable"
        else:
            decided = verdict(claim, measured, of.unfinished)
        lines.append([claim.source, claim.says, claim.shows, " and ".join(bound), shown, decided])
    return untitled(["where", "claim", "measured", "holds if", "here", "verdict"], lines)


def _times(found: Mapping[str, Results]) -> str:
    import pandas as pd

    runs = {name: of.runs.drop_duplicates(["cell", "seed"]) for name, of in found.items()}
    lines = [[f"`{name}`", _count(found[name]), f"{of['cpu_seconds'].sum() / 60:.1f}"] for name, of in runs.items()]
    once = pd.concat([of[["cell", "seed", "cpu_seconds"]] for of in runs.values()]).drop_duplicates(["cell", "seed"])
    if len(lines) > 1:
        lines.append(["all, shared runs once", f"{len(once)} runs", f"{once['cpu_seconds'].sum() / 60:.1f}"])
    machine = f"{platform.machine()}, Python {platform.python_version()}"
    note = f"Minutes of one core ({machine}, a machine with other work to do)."
    return note + "\n\n" + untitled(["experiment", "runs", "minutes"], lines)


def _count(of: Results) -> str:
    seeds = of.runs["seed"].nunique()
    whole = seeds * len(list(cells(of.spec, of.size)))
    runs = f"{len(of.runs)} of {whole}" if len(of.runs) < whole else f"{whole}"
    return f"{runs} runs, {seeds} seed{'s' if seeds > 1 else ''}"


def _table(of: Table) -> str:
    lines = []
    for name, places in of.rows.items():
        cells = []
        for place in places:
            ours = "" if place.ours is None else str(place.ours)
            cells.append(ours if place.paper is None else f"{ours or 'not run'} (paper {number(place.paper)})")
        lines.append([name, *cells])
    return f"**{of.title}**\n\n" + untitled(["", *of.columns], lines)


if __name__ == "__main__":
    sys.exit(main())
