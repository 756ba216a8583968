"""``python -m apps.lab attack=alie strategy=faa``: an experiment in this process, with Hydra's command line.

``--multirun`` runs every combination of comma-separated choices.
"""

from __future__ import annotations

import logging

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.console import Console

from apps.lab.config import from_hydra
from apps.lab.experiment import CONF
from apps.lab.local_run import run_locally, yardsticks
from apps.lab.progress import rounds_bar
from apps.lab.spot import Enrolled, devices_of


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def main(config: DictConfig) -> None:
    """Run one experiment and say how it went."""
    for name in ("flwr", "flwr_faa"):
        logging.getLogger(name).setLevel(logging.ERROR)  # a line a node and round; it is all in rounds.jsonl
    hydra_config = HydraConfig.get()
    experiment = from_hydra(config, hydra_config.runtime.choices, list(hydra_config.overrides.task))
    console = Console()
    with rounds_bar(console, experiment.config.rounds) as watch:
        enrolled = Enrolled(devices_of(experiment), experiment.config.clients)
        record = run_locally(experiment, experiment.folder, watch(experiment.name, enrolled))
        record.write(yardsticks(experiment, watch("yardsticks")))
    s = record.summary
    recall = "-" if s["recall"] is None else f"{s['recall']:.2f}"
    console.print(
        f"{experiment.name}: accuracy {s['final_accuracy']:.3f}, recall {recall}, "
        f"honest convicted {s['honest_convicted']}, malicious updates accepted {s['attackers_accepted']}, "
        f"verified {s['verified_per_round']:.1f} a round, {s['seconds']['total']:.1f} s",
        highlight=False,
        soft_wrap=True,
    )
    if s["disclosure"]:
        console.print(f"disclosed: {s['disclosure']['line']}", highlight=False, soft_wrap=True)
    console.print(f"{experiment.folder}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
