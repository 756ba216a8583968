"""What a scenario's settings must be. Everything is checked before anything starts, with one line per mistake."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, is_dataclass
from difflib import get_close_matches
from enum import EnumType
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from hydra.utils import get_object

Plain = Mapping[str, Any]


class ConfigError(ValueError):
    """A configuration with mistakes; the message has one line for each."""


@dataclass(frozen=True)
class Rule:
    """What a setting must be: in words, and as a test."""

    words: str
    accepts: Callable[[Any], bool]


def whole(least: int, most: float = math.inf) -> Rule:
    """Return a whole number from ``least`` to ``most``."""
    words = f"a whole number of at least {least}" if most == math.inf else f"a whole number from {least} to {most}"
    return Rule(words, lambda v: _is(int, v) and least <= v <= most)


def number(least: float = -math.inf, most: float = math.inf, above: float = -math.inf, below: float = math.inf) -> Rule:
    """Return a finite number within bounds."""
    bounds = {"of at least": least, "above": above, "of at most": most, "below": below}
    words = " and ".join(f"{word} {bound:g}" for word, bound in bounds.items() if math.isfinite(bound))
    return Rule(
        f"a finite number {words}".strip(), lambda v: _is(float, v) and least <= v <= most and above < v < below
    )


def choice(*names: str) -> Rule:
    """Return a rule that lets these names pass."""
    return Rule(f"one of {', '.join(names)}", lambda v: v in names)


def or_null(rule: Rule) -> Rule:
    """Return the same rule, which lets null pass too."""
    return Rule(f"{rule.words}, or null", lambda v: v is None or rule.accepts(v))


SHARE, POSITIVE = number(least=0, most=1), number(above=0)
#: By setting; one that is not here must be of the type that its default has, or that its target's signature states.
RULES: Mapping[str, Rule] = {
    "clients": whole(1),
    "fraction": number(above=0, most=1),
    "min_clients": whole(1),
    "timeout": POSITIVE,
    "rounds": whole(1),
    "seed": whole(0, 2**32 - 1),
    "api": choice("legacy", "message"),
    "run.dir": or_null(Rule("a folder", lambda v: isinstance(v, str) and bool(v) and "\0" not in v)),
    "dataset.classes": whole(2),
    "dataset.lr": POSITIVE,
    "dataset.scale": POSITIVE,
    "partition.alpha": POSITIVE,
    "partition.share": SHARE,
    "partition.size": or_null(whole(1)),
    "model.lr": POSITIVE,
    "model.scale": POSITIVE,
    "model.batch_size": whole(1),
    "model.epochs": whole(1),
    "model.momentum": number(least=0, below=1),
    "model.weight_decay": number(least=0),
    "attack.share": number(least=0, below=1),
    "attack.tau": or_null(SHARE),
    "attack.sigma": number(least=0),
    "attack.rho": number(least=0),
    "attack.most": POSITIVE,
    "attack.source": whole(0),
    "attack.target": whole(0),
    "attack.client.chance": SHARE,
    "detector.nu": number(above=0, most=1),
    "heldout.samples": or_null(whole(1)),
    "heldout.labels": or_null(whole(1)),
    "heldout.skew": SHARE,
    "heldout.wrong": SHARE,
    "verification.budget": number(above=0, most=1),
    "verification.steps": whole(0),
    "verification.enrol_timeout": POSITIVE,
}
#: Settings without which there is no scenario.
NEEDED = ("clients", "fraction", "min_clients", "timeout", "rounds", "seed", "api", "run.baseline", "attack.share")


def mistakes(config: Plain, typed: Plain, defaults: Plain) -> Iterator[str]:
    """Yield what is wrong with a configuration, one line per mistake.

    Parameters
    ----------
    config : mapping
        Resolved.
    typed : mapping
        The same, not resolved: what only refers to another setting by default is as right as that one.
    defaults : mapping
        The same choices with nothing set beside them, not resolved.
    """
    found, known = dict(settings(config)), dict(settings(defaults))
    refer = {k for k, v in settings(typed) if isinstance(v, str) and v.startswith("${") and v == known.get(k)}
    own = {k: v for k, v in found.items() if not any(k == r or k.startswith(f"{r}.") for r in refer)}
    wrong = {key: line for key, value in own.items() if (line := _mistake(key, value, known, config))}
    yield from wrong.values()
    yield from (f"expected {key} to be set, got no such setting" for key in NEEDED if key not in found)
    numbers = {key: found[key] for key in ("clients", "min_clients", "attack.share") if key in found}
    if len(numbers) == 3 and not wrong.keys() & numbers.keys():
        yield from _together(**{key.replace("attack.", ""): value for key, value in numbers.items()})


def _together(clients: int, min_clients: int, share: float) -> Iterator[str]:
    if min_clients > clients:
        yield f"expected min_clients to be at most clients={clients}, got {min_clients}"
    if (attackers := round(share * clients)) == clients:
        yield f"expected attack.share to leave an honest client of {clients}, got {share:g}, which makes all malicious"
    if share > 0 and attackers == 0:
        yield f"expected attack.share to make at least one client of {clients} malicious, got {share:g}: that is nobody"


def did_you_mean(got: str, known: Iterable[str]) -> str:
    """``: did you mean X?`` where something is near; a setting's last word may be all that was typed."""
    names = list(known)
    near = [n for n in names if n.rpartition(".")[2] == got] or get_close_matches(got, names, n=2, cutoff=0.6)
    return f": did you mean {' or '.join(near[:3])}?" if near else ""


