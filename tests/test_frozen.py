"""What passes between parts cannot be changed by one of them: dataclasses are frozen, but for those that remember."""

import dataclasses
import importlib
import pkgutil

import flwr_faa
import flwr_lomar

#: They are changed by whoever made them, and handed to nobody.
REMEMBER = {
    "flwr_faa.detection.blocks.Sums",
    "flwr_faa.verification.questioning.Clock",
    "flwr_faa.verification.spotcheck.binding.committed._Account",
    "flwr_faa.verification.spotcheck.verifier.SpotCheck",
}


def test_every_dataclass_is_frozen() -> None:
    walks = (pkgutil.walk_packages(package.__path__, f"{package.__name__}.") for package in (flwr_faa, flwr_lomar))
    names = [found.name for walk in walks for found in walk if not found.name.endswith("__main__")]
    made = {
        thing for name in names for thing in vars(importlib.import_module(name)).values() if isinstance(thing, type)
    }
    ours = [c for c in made if c.__module__ in names and dataclasses.is_dataclass(c)]
    thawed = {f"{c.__module__}.{c.__qualname__}" for c in ours if not c.__dataclass_params__.frozen}  # type: ignore[attr-defined]
    assert len(ours) > 80 and thawed == REMEMBER
