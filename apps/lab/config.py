"""From overrides, as typed on a command line, to an experiment."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from functools import lru_cache
from threading import Lock

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf, open_dict

from apps.lab.experiment import CONF, Experiment

GROUPS = ("dataset", "partition", "model", "attack", "strategy", "detector", "verification")

# Hydra has one configuration directory a process; the context manager below puts another one back.
_hydra = Lock()


@lru_cache(maxsize=4)
def load(overrides: str) -> Experiment:
    """Compose an experiment.

    Parameters
    ----------
    overrides : str
        E.g. ``"attack=alie attack.share=0.3 seed=2"``. The same text gives the same object: a process that serves
        many clients loads its data once.
    """
    words = shlex.split(overrides)
    with _hydra, initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        config = compose("config", overrides=words, return_hydra_config=True)
    return from_hydra(config, config.hydra.runtime.choices, words)


def from_hydra(config: DictConfig, choices: Mapping[str, str], overrides: Sequence[str]) -> Experiment:
    """An experiment from what Hydra composed, named after its choices, its seed, and what else was overridden."""
    config = config.copy()
    with open_dict(config):
        config.pop("hydra", None)
    named = {*GROUPS, "seed"}
    keys = ((o, o.lstrip("+~").split("=")[0]) for o in overrides)
    others = [o for o, key in keys if key not in named and not key.startswith(("run.", "hydra."))]
    strategy = OmegaConf.to_yaml(config.strategy)  # not resolved
    # groups that a strategy takes no notice of do not belong into its run's name
    unused = {group for group in ("detector", "verification") if f"${{{group}}}" not in strategy}
    words = [choices[group] for group in GROUPS if group not in unused]
    name = "-".join([*words, f"seed{config.seed}", *sorted(others)])
    return Experiment(config, {group: choices[group] for group in GROUPS}, name)
