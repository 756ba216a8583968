"""Report pages: from real runs, and in a real browser."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from apps.lab.config import load
from apps.lab.papers import report
from apps.lab.papers.data import Figure, Results, at_common_round, read, spec
from apps.lab.papers.run import execute, parse
from apps.lab.papers.tables import Place, table, worst
from apps.lab.running.local_run import run_locally, yardsticks

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs")
    words = ["experiment=lomar/table3", "seeds=2", "jobs=1", "rounds=2", "clients=11", f"out={out}"]
    return execute(parse([*words, "dataset=digits"]))[0]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    record = run_locally(load("rounds=2 attack=sign_flip strategy=faa"), folder)
    record.write(yardsticks(record.scenario))
    return folder


def test_an_experiments_page_has_ours_the_papers_and_the_difference(experiment: Path) -> None:
    page = report.write(experiment).read_text()
    first = table(read(experiment), read(experiment).spec.tables[0])
    place = first.rows["LoMar"][0]
    assert place.paper == 0.912
    assert place.ours is not None and place.ours.seeds == 2
    assert f"{place.ours.mean:.3f}" in page
    assert f"{place.ours.mean - 0.912:+.3f}" in page
    assert first.rows["LoMar"][first.columns.index("Amazon other")] == Place(None, 0.989)
    assert {p.suffix for p in (experiment / "plots").iterdir()} == {".png"}
    assert page.count("<svg") == 2


def test_pages_need_nothing_but_themselves(experiment: Path, run: Path) -> None:
    for folder in (experiment, run):
        page = report.write(folder).read_text()
        assert not re.search(r"""(src|href)=["'](?!data:|#)""", page)
        assert "url(" not in page.replace("url(#", "")
        assert "@import" not in page


def test_what_a_node_says_cannot_become_part_of_the_page(run: Path, tmp_path: Path) -> None:
    lines = (run / "rounds.jsonl").read_text().splitlines()
    line: dict[str, Any] = json.loads(lines[0])
    line["nodes"][0]["reason"] = "</script><script>alert(1)</script>"
    (tmp_path / "rounds.jsonl").write_text(json.dumps(line) + "\n")
    assert "<script>alert" not in report.write(tmp_path).read_text()


def test_nothing_finished_is_an_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main([str(tmp_path)]) == 1
    assert f"expected finished runs in {tmp_path}, got none" in capsys.readouterr().err


def results(rows: list[dict[str, Any]], curves: list[dict[str, Any]] | None = None) -> Results:
    return Results(spec("faa/table2"), "quick", pd.DataFrame(rows), pd.DataFrame(curves or []))


def test_the_worst_case_of_each_defence() -> None:
    by_seed = {("sign flip", 0.1): (0.8, 0.6), ("sign flip", 0.4): (0.2, 0.4), ("ALIE", 0.1): (0.9, 0.9)}
    rows = [
        {"defence": "Krum", "attack": attack, "share": share, "data": "MNIST, two labels", "seed": seed, "x": value}
        for (attack, share), values in by_seed.items()
        for seed, value in enumerate(values)
    ]
    found = worst(results(rows), {"title": "", "rows": "defence", "columns": "attack", "value": "x"})
    assert found.columns == ["sign flip", "ALIE", "worst"]
    means = [place.ours.mean for place in found.rows["Krum"] if place.ours]
    assert means == pytest.approx([0.3, 0.9, 0.3])
    half = found.rows["Krum"][0].ours
    assert half is not None and half.half == pytest.approx(12.7062 * 0.1, rel=1e-4)  # t, one degree of freedom
    assert str(Figure(0.5, None, 1)) == "0.500"


