"""The name of a run's folder: what was chosen and set, in letters that every file system takes."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from apps.lab.check import settings

#: Longer names are cut, and told apart by a digest.
LONGEST = 120
_CHOICE, _KEY, _VALUE = (re.compile(p) for p in (r"[A-Za-z0-9_.]+", r"[A-Za-z0-9_.]+", r"-?[A-Za-z0-9_.]+"))
_GONE = object()


def folder_name(choices: Mapping[str, str], config: Mapping[str, Any], defaults: Mapping[str, Any]) -> str:
    """Name a configuration. Other configurations have other names; how it was typed makes no difference.

    Parameters
    ----------
    choices : mapping of str to str
        In the groups that the run depends on.
    config : mapping
        Not resolved; ``run`` is about the folder itself and does not count.
    defaults : mapping
        The same choices with nothing set beside them.
    """
    changed = _changes(config, defaults)
    words = [*choices.values(), f"seed{config['seed']}", *(f"{key}={_text(value)}" for key, value in changed)]
    plain = all(map(_CHOICE.fullmatch, choices.values())) and all(_plain(*change) for change in changed)
    name = "-".join(words)
    if plain and len(name) <= LONGEST:
        return name
    return f"{slug(name)[:LONGEST]}-{digest([*choices.items(), *changed])}"


def slug(text: str) -> str:
    """Return a text with nothing that a file system or a shell could misread; two texts may become one."""
    return re.sub(r"[^A-Za-z0-9_.=-]+", "_", text).lstrip(".-")


def digest(of: Sequence[tuple[str, Any]]) -> str:
    """Return ten hexadecimal digits that stand for settings and their values."""
    text = json.dumps([(k, "deleted" if v is _GONE else [v]) for k, v in of], sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=5).hexdigest()


def _changes(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[tuple[str, Any]]:
    now, usual = (
        {k: v for k, v in settings(c) if k not in {"seed", "run"} and not k.startswith("run.")}
        for c in (config, defaults)
    )
    differs = [k for k in now if k not in usual or _value(now[k]) != _value(usual[k])]
    return [*((k, now[k]) for k in sorted(differs)), *((k, _GONE) for k in sorted(usual.keys() - now.keys()))]


def _value(value: Any) -> tuple[bool, Any]:
    """Write a value as text: 1 and 1.0 become the same text, 1 and true do not."""
    return isinstance(value, bool), value


def _text(value: Any) -> str:
    if value is _GONE:
        return "deleted"
    return value if isinstance(value, str) else json.dumps(value)


def _plain(key: str, value: Any) -> bool:
    """Return whether a setting can be read off the name: nothing else would be written the same way."""
    text = _text(value)
    simple = value is not _GONE and not isinstance(value, (dict, list))
    return bool(simple and _KEY.fullmatch(key) and _VALUE.fullmatch(text)) and yaml.safe_load(text) == value
