"""Flower's own example projects, as they are in a checkout: their models, clients, settings and strategies.

Each runs for three rounds, in a process of its own, since it imports the project. What a user would edit is edited in
memory: ``FAADL()`` and ``LoMar()`` are imported in the place of Flower's strategies, ``protect`` is put around what the
server constructs. Nothing of the checkout is copied or changed.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import random
import re
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from typing import Any

from apps.lab.markdown import untitled
from apps.studies.compat.outcome import Kind, Notes, Outcome, Watched, outcome
from apps.studies.compat.standins import STANDINS

ROUNDS = 3
UNDEFENDED, PROTECT = "undefended", "protect(own)"
DEFENCES = (UNDEFENDED, "FAADL()", "LoMar()", PROTECT)
#: For one run of one example.
SECONDS = 600
PRELOAD = [
    "apps.lab.running.local_run",
    "datasets",
    "flwr_datasets",
    "flwr_lomar.legacy",
    "sklearn.linear_model",
    "torchvision",
]
STRATEGY = re.compile(r"flwr\.(server|serverapp)\.strategy|fl\.server\.strategy")


@dataclass(frozen=True)
class Example:
    """An example and what it needs to run here.

    Attributes
    ----------
    name : str
        Its folder under ``examples``.
    data : str
        The name of its data at the hub; empty if it needs none.
    nodes : int
    config : dict
        As ``flwr run --run-config`` would change it: what is not about the number of rounds.
    """

    name: str
    data: str = ""
    nodes: int = 10
    config: dict[str, Any] = field(default_factory=dict)


CIFAR, FASHION, MNIST = "uoft-cs/cifar10", "zalando-datasets/fashion_mnist", "ylecun/mnist"
ADULT, IRIS, HIGGS = "scikit-learn/adult-census-income", "hitorilabs/iris", "jxie/higgs"
EXAMPLES = (
    Example("advanced-pytorch", FASHION, config={"fraction-train": 1.0}),
    Example("custom-mods", CIFAR),
    Example("federated-vae", CIFAR),
    Example("fl-dp-sa", MNIST, nodes=40),
    Example("fl-tabular", ADULT),
    Example("flower-secure-aggregation", FASHION),
    Example("flower-simulation-step-by-step-pytorch/my-awesome-app", FASHION),
    Example("opacus", CIFAR),
    Example("quickstart-numpy"),
    Example("quickstart-pytorch", CIFAR),
    Example("quickstart-pytorch-lightning", MNIST),
    Example("quickstart-sklearn", IRIS),
    Example("quickstart-xgboost", HIGGS),
)


def measure(checkout: Path) -> str:
    """Run them all, each in processes of its own, and return the table and what is not in it."""
    notes, lines, totals = Notes(), [], [[0, 0] for _ in DEFENCES[1:]]
    for example in EXAMPLES:
        data = STANDINS[example.data][0] if example.data else "its own"
        found = {}
        for defence in DEFENCES:
            found[defence] = apart(checkout, example, defence)
            print(f"{example.name}, {defence}: {found[defence].kind}", file=sys.stderr, flush=True)
            if found[UNDEFENDED].kind is not Kind.WORKS:
                break
        alone = found.pop(UNDEFENDED)
        if alone.kind is not Kind.WORKS:
            cells = ["not run: " + notes.cell(example.name, alone)] + [""] * (len(DEFENCES) + 1)
        else:
            counts = [(sum(e.kept_out), sum(e.seen)) for e in found.values()]
            totals = [[sum(pair) for pair in zip(*both, strict=True)] for both in zip(totals, counts, strict=True)]
            alarms = [f"{out} of {seen}" if seen else "" for out, seen in counts]
            cells = [*(notes.cell(example.name, each, alone) for each in found.values()), *alarms]
        lines.append([example.name.split("/")[0], data, str(example.nodes), *cells])
    lines.append(["all", *[""] * (len(DEFENCES) + 1), *(f"{out} of {seen}" for out, seen in totals)])
    alarms = [f"kept out: {defence}" for defence in DEFENCES[1:]]
    table = untitled(["example", "data", "nodes", *DEFENCES[1:], *alarms], lines)
    return f"{table}\n\n{notes.text()}\n\n{_others(checkout)}"


def apart(checkout: Path, example: Example, defence: str) -> Outcome:
    """Run one example in a process of its own, forked from one that has imported what all of them need."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_tell, args=(there, checkout, example, defence))  # no pool's: it may have children
    process.start()
    there.close()
    try:
        found: Outcome = here.recv() if here.poll(SECONDS) else Outcome(Kind.FAILS, f"longer than {SECONDS} s")
    except EOFError:
        found = Outcome(Kind.FAILS, "the process died")
    process.kill()
    process.join()
    return found


def _tell(there: Connection, checkout: Path, example: Example, defence: str) -> None:
    try:
        there.send(run(checkout, example, defence))
    except Exception as error:  # noqa: BLE001 - an example that cannot be imported is a row too
        there.send(Outcome(Kind.FAILS, f"{type(error).__name__}: {error}"))


