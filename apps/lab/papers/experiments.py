"""The experiments of both papers: files in ``conf/experiment`` that say which cells a table or figure consists of.

An experiment is a grid of named values (defence x attack x share ...). What a name means in overrides stands in
``conf/experiment/axes.yaml``, for the size ``quick`` and for the size ``paper``, so two experiments that have a cell in
common mean the same run.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, Literal, get_args

from omegaconf import OmegaConf

from apps.lab.check import ConfigError, did_you_mean
from apps.lab.config import GROUPS
from apps.lab.naming import LONGEST, slug
from apps.lab.naming import digest as digest_of
from apps.lab.scenario import CONF

FOLDER = CONF / "experiment"
Size = Literal["quick", "paper"]
SIZES: tuple[Size, ...] = get_args(Size)


@dataclass(frozen=True)
class Spec:
    """One table or figure.

    Parameters
    ----------
    name : str
        E.g. ``faa/table2``.
    paper, title : str
        Where it stands in which paper, and what it shows.
    grid : sequence of mapping
        Blocks: by axis, the values whose combinations are run.
    tables, plots : sequence of mapping
        How to show it, see ``docs/how-to/experiments.md``.
    open, chose : str
        What the paper leaves open, and what is done about it here.
    reported : str
        What the paper's prose says, where there is no table of figures.
    """

    name: str
    paper: str
    title: str
    grid: Sequence[Mapping[str, Sequence[Any]]]
    open: str
    chose: str
    tables: Sequence[Mapping[str, Any]] = ()
    plots: Sequence[Mapping[str, Any]] = ()
    reported: str = ""


@dataclass(frozen=True)
class Cell:
    """One place in the grid: its values by axis, the overrides they mean, and a digest of what they choose."""

    axes: Mapping[str, Any]
    overrides: str
    digest: str


def names() -> list[str]:
    """Return the names of all experiments."""
    return sorted(str(p.relative_to(FOLDER).with_suffix("")) for p in FOLDER.glob("*/*.yaml"))


def spec(name: str) -> Spec:
    """Read an experiment.

    Raises
    ------
    ValueError
        If there is no such experiment.
    """
    if name not in names():
        near = did_you_mean(name, names())
        raise ConfigError(f"expected experiment to be one of {', '.join(names())}, got {name!r}{near}")
    content: Any = OmegaConf.to_container(OmegaConf.load(FOLDER / f"{name}.yaml"))
    return Spec(name=name, **content)


def cells(of: Spec, size: Size, more: Sequence[str] = ()) -> Iterator[Cell]:
    """Yield the cells of an experiment that there are at a size.

    Parameters
    ----------
    of : Spec
    size : {"quick", "paper"}
    more : sequence of str
        Overrides for every cell.
    """
    seen = set()
    for block in of.grid:
        for values in product(*block.values()):
            axes = dict(zip(block, values, strict=True))
            words = [meaning(axis, value, size) for axis, value in axes.items()]
            if None in words or tuple(axes.items()) in seen:
                continue
            seen.add(tuple(axes.items()))
            overrides = used(merge([*(w for text in words if text for w in text.split()), *more]))
            yield Cell(axes, overrides, digest(overrides))


def meaning(axis: str, value: Any, size: Size = "quick") -> str | None:
    """Return the overrides that a value of an axis stands for; None if there is no such thing at this size."""
    known = _axes()
    if axis not in known:
        raise ValueError(f"expected an axis of {FOLDER / 'axes.yaml'}, got {axis!r}")
    if isinstance(known[axis], str):  # a pattern for numbers
        return str(known[axis]).format(value)
    if value not in known[axis]:
        raise ValueError(f"expected {axis} to be one of {', '.join(map(str, known[axis]))}, got {value!r}")
    words = known[axis][value]
    return words.get(size) if isinstance(words, Mapping) else words


def merge(words: Sequence[str]) -> str:
    """Merge overrides: the last one counts, and another choice in a group takes the group's settings with it.

    The share of attackers stays, and the labels that they are after where they are absent: yardsticks need them.
    """
    merged: dict[str, str] = {}
    for word in words:
        key, _, value = word.partition("=")
        if key in GROUPS and merged.get(key, value) != value:
            stays = ("attack.share", *(("attack.source", "attack.target") if value == "absent_flip" else ()))
            merged = {k: v for k, v in merged.items() if not k.startswith(f"{key}.") or k in stays}
        merged[key] = value
    return " ".join(f"{key}={value}" for key, value in merged.items())


def used(overrides: str) -> str:
    """Drop overrides of a detector or verification that the strategy does not use."""
    words = dict(word.split("=", 1) for word in overrides.split())
    unused = _unused(words.get("strategy", _defaults()["strategy"]))
    return " ".join(f"{k}={v}" for k, v in words.items() if k.partition(".")[0] not in unused)


@cache
def _axes() -> dict[str, Any]:
    content: Any = OmegaConf.to_container(OmegaConf.load(FOLDER / "axes.yaml"))
    return dict(content)


def digest(overrides: str) -> str:
    """Hash the configuration that overrides choose, without its seed: the files, and what is set beside them.

    Only what changes a result counts: of a ``_target_`` its name, not the module that it is found in today. Composing
    the configuration would take Hydra 50 milliseconds a cell.
    """
    words = dict(word.split("=", 1) for word in overrides.split())
    choices = {group: words.pop(group, default) for group, default in _defaults().items()}
    for group in _unused(choices["strategy"]):
        del choices[group]
        words = {k: v for k, v in words.items() if not k.startswith(f"{group}.")}
    content = [_text(group, choice) for group, choice in choices.items()] + [f"{k}={words[k]}" for k in sorted(words)]
    return hashlib.blake2b("\0".join(content).encode(), digest_size=8).hexdigest()


def _unused(strategy: str) -> set[str]:
    """Return the groups that a strategy does not use."""
    return {group for group in ("detector", "verification") if f"${{{group}}}" not in _text("strategy", strategy)}


@cache
def _text(group: str, choice: str) -> str:
    """Return the text of a file, without comments and without the modules of its targets.

    Raises
    ------
    ConfigError
        If there is none.
    """
    path = CONF / group / f"{choice}.yaml"
    if not path.exists():
        known = sorted(other.stem for other in path.parent.glob("*.yaml"))
        near = did_you_mean(choice, known)
        raise ConfigError(f"expected {group} to be one of {', '.join(known)}, got {choice!r}{near}")
    return re.sub(r"(_target_: )[\w.]*\.", r"\1", OmegaConf.to_yaml(OmegaConf.load(path)))


@cache
def _defaults() -> dict[str, str]:
    content: Any = OmegaConf.load(CONF / "config.yaml").defaults
    return {
        group: choice for entry in content if entry != "_self_" for group, choice in entry.items() if group in GROUPS
    }


def folder(of: Spec, size: Size, more: Sequence[str], out: Path) -> Path:
    """Return the folder of an experiment's files."""
    name = "-".join([*of.name.split("/"), size, *more])
    short = slug(name)[:LONGEST]
    return out / (name if name == short else f"{short}-{digest_of([('more', list(more))])}")
