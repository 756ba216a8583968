"""``python -m apps.lab.papers.report runs/faa-table2-quick``: a page that needs only a browser, and the plots as PNG.

A folder with ``results.csv`` gives an experiment's page, one with ``rounds.jsonl`` a run's: its nodes and rounds, each
with its score, error and reason.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from apps.lab.papers.data import Results, number, read
from apps.lab.papers.experiments import meaning
from apps.lab.papers.plots import heat, panels, shade, shown, svg
from apps.lab.papers.run import replace_file
from apps.lab.papers.tables import Place, table, worst
from apps.lab.recording.picture import picture
from apps.lab.running.local_run import UNDEFENDED

#: What a cell shows beside its colour.
MARKS = {
    "trusted": "",
    "cleared": "\N{CHECK MARK}",
    "convicted": "\N{MULTIPLICATION SIGN}",
    "dropped": "\N{EN DASH}",
    "removed": "\N{EN DASH}",
    "missing": "?",
    "exhausted": "!",
    "rejected": "#",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Write a page into each folder; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m apps.lab.papers.report", description=__doc__.split("\n", 1)[0])
    parser.add_argument("folders", nargs="+", type=Path, help="of an experiment or of a run")
    for folder in parser.parse_args(arguments).folders:
        try:
            print(write(folder))
        except ValueError as error:
            print(error, file=sys.stderr)
            return 1
    return 0


def write(folder: Path) -> Path:
    """Write ``report.html``, and for an experiment ``plots/*.png``; the page's path.

    Raises
    ------
    ValueError
        If the folder holds neither a run nor an experiment with finished runs.
    """
    rounds = folder / "rounds.jsonl"
    content = run_page(folder) if rounds.exists() else experiment_page(read(folder), folder / "plots")
    replace_file(folder / "report.html", _render(content))
    return folder / "report.html"


def experiment_page(of: Results, plots: Path) -> dict[str, Any]:
    """Return what the page of an experiment shows; draws its plots on the way."""
    plots.mkdir(exist_ok=True)
    pictures, heats = [], []
    for view in of.spec.plots:
        if "panels" not in view:
            heats.append(worst(of, view))
            heat(heats[-1]).savefig(plots / f"{shown([view['title']])}.png", dpi=150)
            continue
        for title, drawn in panels(of, view):
            drawn.savefig(plots / f"{shown([title])}.png", dpi=150)
            pictures.append((title, svg(drawn)))
    ran_on = data_of(plots.parent)
    return {
        "title": f"{of.spec.paper}: {of.spec.title}, run on {ran_on}",
        "ran_on": ran_on,
        "below": below_undefended(of),
        "spec": of.spec,
        "size": of.size,
        "seeds": of.runs["seed"].nunique(),
        "runs": len(of.runs),
        "tables": [table(of, view) for view in of.spec.tables],
        "heats": heats,
        "pictures": pictures,
        "meanings": _meanings(of),
    }


def data_of(folder: Path) -> str:
    """Return the data sets that an experiment's runs were made on, whatever its title calls them."""
    configurations = yaml.safe_load((folder / "configurations.yaml").read_text())
    return ", ".join(sorted({c["dataset"]["load"]["_target_"].rpartition(".")[2] for c in configurations.values()}))


def below_undefended(of: Results) -> list[tuple[str, float, float, float]]:
    """List where FAA-DL is less accurate than FedAvg: the setting, both, and the honest clients alone."""
    setting = [axis for axis in of.axes if axis != "defence" and axis in of.runs]
    if not setting or "defence" not in of.runs:
        return []
    means = of.runs.groupby([*setting, "defence"], dropna=False, sort=False)["final_accuracy"].mean().unstack()
    if not {"FAA-DL", "FedAvg"} <= set(means):
        return []
    below = means[means["FAA-DL"] < means["FedAvg"]]
    ideal = below.get("ideal", below.get("no attack", below["FAA-DL"] * float("nan")))
    names = [", ".join(map(str, at)) for at in below.reset_index()[setting].itertuples(index=False)]
    return list(zip(names, below["FAA-DL"], below["FedAvg"], ideal, strict=True))


def run_page(folder: Path) -> dict[str, Any]:
    """Return what the page of a run shows; ``data`` is for its script."""
    rounds = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    path = folder / "summary.json"
    summary: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    kept = ("verdict", "accepted", "suspect", "score", "error", "threshold", "reason", "banned")
    nodes: dict[int, dict[str, Any]] = {}
    for report in rounds:
        for row in report["nodes"]:
            known = {key: row.get(key) for key in ("partition", "malicious")}
            node = nodes.setdefault(row["node_id"], {"id": str(row["node_id"]), **known, "rounds": {}})
            node["rounds"][report["round"]] = {key: row.get(key) for key in kept}
    inf = float("inf")
    order = sorted(
        nodes.values(), key=lambda n: (not n["malicious"], inf if n["partition"] is None else n["partition"])
    )
    data = {
        "rounds": [{"round": r["round"], "threshold": r.get("score_threshold")} for r in rounds],
        "nodes": order,
        "marks": MARKS,
    }
    content = {
        "title": summary.get("name", folder.name),
        "summary": summary,
        "data": data,
        "picture": None,
        "below": None,
    }
    if summary:
        curves = {"this run": summary["accuracy"], **summary.get("yardsticks", {})}
        content["picture"] = svg(picture(curves, "accuracy by round"))
        undefended = summary.get("yardsticks", {}).get(UNDEFENDED)
        if undefended and summary["final_accuracy"] < undefended[-1]:
            content["below"] = undefended[-1]
    return content


def _meanings(of: Results) -> list[tuple[str, str, str]]:
    """List each axis, its values, and the overrides that they stand for."""
    found = []
    for axis in of.axes:
        found += [(axis, str(value), meaning(axis, value, of.size) or "") for value in of.values(axis)]
    return found


def _render(content: Mapping[str, Any]) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    folder = Path(__file__).parent / "pages"
    pages = Environment(loader=FileSystemLoader(folder), autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    pages.filters["shade"] = _style
    pages.filters["number"] = number
    name = "run.html" if "data" in content else "experiment.html"
    return pages.get_template(name).render(content)


def _style(place: Place) -> str:
    if place.ours is None:
        return ""
    background, text = shade(place.ours.mean)
    return f"background:{background};color:{text}"


if __name__ == "__main__":
    sys.exit(main())
