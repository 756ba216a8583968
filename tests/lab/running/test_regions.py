"""A hierarchy: regions as clients of a root, each level judged by a strategy that knows nothing of the other."""

import numpy as np
import pytest

from apps.studies import hierarchy
from apps.studies.hierarchy import EVENLY, FLAT, HALF, PLACES, UNDEFENDED, WHOLE, Cell, groups_of, run

SMALL = {"clients": 200, "group": 20, "rounds": 1}


@pytest.fixture(scope="module")
def found():
    return {judged: run(Cell("boosted", 0.1, judged, **SMALL)) for judged in (FLAT, UNDEFENDED, *PLACES)}


@pytest.mark.parametrize("judged", [FLAT, EVENLY, WHOLE])
def test_attackers_are_left_out_in_their_group_or_with_it(found, judged):
    assert found[judged]["recall"] == 1
    assert found[judged]["false_alarms"] < 0.05


def test_who_shares_a_group_with_as_many_attackers_may_go_with_it(found):
    assert found[HALF]["recall"] > 0.9
    assert found[HALF]["false_alarms"] <= 20 / 180 + 0.05  # at most the other halves of two groups, and a few


def test_the_model_is_that_of_all_at_once(found):
    assert found[UNDEFENDED]["recall"] == found[UNDEFENDED]["false_alarms"] == 0
    for judged in PLACES:
        assert abs(found[judged]["accuracy"] - found[FLAT]["accuracy"]) < 0.03


@pytest.mark.parametrize("judged", PLACES)
def test_everybody_is_in_one_group(judged):
    class Fleet:
        config = type("Config", (), {"clients": 200, "seed": 1})
        malicious = frozenset(range(0, 200, 10))

    groups = groups_of(Fleet, 20, judged)
    assert sorted(p for group in groups for p in group) == list(range(200))
    assert all(len(group) == 20 for group in groups)
    bad = np.array([len(Fleet.malicious.intersection(group)) for group in groups])
    assert sorted(bad[bad > 0].tolist()) == {EVENLY: [2] * 10, WHOLE: [20], HALF: [10, 10]}[judged]


def test_the_command_prints_what_is_finished(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(hierarchy, "CELLS", [Cell("sign_flip", 0.1, EVENLY, **SMALL)])
    assert hierarchy.main(["--out", str(tmp_path / "lines")]) == 0
    assert "200 clients in groups of 20, 1 rounds" in (printed := capsys.readouterr().out)
    assert hierarchy.main(["--out", str(tmp_path / "lines"), "--finished"]) == 0
    assert capsys.readouterr().out == printed
