"""Local training that another machine can repeat: step by step, on one thread, in a given batch order.

Client and server run :meth:`Training.train`, the same function. The batch order comes from a nonce that the server
gives. That is what makes a replay meaningful: an honest client in another batch order is .19 to .72 away from the
replay, the same order on the same machine 0 (``docs/explanation/faa.md``).
"""

from __future__ import annotations

import copy
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from flwr_faa.errors import ArgumentValueError
from flwr_faa.replies.updates import Arrays
from flwr_faa.verification.base import T, outcome, worst

if TYPE_CHECKING:
    import torch
    from torch import nn

#: Client data: samples (integers, e.g. pixels 0 to 255), shape (m, ...), and their labels, shape (m,).
Data = tuple[npt.NDArray[Any], npt.NDArray[Any]]
#: Computes what the model's first layer would, from something else than plain samples (see ``integer_layer.py``).
FirstLayer = Callable[["nn.Module", npt.NDArray[np.intp]], "torch.Tensor"]

#: torch's thread count and generator belong to the process, so one plan trains at a time.
_GLOBALS = threading.RLock()


class _Shared(threading.local):
    """Whether this thread works under the contract of another, which waits for it."""

    contract = False


_SHARED = _Shared()


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Everything that the next step of a local run depends on.

    Attributes
    ----------
    arrays : tuple of ndarray
        The model's, in the order of ``state_dict()`` (batch norm's buffers included).
    momentum : tuple of ndarray
        SGD's buffers, in the order of ``parameters()``; empty where the plan has no momentum.
    """

    arrays: tuple[npt.NDArray[Any], ...]
    momentum: tuple[npt.NDArray[Any], ...] = ()


@dataclass(frozen=True)
class Training:
    """How a client trains one round, and how anybody repeats it: what :class:`~flwr_faa.TrainingPlan` is built on.

    The parameters are those of :class:`~flwr_faa.TrainingPlan`, which also checks them.
    """

    model: Callable[[], nn.Module]
    lr: float
    batch_size: int = 50
    epochs: int = 1
    momentum: float = 0.0
    weight_decay: float = 0.0
    scale: float = 1 / 255
    bits: int = 8
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None

    def initial_arrays(self, seed: int) -> list[npt.NDArray[Any]]:
        """Return the arrays of a freshly initialised model."""
        with contract(seed):
            return to_arrays(self._new())

    @cached_property
    def template(self) -> nn.Module:
        """A model of which only the structure matters, made once: to be read, not to be changed."""
        return self.blank()

    def build(self, arrays: Arrays) -> nn.Module:
        """Return a model with these arrays."""
        import torch

        try:
            model = copy.deepcopy(self.template)  # initial numbers would be drawn for nothing: 4 ms of 400,000
        except (RuntimeError, TypeError):  # as torch and Python refuse to copy what some module holds
            model = self.blank()
        names = model.state_dict().keys()
        model.load_state_dict({k: torch.from_numpy(np.array(a)) for k, a in zip(names, arrays, strict=True)})
        return model

    def blank(self) -> nn.Module:
        """Return a model of which only the structure matters, and leave torch's generator alone."""
        with contract(0):
            return self._new()

    def _new(self) -> nn.Module:
        """Return a new model. Raises ValueError if the plan's callable does not return one."""
        from torch import nn

        try:
            model = self.model()
        except TypeError as why:  # most often it wants arguments
            raise ArgumentValueError(f"expected model() to return a new torch module, got TypeError: {why}") from why
        if not isinstance(model, nn.Module):
            raise ArgumentValueError(f"expected model() to return a new torch module, got {type(model).__name__}")
        return model

    def batches(self, count: int, nonce: int) -> Iterator[npt.NDArray[np.intp]]:
        """Row indices of each step, in order: a new permutation an epoch, the last batch of an epoch may be short."""
        order = np.random.Generator(np.random.PCG64(nonce))
        for _ in range(self.epochs):
            permutation = order.permutation(count)
            for start in range(0, count, self.batch_size):
                yield permutation[start : start + self.batch_size]

    def steps(self, count: int) -> int:
        """Return how many steps a run on so many samples has."""
        return self.epochs * -(-count // self.batch_size)

    def smallest_batch(self, count: int) -> int:
        """Return the size of the smallest batch of a run on so many samples, the last batch of each epoch."""
        return count % self.batch_size or self.batch_size

    def start(self, arrays: Arrays) -> Checkpoint:
        """Return the checkpoint before the first step: these arrays in the model's dtypes, and momentum at rest."""
        model = self.template
        states = [t.detach().numpy() for t in model.state_dict().values()]
        shapes = [a.shape for a in arrays], [a.shape for a in states]
        if shapes[0] != shapes[1]:
            raise ArgumentValueError(f"expected the model's arrays, of shapes {shapes[1]}, got {shapes[0]}")
        rest = tuple(np.zeros_like(p.detach().numpy()) for p in model.parameters()) if self.momentum else ()
        return Checkpoint(tuple(np.array(a, s.dtype) for a, s in zip(arrays, states, strict=True)), rest)

    def train(
        self,
        arrays: Arrays,
        data: Data,
        nonce: int,
        first_layer: FirstLayer | None = None,
        on_step: Callable[[Checkpoint], None] | None = None,
    ) -> list[npt.NDArray[Any]]:
        """Train from ``arrays`` on ``data`` and return the new arrays.

        Parameters
        ----------
        arrays : sequence of ndarray
            The global model.
        data : tuple of ndarray
            Integer samples and labels. With ``first_layer`` only the shape of the samples is used.
        nonce : int
            Non-negative; gives the batch order and, in models with dropout, the masks of every step.
        first_layer : callable, optional
            Replaces the output of the model's first layer (a replay from encrypted samples).
        on_step : callable, optional
            Called with the checkpoint after every step.
        """
        batches = enumerate(self.batches(len(data[1]), nonce))
        return list(self._run(self.start(arrays), data, nonce, batches, first_layer, on_step).arrays)

    def step(
        self, checkpoint: Checkpoint, batch: Data, nonce: int, index: int, first_layer: FirstLayer | None = None
    ) -> Checkpoint:
        """Step ``index`` (from 0) of a run alone: from its checkpoint and its batch to the next checkpoint."""
        whole = [(index, np.arange(len(batch[1]), dtype=np.intp))]
        return self._run(checkpoint, batch, nonce, whole, first_layer, None)

    def _run(
        self,
        start: Checkpoint,
        data: Data,
        nonce: int,
        batches: Iterable[tuple[int, npt.NDArray[np.intp]]],
        first_layer: FirstLayer | None,
        on_step: Callable[[Checkpoint], None] | None,
    ) -> Checkpoint:
        import torch
        from torch.nn.functional import cross_entropy
        from torch.optim.sgd import sgd

        samples, labels = data
        loss_of = self.loss or cross_entropy
        with contract(nonce):
            model = self.build(start.arrays).train()
            rows = np.empty(0, np.intp)  # of the batch that is trained on, for the first layer too
            if first_layer is not None:
                layer = find_first_layer(model)
                # An instance attribute shadows the method; state_dict() and its names stay as they are.
                layer.forward = lambda _: first_layer(layer, rows)
            buffers = [torch.from_numpy(np.array(b)) for b in start.momentum]
            momenta: list[torch.Tensor | None] = [*buffers] if self.momentum else [None for _ in model.parameters()]
            trained = [pair for pair in zip(model.parameters(), momenta, strict=True) if pair[0].requires_grad]

            def checkpoint() -> Checkpoint:
                return Checkpoint(tuple(to_arrays(model)), tuple(np.array(b.numpy()) for b in buffers))

            for index, rows in batches:
                if not _SHARED.contract:
                    torch.default_generator.manual_seed(step_seed(nonce, index))  # a step's masks need no other step
                inputs = torch.from_numpy(samples[rows].astype(np.float32)) * self.scale
                output = model(inputs)
                check_labels(labels[rows], tuple(output.shape))
                loss = loss_of(output, torch.from_numpy(labels[rows]))
                gradients = torch.autograd.grad(loss, [p for p, _ in trained], allow_unused=True)
                # What torch.optim.SGD calls; the class would import torch's compiler first: 1.5 s a process.
                with torch.no_grad():
                    for (p, buffer), gradient in zip(trained, gradients, strict=True):
                        if gradient is not None:
                            sgd(
                                [p], [gradient], [buffer], foreach=False, fused=False, lr=self.lr, dampening=0.0,
                                momentum=self.momentum, weight_decay=self.weight_decay, nesterov=False, maximize=False,
                            )  # fmt: skip
                if on_step is not None:
                    on_step(checkpoint())
            return checkpoint()

    def predict(self, arrays: Arrays, samples: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Return the model's outputs in evaluation mode, shape (m, classes)."""
        import torch

        with contract(0), torch.inference_mode():
            model = self.build(arrays).eval()
            chunks = np.array_split(samples, max(1, len(samples) // 100))
            outputs = [model(torch.from_numpy(c.astype(np.float32)) * self.scale) for c in chunks]
            return np.asarray(torch.cat(outputs).numpy())

    def error(self, arrays: Arrays, claimed: Arrays, replayed: Arrays) -> float:
        """Return how far a claimed result is from its replay: the relative L2 error of the update.

        Parameters and floating buffers (batch norm's running statistics) are compared as two wholes and the larger
        error counts, so that large buffers hide nothing; integers (``num_batches_tracked``) must be equal, or the
        error is infinite. Two updates of exactly zero have error 0.
        """
        trained = {name for name, _ in self.model().named_parameters()}
        groups: dict[bool, list[tuple[Any, Any]]] = {True: [], False: []}
        for name, w, c, r in zip(self.model().state_dict(), arrays, claimed, replayed, strict=True):
            if w.dtype.kind != "f":
                if not np.array_equal(c, r):
                    return float("inf")
            else:
                start = w.astype(np.float64).ravel()
                groups[name in trained].append((c.ravel() - start, r.ravel() - start))
        return worst(_relative(pairs) for pairs in groups.values())


def find_first_layer(model: nn.Module) -> nn.Module:
    """Return the first ``Linear`` or ``Conv2d``, in the order of registration.

    Raises
    ------
    ValueError
        If there is none, or some other layer with parameters stands before it.
    """
    from torch import nn

    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            return module
        if any(True for _ in module.parameters(recurse=False)):
            raise ArgumentValueError(f"expected a Linear or Conv2d as the first layer, got {type(module).__name__}")
    raise ArgumentValueError("expected a model with a Linear or Conv2d layer, got none")


def to_arrays(model: nn.Module) -> list[npt.NDArray[Any]]:
    """``state_dict()`` as NumPy arrays, copied; row by row, however the model lies in memory."""
    return [np.array(t.detach().cpu().numpy(), order="C") for t in model.state_dict().values()]


def step_seed(nonce: int, index: int) -> int:
    """Return the torch seed for one step."""
    return int(np.random.SeedSequence([nonce, index]).generate_state(1, np.uint64)[0] >> 1)


@contextmanager
def contract(seed: int) -> Iterator[None]:
    """Use one thread, deterministic kernels and a seeded generator of torch; restore everything afterwards."""
    import torch

    if _SHARED.contract:
        yield
        return
    _GLOBALS.acquire()
    threads, strict = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    torch.set_num_threads(1)
    # The same switch as use_deterministic_algorithms, which imports torch's compiler first: 1.5 s a process.
    torch.set_deterministic_debug_mode("error")
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # torch.manual_seed also walks the stack, for GPUs' sake: .4 ms
            yield
    finally:
        torch.set_deterministic_debug_mode(strict)
        torch.set_num_threads(threads)
        _GLOBALS.release()


def side_by_side(calls: Sequence[Callable[[], T]]) -> list[T | Exception]:
    """Return what calls that train single steps return or raise, bit for bit as one after the other.

    They run one a core, on one thread each: torch lets go of Python's lock. Its generator belongs to the process, so a
    model that draws (dropout) cannot share it. That is seen by the generator's state afterwards: then nothing of it
    counts, and the calls are made one after the other.
    """
    import torch

    if min(_cores(), len(calls)) > 1:
        with contract(0):
            before = torch.default_generator.get_state()
            done = list(_threads().map(outcome, calls))
            if torch.equal(before, torch.default_generator.get_state()):
                return done
    return [outcome(call) for call in calls]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def _threads() -> ThreadPoolExecutor:
    """Threads for :func:`side_by_side`, kept: torch prepares its kernels anew in every new thread."""
    import torch

    def share() -> None:
        _SHARED.contract = True
        torch.set_num_threads(1)

    return ThreadPoolExecutor(_cores(), "faa-steps", share)


def check_labels(labels: npt.NDArray[Any], output: tuple[int, ...]) -> None:
    """Raise ValueError for labels that are no columns of the output: torch passes over some, -100 for one."""
    classes = output[1] if len(output) > 1 else 1
    if classes > 1 and (labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= classes):
        got = f"{labels.min()} to {labels.max()}, {labels.dtype}"
        raise ArgumentValueError(f"expected integer labels from 0 to {classes - 1}, got {got}")


def _relative(pairs: Sequence[tuple[npt.NDArray[Any], npt.NDArray[Any]]]) -> float:
    off = sum(float(np.sum(np.square(a - b, dtype=np.float64))) for a, b in pairs)
    size = sum(float(np.sum(np.square(b, dtype=np.float64))) for _, b in pairs)
    if off == 0.0:
        return 0.0
    return float(np.sqrt(off / size)) if size else float("inf")
