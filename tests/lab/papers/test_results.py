"""The page of claims, from runs whose figures are known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from apps.lab.papers import results
from apps.lab.papers.claims import Claim, all_claims, read_measure
from apps.lab.papers.data import Figure, Results, spec
from apps.lab.papers.experiments import names

DEFENCES = {"FedAvg": 0.2, "trimmed mean": 0.5, "FAA-DL": 0.89, "ideal": 0.9}


def rows(seeds: int, size: str = "quick", planned: int = 3) -> list[dict[str, Any]]:
    head = {
        "experiment": "faa/table2",
        "size": size,
        "planned_rounds": planned,
        "data": "MNIST, two labels",
        "attack": "ALIE",
        "share": 0.4,
    }
    return [
        {
            **head,
            "defence": defence,
            "seed": seed,
            "cell": defence,
            "rounds": 3,
            "final_accuracy": accuracy + seed / 1000,
            "cpu_seconds": 30.0,
        }
        for defence, accuracy in DEFENCES.items()
        for seed in range(seeds)
    ]


def test_the_page_has_a_line_a_claim_and_the_times(tmp_path: Path) -> None:
    # Prepare
    folder = tmp_path / "runs" / "faa-table2-quick"
    folder.mkdir(parents=True)
    pd.DataFrame(rows(3)).to_csv(folder / "results.csv", index=False)
    pd.DataFrame([{"cell": "ideal", "seed": 0, "curve": "accuracy", "x": 0, "y": 0.1}]).to_csv(folder / "curves.csv")
    before = {
        "faa/fig9": {"cpu_seconds": 36.3, "runs": 30, "seeds": 5},
        "faa/table2": {"cpu_seconds": 115.0, "runs": 170, "seeds": 5},
    }
    (tmp_path / "timings.json").write_text(json.dumps(before))

    # Execute
    assert results.main(["--runs", str(tmp_path / "runs"), "--docs", str(tmp_path)]) == 0

    # Assert
    lines = (tmp_path / "results.md").read_text().splitlines()
    gap = next(line for line in lines if "FAA-DL: within .92 to 2.48 points of the ideal, MNIST, ALIE" in line)
    assert "0.010 ± 0.000, 3 seeds | holds |" in gap
    best_of_all = next(line for line in lines if "FAA-DL: best accuracy 89.95 %" in line)
    assert best_of_all.endswith("| the paper's figure is of other data: not comparable |")
    assert any("KDDCup99 has to be downloaded" in line for line in lines)
    assert not any("Fashion-MNIST, ALIE" in line for line in lines)  # nobody ran it
    timings = json.loads((tmp_path / "timings.json").read_text())
    assert timings == {
        "faa/fig9": {"cpu_seconds": 36.3, "runs": 30, "seeds": 5},  # not run again
        "faa/table2": {"cpu_seconds": 360.0, "runs": 12, "seeds": 3},
    }


def test_the_experiment_of_several_nights_has_a_page_with_the_claims_that_its_defences_are_enough_for(
    tmp_path: Path,
) -> None:
    folder, docs = tmp_path / "runs" / "faa-table2_whole-paper", tmp_path / "results"
    for path in (folder, docs):
        path.mkdir(parents=True)
    recall = [row | {"recall": 1.0, "experiment": "faa/table2_whole"} for row in rows(1, "paper", 100)]
    pd.DataFrame(recall).to_csv(folder / "results.csv", index=False)
    pd.DataFrame([{"cell": "ideal", "seed": 0, "curve": "accuracy", "x": 0, "y": 0.1}]).to_csv(folder / "curves.csv")
    (docs / "table2.md").write_text("before\n\n<!-- table:whole -->\n\n<!-- /table -->\n\nafter\n")
    assert results.main(["--runs", str(tmp_path / "runs"), "--docs", str(docs), "--whole"]) == 0
    text = (docs / "table2.md").read_text()
    assert "4 of 16 runs, 1 seed" in text and "| FAA-DL | 0.890 |" in text
    assert "of 100 rounds all defences reached, and are compared at, 3" in text
    assert "FAA-DL: within .92 to 2.48 points of the ideal, MNIST, ALIE" in text
    assert "no other defence is better" not in text  # trimmed mean and others did not run
    assert not (docs / "results.md").exists()


@pytest.mark.parametrize(
    ("planned", "gap", "own"), [(3, "holds |", "does not hold"), (100, "holds (unfinished runs)", "more rounds")]
)
def test_a_papers_figure_is_not_held_against_runs_that_ended_early(
    tmp_path: Path, planned: int, gap: str, own: str
) -> None:
    folder = tmp_path / "runs" / "faa-table2-paper"
    folder.mkdir(parents=True)
    pd.DataFrame(rows(3, "paper", planned)).to_csv(folder / "results.csv", index=False)
    pd.DataFrame([{"cell": "ideal", "seed": 0, "curve": "accuracy", "x": 0, "y": 0.1}]).to_csv(folder / "curves.csv")
    assert results.main(["--runs", str(tmp_path / "runs"), "--docs", str(tmp_path)]) == 0
    page = (tmp_path / "paper-size.md").read_text()
    assert not (tmp_path / "results.md").exists()  # there are no quick runs
    assert gap in next(x for x in page.splitlines() if "FAA-DL: within .92 to 2.48 points of the ideal, MNIST" in x)
    assert own in next(x for x in page.splitlines() if "FAA-DL: best accuracy 89.95 %" in x)
    assert ("of 100 rounds all defences reached, and are compared at, 3." in page) == (planned == 100)


@pytest.mark.parametrize(
    ("figure", "expected"),
    [
        (Figure(0.4, 0.05, 5), "holds"),
        (Figure(0.4, 0.15, 5), "not decided: the interval crosses the bound"),
        (Figure(0.2, 0.05, 5), "**does not hold**"),
        (Figure(0.2, None, 1), "**does not hold** (one seed)"),
        (Figure(0.4, None, 1), "holds (one seed)"),
        (Figure(0.7, 0.05, 5), "**does not hold**"),
    ],
)
def test_what_an_interval_decides(figure: Figure, expected: str) -> None:
    claim = Claim("", "", "faa/table2", "", read_measure({}), least=0.3, most=0.6)
    assert results.verdict(claim, figure) == expected


@pytest.mark.parametrize(
    ("measure", "figures"),
    [
        ({"minus": [{"defence": "ideal"}, {"defence": "FedAvg"}]}, [0.7, 0.7]),
        ({"attack": "ALIE", "over": [{"defence": "ideal"}, {"defence": "FedAvg"}]}, [3.5, 0.901 / 0.201 - 1]),
        ({"best": {"defence": ["FedAvg", "trimmed mean"], "attack": ["ALIE", "none"]}}, [0.5, 0.501]),
        ({"least": [{"defence": "FedAvg"}, {"defence": "trimmed mean"}]}, [0.2, 0.201]),
        ({"defence": ["FedAvg", "trimmed mean"]}, [0.35, 0.351]),
        ({"best": {"seed": [0, 1], "mean": {"defence": ["FedAvg", "trimmed mean"]}}}, [0.35, 0.351]),
        ({"average": [{"defence": "FedAvg"}, {"metric": "cpu_seconds", "defence": "FedAvg"}]}, [15.1, 15.1005]),
        ({"from_half": [{"defence": "FedAvg"}]}, [0.3, 0.299]),
    ],
)
def test_a_measure_is_read_and_paired_by_seed(measure: Any, figures: list[float]) -> None:
    of = Results(spec("faa/table2"), "quick", pd.DataFrame(rows(2)), pd.DataFrame())
    assert list(read_measure(measure)(of)) == pytest.approx(figures)


def test_every_claim_is_about_an_experiment_and_has_a_bound() -> None:
    claims = list(all_claims())
    assert {c.experiment for c in claims} <= set(names())
    assert all(c.least is not None or c.most is not None for c in claims)
    assert len({(c.source, c.says) for c in claims}) == len(claims)
