"""The curious server: a real run, everything that its server sees, and what of the clients' images follows from that.

::

    python -m apps.studies.curious_server                        # paper and spotcheck on mnist5k, a 10-unit first layer
    python -m apps.studies.curious_server --keep runs/curious    # the same; transcripts are kept, or read if found

One honest client of 100 images is verified every round: by ``spotcheck`` at the default budget until that is spent, and
once more with a budget of everything, to show what the budget keeps from happening. ``paper`` and ``spotcheck`` run as
they do in deployment; nothing is simulated but the network. Printed is the share of the images' variance (about the
mean of public images, so that a prior alone recovers 0) that is recovered, for ``spotcheck`` also without the opened
checkpoints' gradients; drawn are originals and reconstructions.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.app import ArrayRecord, Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from apps.lab import models
from apps.lab.datasets import Dataset, digits, mnist5k
from apps.lab.running.local_grid import LocalGrid, run_server_app
from apps.studies.curious_server.algebra import Equations, Prior, reconstruct, recovered
from apps.studies.curious_server.transcript import Curious, CuriousEnroller, Exchange, Keeper, exchanges
from flwr_faa import FAADL, Device, TrainingPlan, verifiable
from flwr_faa.authority import BUDGET, LocalAuthority
from flwr_faa.crypto import aont, ipfe
from flwr_faa.crypto.backends import open_group
from flwr_faa.detection import Everyone
from flwr_faa.report import describe
from flwr_faa.verification.paper import EVIDENCE, REQUEST, Paper
from flwr_faa.verification.plan import Checkpoint
from flwr_faa.verification.spotcheck.answer import opened_checkpoints
from flwr_faa.verification.spotcheck.first_layer import IntegerLayer
from flwr_faa.verification.spotcheck.messages import Answer, Challenge
from flwr_faa.verification.spotcheck.recompute import claimed_layer
from flwr_faa.verification.spotcheck.state import StateLayout
from flwr_faa.verification.spotcheck.verifier import SpotCheck
from flwr_faa.verification.wire import unpack

Floats = npt.NDArray[np.float64]

DATASETS = {"mnist5k": (mnist5k, (1, 28, 28), 255), "digits": (digits, (1, 8, 8), 16)}
SAMPLES = 100
#: Of a client that refuses nothing.
CHALLENGES = 8


@dataclass(frozen=True, eq=False)
class Victim:
    """What is run: one client's images, the images that everybody has, and how it trains."""

    name: str
    data: Dataset
    shape: tuple[int, ...]
    top: int
    plan: TrainingPlan

    @classmethod
    def of(cls, name: str) -> Victim:
        load, shape, top = DATASETS[name]
        plan = TrainingPlan(partial(models.logistic, shape, classes=10), lr=0.3, batch_size=50, scale=1 / top)
        return cls(name, load(), shape, top, plan)

    @property
    def own(self) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        samples, labels = self.data.train
        return samples[:SAMPLES], labels[:SAMPLES]

    @property
    def truth(self) -> Floats:
        return self.own[0].reshape(SAMPLES, -1).astype(np.float64)

    @property
    def public(self) -> Floats:
        others = np.concatenate([self.data.train[0][SAMPLES:], self.data.test[0]])
        return others.reshape(len(others), -1).astype(np.float64)


def run(case: Victim, verifier: Curious, rounds: int, device: Device | None) -> str:
    """A real run with one client; the line on what is disclosed in the end."""
    app, server = ClientApp(), ServerApp()
    client = verifiable(case.plan, case.own, device=device, answers=("encrypted",) if device else ("paper",))
    strategy = FAADL(
        verifier=verifier, detector=Everyone(), seed=1, min_train_nodes=1, min_available_nodes=1,
        fraction_evaluate=0.0, min_evaluate_nodes=0,
    )  # fmt: skip

    @app.train()
    def train(msg: Message, context: Context) -> Message:
        return client.train(msg, context)

    @app.query("verify")
    def verify(msg: Message, context: Context) -> Message:
        return client.verify(msg, context)

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        strategy.start(grid, ArrayRecord(case.plan.initial_arrays(1)), num_rounds=rounds)

    run_server_app(server, LocalGrid(app, 1))
    return describe(strategy.reports[-1].disclosures)


