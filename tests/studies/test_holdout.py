"""The study's tables, from lines as its runs leave them, and one of its runs."""

from dataclasses import asdict, replace

from apps.studies.holdout.cells import PASSIVE, HoldoutCell, cells, key_of, run_cell
from apps.studies.holdout.study import main, tables


def row(cell: HoldoutCell, accuracy: float, **more: object) -> dict[str, object]:
    left = {"malicious_left_out": 0.5, "honest_left_out": 0.25, "triggered": None}
    return {**asdict(cell), "accuracy": accuracy, **left, **more}


def test_a_cell_is_within_two_points_or_it_is_not() -> None:
    one = HoldoutCell("flips", "two labels", "absent", 0.1, "100", "fedavg", 1)
    rows = [row(one, 0.80), row(replace(one, share=0.2), 0.80)]
    ours = replace(one, attack="pure flip", strategy="holdout")
    rows += [row(ours, 0.78), row(replace(ours, share=0.2), 0.77), row(replace(ours, share=0.2, seed=2), 0.776)]
    title, head, body = next(iter(tables(rows)))
    assert title.startswith("Label flips: 1 of 2 cells within two points") and "the worst -2.7" in title
    assert [line[head.index("points")] for line in body] == ["-2.0", "-2.7"]
    assert [line[head.index("seeds")] for line in body] == ["1", "2"]


def test_the_worst_cell_is_that_of_cells_that_all_rules_have() -> None:
    one = HoldoutCell("poisoning", "Dirichlet .1", "IPM", 0.4, "100", "faa_holdout", 1)
    rules = ("faa_holdout", "fltrust", "zenopp", *PASSIVE)
    rows = [row(replace(one, strategy=rule, attack=attack), 0.3 + i / 100) for attack in ("IPM", "ALIE")
            for i, rule in enumerate(rules)]  # fmt: skip
    rows += [row(replace(one, attack="Mimic"), 0.01)]  # nobody else ran it
    title, _, body = next(table for table in tables(rows) if table[0].startswith("Model poisoning"))
    assert ": 2 cells" in title and "the worst is -14.0 points" in title and len(body) == len(rules)
    assert body[0][:2] == ["faa_holdout", "0.300"]


def test_every_cell_is_one_run_of_the_lab() -> None:
    every = {key_of(cell): cell for cell in cells()}
    assert all(key_of(asdict(cell)) == key for key, cell in every.items())
    flips = {c for c in every.values() if c.part == "flips" and c.strategy == "holdout"}
    assert len(flips) == 3 * 4 * 4 * 5


def test_a_backdoor_is_counted() -> None:
    found = run_cell(HoldoutCell("poisoning", "Dirichlet .5", "backdoor", 0.4, "10", "fedavg", 1))
    assert 0 <= found["triggered"] <= 1 and found["malicious_left_out"] == 0


def test_what_there_is_can_be_printed(tmp_path, capsys) -> None:
    assert main(["--finished", "--out", str(tmp_path / "none.jsonl")]) == 0
    assert "Nobody attacks" in capsys.readouterr().out


def test_a_rule_is_compared_with_fedavg_of_the_same_seeds() -> None:
    one = HoldoutCell("nobody", "two labels", "nobody", 0.0, "100", "fedavg", 1)
    rows = [row(one, 0.8), row(replace(one, seed=2), 0.9), row(replace(one, strategy="lomar"), 0.79)]
    _, _, body = next(table for table in tables(rows) if table[0] == "Nobody attacks")
    assert body == [
        ["two labels", "fedavg", "2", "0.850", "+0.0", "0.25"],
        ["two labels", "lomar", "1", "0.790", "-1.0", "0.25"],
    ]
