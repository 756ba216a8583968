"""From overrides, as typed on a command line, to a scenario, or to one line for each mistake in them."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from threading import Lock
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from apps.lab.check import ConfigError, did_you_mean, mistakes, settings
from apps.lab.naming import folder_name
from apps.lab.scenario import CONF, Scenario

GROUPS = ("dataset", "partition", "model", "attack", "strategy", "detector", "verification")

# Hydra has one configuration directory a process; the context manager below puts another one back.
_hydra = Lock()


@lru_cache(maxsize=4)
def load(overrides: str) -> Scenario:
    """Compose a scenario.

    Parameters
    ----------
    overrides : str
        E.g. ``"attack=alie attack.share=0.3 seed=2"``. The last override of a setting counts. The same text gives the
        same object: a process that serves many clients loads its data once.

    Raises
    ------
    ConfigError
        With one line for each mistake.
    """
    try:
        words = shlex.split(overrides)
    except ValueError as error:
        raise ConfigError(f"expected words like rounds=3, got {overrides!r}: {error}") from error
    lines: list[str] = []
    typed = _last([o for word in words for o in _parsed(word, lines)])
    with _hydra, _apart(), initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        groups = [o for o in typed if _chooses(o)]
        defaults = _chosen(groups, lines)
        others = [o for o in typed if not _chooses(o) and _known(o, defaults, lines)]
        _refuse(lines)
        try:
            composed = _compose([*groups, *others]) if others else defaults
            config, choices = _without_hydra(composed), dict(composed.hydra.runtime.choices)
            resolved: Any = OmegaConf.to_container(config, resolve=True)
        except (HydraException, OmegaConfBaseException, ValueError) as error:
            raise ConfigError(f"expected overrides of conf/config.yaml, got {overrides!r}: {_line(error)}") from error
    _refuse([f"expected a choice of {group}, got none" for group in GROUPS if group not in choices])
    choices = {group: str(choices[group]) for group in GROUPS}
    plain, usual, unused = _plain(config), _plain(_without_hydra(defaults)), _unused(config)
    lines += mistakes(resolved, plain, usual)
    lines += [
        f"expected a strategy that has a {group}, got {o.input_line!r} with strategy={choices['strategy']}"
        for o in typed
        if (group := (o.key_or_group or "").partition(".")[0]) in unused
    ]
    _refuse(lines)
    named = {group: choice for group, choice in choices.items() if group not in unused}
    return Scenario(config, choices, folder_name(named, plain, usual))


@contextmanager
def _apart() -> Iterator[None]:
    """Compose beside whatever Hydra runs here: a job of a multirun is itself one of Hydra's."""
    running = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = running


def _parsed(word: str, lines: list[str]) -> Iterator[Override]:
    """Yield a word, unless something is wrong with it, or it is Hydra's own: how to launch, where to log."""
    try:
        (override,) = OverridesParser.create().parse_overrides([word])
    except HydraException:
        lines.append(f"expected words like rounds=3, got {word!r}")
        return
    key = override.key_or_group or ""
    if key.startswith(("hydra.", "hydra/")) and key != "hydra.searchpath":
        return
    if override.is_sweep_override():
        lines.append(f"expected one value for {key}, got {word!r}: several need --multirun")
    elif not key:
        lines.append(f"expected words like rounds=3, got {word!r}")
    else:
        yield override


def _last(overrides: Sequence[Override]) -> list[Override]:
    """Drop overrides that a later one of the same kind replaces."""
    last = {(o.key_or_group, o.package, o.type): o for o in overrides}
    return [o for o in overrides if last[o.key_or_group, o.package, o.type] is o]


def _chooses(override: Override) -> bool:
    """Return whether an override makes a choice in a group, or says where choices are found."""
    key, plain = override.key_or_group, override.type is OverrideType.CHANGE and override.package is None
    return key == "hydra.searchpath" or (plain and key in GROUPS and not isinstance(override.value(), dict))


def _chosen(groups: Sequence[Override], lines: list[str]) -> DictConfig:
    """Return the configuration of these choices; without any, if one of them is not there."""
    with suppress(HydraException, ValueError):
        return _compose(groups)
    kept = [o for o in groups if o.key_or_group == "hydra.searchpath"]
    for override in groups:
        try:
            _compose([*kept, override])
        except MissingConfigException as error:
            options, got = error.options or [], str(override.value())
            near = did_you_mean(got, options)
            lines.append(f"expected {override.key_or_group} to be one of {', '.join(options)}, got {got!r}{near}")
        except (HydraException, ValueError) as error:
            lines.append(
                f"expected {override.key_or_group} to be one name, got {override.input_line!r}: {_line(error)}"
            )
    return _compose([])


def _known(override: Override, defaults: DictConfig, lines: list[str]) -> bool:
    """Return whether there is such a setting; one that is added or removed is for Hydra to judge."""
    key = override.key_or_group or ""
    if override.type is not OverrideType.CHANGE or override.package is not None or "[" in key:
        return True
    there = dict(settings(_plain(_without_hydra(defaults))))
    names = [*there]
    if any(name == key or name.startswith(f"{key}.") for name in names):
        return True
    if any(key.startswith(f"{name}.") and str(value).startswith("${") for name, value in there.items()):
        return True
    near = did_you_mean(key, [*GROUPS, *(name for name in names if not name.endswith("_"))])
    lines.append(f"expected a setting of conf/config.yaml, got {key!r}{near}")
    return False


def _unused(config: DictConfig) -> set[str]:
    """Return the groups that the strategy does not use: they are no part of its run's name."""
    strategy = OmegaConf.to_yaml(config.get("strategy") or {})  # not resolved
    return {group for group in ("detector", "verification") if f"${{{group}}}" not in strategy}


def _compose(overrides: Sequence[Override]) -> DictConfig:
    return compose("config", overrides=[str(o.input_line) for o in overrides], return_hydra_config=True)


def _refuse(lines: Sequence[str]) -> None:
    if lines:
        raise ConfigError("\n".join(lines))


def _line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]


def _plain(config: DictConfig) -> Any:
    return OmegaConf.to_container(config, resolve=False)


def _without_hydra(config: DictConfig) -> DictConfig:
    config = config.copy()
    with open_dict(config):
        config.pop("hydra", None)
    return config
