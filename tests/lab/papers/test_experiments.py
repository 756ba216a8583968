"""Tables and figures: what they consist of, and that being killed changes nothing."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Sequence
from multiprocessing import get_context
from pathlib import Path

import pandas as pd
import pytest

from apps.lab.config import load
from apps.lab.papers import experiments, listing
from apps.lab.papers.experiments import SIZES, Size, cells, digest, merge, names, spec
from apps.lab.papers.run import TIMES, Run, execute, main, parse, run_cell
from apps.lab.scenario import CONF

TINY = ["experiment=faa/fig4", "seeds=2", "jobs=1", "rounds=1", "clients=6"]
FOLDER = "faa-fig4-quick-rounds=1-clients=6"


def results(out: Path) -> pd.DataFrame:
    return pd.read_csv(out / FOLDER / "results.csv").drop(columns=list(TIMES))


def tiny(out: Path) -> None:
    execute(parse([*TINY, f"out={out}"]))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", names())
def test_every_experiment_composes(name: str, size: Size) -> None:
    grid = list(cells(spec(name), size))
    assert grid or size == "quick"
    for cell in {c.overrides.split(" strategy=")[0]: c for c in grid[:: max(1, len(grid) // 2)]}.values():
        scenario = load(cell.overrides)
        assert scenario.config.rounds > 0
    one = spec(name)
    assert all((one.paper, one.title, one.open, one.chose))
    assert listing.reported(one) != "a figure without numbers"


def test_both_papers_are_there() -> None:
    faa = [f"faa/{x}" for x in ("fig2", "fig4", "fig5", "fig6", "fig7", "fig8", "fig9")]
    faa += [f"faa/table{i}" for i in (2, 3, 4, 5)] + ["faa/table2_whole"]  # a part of Table II, for runs of many nights
    lomar = [f"lomar/fig{i}" for i in (2, 4, 5, 6, 7, 8, 9, 10)] + [f"lomar/table{i}" for i in (3, 4, 5)]
    assert set(names()) == {*faa, *lomar, "harder/heatmap"}


def test_another_choice_takes_its_settings_with_it() -> None:
    words = ["attack=alie", "attack.z=1.5", "attack.share=0.3", "rounds=3", "attack=absent", "rounds=4"]
    assert merge(words) == "attack=absent attack.share=0.3 rounds=4"


def test_a_digest_is_of_what_counts() -> None:
    plain = digest("strategy=krum attack=gaussian rounds=5")
    assert digest("rounds=5 attack=gaussian strategy=krum detector=ocsvm verification=none") == plain
    assert digest("strategy=krum attack=gaussian rounds=6") != plain
    assert digest("strategy=faa rounds=5") != digest("strategy=faa rounds=5 detector=ocsvm")


def test_a_moved_class_is_the_same_cell_and_another_class_is_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def digest_with(target: str) -> str:
        (tmp_path / "attack").mkdir(exist_ok=True)
        (tmp_path / "attack" / "gaussian.yaml").write_text(f"_target_: {target}\nsigma: 0.1\n")
        experiments._text.cache_clear()
        return digest("strategy=krum attack=gaussian")

    for group in ("dataset", "partition", "model", "strategy", "verification", "detector"):
        (tmp_path / group).symlink_to(CONF / group)
    experiments._defaults()  # read before the folder is another one
    monkeypatch.setattr(experiments, "CONF", tmp_path)
    try:
        assert digest_with("apps.lab.attacks.base.Gaussian") == digest_with("apps.elsewhere.noise.Gaussian")
        assert digest_with("apps.lab.attacks.base.Gaussian") != digest_with("apps.lab.attacks.base.Alie")
    finally:
        experiments._text.cache_clear()


def test_runs_stored_under_another_digest_are_not_run_again(tmp_path: Path) -> None:
    # Prepare
    tiny(tmp_path)
    store = tmp_path / "cells.jsonl"
    rows = [json.loads(line) for line in store.read_text().splitlines()]
    before = pd.read_csv(tmp_path / FOLDER / "results.csv")
    for row in rows:
        row["key"] = "-".join(["0123456789abcdef", *row["key"].split("-")[1:]])
    store.write_text("".join(json.dumps(row) + "\n" for row in rows))

    # Execute
    tiny(tmp_path)

    # Assert
    assert len(store.read_text().splitlines()) == len(rows)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / FOLDER / "results.csv"), before)


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="expected experiment to be one of faa/fig2, "):
        spec("faa/table9")
    with pytest.raises(ValueError, match="expected size to be one of quick, paper"):
        parse(["experiment=faa/fig2", "size=large"])


def test_a_limit_ends_a_run_with_the_round_that_is_over() -> None:
    row = run_cell(Run("k", "dataset=digits strategy=fedavg clients=4 rounds=500", 1, limit=0.0))
    assert row["rounds"] == 0
    assert len(row["curves"]["accuracy"]) == 1
    row = run_cell(Run("k", "dataset=digits strategy=fedavg clients=4 fraction=0.5 rounds=500", 1, limit=0.0))
    assert row["rounds"] == 0


def test_one_data_set_of_several(tmp_path: Path) -> None:
    words = ["experiment=lomar/table3", "size=paper", "data=MNIST", "jobs=1", "minutes=0.001", f"out={tmp_path}"]
    (folder,) = execute(parse([*words, "dataset=digits", "clients=11", "partition.size=null"]))
    rows = pd.read_csv(folder / "results.csv")
    assert set(rows["data"]) == {"MNIST"}
    assert len(rows) == 8
    assert (rows["rounds"] < 200).all()


def test_the_list_names_them_all(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "250")
    assert listing.main() == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in names())
    assert "MNIST overall 0.912" in shown


def test_killed_ten_times_at_random_the_results_are_those_of_an_undisturbed_run(tmp_path: Path) -> None:
    # Prepare
    tiny(tmp_path / "undisturbed")
    took = pd.read_csv(tmp_path / "undisturbed" / FOLDER / "results.csv")["seconds"].sum()
    out, when, killed = tmp_path / "killed", random.Random(5), 0

    # Execute
    while killed < 10:
        process = get_context("fork").Process(target=tiny, args=(out,))
        process.start()
        process.join(when.uniform(0, took / 4))
        if process.is_alive():
            process.kill()
            killed += 1
        process.join()
    store = out / "cells.jsonl"
    before = store.read_bytes() if store.exists() else b""
    tiny(out)

    # Assert
    assert len(results(out)) == 12
    pd.testing.assert_frame_equal(results(out), results(tmp_path / "undisturbed"))
    assert store.read_bytes().startswith(before[: before.rfind(b"\n") + 1])
    keys = [line.split(b",", 1)[0] for line in store.read_bytes().splitlines()]
    assert len(keys) == len(set(keys)) == 12
    for name in ("curves.csv", "configurations.yaml"):
        assert (out / FOLDER / name).read_text() == (tmp_path / "undisturbed" / FOLDER / name).read_text()


def children(pid: int) -> Sequence[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.slow
def test_the_workers_of_a_killed_command_end_and_the_command_goes_on(tmp_path: Path) -> None:
    # Prepare
    words = [*(w for w in TINY if not w.startswith("jobs")), "jobs=2", f"out={tmp_path}"]
    process = subprocess.Popen([sys.executable, "-m", "apps.lab", *words], stderr=subprocess.DEVNULL)
    store = tmp_path / "cells.jsonl"
    while not (store.exists() and store.read_bytes().count(b"\n")):
        assert process.poll() is None
        os.sched_yield()
    workers = children(process.pid)

    # Execute
    process.send_signal(signal.SIGKILL)
    process.wait()

    # Assert
    assert len(workers) >= 2
    for worker in workers:
        try:
            handle = os.pidfd_open(worker)
        except ProcessLookupError:
            continue
        with os.fdopen(handle):
            import select

            assert select.select([handle], [], [], 60)[0], "a worker outlived its command"
    assert main([*TINY, f"out={tmp_path}"]) == 0
    assert len(results(tmp_path)) == 12


@pytest.mark.slow
def test_hydras_multirun_with_joblib_still_works(tmp_path: Path) -> None:
    words = ["--multirun", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "strategy=fedavg,krum", "rounds=1"]
    words += ["clients=4", "run.baseline=false", f"hydra.sweep.dir={tmp_path}"]
    command = [sys.executable, "-m", "apps.lab", *words]
    done = subprocess.run(command, check=False, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "runs").glob("*/summary.json"))) == 2
