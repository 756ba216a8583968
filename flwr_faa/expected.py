"""What an argument must be, refused where it is given: what was expected, what was got, and what to write instead.

``ArgumentTypeError``, which is a ``TypeError``, for another kind of object; ``ArgumentValueError``, which is a
``ValueError``, for a value that cannot work.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from flwr_faa.errors import ArgumentTypeError, ArgumentValueError, NoRoomError


def kind(name: str, value: object, wanted: type | tuple[type, ...], remedy: str) -> None:
    """Raise TypeError unless the value is of a kind; a class is told apart from its instances."""
    if not isinstance(value, wanted):
        names = " or ".join(k.__name__ for k in (wanted if isinstance(wanted, tuple) else (wanted,)))
        raise ArgumentTypeError(f"expected {name} to be a {names}, got {shown(value)}: {remedy}")


def having(name: str, value: object, methods: tuple[str, ...], remedy: str) -> None:
    """Raise TypeError unless the value is an instance with these methods."""
    if isinstance(value, type) or not all(callable(getattr(value, m, None)) for m in methods):
        raise ArgumentTypeError(
            f"expected {name} with {', '.join(f'{m}()' for m in methods)}, got {shown(value)}: {remedy}"
        )


def function(name: str, value: object, arguments: str) -> None:
    """Raise TypeError unless the value can be called."""
    if not callable(value):
        raise ArgumentTypeError(f"expected {name} to be a function of {arguments}, got {shown(value)}")


def flag(name: str, value: object) -> None:
    """Raise TypeError unless the value is True or False: the text ``"no"`` counts as true."""
    if not isinstance(value, (bool, np.bool_)):
        raise ArgumentTypeError(f"expected {name} to be True or False, got {shown(value)}")


def integer(name: str, value: Any, least: int) -> None:
    """Raise ValueError unless the value is an integer of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise ArgumentValueError(f"expected {name} to be an integer of at least {least}, got {shown(value)}")


def number(
    name: str,
    value: Any,
    *,
    above: float = -math.inf,
    least: float = -math.inf,
    below: float = math.inf,
    most: float = math.inf,
) -> None:
    """Raise ValueError unless the value is a finite number within these bounds."""
    real = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if not (real and math.isfinite(value) and above < value < below and least <= value <= most):
        told = (("above", above), ("at least", least), ("below", below), ("at most", most))
        bounds = " and ".join(f"{word} {bound:g}" for word, bound in told if math.isfinite(bound))
        raise ArgumentValueError(f"expected {name} to be a finite number {bounds}, got {shown(value)}")


def shape(name: str, value: Any) -> tuple[int, ...]:
    """Return a shape as a tuple; raise ValueError unless it is a sequence of positive integers."""
    found = tuple(value) if isinstance(value, (tuple, list)) else ()
    if not found or not all(isinstance(n, (int, np.integer)) and not isinstance(n, bool) and n > 0 for n in found):
        raise ArgumentValueError(
            f"expected {name} as a tuple of positive integers, e.g. (1, 28, 28), got {shown(value)}"
        )
    return tuple(int(n) for n in found)


def folder(name: str, value: Any) -> Path:
    """Return a folder as a path; raise TypeError unless it is a text or a path."""
    if not isinstance(value, (str, os.PathLike)):
        raise ArgumentTypeError(f"expected {name} to be a path, got {shown(value)}")
    return Path(value)


def room(needed: float, what: str, remedy: str) -> None:
    """Raise NoRoomError if something takes more bytes than this machine has in all, free or not."""
    if needed > (there := memory()):
        raise NoRoomError(f"expected room for {what}, {needed / 1e9:.1f} GB, got {there / 1e9:.1f} GB in all: {remedy}")


def memory() -> int:
    """Bytes of this machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def shown(value: object) -> str:
    if isinstance(value, type):
        return f"the class {value.__name__}"
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{type(value).__name__} {text[:60]}..."
