"""Every argument of every public callable, given what cannot work: one error of ours, that says what to change.

The table has an entry for each argument. A public callable or an argument without one fails, so none can be forgotten.
"""

import ast
import builtins
import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.serverapp.strategy import FedAvg

import flwr_faa
import flwr_faa.legacy
import flwr_lomar
import flwr_lomar.legacy
from flwr_faa import FlwrAnomalyError
from tests.helpers.toy import PLANS

PLAN = PLANS["logistic"]
DATA = np.zeros((20, 8, 8), np.uint8), np.arange(20) % 10
MATRIX = np.random.default_rng(0).normal(size=(10, 6))

DEFENCE: dict[str, list[Any]] = {
    "detector": [3, object()], "verifier": ["paper", flwr_faa.SpotCheck], "policy": ["strict", flwr_faa.Policy],
    "ledger": [3], "verify_timeout": [0, -1.0, "60", None], "seed": [1.5, -1, "1"], "observe": ["no", 1, None],
    "holdout": [3, "loss"],
}  # fmt: skip
TRAINER: dict[str, list[Any]] = {
    "plan": [None, PLAN.model], "data": [None, DATA[0], (DATA[0], DATA[1][:3]), (DATA[0] / 255, DATA[1])],
    "plaintext": ["yes"], "device": ["folder"], "answers": ["paper", ("nobody",), 3],
}  # fmt: skip
#: By callable: arguments that work, and for each of its own arguments what cannot.
TABLE: dict[str, tuple[dict[str, Any], dict[str, list[Any]]]] = {
    "flwr_faa.Device": (
        {},
        {"folder": [3, None], "budget": [0, 2.0, "all"], "authority": ["key", b"short"], "progress": ["loud"]},
    ),
    "flwr_faa.FAADL": ({}, {**DEFENCE, "rule": ["median"]}),
    "flwr_faa.Holdout": ({"loss": lambda arrays: 0.0}, {"loss": [None, 0.5], "among": ["some", None]}),
    "flwr_faa.Ledger": ({}, {"folder": [3], "annotate": ["names"]}),
    "flwr_faa.Policy": (
        {},
        {
            "weighting": ["believed", None], "ban": ["no"], "max_strikes": [0, 1.5], "fail_closed": ["no"],
            "assumed_share": [-0.1, 2, "half"], "renormalise": ["no"], "drop_above": ["1", float("nan")],
        },
    ),
    "flwr_faa.SpotCheck": (
        {"plan": PLAN},
        {
            "plan": [None, PLAN.model], "sample_shape": [(0,), "28", 28], "authority": ["https://"], "steps": [-1, 1.5],
            "tau": [0, -1, "small"], "max_value": [0, 1.5, "255"], "allow_convolution": ["no"], "enrol_timeout": [0],
            "back_end": ["openssl", None],
        },
    ),
    "flwr_faa.TrainingPlan": (
        {"model": PLAN.model, "lr": 0.1},
        {
            "model": [None, PLAN.model()], "lr": [0, -1, "fast", float("nan")], "batch_size": [0, 1.5], "epochs": [0],
            "momentum": [-1, 1], "weight_decay": [-1], "scale": [0, "1/255"], "bits": [-1, 99, 1.5], "loss": ["mse"],
        },
    ),
    "flwr_faa.VerifiableClient": ({"plan": PLAN, "data": DATA}, TRAINER),
    "flwr_faa.protect": ({"strategy": FedAvg()}, {"strategy": [None, FedAvg, flwr_faa.FAADL()], **DEFENCE}),
    "flwr_faa.verifiable": ({"plan": PLAN, "data": DATA}, TRAINER),
    "flwr_faa.legacy.FAADL": ({}, {**DEFENCE, "rule": ["median"]}),
    "flwr_faa.legacy.node_id": ({}, {"client": [None, 7]}),
    "flwr_lomar.LoMar": ({}, {"preset": ["best", None], "detector": [3, "robust"], "policy": ["strict"]}),
    "flwr_lomar.legacy.LoMar": ({}, {"preset": ["best", None], "detector": [3, "robust"], "policy": ["strict"]}),
    "flwr_lomar.LoMarDetector": (
        {},
        {
            "preset": ["best", None], "label_blocks": [[[0, 99]], [[0.5]], [[0], [0]]], "contamination": [0, "few"],
            "k": [0, -1, 1.5, "all"], "kernel": ["cosine"], "bandwidth": [0, -1, "wide"], "threshold": ["low", "nan"],
            "statistics": [-1, 99, 0.5], "approximate": ["yes"], "random_state": ["now"],
        },
    ),
}  # fmt: skip
#: Flower's own arguments, which go to ``FedAvg``.
FLOWERS = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
#: Not called by users to make something: an error to catch.
ERRORS = {"flwr_faa.FlwrAnomalyError"}