def test_runs_with_a_limit_are_compared_where_all_defences_came() -> None:
    reached = {("Krum", "ALIE"): 2, ("FedAvg", "ALIE"): 5, ("Krum", "Gaussian"): 4, ("FedAvg", "Gaussian"): 3}
    rows = [
        {"cell": defence + attack, "seed": 1, "defence": defence, "attack": attack, "rounds": r, "final_accuracy": 0.9}
        for (defence, attack), r in reached.items()
    ]
    curves = [
        {"cell": defence + attack, "seed": 1, "curve": "accuracy", "x": x, "y": x / 10}
        for (defence, attack), r in reached.items()
        for x in range(r + 1)
    ]
    same, rounds = at_common_round(results(rows, curves))
    assert rounds == "2 (ALIE), 3 (Gaussian)"
    assert list(same.runs["final_accuracy"]) == [0.2, 0.2, 0.3, 0.3]
    assert at_common_round(results(rows[:1], curves))[1] == "2"


def test_a_page_says_which_data_it_ran_on(experiment: Path) -> None:
    page = report.write(experiment).read_text()
    assert "run on digits</title>" in page
    assert "<b>Run on:</b> digits." in page


def test_a_page_says_why_a_defence_that_bans_can_be_below_fedavg() -> None:
    accuracy = {"FAA-DL": 0.7, "FedAvg": 0.8, "ideal": 0.71}
    rows = [
        {"defence": name, "attack": attack, "share": 0.4, "data": "MNIST, two labels", "seed": seed,
         "final_accuracy": value - (name == "FedAvg" and attack == "Gaussian") * 0.5}
        for name, value in accuracy.items() for attack in ("ALIE", "Gaussian") for seed in (1, 2)
    ]  # fmt: skip
    (found,) = report.below_undefended(results(rows))
    assert "ALIE" in found[0] and "Gaussian" not in found[0]
    assert found[1:] == pytest.approx((0.7, 0.8, 0.71))
    assert report.below_undefended(results([row for row in rows if row["defence"] != "FedAvg"])) == []


def test_a_runs_page_says_so_too(run: Path, tmp_path: Path) -> None:
    for name in ("rounds.jsonl", "summary.json"):
        shutil.copy(run / name, tmp_path)
    assert "takes an attacker's data" not in report.write(tmp_path).read_text().replace("\n", " ")
    summary = json.loads((tmp_path / "summary.json").read_text())
    summary["yardsticks"] = {"undefended FedAvg": [0.1, summary["final_accuracy"] + 0.01]}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    assert "takes an attacker's data out" in report.write(tmp_path).read_text()


@pytest.fixture
def browser() -> Iterator[Any]:
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("no chromium and chromedriver here: apt-get install chromium chromium-driver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def phone(browser: Any, page: Path) -> None:
    metrics = {"width": 400, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.get(page.as_uri())
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 400
    text = "[...document.querySelectorAll('p,td,th,li,dd')]"
    small = f"return {text}.filter(e => parseFloat(getComputedStyle(e).fontSize) < 12).length"
    assert browser.execute_script(small) == 0


@pytest.mark.slow
def test_a_click_shows_the_reason_and_the_arrows_walk(browser: Any, run: Path) -> None:
    # Prepare
    node = next(n for n in json.loads((run / "rounds.jsonl").read_text().splitlines()[0])["nodes"] if n["banned"])
    phone(browser, report.write(run))
    cell = browser.find_element("css selector", f'td[aria-label="client {node["partition"]}, round 1: convicted"]')

    # Execute
    cell.click()

    # Assert
    shown = {i: browser.find_element("id", f"detail-{i}").text for i in ("reason", "score", "error", "node-id")}
    assert shown["reason"] == node["reason"]
    assert shown["score"].startswith(f"{node['score']:.4}"[:4])
    assert "tolerance 0.05" in shown["error"]
    assert shown["node-id"] == str(node["node_id"])  # 64 bits: as a number, JavaScript would round it
    cell.send_keys("\ue015")  # arrow down
    assert browser.find_element("id", "detail-node-id").text != str(node["node_id"])
    assert browser.get_log("browser") == []


@pytest.mark.slow
def test_an_experiments_page_on_a_phone(browser: Any, experiment: Path) -> None:
    phone(browser, report.write(experiment))
    assert browser.find_element("tag name", "h1").text == read(experiment).spec.title
    widths = browser.execute_script("return [...document.querySelectorAll('figure svg')].map(s => s.clientWidth)")
    assert len(widths) == 2 and all(300 < w <= 400 for w in widths)
    assert browser.get_log("browser") == []
