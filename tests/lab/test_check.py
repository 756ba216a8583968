"""Mistakes in a configuration: each is one clear line, before anything starts; a run's folder is its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from apps.lab.__main__ import check, dispatch
from apps.lab.check import ConfigError
from apps.lab.config import load
from apps.lab.papers.experiments import names, spec
from apps.lab.papers.run import execute, parse
from apps.lab.recording.record import FILES, Record
from apps.lab.running.local_run import run_locally
from apps.lab.scenario import CONF, Scenario

SMALL = "clients=4 rounds=1 model=logistic strategy=fedavg run.baseline=false"

#: Hydra takes a tenth of a second to compose a configuration.
FEW = settings(max_examples=15)

MISTAKES = {
    "rounds=abc": "expected rounds to be a whole number of at least 1, got 'abc'",
    "rounds=-1": "expected rounds to be a whole number of at least 1, got -1",
    "rounds=0": "expected rounds to be a whole number of at least 1, got 0",
    "rounds=true": "expected rounds to be a whole number of at least 1, got True",
    "rounds=1.5": "expected rounds to be a whole number of at least 1, got 1.5",
    "rounds=null": "expected rounds to be a whole number of at least 1, got None",
    "clients=0": "expected clients to be a whole number of at least 1, got 0",
    "clients=": "expected clients to be a whole number of at least 1, got ''",
    "clients=[5]": "expected clients to be a whole number of at least 1, got [5]",
    "fraction=0": "expected fraction to be a finite number above 0 and of at most 1, got 0",
    "fraction=1.1": "expected fraction to be a finite number above 0 and of at most 1, got 1.1",
    "fraction=nan": "expected fraction to be a finite number above 0 and of at most 1, got nan",
    "timeout=-1": "expected timeout to be a finite number above 0, got -1",
    "timeout=inf": "expected timeout to be a finite number above 0, got inf",
    "seed=-1": "expected seed to be a whole number from 0 to 4294967295, got -1",
    "api=x": "expected api to be one of legacy, message, got 'x'",
    "api=1": "expected api to be one of legacy, message, got 1",
    "run.baseline=2": "expected run.baseline to be true or false, got 2",
    "run.dir=''": "expected run.dir to be a folder, or null, got ''",
    "run=3": "expected run to hold settings, got 3",
    "clients=5 min_clients=6": "expected min_clients to be at most clients=5, got 6",
    "attack=alie attack.share=-1": "expected attack.share to be a finite number of at least 0 and below 1, got -1",
    "attack=alie attack.share=1.5": "expected attack.share to be a finite number of at least 0 and below 1, got 1.5",
    "attack=alie attack.share=nan": "expected attack.share to be a finite number of at least 0 and below 1, got nan",
    "attack=alie attack.share=.99 clients=5": "expected attack.share to leave an honest client of 5, got 0.99",
    "attack=alie attack.share=.01": "expected attack.share to make at least one client of 20 malicious, got 0.01",
    "attack=alie attack.z=x": "expected attack.z to be a finite number or null, got 'x'",
    "attack=gaussian attack.sigma=-.1": "expected attack.sigma to be a finite number of at least 0, got -0.1",
    "attack=sign_flip attack.epsilon=inf": "expected attack.epsilon to be a finite number, got inf",
    "attack=min_max attack.direction=up": "expected attack.direction to be one of std, unit, sign, got 'up'",
    "attack=refuse attack.answer=maybe": "to be one of honestly, refuse, other_data, got 'maybe'",
    "attack=label_flip_multi attack.pairs=3": "expected attack.pairs to be a list, got 3",
    "detector=ocsvm detector.nu=2": "expected detector.nu to be a finite number above 0 and of at most 1, got 2",
    "model.lr=0": "expected model.lr to be a finite number above 0, got 0",
    "model.batch_size=0": "expected model.batch_size to be a whole number of at least 1, got 0",
    "+model.momentum=1": "expected model.momentum to be a finite number of at least 0 and below 1, got 1",
    "strategy=lomar +strategy.detector.k=x": "expected strategy.detector.k to be a finite number or null, got 'x'",
    "verification=spotcheck verification.budget=2": "expected verification.budget to be a finite number above 0",
    "verification=spotcheck_remote verification.key=x": "expected verification.url to be set: it has no default",
    "dataset=digit": "got 'digit': did you mean digits?",
    "attack=ali": "got 'ali': did you mean alie?",
    "dataset=": "expected dataset to be one of",
    "attck=alie": "expected a setting of conf/config.yaml, got 'attck': did you mean attack?",
    "attack=alie attack.shar=.3": "got 'attack.shar': did you mean attack.share",
    "attack=alie share=.3": "got 'share': did you mean attack.share?",
    "roundz=3": "did you mean rounds",
    "zzzzz=3": "expected a setting of conf/config.yaml, got 'zzzzz'",
    "strategy=fedavg detector=ocsvm": "a strategy that has a detector, got 'detector=ocsvm' with strategy=fedavg",
    "strategy=oc detector=ocsvm detector.nu=.3": "expected a strategy that has a detector, got 'detector.nu=.3'",
    "strategy=krum verification=paper": "expected a strategy that has a verification, got 'verification=paper'",
    "rounds": "expected words like rounds=3, got 'rounds'",
    "=3": "expected words like rounds=3, got '=3'",
    "'rounds=3": "No closing quotation",
    "rounds=1,2": "expected one value for rounds, got 'rounds=1,2': several need --multirun",
    "attack=null": "expected attack to be one name, got 'attack=null'",
    "~attack": "expected a choice of attack, got none",
    "attack=[alie,none]": "expected a choice of attack, got none",
    "~clients": "Interpolation key 'clients' not found",
    "+attack=alie": "expected overrides of conf/config.yaml, got '+attack=alie'",
    "+note=${nothing}": "Interpolation key 'nothing' not found",
}


@pytest.mark.parametrize("overrides", MISTAKES)
def test_a_mistake_is_one_line(overrides: str) -> None:
    with pytest.raises(ConfigError) as error:
        load(overrides)
    assert MISTAKES[overrides] in str(error.value)
    assert len(str(error.value).splitlines()) == overrides.count("detector=ocsvm detector.nu=.3") + 1 + (
        overrides == "run=3"
    )


def test_every_mistake_has_its_line() -> None:
    with pytest.raises(ConfigError) as error:
        load("rounds=-1 fraction=0 api=x seed=1.5")
    assert [line.split()[1] for line in str(error.value).splitlines()] == ["fraction", "rounds", "seed", "api"]


@pytest.mark.parametrize(
    ("overrides", "line"),
    {
        "clients=5000": "expected at most 1437 clients, one for each sample, got 5000",
        "attack=label_flip attack.source=12": "expected the source of a label flip to be a label of the data, got 12",
        "attack=label_flip_multi attack.pairs=[[1]]": "expected a working attack, got ",
        "dataset.load._target_=apps.lab.nothing": "expected a working dataset, got ",
        "dataset=mnist5k model=squeezenet": "expected a working model, got expected images of at least 32 x 32",
        "strategy=lomar strategy.detector._target_=builtins.int +strategy.detector.x=1": "a working strategy, got ",
    }.items(),
)
def test_a_start_that_fails_says_why_and_leaves_no_folder(overrides: str, line: str, tmp_path: Path) -> None:
    scenario = load(f"{overrides} run.dir={tmp_path}/runs/x")
    with pytest.raises(ConfigError, match=line):
        run_locally(scenario, scenario.folder)
    assert list(tmp_path.iterdir()) == []


def test_a_start_that_fails_spares_what_an_earlier_run_left(tmp_path: Path) -> None:
    run_locally(load(f"{SMALL} run.dir={tmp_path}"), tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ConfigError):
        run_locally(load(f"clients=5000 run.dir={tmp_path}"), tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_run_that_fails_before_its_first_model_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(scenario: Scenario, arrays: object) -> None:
        raise RuntimeError("no memory")

    monkeypatch.setattr(Scenario, "predict", fail)
    folder = tmp_path / "runs" / "x"
    with pytest.raises(RuntimeError, match="no memory"):
        run_locally(load(f"{SMALL} run.dir={folder} api=message"), folder)
    assert list(tmp_path.iterdir()) == []


# Words that mean something in any combination, or do not; the last of each setting counts.
VALUES = st.sampled_from(
    ["1", "2", "'1'", "1.0", "true", "'true'", "null", "a", "a/b", "a_b", "'../../x'", "'a b'", "é"]
)
WORDS = st.one_of(
    st.builds("clients={}".format, st.integers(2, 6)),
    st.builds("seed={}".format, st.integers(0, 3)),
    st.builds("+note={}".format, VALUES),
    st.builds("+{}=1".format, st.sampled_from(["a", "b", "a.b", "b.a"])),
    st.sampled_from(["attack=alie", "attack=none", "attack.share=0.4", "attack=alie attack.z=1.5", "rounds=3"]),
    st.sampled_from(["strategy=fedavg", "strategy=faa", "partition=shards", "+note='a/b/../../../../x'"]),
    st.builds("+note={}".format, st.text("ab./-=_ ~\\é\n", min_size=1).map(lambda t: f"'{t}'")),
)


def effective(scenario: Scenario) -> str:
    """All that a run depends on, and nothing of how it was typed."""
    content = OmegaConf.to_container(scenario.config, resolve=True)
    assert isinstance(content, dict)
    used = {k: v for k, v in content.items() if k not in ("run", "detector", "verification")}
    return repr((dict(scenario.choices), sorted((k, repr(v)) for k, v in used.items())))


@FEW
@given(st.lists(st.lists(WORDS, max_size=5), min_size=2, max_size=4))
def test_folders_are_slugs_and_other_configurations_have_other_folders(several: list[list[str]]) -> None:
    named: dict[str, str] = {}
    for words in several:
        quoted = " ".join(f'"{w}"' if "'" in w else w for w in words)
        try:
            scenario = load(quoted)
        except ConfigError as mistake:
            assert all(line.startswith("expected ") for line in str(mistake).splitlines())
            continue
        assert scenario.folder.parent == Path("runs").absolute()
        assert scenario.folder.name.isascii() and len(scenario.folder.name) <= 140
        assert not set(scenario.folder.name) & set("/\\ ~'\n") and not scenario.folder.name.startswith(".")
        assert named.setdefault(scenario.folder.name, effective(scenario)) == effective(scenario)


@FEW
@given(st.lists(WORDS, max_size=5), st.randoms())
def test_only_the_last_override_of_a_setting_counts(words: list[str], order: object) -> None:
    quoted = [f'"{w}"' if "'" in w else w for w in words]
    try:
        folder = load(" ".join(quoted)).folder
    except ConfigError:
        return
    assert load(" ".join(["clients=6", "seed=3", *quoted, "clients=3", "seed=7"])).folder.name != folder.name
    again = load(" ".join([*quoted, *quoted]))
    assert again.folder == folder


@FEW
@given(st.lists(st.text("abz=.+~,[]{}'\"$:/ 0-9\\\n", max_size=12), max_size=4))
def test_whatever_is_typed_gives_a_scenario_or_lines(words: list[str]) -> None:
    try:
        assert load(" ".join(words)).folder.parent == Path("runs").absolute()
    except ConfigError as mistake:
        assert all(line.startswith("expected ") for line in str(mistake).splitlines())


@FEW
@given(
    st.sampled_from(
        ["clients", "fraction", "min_clients", "timeout", "rounds", "seed", "api", "run.dir", "attack.share"]
    ),
    st.one_of(st.integers(), st.floats(), st.booleans(), st.none(), st.text("abc-.", max_size=4), st.just("[1]")),
)
def test_a_setting_is_refused_in_one_line_or_safe(key: str, value: object) -> None:
    word = f"{key}={'null' if value is None else str(value).lower() if isinstance(value, bool) else value}"
    try:
        config = load(f"attack=alie {word}").config
    except ConfigError as mistake:
        assert all(line.startswith("expected ") for line in str(mistake).splitlines())
        return
    assert config.clients >= config.min_clients >= 1
    assert 0 < config.fraction <= 1
    assert 0 < config.timeout < float("inf")
    assert config.rounds >= 1
    assert 0 < round(config.attack.share * config.clients) < config.clients or config.attack.share == 0


def test_two_overrides_of_one_setting_are_the_last() -> None:
    first, second = load("clients=5 clients=4"), load("clients=4 clients=5")
    assert (first.folder, second.folder) == (load("clients=4").folder, load("clients=5").folder)
    assert load("clients=20").folder == load("").folder


def test_two_runs_on_one_folder(tmp_path: Path) -> None:
    # Prepare: another process that is at it
    held = (
        "import sys; from pathlib import Path; from apps.lab.config import load\n"
        "from apps.lab.recording.record import Record\n"
        f"record = Record(load({SMALL!r}), Path({str(tmp_path)!r}))\nprint('at it', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", held], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline() == b"at it\n"
        before = (tmp_path / "config.yaml").stat().st_mtime_ns

        # Execute, assert: the second is refused and touches nothing
        with pytest.raises(ConfigError, match="to be a folder that no other run writes to"):
            run_locally(load(SMALL), tmp_path)
        assert (tmp_path / "config.yaml").stat().st_mtime_ns == before
        other.kill()
    run_locally(load(SMALL), tmp_path)  # a killed process holds nothing
    assert {path.name for path in tmp_path.iterdir()} == set(FILES) - {"summary.json", "accuracy.png"}


def test_in_one_process_too(tmp_path: Path) -> None:
    first = Record(load(SMALL), tmp_path / "a")
    with pytest.raises(ConfigError, match="no other run writes to"):
        Record(load(SMALL), tmp_path / "a")
    first.close()
    Record(load(SMALL), tmp_path / "a").close()


def test_a_sweep_on_one_folder_is_refused_before_it_starts(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected a folder for each of 2 runs"):
        check(["--multirun", "seed=1,2", f"run.dir={tmp_path}/x"])
    with pytest.raises(ConfigError, match="did you mean alie"):
        check(["--multirun", "attack=none,ali"])
    check(["--multirun", "hydra/launcher=joblib", "seed=1,2", "attack=alie,none"])


@pytest.mark.parametrize(
    ("words", "line"),
    {
        ("rounds=abc",): "expected rounds to be",
        ("attck=alie",): "did you mean attack?",
        ("experiment=faa/tabel2",): "did you mean faa/table2",
        ("experiment=faa/table2", "seeds=x"): "expected seeds to be a whole number of at least 1, got 'x'",
        ("experiment=faa/table2", "jobs=0"): "expected jobs to be a whole number of at least 1, got '0'",
        ("experiment=faa/table2", "minutes=nan"): "expected minutes to be a finite number above 0, got 'nan'",
        ("experiment=faa/table2", "sedes=5"): "did you mean seeds?",
        ("experiment=faa/table2", "data=MNSIT"): "expected data to be one of MNIST, two labels, got 'MNSIT'",
        ("experiment=faa/table2", "rounds=-1"): "expected rounds to be a whole number of at least 1, got -1",
        ("experiment=faa/table2", "strategy=fa"): "did you mean faa?",
    }.items(),
)
def test_the_command_line_says_it_and_leaves_nothing(
    words: tuple[str, ...],
    line: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert dispatch(words) == 2
    said = capsys.readouterr().err
    assert line in said and len(said.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_help_names_everything() -> None:
    command = [sys.executable, "-m", "apps.lab", "--help"]
    said = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ).stdout
    for word in ("experiments", "report", "size=", "seeds=", "jobs=", "--multirun", "attack: absent", "rounds: 20"):
        assert word in said


def test_every_experiment_composes_at_its_first_cell() -> None:
    """What the experiments' files set is what the check lets through."""
    from apps.lab.papers.experiments import cells

    for name in names():
        for size in ("quick", "paper"):
            first = next(iter(cells(spec(name), size)), None)
            assert first is None or load(f"{first.overrides} seed=1").config.rounds >= 1


def test_what_a_strategy_has_no_use_for_is_left_out_of_an_experiments_cells(tmp_path: Path) -> None:
    words = ["experiment=faa/table2", "detector=ocsvm", "rounds=1", "clients=10", "jobs=1", f"out={tmp_path}"]
    (folder,) = execute(parse(words))
    assert (folder / "results.csv").exists()


def test_a_simulation_leaves_nothing_in_the_users_home(tmp_path: Path) -> None:
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    work.mkdir()
    words = ["strategy=fe", "verification=spotcheck", "partition=lambda", "partition.size=20", "clients=3", "rounds=1"]
    kept = {k: v for k, v in os.environ.items() if not k.startswith("XDG_")}
    environment = {**kept, "HOME": str(home), "PYTHONPATH": str(CONF.parent)}
    command = [sys.executable, "-m", "apps.lab", *words, "model=logistic", "run.baseline=false"]
    subprocess.run(command, cwd=work, env=environment, check=True, capture_output=True)
    assert not (home / ".local").exists()
    assert [path.name for path in work.iterdir()] == ["runs"]
    assert len(list((work / "runs").glob("*/summary.json"))) == 1
