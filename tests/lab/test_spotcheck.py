"""The spot check in the lab: clients that answer it and clients that lie to it, through both APIs; and its table."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from apps.lab.clients.spotcheck_tampering import match, reverse
from apps.lab.config import load
from apps.lab.markdown import write_region
from apps.lab.recording.record import Record
from apps.lab.running.local_run import run_locally
from apps.lab.scenario import CONF
from apps.lab.spotcheck import Enrolled
from apps.studies.demo import disclosed
from apps.studies.spotcheck_lies import study
from apps.studies.spotcheck_lies.study import all_cells, binding_cells, finished, is_as_stated, table
from apps.studies.spotcheck_lies.trials import Cell, run_cell
from flwr_faa.authority.budget import allowance
from flwr_faa.verification.training import Checkpoint
from tests.helpers.toy import PLANS, slice_of

#: Four clients of 20 samples in four steps; everybody is verified.
SMALL = (
    "dataset=digits partition=lambda partition.size=20 clients=4 model=logistic model.batch_size=5 strategy=fe "
    "verification=spotcheck run.baseline=false"
)


def run(overrides: str, folder: Path) -> Record:
    return run_locally(load(f"{SMALL} run.dir={folder} {overrides}"), folder)


def verdicts(record: Record) -> list[list[tuple[Any, ...]]]:
    partitions = record.census.partitions
    return [
        sorted((partitions[v.node_id], str(v.verdict), v.accepted, v.banned) for v in r.nodes) for r in record.reports
    ]


#: Of 784 dimensions a check of one step tells 334, and the budget of 392 allows one: digits' 64 allow none.
TIGHT = "dataset=mnist5k model=mlp +model.model.units=2 model.batch_size=20 verification.budget=0.5"
#: Missing: its weights are none that a device answers for.
#: What may become of the attackers in the first round, or in the second where the first answer is honest.
LIES = {
    "fresh_data": {"convicted"},
    "gradient_matching": {"convicted"},
    "swap": {"convicted"},
    "tamper_one": {"convicted", "cleared"},  # its steps need not be opened
    "tamper_last": {"convicted"},
    "tamper_all": {"convicted"},
    "lie_z1": {"convicted"},
    "lie_p": {"convicted"},
    "replay": {"convicted", "missing"},  # other steps opened: another form of answer
    "out_of_range attack.client.samples=20 attack.client.value=10000": {"convicted", "missing"},  # see above
    "off_curve attack.client.samples=20": {"convicted"},
    "drop_out": {"missing"},
    "collude attack.share=0.5": {"convicted", "cleared"},  # the first of them is honest
    "reorder": {"rejected"},
    "commit": {"convicted"},
    "commit attack.client.to=wrapped": {"convicted"},
    "below_zero attack.client.samples=20 attack.client.value=-10000": {"convicted", "missing"},  # see above
    "no_point attack.client.samples=20": {"convicted"},
    "proofs attack.client.how=a_bit": {"convicted"},
    "proofs attack.client.how=seed": {"convicted"},
    "proofs attack.client.how=across attack.share=0.5": {"convicted"},
    "weights": {"convicted"},
    "grind": {"convicted"},
    "kick_momentum": {"convicted"},  # of the parameters, where there is none
    "kick_momentum +model.momentum=0.9 attack.client.steps=2": {"convicted", "missing"},  # see above
    "kick_buffer model=cnn +model.model.batch_norm=true": {"rejected"},  # a variance that no reply may hold
    "kick_buffer model=cnn +model.model.batch_norm=true attack.client.value=9": {"convicted"},
}


def test_every_attack_has_its_file_and_its_test() -> None:
    assert {path.stem for path in (CONF / "attack").glob("spot_*")} == {
        f"spot_{lie.split()[0]}" for lie in [*LIES, "unaffordable", "budget_spent"]
    }


@pytest.mark.parametrize("lie", LIES)
def test_who_lies_is_found_and_who_does_not_is_not(lie: str, tmp_path: Path) -> None:
    api = ("legacy", "message")[list(LIES).index(lie) % 2]
    record = run(f"attack=spot_{lie} rounds={1 + (lie == 'replay')} api={api} seed=3", tmp_path)
    malicious, rounds = record.scenario.malicious, verdicts(record)
    found = [verdict for partition, verdict, *_ in rounds[-1] if partition in malicious]
    assert found and set(found) <= LIES[lie] and found.count("cleared") <= 1
    assert all(v[1:] == ("cleared", True, False) for r in rounds for v in r if v[0] not in malicious)
    assert record.summary["disclosure"]["nodes"]


def test_who_enrols_what_no_budget_covers_takes_no_part(tmp_path: Path) -> None:
    record = run(f"attack=spot_unaffordable {TIGHT} rounds=2", tmp_path)
    reasons = ("leave out 1 samples", "asked again in")  # and then with pauses
    for report, reason in zip(record.reports, reasons, strict=True):
        (refused,) = [v for v in report.nodes if str(v.verdict) == "rejected"]
        assert reason in refused.reason and not refused.banned
        assert len(report.nodes) == 4


def test_who_attacks_once_its_budget_is_spent_is_left_out_while_it_is_suspected(tmp_path: Path) -> None:
    record = run(f"attack=spot_budget_spent {TIGHT} rounds=3 seed=3", tmp_path)
    (attacker,) = record.scenario.malicious
    fate = [[v[1:] for v in r if v[0] == attacker] for r in verdicts(record)]
    assert fate == [[("cleared", True, False)]] + [[("exhausted", False, False)]] * 2


@pytest.mark.parametrize("attack", ["sign_flip attack.share=0.5", "spot_drop_out"])
def test_both_apis_give_the_same_verdicts_and_weights(attack: str, tmp_path: Path) -> None:
    runs = [run(f"attack={attack} rounds=4 api={api}", tmp_path / api) for api in ("legacy", "message")]
    assert verdicts(runs[0]) == verdicts(runs[1])
    assert runs[0].accuracy == runs[1].accuracy
    if attack == "spot_drop_out":  # dropped three times, then banned
        (attacker,) = runs[0].scenario.malicious
        fate = [[v[1:] for v in r if v[0] == attacker] for r in verdicts(runs[0])]
        assert fate == [[("missing", False, False)]] * 2 + [[("missing", False, True)], []]


@pytest.mark.parametrize("attack", ["sign_flip", "spot_lie_z1", "spot_tamper_last", "spot_drop_out"])
def test_both_bindings_give_the_same_verdicts_and_accuracy(attack: str, tmp_path: Path) -> None:
    """On one federation and seed, over two rounds: who lies in the update, the claims or the run, or is silent."""
    by = [run(f"attack={attack} rounds=2 verification={v}", tmp_path / v) for v in ("spotcheck", "spotcheck_encrypted")]
    assert verdicts(by[0]) == verdicts(by[1])
    assert by[0].accuracy == by[1].accuracy
    told = [{node["max_rank"] for node in record.summary["disclosure"]["nodes"]} for record in by]
    assert max(told[0]) <= max(told[1])


def test_a_later_run_finds_no_older_enrolments_and_progress_is_counted(tmp_path: Path) -> None:
    shown = []
    for _ in range(2):
        scenario = load(f"{SMALL} rounds=1 run.dir={tmp_path}")
        enrolled = Enrolled(scenario.devices, 4)
        run_locally(scenario, tmp_path)
        shown.append(len(list(scenario.devices.glob("*/enrolments/*"))))
    assert shown == [4, 4] and str(enrolled) == ""
    (scenario.device_of(0).folder / "enrolments" / "new-1").mkdir()
    next(scenario.devices.glob("1/enrolments/*/meta.json")).unlink()
    assert str(enrolled) == "3 of 4 clients are bound to their data"


def test_the_budget_is_the_clients_too_and_a_convolution_needs_all_of_it() -> None:
    scenario = load(f"{SMALL} verification.budget=0.5")
    assert scenario.device_of(0).budget == 0.5
    with pytest.raises(Exception, match="discloses the image"):
        Record(load("verification=spotcheck verification.budget=0.5 model=cnn")).defence()


def test_how_many_checks_a_client_can_stand_is_what_the_table_says() -> None:
    lines = re.findall(
        r"^#   (\w+), +(model=.*?) +(\d+) of (\d+) +(\S+) +(\S+) +(\S+)",
        (CONF / "verification" / "spotcheck.yaml").read_text(),
        re.MULTILINE,
    )
    assert len(lines) == 4
    for dataset, choices, told, width, *checks in lines:
        scenario = load(f"dataset={dataset} partition=iid {choices} verification=spotcheck")
        verifier, smallest = Record(scenario).defence()["verifier"], min(map(len, scenario.partitions))
        batches = list(verifier.plan.batches(smallest, 0))
        need = verifier._need(min(len(batches), verifier.most), min(map(len, batches)), verifier.max_value)
        assert (need, verifier._layer.width) == (int(told), int(width))
        allowed = [allowance(int(width), share) // need for share in (0.25, 0.5, 0.75)]
        assert [str(n or "-") for n in allowed] == checks


def test_optimised_samples_lead_where_the_attacker_wants() -> None:
    plan, (samples, labels) = PLANS["mlp"], slice_of(0, 5)
    plan = replace(plan, momentum=0.0, epochs=1)
    start = plan.start(plan.initial_arrays(0))
    backwards = Checkpoint(tuple(reverse(start.arrays, plan.train(start.arrays, (samples, labels), 0), 1.0)))
    wrong = (labels + 1) % 10
    made, likeness = match(plan, start, backwards, samples, wrong, iterations=60)
    _, before = match(plan, start, backwards, samples, wrong, iterations=0)
    assert made.dtype == np.uint8 and made.max() <= 16
    assert likeness > before + 0.1


# The table


def test_a_cell_counts_what_happened() -> None:
    lie = Cell("p", "attack=spot_lie_p attack.share=0.025", "1", trials=3)
    row = run_cell(lie)
    assert (row["hits"], row["done"], row["verdicts"]) == (3, 3, {"convicted": 3})
    honest = run_cell(Cell("honest", "model=logistic", "1", trials=3, rounds=3, counts="cleared", threads=2))
    assert honest["verdicts"] == {"cleared": 3} and 0 < honest["worst_error"] < 1e-4
    assert is_as_stated(row) and not is_as_stated({**honest, "hits": 0, "counts": "convicted"})


def test_what_is_not_as_stated_is_noticed() -> None:
    row = {"probability": 0.75, "at_least": False, "done": 200}
    assert [is_as_stated({**row, "hits": n}) for n in (100, 150, 195)] == [False, True, False]
    assert is_as_stated({**row, "hits": 195, "at_least": True})
    assert not is_as_stated({**row, "probability": 1.0, "hits": 199})


def test_finished_lines_are_not_run_again_and_the_table_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, cells = tmp_path / "table.jsonl", [*all_cells(200), *binding_cells(200)]
    assert all(cell.trials >= 200 or cell.counts == "cleared" for cell in cells)
    assert sum(cell.trials for cell in cells if cell.counts == "cleared") >= 1000
    assert sum(cell.trials for cell in cells if "wrong by one" in cell.name) >= 1000
    figures = {"done": 200, "hits": 200, "worst_error": 1e-6, "verdicts": {"convicted": 199, "missing": 1}}
    out.write_text("".join(json.dumps({**asdict(c), **figures, "stated": "other"}) + "\n" for c in cells))
    monkeypatch.setattr(study, "run_cell", pytest.fail)
    rows = finished(cells, out)
    assert [row["stated"] for row in rows] == [cell.stated for cell in cells]
    docs = tmp_path / "docs.md"
    docs.write_text("before\n<!-- table:spotcheck -->\nstale\n<!-- /table -->\nafter\n")
    write_region(docs, "spotcheck", table(rows))
    text = docs.read_text()
    assert "| two samples in each other's place, committed | 200 | 199 | 1 | 0 | 0 | 200 (1.000) | 1 = 1 |" in text
    assert "| cnn, 2 threads, mkldnn off | 200 | 0 | 1.0e-06 |" in text and "stale" not in text


def test_the_demos_line_says_what_is_known() -> None:
    one = {"samples": 9, "samples_opened": 5, "max_rank": 14, "dimension": 64, "budget": 32, "remaining": 18}
    line = disclosed([one, {**one, "samples_opened": 0, "max_rank": 0, "remaining": 32}])
    assert "at most 14 of 64 dimensions of any image (the budget allows 32, 18 to 32 are left)" in line
    assert "(no budget limits it)" in disclosed([{**one, "budget": 64, "remaining": 64}])
    assert "5 of 18 images of 1 of 2 clients opened" in line
