"""The curious server: a real run, everything that its server sees, and what of the clients' images follows from that.

::

    python -m apps.studies.curious_server                        # paper and spotcheck, MNIST and digits
    python -m apps.studies.curious_server --keep runs/curious    # the same, transcripts kept; found there they are read

One honest client is verified every round: by ``spotcheck`` at the default budget until that is spent, and once more
with a budget of everything, to show what the budget keeps from happening; each with either binding, which are asked the
same questions. ``paper`` and ``spotcheck`` run as they do in deployment; nothing is simulated but the network. Printed
is the share of the images' variance (about the mean of public
images, so that a prior alone recovers 0) that each attack recovers, and how many images exactly:

* linear algebra, with nothing but the mean of public images, and with their covariance ("PCA");
* the same with a prior for each label, and pixels that stay in range;
* on digits lattice reduction (``lattice.py``), which uses that claims and pixels are integers;
* a server that deviates: it packs pixels into the outputs of the first layer by the model that it sends. It asks for
  keys of its own choice, too, and is refused.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import ArrayRecord, Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from apps.lab import models
from apps.lab.datasets import Dataset, digits, mnist5k
from apps.lab.markdown import untitled
from apps.lab.running.local_grid import LocalGrid, run_server_app
from apps.studies.curious_server.algebra import Equations, Prior, constrained, reconstruct, recovered
from apps.studies.curious_server.lattice import solve
from apps.studies.curious_server.transcript import (
    Curious,
    CuriousEnroller,
    Exchange,
    Keeper,
    SameQuestions,
    exchanges,
)
from flwr_faa import FAADL, Device, TrainingPlan, verifiable
from flwr_faa.authority import BUDGET, LocalAuthority, Refused, Registration
from flwr_faa.authority.core import KeyAuthority
from flwr_faa.crypto import aont, ipfe
from flwr_faa.crypto.backends import open_group
from flwr_faa.detection import Everyone
from flwr_faa.report import describe
from flwr_faa.verification.base import Misconfigured
from flwr_faa.verification.paper import EVIDENCE, REQUEST, Paper
from flwr_faa.verification.spotcheck.answer import opened_checkpoints
from flwr_faa.verification.spotcheck.first_layer import CALM, IntegerLayer
from flwr_faa.verification.spotcheck.messages import Answer, Challenge
from flwr_faa.verification.spotcheck.recompute import claimed_layer
from flwr_faa.verification.spotcheck.state import StateLayout
from flwr_faa.verification.spotcheck.verifier import SpotCheck
from flwr_faa.verification.training import Checkpoint
from flwr_faa.verification.wire import unpack

Floats = npt.NDArray[np.float64]

DATASETS = {
    "mnist5k": (mnist5k, (1, 28, 28), 255),
    "digits": (digits, (1, 8, 8), 16),
    "digits_small_batches": (digits, (1, 8, 8), 16),
}
#: Samples of the client, and in a batch: of MNIST so many that the default budget allows a check. In small batches most
#: samples stay closed in a round; with encryption keys tell of them as soon as they are opened in another.
SIZES = {"mnist5k": (300, 300), "digits": (100, 50), "digits_small_batches": (200, 20)}
BINDINGS = ("commitments", "encryption")
#: Most values of a sample for which lattices are reduced: seconds.
SMALL = 64
#: Exact values that are more than enough for these.
ENOUGH = 40
#: Of a client that refuses nothing.
CHALLENGES = 4


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
        batch = SIZES[name][1]
        plan = TrainingPlan(partial(models.logistic, shape, classes=10), lr=0.3, batch_size=batch, scale=1 / top)
        return cls(name, load(), shape, top, plan)

    @property
    def samples(self) -> int:
        return SIZES[self.name][0]

    @property
    def own(self) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        samples, labels = self.data.train
        return samples[: self.samples], labels[: self.samples]

    @property
    def truth(self) -> Floats:
        return self.own[0].reshape(self.samples, -1).astype(np.float64)

    @property
    def public(self) -> Floats:
        others = np.concatenate([self.data.train[0][self.samples :], self.data.test[0]])
        return others.reshape(len(others), -1).astype(np.float64)

    @property
    def public_labels(self) -> npt.NDArray[np.int64]:
        return np.concatenate([self.data.train[1][self.samples :], self.data.test[1]])


def run(case: Victim, verifier: Curious, rounds: int, device: Device | None, start: Any = None) -> str:
    """Run one client for real, from this model if one is given; return the line on what is disclosed."""
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
        strategy.start(grid, ArrayRecord(start or case.plan.initial_arrays(1)), num_rounds=rounds)

    run_server_app(server, LocalGrid(app, 1))
    return describe(strategy.reports[-1].disclosures)


def run_spotcheck(
    case: Victim, folder: Path, budget: float, rounds: int, start: Any = None,
    encrypted: bool = True, asked: Sequence[Challenge] = (),
) -> str:  # fmt: skip
    """Challenge in every round, while the budget covers it; as was asked before, if that is given.

    Raises
    ------
    ValueError
        If the budget covers no challenge at all.
    """
    with tempfile.TemporaryDirectory() as home:
        keeper: Any = Keeper(LocalAuthority(budget=budget)) if encrypted else None
        verifier = SameQuestions(case.plan, authority=keeper, max_value=case.top)
        verifier.asked = asked
        try:
            verifier.check_affordable(case.samples, case.top, int(budget * case.truth.shape[1]))
        except Misconfigured as why:
            raise ValueError(str(why)) from why
        device = Device(Path(home), budget, progress=lambda done, total: None)
        return run(case, CuriousEnroller(verifier, folder), rounds, device, start)


def run_paper(case: Victim, folder: Path) -> str:
    """Challenge once, which is enough."""
    keeper: Any = Keeper(LocalAuthority())
    verifier = Curious(Paper(case.plan, case.shape, authority=keeper, max_value=case.top), folder)
    return run(case, verifier, 1, None)


def read_paper(case: Victim, exchange: Exchange) -> tuple[Floats, Floats]:
    """Read the samples without any key, guessing the last row, and then with the keys."""
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
    """Collect everything that these exchanges say of the samples."""
    layer, layout = IntegerLayer.of(case.plan, case.shape), StateLayout.of(case.plan)
    if layer.spatial:
        raise ValueError("expected a dense first layer, got a convolution: it discloses the image itself")
    view, seen = Equations(case.samples, layer.width), set[int]()
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
                view.integers.setdefault(row, []).append((kernels, values))
            labels = answer.labels[np.searchsorted(rows, batch)]
            delta = _deltas(case.plan, layer, at[step], claims, labels, exchange.nonce, step)
            view.tell_step(batch.tolist(), delta, _gradient(case.plan, layer, at[step], at[step + 1]) / case.plan.scale)
        seen |= set(rows.tolist())
    if keys := [key for exchange in found for key in exchange.keys]:
        functions = np.array([[float(v) for v in key.y] for key in keys])
        for row in seen:  # a key opens its function of every ciphertext that was ever seen
            view.tell(row, functions, functions @ case.truth[row])
    return view


def _deltas(
    plan: TrainingPlan, layer: IntegerLayer, before: Checkpoint, claims: Any, labels: Any, nonce: int, step: int
) -> Floats:
    """Return the gradient of the loss in Z1, shape (batch, units), by doing the step again from Z1."""
    found: list[Any] = []
    blank = np.zeros((len(labels), *layer.sample_shape), np.uint8), labels
    plan.step(before, blank, nonce, step, claimed_layer(plan, claims[:, : layer.outputs], found))
    return np.asarray(found[0].numpy(), np.float64)


def _gradient(plan: TrainingPlan, layer: IntegerLayer, before: Checkpoint, after: Checkpoint) -> Floats:
    """Return the gradient of the first layer's weight, shape (units, n), from the checkpoints around a step."""
    w0, w1 = (c.arrays[layer.weight].astype(np.float64) for c in (before, after))
    if plan.momentum:
        m0, m1 = (c.momentum[layer.parameter].astype(np.float64) for c in (before, after))
        return np.asarray(m1 - plan.momentum * m0 - plan.weight_decay * w0)
    return np.asarray((w0 - w1) / plan.lr - plan.weight_decay * w0)