def run_spotcheck(case: Victim, folder: Path, budget: float, rounds: int) -> str:
    """Every round a challenge, while the budget covers it. Raises ValueError if it covers none."""
    with tempfile.TemporaryDirectory() as home:
        keeper: Any = Keeper(LocalAuthority(budget=budget))
        verifier = CuriousEnroller(SpotCheck(case.plan, authority=keeper, max_value=case.top), folder)
        return run(case, verifier, rounds, Device(Path(home), budget, progress=lambda done, total: None))


def run_paper(case: Victim, folder: Path) -> str:
    """One challenge is enough."""
    keeper: Any = Keeper(LocalAuthority())
    verifier = Curious(Paper(case.plan, case.shape, authority=keeper, max_value=case.top), folder)
    return run(case, verifier, 1, None)


def read_paper(case: Victim, exchange: Exchange) -> tuple[Floats, Floats]:
    """The samples without any key, guessing the last row, and with the keys."""
    fields = unpack(exchange.evidence, EVIDENCE, {"clear": np.ndarray, "encrypted": bytes, "labels": np.ndarray})
    clear = fields["clear"].astype(np.int64)
    guess = clear - clear.min(axis=1, keepdims=True)  # row i is x_i + x_n, and somewhere x_i is 0
    rest = clear.min(axis=1, keepdims=True)
    asked = unpack(exchange.challenge, REQUEST, {"group": str, "public_key": bytes, "rows": int})
    ciphertexts = ipfe.ciphertexts_from_bytes(open_group(asked["group"]), fields["encrypted"])
    last = ipfe.decrypt_rows(ciphertexts, exchange.keys, (clear.shape[1] + aont.LAMBDA) * case.top)
    exact = aont.inverse(np.concatenate([clear, last[:, None, :]], axis=1))
    return _flat(np.concatenate([guess, rest], axis=1)), _flat(exact)


def read_spotcheck(case: Victim, found: Sequence[Exchange]) -> Equations:
    """Everything that these exchanges say of the samples."""
    layer, layout = IntegerLayer.of(case.plan, case.shape), StateLayout.of(case.plan)
    if layer.spatial:
        raise ValueError("expected a dense first layer, got a convolution: it discloses the image itself")
    view, seen = Equations(SAMPLES, layer.width), set[int]()
    for exchange in found:
        challenge, answer = Challenge.from_bytes(exchange.challenge), Answer.from_bytes(exchange.evidence)
        batches = list(case.plan.batches(exchange.samples, exchange.nonce))
        opened = opened_checkpoints(challenge.steps)
        at = {i: layout.decode(raw.tobytes()) for i, raw in zip(opened, answer.checkpoints, strict=True)}
        rows, start = np.unique(np.concatenate([batches[i] for i in challenge.steps])), 0
        for step in challenge.steps:
            batch = batches[step]
            claims, start = answer.claims[start : start + len(batch)], start + len(batch)
            kernels = np.concatenate([layer.quantise(at[step].arrays[layer.weight]), challenge.vectors(layer.kernel)])
            for row, values in zip(batch.tolist(), claims, strict=True):
                view.tell(row, kernels.astype(np.float64), values.astype(np.float64))
            labels = answer.labels[np.searchsorted(rows, batch)]
            delta = _deltas(case.plan, layer, at[step], claims, labels, exchange.nonce, step)
            view.tell_step(batch.tolist(), delta, _gradient(case.plan, layer, at[step], at[step + 1]) / case.plan.scale)
        seen |= set(rows.tolist())
    functions = np.array([[float(v) for v in key.y] for e in found for key in e.keys])
    for row in seen:  # a key opens its function of every ciphertext that was ever seen
        view.tell(row, functions, functions @ case.truth[row])
    return view


def _deltas(
    plan: TrainingPlan, layer: IntegerLayer, before: Checkpoint, claims: Any, labels: Any, nonce: int, step: int
) -> Floats:
    """The loss's gradient with respect to Z1, shape (batch, units): the step once more, from Z1."""
    found: list[Any] = []
    blank = np.zeros((len(labels), *layer.sample_shape), np.uint8), labels
    plan.step(before, blank, nonce, step, claimed_layer(plan, claims[:, : layer.outputs], found))
    return np.asarray(found[0].numpy(), np.float64)


