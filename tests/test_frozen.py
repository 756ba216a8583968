"""What passes between parts cannot be changed by one of them: dataclasses are frozen, but for those that remember."""

import dataclasses
import importlib
import pkgutil
import typing

import numpy as np
import torch

import flwr_faa
import flwr_lomar

#: They are changed by whoever made them, and handed to nobody.
REMEMBER = {
    "flwr_faa.detection.blocks.Sums",
    "flwr_faa.verification.questioning.Clock",
    "flwr_faa.verification.spotcheck.binding.committed._Account",
    "flwr_faa.verification.spotcheck.verifier.SpotCheck",
}


def ours() -> list[type]:
    """All dataclasses of both packages."""
    walks = (pkgutil.walk_packages(package.__path__, f"{package.__name__}.") for package in (flwr_faa, flwr_lomar))
    names = [found.name for walk in walks for found in walk if not found.name.endswith("__main__")]
    made = {
        thing for name in names for thing in vars(importlib.import_module(name)).values() if isinstance(thing, type)
    }
    found = [c for c in made if c.__module__ in names and dataclasses.is_dataclass(c)]
    assert len(found) > 80
    return found


def test_every_dataclass_is_frozen() -> None:
    thawed = {f"{c.__module__}.{c.__qualname__}" for c in ours() if not c.__dataclass_params__.frozen}  # type: ignore[attr-defined]
    assert thawed == REMEMBER


def test_what_holds_arrays_is_compared_by_identity() -> None:
    """By value, ``==`` and ``in`` would raise, as arrays have no one truth, and nothing could be a key."""

    def holds_arrays(hint: object) -> bool:
        return typing.get_origin(hint) is np.ndarray or any(map(holds_arrays, typing.get_args(hint)))

    names = {"torch": torch, "nn": torch.nn}
    hints = {c: typing.get_type_hints(c, localns=names) for c in ours()}
    holding = [c for c, by_name in hints.items() if any(holds_arrays(by_name[f.name]) for f in dataclasses.fields(c))]
    assert len(holding) > 25 and not [c for c in holding if c.__eq__ is not object.__eq__]


def test_what_holds_points_of_a_group_is_compared_by_identity() -> None:
    """Two points are brought to one form to be compared, and a back end need not be able to hash one."""
    holding = [c for c in ours() if any("Point" in str(field.type) for field in dataclasses.fields(c))]
    assert len(holding) > 4 and not [c for c in holding if c.__eq__ is not object.__eq__]