def packed(case: Victim) -> list[npt.NDArray[Any]]:
    """Return a model whose first layer packs several pixels into each output, as many as a device
    answers for. First come the pixels that vary most.
    """
    arrays, base = case.plan.initial_arrays(1), case.top + 1
    for unit, places in enumerate(_packed_places(case)):
        arrays[0][unit] = 0
        for digit, place in enumerate(places):
            arrays[0][unit, place] = base**digit / 2**case.plan.bits
    return arrays


def _packed_places(case: Victim) -> list[list[int]]:
    base, room = case.top + 1, CALM << case.plan.bits  # beyond that this server's own verifier does not ask
    deep = max(k for k in range(1, 64) if sum(base**i for i in range(k)) <= room)
    units = len(case.plan.initial_arrays(1)[0])
    first = np.argsort(-case.public.var(0))[: deep * units].tolist()
    return [first[unit * deep : (unit + 1) * deep] for unit in range(units)]


def unpack_pixels(case: Victim, exchange: Exchange, view: Equations) -> int:
    """Tell the pixels that the first step's outputs are; how many of each sample that is."""
    answer, challenge = Answer.from_bytes(exchange.evidence), Challenge.from_bytes(exchange.challenge)
    if challenge.steps[0] != 0:
        raise ValueError(f"expected the first step to be opened, as it always is, got {challenge.steps}")
    batch = next(iter(case.plan.batches(exchange.samples, exchange.nonce))).tolist()
    places, eye, base = _packed_places(case), np.eye(view.n), case.top + 1
    for row, values in zip(batch, answer.claims, strict=False):
        for value, found in zip(values.tolist(), places, strict=False):
            view.tell(row, eye[found], np.array([value // base**i % base for i in range(len(found))], float))
    return sum(map(len, places))


def refused_keys(case: Victim) -> str:
    """Return what the authority says to a server that asks for keys to read four pixels at a time."""
    authority = KeyAuthority(LocalAuthority().store)
    width = case.truth.shape[1]
    public = authority.public_key(1, width).to_bytes()
    registration = Registration(bytes(32), case.samples, width, case.top, b"")
    authority.register(1, registration.signed(Ed25519PrivateKey.generate(), 1, public))
    y = [(case.top + 1) ** i if i < 4 else 0 for i in range(width)]
    try:
        authority.functional_keys(1, [y])
    except Refused as why:
        return f"refused: {why}"
    raise RuntimeError("expected the authority to refuse keys of the server's choice, got one")


def lattice(case: Victim, view: Equations, prior: Prior, near: Floats) -> Floats:
    """Return samples by lattice reduction, one for all that have the same functions; others as they were."""
    guess, groups = near.copy(), dict[bytes, list[int]]()
    for row, found in view.integers.items():
        functions = np.vstack([kernels for kernels, _ in found])[:ENOUGH]
        groups.setdefault(functions.tobytes(), []).append(row)
    for raw, rows in groups.items():
        functions = np.frombuffer(raw, np.int64).reshape(-1, view.n)
        values = np.array([np.concatenate([v for _, v in view.integers[row]])[:ENOUGH] for row in rows])
        guess[rows] = np.clip(solve(functions, values, near[rows], prior.inverse), 0, case.top)
    return guess


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
    """Run, reconstruct, print and draw; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--dataset", choices=DATASETS, action="append", help="these alone")
    parser.add_argument("--keep", type=Path, help="folder of transcripts: read if there, else made")
    parser.add_argument("--picture", type=Path, default=Path("docs/explanation/curious.png"))
    options = parser.parse_args(argv)
    logging.getLogger("flwr").setLevel(logging.ERROR)
    for name in options.dataset or DATASETS:
        with _folder(options.keep) as folder:
            study(Victim.of(name), folder / name, options.picture if name == "mnist5k" else None)
    return 0


def study(case: Victim, folder: Path, picture: Path | None) -> None:
    """Study one data set: run, reconstruct what is seen with either binding, print and draw."""
    print(f"\n{case.name}: {case.samples} images of pixels from 0 to {case.top}, batches of {case.plan.batch_size}")
    record(case, folder)
    truth, mean = case.truth, case.public.mean(0)
    blind, exact = read_paper(case, next(exchanges(folder / "paper")))

    def share(guess: Floats) -> str:
        clipped = np.clip(guess, 0, case.top)
        whole = int((np.rint(clipped) == truth).all(1).sum())
        return f"{recovered(truth, clipped, mean):.3f}" + (f" ({whole} exact)" if whole else "")

    print(f"paper: the clear rows without any key {share(blind)}, with the keys {share(exact)}")
    print(f"keys for pixels packed into one value: {refused_keys(case)}")
    flat, pca = Prior.flat(case.public), Prior.pca(case.public)
    priors = Prior.by_label(case.public, case.public_labels)
    each = [priors[int(label)] for label in case.own[1]]
    head = ["challenges", "bound by", "linear algebra", "a PCA prior", "one for each label, in range", "lattice"]
    print(f"\n{untitled(head, [])}")
    pictures = [("original", truth), ("paper, no key", blind)]

    def tell(*cells: str) -> None:
        print(f"| {' | '.join(cells)} |", flush=True)

    # What is seen, row by row; every row by both bindings.
    seen = {binding: list(exchanges(folder / binding / "spotcheck")) for binding in BINDINGS}
    allowed = {binding: list(exchanges(folder / binding / "default")) for binding in BINDINGS}
    rows = [(f"{len(allowed[BINDINGS[0]])}, the default budget", allowed)] if allowed[BINDINGS[0]] else []
    rows += [(f"{n}, nothing refused", {b: found[:n] for b, found in seen.items()}) for n in (1, 2, 4)]
    for name, found in rows:
        for binding in BINDINGS:
            view = read_spotcheck(case, found[binding])
            guesses = [reconstruct(view, prior, True) for prior in (flat, pca)]
            guesses.append(constrained(view, each, case.top))
            last = share(lattice(case, view, pca, guesses[-1])) if view.n <= SMALL else "-"
            tell(name, binding, *map(share, guesses), last)
            if binding == BINDINGS[0]:
                pictures.append((f"spotcheck, {name.replace(', ', chr(10))}", guesses[-1]))
    for binding in BINDINGS:
        (exchange,) = exchanges(folder / binding / "packed")
        view = read_spotcheck(case, [exchange])
        read = unpack_pixels(case, exchange, view)
        told = share(constrained(view, each, case.top))
        tell(f"1, a model that packs pixels: {read} of {view.n} read exactly", binding, "", "", told, "-")
    if picture is not None:
        draw(case, pictures, picture)
        print(f"\noriginals and reconstructions: {picture}")


def record(case: Victim, folder: Path) -> None:
    """Run what is not in the folder yet; both bindings are asked the same."""
    runs: dict[str, Callable[[Path], object]] = {"paper": partial(run_paper, case)}
    kinds: dict[str, dict[str, Any]] = {
        "default": {"budget": BUDGET, "rounds": CHALLENGES},
        "spotcheck": {"budget": 1.0, "rounds": CHALLENGES},
        "packed": {"budget": least_budget(case), "rounds": 1, "start": packed(case)},
    }

    def run_both(kind: str, binding: str, path: Path) -> str:
        first = exchanges(folder / BINDINGS[0] / kind)
        asked = [Challenge.from_bytes(exchange.challenge) for exchange in first]
        return run_spotcheck(case, path, **kinds[kind], encrypted=binding == "encryption", asked=asked)

    for binding, kind in product(BINDINGS, kinds):
        runs[f"{binding}/{kind}"] = partial(run_both, kind, binding)
    for name, start in runs.items():
        path = folder / name
        if not path.is_dir():
            try:
                print(f"{name}: {start(path)}", flush=True)
            except ValueError as none:  # the default budget allows no check
                print(f"{name}: {none}")
                path.mkdir(parents=True, exist_ok=True)


def least_budget(case: Victim) -> float:
    """Return the default budget where that allows a check, else 1."""
    try:
        SpotCheck(case.plan, authority=LocalAuthority(budget=BUDGET), max_value=case.top)
    except ValueError:
        return 1.0
    return BUDGET