def public() -> Iterator[tuple[str, Callable[..., Any]]]:
    for module in (flwr_faa, flwr_faa.legacy, flwr_lomar, flwr_lomar.legacy):
        for name in getattr(module, "__all__", ("LoMar",)):
            yield f"{module.__name__}.{name}", getattr(module, name)


CALLABLES = {name: made for name, made in public() if name not in ERRORS}
CASES = [
    pytest.param(name, argument, value, id=f"{name}-{argument}-{number}")  # no addresses: workers compare the names
    for name, (_, wrong) in TABLE.items()
    for argument, values in wrong.items()
    for number, value in enumerate(values)
]


def test_no_callable_and_no_argument_is_without_an_entry() -> None:
    assert TABLE.keys() == CALLABLES.keys()
    for name, made in CALLABLES.items():
        own = {p.name for p in inspect.signature(made).parameters.values() if p.kind not in FLOWERS}
        assert own == TABLE[name][1].keys(), name


@pytest.mark.parametrize("name", TABLE)
def test_what_should_work_does(name: str) -> None:
    if name != "flwr_faa.legacy.node_id":
        call(name, {})


@pytest.mark.parametrize(("name", "argument", "value"), CASES)
def test_what_cannot_work_is_refused_with_what_to_change(name: str, argument: str, value: Any) -> None:
    with pytest.raises(FlwrAnomalyError) as refused:
        call(name, {argument: value})
    assert isinstance(refused.value, (ValueError, TypeError))
    assert re.match(r"[Ee]xpected .+, got .+", str(refused.value), re.S), refused.value


def call(name: str, given: dict[str, Any]) -> Any:
    made = CALLABLES[name](**{**TABLE[name][0], **given})
    # what depends on the matrix is found when there is one
    return made.fit(MATRIX) if isinstance(made, flwr_lomar.LoMarDetector) else made


def ours() -> set[type]:
    """Every error class of both packages."""
    for package in (flwr_faa, flwr_lomar):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    found, new = set(), {FlwrAnomalyError}
    while new:
        found, new = found | new, {sub for cls in new for sub in cls.__subclasses__()}
    return found


def test_every_error_has_the_root_and_is_on_the_page() -> None:
    errors = ours()
    page = (Path(__file__).parents[1] / "docs" / "how-to" / "errors.md").read_text()
    assert [e.__name__ for e in errors if f"`{e.__name__}`" not in page] == []
    raised = {
        obj
        for name, module in list(sys.modules.items())
        if name.startswith(("flwr_faa", "flwr_lomar"))
        for obj in vars(module).values()
        if isinstance(obj, type)
        and issubclass(obj, Exception)
        and obj.__module__.startswith(("flwr_faa", "flwr_lomar"))
    }
    assert raised and raised <= errors


def test_no_built_in_error_is_raised() -> None:
    """What we refuse, we refuse by an error of ours. Python wants its own of a module that has no such name."""
    found = []
    for package in (flwr_faa, flwr_lomar):
        for file in Path(package.__path__[0]).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                called = node.exc.func if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) else None
                if isinstance(called, ast.Name) and hasattr(builtins, called.id) and called.id != "AttributeError":
                    found.append(f"{file}:{node.lineno} {called.id}")
    assert not found