def settings(config: Plain, above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every setting by its dotted name; a list is one setting."""
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from settings(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _mistake(key: str, value: Any, known: Plain, config: Plain) -> str | None:
    if value == "???":
        return f"expected {key} to be set: it has no default"
    if key in known and value == known[key] and type(value) is type(known[key]):
        return None
    if any(k.startswith(f"{key}.") for k in known):
        return f"expected {key} to hold settings, got {value!r}"
    rule = RULES.get(key) or _by_default(known.get(key)) or _by_signature(key, config)
    if rule is not None and not rule.accepts(value):
        return f"expected {key} to be {rule.words}, got {value!r}"
    if not all(math.isfinite(v) for v in _floats(value)):
        return f"expected {key} to be finite, got {value!r}"
    return None


def _by_default(default: Any) -> Rule | None:
    """Return the rule of the default's type; what a text may be, its target's signature says."""
    if default is None or isinstance(default, str):
        return None
    if isinstance(default, list):
        return Rule("a list", lambda v: isinstance(v, list))
    kind = type(default)
    words = {bool: "true or false", int: "a whole number", float: "a finite number"}.get(kind)
    return Rule(words, lambda v: _is(kind, v)) if words else None


def _by_signature(key: str, config: Plain) -> Rule | None:
    """Read a rule off the target's signature. Importing takes seconds, so this is the last resort."""
    *path, name = key.split(".")
    for part in path:
        config = config[part]
    if name == "_target_" or "_target_" not in config:
        return None
    try:
        target = get_object(config["_target_"])
        plain = isinstance(target, type) and not is_dataclass(target)
        hint = get_type_hints(target.__init__ if plain else target).get(name)
    except (ImportError, AttributeError, NameError, TypeError, ValueError):  # building it says more
        return None
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    if not all(k in (NoneType, bool, int, float, str) or isinstance(k, EnumType) or _names(k) for k in kinds):
        return None
    return Rule(" or ".join(map(_word, kinds)), lambda v: any(_is(k, v) for k in kinds))


def _names(kind: Any) -> tuple[Any, ...]:
    """Return the values of a Literal or an Enum."""
    if isinstance(kind, EnumType):
        members: Mapping[str, Any] = kind.__members__
        return tuple(member.value for member in members.values())
    return get_args(kind) if get_origin(kind) is Literal else ()


def _word(kind: Any) -> str:
    words = {NoneType: "null", bool: "true or false", int: "a whole number", float: "a finite number", str: "text"}
    return words.get(kind) or f"one of {', '.join(map(str, _names(kind)))}"


def _is(kind: Any, value: Any) -> bool:
    """Return whether a value of a YAML file can stand for a type: whole numbers are numbers, truth values are not."""
    if kind in (int, float):
        wide = isinstance(value, (int, kind)) and not isinstance(value, bool)
        return wide and math.isfinite(value) if kind is float else wide
    return value in _names(kind) if _names(kind) else isinstance(value, kind)


def _floats(value: Any) -> Iterator[float]:
    if isinstance(value, float):
        yield value
    elif isinstance(value, (list, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _floats(item)
