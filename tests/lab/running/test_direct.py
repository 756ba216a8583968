"""A run without Flower is the run with it."""

from __future__ import annotations

import pytest

from apps.lab.config import load
from apps.lab.running.direct import run_directly
from apps.lab.running.fleet import Fleet
from apps.lab.running.local_run import run_locally


@pytest.mark.parametrize(
    "overrides",
    [
        "strategy=lomar attack=alie_jitter",
        "strategy=foolsgold attack=clones",
        "strategy=trimmed_mean attack=absent",
        "strategy=faa_lomar attack=sign_flip",
        "strategy=faa attack=refuse rounds=4",
    ],
)
@pytest.mark.parametrize("kind", [Fleet.of, lambda scenario: scenario], ids=["fleet", "alone"])
def test_verdicts_and_models_are_those_of_the_run_over_a_grid(overrides: str, kind: object) -> None:
    def scenario() -> object:
        return kind(load(f"model=logistic clients=10 partition=shards rounds=2 api=message {overrides}"))  # type: ignore[operator]

    direct, grid = run_directly(scenario()), run_locally(scenario())  # type: ignore[arg-type]
    assert direct.accuracy == grid.accuracy
    assert [r.nodes for r in direct.reports] == [r.nodes for r in grid.reports]
    summary = {**direct.summary, "seconds": None}
    assert summary == {**grid.summary, "seconds": None}


def test_a_draw_of_clients_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected fraction=1.0, got fraction=0.5"):
        run_directly(load("fraction=0.5"))