def _others(checkout: Path) -> str:
    """Say why the other examples are not in the table."""
    tried = {example.name.split("/")[0] for example in EXAMPLES}
    rest = [folder for folder in sorted((checkout / "examples").iterdir()) if any(folder.rglob("*.py"))]
    rest = [folder for folder in rest if folder.name not in tried]
    using = {f.name for f in rest if any(STRATEGY.search(p.read_text(errors="replace")) for p in f.rglob("*.py"))}
    without = [folder.name for folder in rest if folder.name not in using]
    return (
        f"Without a strategy, so that there is nothing to defend: {', '.join(without)}.\n\n"
        f"Not tried, for the models, data or frameworks that they need: {', '.join(sorted(using))}."
    )


def run(checkout: Path, example: Example, defence: str) -> Outcome:
    """Run one example in this process, which it leaves changed."""
    folder = checkout / "examples" / example.name
    settings = tomllib.loads((folder / "pyproject.toml").read_text())["tool"]["flwr"]["app"]
    multiprocessing.set_start_method("fork", force=True)  # loaders of data start as in a script
    _in_silence()
    _same_every_time()
    _without_the_hub()
    _moved_names()
    reports: list[Sequence[Any]] = []
    _defend(defence, reports)
    sys.path.insert(0, str(folder))
    os.chdir(tempfile.mkdtemp(prefix="faa-compat-"))  # the examples write models and logs where they are
    server, client = (_component(settings["components"][part]) for part in ("serverapp", "clientapp"))
    if defence == PROTECT:
        _protect(settings["components"]["serverapp"].split(":")[0], reports)
    from flwr.common.config import flatten_dict

    config = flatten_dict(settings.get("config", {})) | example.config
    config |= {key: ROUNDS for key in config if key.startswith("num-server-rounds")}
    grid = Watched(client, example.nodes, config)

    def go() -> list[Sequence[Any]]:
        from apps.lab.running.local_grid import run_server_app

        run_server_app(server, grid)
        return reports

    return outcome(go, grid)


def _in_silence() -> None:
    """Silence this process: what the examples print is theirs."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)


def _same_every_time() -> None:
    import numpy as np
    import torch

    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    os.environ["WANDB_MODE"] = "disabled"


def _moved_names() -> None:
    """Provide what examples import from where it was before the Flower of this environment."""
    import flwr.clientapp.typing
    import flwr.common.typing
    from flwr.app.user_config import UserConfig

    flwr.common.typing.UserConfig = UserConfig  # type: ignore[attr-defined]
    sys.modules.setdefault("flwr.client.typing", flwr.clientapp.typing)


def _without_the_hub() -> None:
    import datasets

    from apps.studies.compat.standins import load_dataset

    datasets.load_dataset = load_dataset


def _families() -> list[tuple[ModuleType, type, dict[str, type]]]:
    """Return, for each API, Flower's module, its FedAvg, and ours by column."""
    import flwr.server.strategy
    import flwr.serverapp.strategy

    from flwr_faa import FAADL, legacy
    from flwr_lomar import LoMar
    from flwr_lomar.legacy import LoMar as LegacyLoMar

    message, old = flwr.serverapp.strategy, flwr.server.strategy
    return [
        (message, message.FedAvg, {"FAADL()": FAADL, "LoMar()": LoMar}),
        (old, old.FedAvg, {"FAADL()": legacy.FAADL, "LoMar()": LegacyLoMar}),
    ]


def _defend(defence: str, reports: list[Sequence[Any]]) -> None:
    """Have ``from flwr... import FedAvg`` give one of ours, in whatever is imported from now on."""
    for module, average, ours in _families():
        if defence not in ours:
            continue
        base: Any = ours[defence]

        class Defended(base):  # type: ignore[misc]
            def __init__(self, *args: Any, **kwargs: Any) -> None:
                super().__init__(*args, **kwargs)
                reports.append(self.reports)

        for name in module.__all__:
            if issubclass(cls := getattr(module, name), average) and isinstance(cls, type):
                setattr(module, name, Defended)


def _protect(server: str, reports: list[Sequence[Any]]) -> None:
    """Have the server's module construct its strategies protected."""
    from flwr_faa import protect

    averages = tuple(average for _, average, _ in _families())

    def protected(cls: type) -> Any:
        def construct(*args: Any, **kwargs: Any) -> Any:
            strategy: Any = protect(cls(*args, **kwargs))
            reports.append(strategy.reports)
            return strategy

        return construct

    module = sys.modules[server]
    for name, found in list(vars(module).items()):
        if isinstance(found, type) and issubclass(found, averages):
            setattr(module, name, protected(found))


def _component(reference: str) -> Any:
    module, name = reference.split(":")
    return getattr(importlib.import_module(module), name)
