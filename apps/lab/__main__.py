"""``python -m apps.lab attack=alie strategy=faa``: one run in this process, with Hydra's command line.

``--multirun`` runs every combination of comma-separated choices, with ``hydra/launcher=joblib`` over processes.
``experiment=faa/table2 size=quick`` runs a table or figure of the papers instead, ``experiments`` lists them, and
``report FOLDER`` makes a page of either.
"""

from __future__ import annotations

import logging
import shlex
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import hydra
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig
from rich.console import Console

from apps.lab.check import ConfigError
from apps.lab.config import load
from apps.lab.papers import listing, report
from apps.lab.papers import run as run_experiments
from apps.lab.recording.progress import rounds_bar
from apps.lab.recording.record import Record
from apps.lab.recording.summary import outcome
from apps.lab.running.local_run import run_locally, yardsticks
from apps.lab.scenario import CONF
from apps.lab.spotcheck import Enrolled


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def main(config: DictConfig) -> None:
    """Run one scenario and say how it went."""
    for name in ("flwr", "flwr_faa"):
        logging.getLogger(name).setLevel(logging.ERROR)  # one line per node and round; it is all in rounds.jsonl
    told = HydraConfig.get()
    more = [source.path for source in told.runtime.config_sources if source.provider == "command-line"]
    scenario = load(_joined(told.overrides.task, *more))
    console, written = Console(), []
    try:
        with rounds_bar(console, scenario.config.rounds) as watch:
            enrolled = Enrolled(scenario.devices, scenario.config.clients)

            def done(record: Record) -> None:
                written.append(record.write(yardsticks(scenario, watch("yardsticks"))))

            run_locally(scenario, scenario.folder, watch(scenario.name, enrolled), done)
    except ConfigError as mistake:
        raise SystemExit(f"{mistake}") from mistake
    for line in outcome(written[0]):
        console.print(line, highlight=False, soft_wrap=True)
    console.print(f"{scenario.folder}", highlight=False, soft_wrap=True)


def check(words: Sequence[str]) -> None:
    """Compose every run of a command line, so that a mistake ends it before the first one starts.

    Raises
    ------
    ConfigError
        With one line for each mistake.
    """
    told = get_args_parser().parse_args(words)
    if told.help or told.hydra_help or told.info or told.shell_completion:
        return
    jobs = [told.overrides]
    if told.multirun:
        try:
            parsed = OverridesParser.create().parse_overrides(told.overrides)
        except HydraException as error:
            raise ConfigError(f"expected words like rounds=3, got {shlex.join(told.overrides)!r}") from error
        jobs = [job for batch in BasicSweeper.split_arguments(parsed, None) for job in batch]
    folders = [load(_joined(job, *filter(None, [told.config_dir]))).folder for job in jobs]
    if len(set(folders)) < len(folders):
        same = max(folders, key=folders.count)
        raise ConfigError(f"expected a folder for each of {len(folders)} runs, got {same} for {folders.count(same)}")


def dispatch(words: Sequence[str]) -> int:
    """List or run experiments, write a report, or do one run; return the exit code."""
    if list(words) == ["--version"]:
        print(f"apps.lab {metadata.version('flwr-anomaly')}")
        return 0
    if list(words) == ["experiments"]:
        return listing.main()
    if list(words[:1]) == ["report"]:
        return report.main(words[1:])
    if any(word.startswith("experiment=") for word in words):
        return run_experiments.main(words)
    try:
        check(words)
    except ConfigError as mistake:
        print(mistake, file=sys.stderr)
        return 2
    main()
    return 0


def _joined(words: Sequence[str], *folders: str) -> str:
    """Join overrides to one text, with the folders in which other choices are found."""
    search = [f"hydra.searchpath=['file://{Path(folder).absolute()}']" for folder in folders]
    return shlex.join([*search, *words])


if __name__ == "__main__":
    sys.exit(dispatch(sys.argv[1:]))