def _gradient(plan: TrainingPlan, layer: IntegerLayer, before: Checkpoint, after: Checkpoint) -> Floats:
    """Of the first layer's weight, from the checkpoints around a step, shape (units, n)."""
    w0, w1 = (c.arrays[layer.weight].astype(np.float64) for c in (before, after))
    if plan.momentum:
        m0, m1 = (c.momentum[layer.parameter].astype(np.float64) for c in (before, after))
        return np.asarray(m1 - plan.momentum * m0 - plan.weight_decay * w0)
    return np.asarray((w0 - w1) / plan.lr - plan.weight_decay * w0)


def _flat(images: Any) -> Floats:
    return np.asarray(images.reshape(len(images), -1), np.float64)


def draw(case: Victim, rows: Sequence[tuple[str, Floats]], path: Path, shown: int = 10) -> None:
    """Originals above, reconstructions below."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(0.8 * shown + 3, 0.85 * len(rows)), layout="constrained")
    for axes, (name, images) in zip(figure.subplots(len(rows), 1, squeeze=False)[:, 0], rows, strict=True):
        strip = np.clip(images[:shown], 0, case.top).reshape(shown, *case.shape[-2:])
        axes.imshow(np.hstack(list(strip)), cmap="gray", vmin=0, vmax=case.top)
        axes.set_ylabel(name, rotation=0, ha="right", va="center")
        axes.set(xticks=[], yticks=[])
    figure.savefig(path, dpi=100)


@contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    if keep is not None:
        yield keep
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def main(argv: Sequence[str] | None = None) -> int:
    """Run, reconstruct, print and draw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--dataset", choices=DATASETS, default="mnist5k")
    parser.add_argument("--keep", type=Path, help="folder of transcripts: read if there, else made")
    parser.add_argument("--picture", type=Path, default=Path("docs/curious.png"))
    options = parser.parse_args(argv)
    logging.getLogger("flwr").setLevel(logging.ERROR)
    case = Victim.of(options.dataset)
    truth, mean = case.truth, case.public.mean(0)

    def share(guess: Floats) -> str:
        return f"{recovered(truth, np.clip(guess, 0, case.top), mean):.3f}"

    with _folder(options.keep) as folder:
        runs: dict[str, Callable[[Victim, Path], object]] = {
            "paper": run_paper,
            "default": partial(run_spotcheck, budget=BUDGET, rounds=CHALLENGES),
            "spotcheck": partial(run_spotcheck, budget=1.0, rounds=CHALLENGES),
        }
        for name, start in runs.items():
            if not (folder / name).is_dir():
                try:
                    print(f"{name}: {start(case, folder / name)}")
                except ValueError as none:  # the default budget allows no check
                    print(f"{name}: {none}")
        blind, exact = read_paper(case, next(exchanges(folder / "paper")))
        found = list(exchanges(folder / "spotcheck"))[:CHALLENGES]
        allowed = list(exchanges(folder / "default"))
    print(f"\npaper: the clear rows without any key {share(blind)}, with the keys {share(exact)}\n")
    pictures = [("original", truth), ("paper, no key", blind)]
    print("| spotcheck, challenges | claims and keys | with a PCA prior | and gradients | with a PCA prior |")
    print("|---|---|---|---|---|")
    flat, pca = Prior.flat(case.public), Prior.pca(case.public)
    rows = [(f"{len(allowed)}, the default budget", allowed)] if allowed else []
    rows += [(f"{n}, nothing refused", found[:n]) for n in (1, 2, 4, 8)]
    for name, seen in rows:
        view = read_spotcheck(case, seen)
        guesses = [reconstruct(view, prior, gradients) for gradients in (False, True) for prior in (flat, pca)]
        print(f"| {name} | " + " | ".join(map(share, guesses)) + " |", flush=True)
        pictures.append((f"spotcheck, {name.replace(', ', chr(10))}", guesses[-1]))
    draw(case, pictures, options.picture)
    print(f"\noriginals and reconstructions: {options.picture}")
    return 0
