"""Steps repeated over the cores: the same bits as one after the other, whatever the model."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from flwr_faa.verification import training
from flwr_faa.verification.integer_layer import exact, integer_first_layer, real
from flwr_faa.verification.plan import TrainingPlan
from flwr_faa.verification.training import (
    Checkpoint,
    Training,
    check_labels,
    contract,
    find_first_layer,
    side_by_side,
    step_seed,
    to_arrays,
)
from tests.helpers.toy import PLANS, slice_of


def with_dropout() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Dropout(0.5), nn.ReLU(), nn.Linear(32, 10))


class Uncopied(nn.Linear):
    """A module that refuses to be copied, as some that hold handles do."""

    why: Exception = TypeError("cannot copy")

    def __deepcopy__(self, memo: object) -> Uncopied:
        raise self.why


MODELS = {**PLANS, "dropout": TrainingPlan(model=with_dropout, lr=0.1, batch_size=10, scale=1 / 16)}


@pytest.mark.parametrize("name", MODELS)
def test_steps_over_the_cores_are_bit_for_bit_those_one_by_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2}, raising=False)
    plan, (samples, labels) = MODELS[name], slice_of(0)
    start = plan.start(plan.initial_arrays(0))
    batches = list(plan.batches(len(labels), 3))[:6]
    calls = [partial(plan.step, start, (samples[b], labels[b]), 3, i) for i, b in enumerate(batches)]
    before = torch.default_generator.get_state()
    serial, both = [call() for call in calls], side_by_side(calls)
    assert torch.equal(before, torch.default_generator.get_state())
    for one, other in zip(serial, both, strict=True):
        assert isinstance(other, Checkpoint)
        for a, b in zip((*one.arrays, *one.momentum), (*other.arrays, *other.momentum), strict=True):
            assert a.tobytes() == b.tobytes()


def test_what_one_call_raises_is_its_own() -> None:
    def bad() -> int:
        raise IndexError("mine")

    first, second = side_by_side([lambda: 1, bad])
    assert first == 1 and isinstance(second, IndexError)
    assert side_by_side([]) == []


@pytest.mark.parametrize("why", [TypeError("cannot copy"), RuntimeError("a graph is attached")])
def test_a_model_that_cannot_be_copied_is_made_again(why: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Uncopied, "why", why)
    plan = TrainingPlan(model=lambda: Uncopied(64, 10), lr=0.1, batch_size=10)
    arrays = plan.initial_arrays(0)
    before = torch.get_rng_state()
    assert all((a == b).all() for a, b in zip(to_arrays(plan.build(arrays)), arrays, strict=True))
    assert torch.equal(before, torch.get_rng_state())


def test_models_of_one_plan_share_nothing() -> None:
    plan = replace(PLANS["mlp"])
    one, other = plan.build(plan.initial_arrays(0)), plan.build(plan.initial_arrays(1))
    shared = {id(p) for p in one.parameters()} & {id(p) for p in (*other.parameters(), *plan.template.parameters())}
    assert not shared


def test_integers_in_float32_are_those_in_float64() -> None:
    """As large as they may be; and one machine that multiplies float32 by halves is found out."""
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.integers(0, 256, (5, 40)).astype(np.float64))
    kernels = torch.from_numpy(rng.integers(-1600, 1600, (7, 40)).astype(np.float64))
    right = x @ kernels.T
    used = []

    def product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        used.append(a.dtype)
        return a @ b.T

    assert torch.equal(exact(product, x, kernels).double(), right) and used[0] == torch.float32
    used.clear()
    assert torch.equal(exact(product, 1000 * x, kernels), 1000 * right) and torch.float32 not in used

    def halved(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        if a.dtype == torch.float32:
            return (a.bfloat16() @ b.bfloat16().T).float()
        return a @ b.T

    assert torch.equal(exact(halved, x, kernels).double(), right)
    z = torch.arange(-(2**24), 2**24, 997, dtype=torch.float64)
    assert torch.equal(real(z, 1 / 255, 8, torch.float32), real(z.float(), 1 / 255, 8, torch.float32))


def test_the_integer_layer_takes_the_same_step_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    plan, (samples, labels) = PLANS["cnn"], slice_of(0)
    arrays = plan.initial_arrays(0)

    def run() -> list[np.ndarray]:
        return plan.train(arrays, (samples, labels), 1, integer_first_layer(samples, plan.scale, plan.bits))

    quick = run()
    monkeypatch.setattr("flwr_faa.verification.integer_layer.exact", lambda product, x, kernels: product(x, kernels))
    assert all(a.tobytes() == b.tobytes() for a, b in zip(quick, run(), strict=True))


# One run, by hand


class Odd(nn.Module):
    """A frozen layer, a parameter that nothing uses, dropout, and batch norm with its buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.frozen = nn.Linear(64, 8), nn.Linear(8, 8)
        self.unused = nn.Parameter(torch.ones(3))
        self.norm, self.drop, self.last = nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 10)
        for p in self.frozen.parameters():
            p.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.drop(self.norm(torch.relu(self.frozen(self.first(x.flatten(1)))))))


def by_torch(plan: Training, arrays: Any, data: Any, nonce: int) -> list[np.ndarray]:
    """The same run by ``backward``, and SGD as its formulas are: v = m v + (g + decay w), w = w - lr v."""
    model = plan.model()
    model.load_state_dict({k: torch.tensor(a) for k, a in zip(model.state_dict(), arrays, strict=True)})
    speeds: dict[str, torch.Tensor] = {}
    order = np.random.Generator(np.random.PCG64(nonce))
    batches = [
        b for _ in range(plan.epochs)
        for b in np.split(order.permutation(len(data[1])), range(plan.batch_size, len(data[1]), plan.batch_size))
    ]  # fmt: skip
    for index, rows in enumerate(batches):
        torch.manual_seed(step_seed(nonce, index))
        model.zero_grad()
        output = model(torch.from_numpy(data[0][rows].astype(np.float32)) * plan.scale)
        (plan.loss or nn.functional.cross_entropy)(output, torch.from_numpy(data[1][rows])).backward()
        with torch.no_grad():
            for name, w in model.named_parameters():
                if w.grad is not None:
                    gradient = w.grad.add(w, alpha=plan.weight_decay)
                    speeds[name] = speeds[name] * plan.momentum + gradient if name in speeds else gradient
                    w -= plan.lr * speeds[name]
    return [t.detach().numpy() for t in model.state_dict().values()]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"momentum": 0.9},
        {"weight_decay": 0.1},
        {"momentum": 0.5, "weight_decay": 0.01, "epochs": 3},
        {"loss": lambda output, labels: (output.sum(dim=1) - labels).square().mean() / 1000},
    ],
)
def test_a_run_is_sgd_as_its_formulas_are(settings: dict[str, Any]) -> None:
    plan = Training(model=Odd, lr=0.05, batch_size=7, scale=1 / 16, **settings)
    start, data = plan.initial_arrays(1), slice_of(0, 24)
    with contract(0):
        theirs = by_torch(plan, start, data, 5)
    seen: list[Checkpoint] = []
    ours = plan.train(start, data, 5, on_step=seen.append)
    assert len(seen) == plan.steps(24) == 4 * plan.epochs
    for a, b, initial in zip(ours, theirs, start, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=3e-6)
        assert a.dtype == initial.dtype
    names = list(Odd().state_dict())
    for name in ("frozen.weight", "unused"):
        assert (ours[names.index(name)] == start[names.index(name)]).all()
    momenta = len(list(Odd().parameters())) if plan.momentum else 0
    assert len(plan.start(start).momentum) == momenta and not any(b.any() for b in plan.start(start).momentum)
    assert all(len(c.momentum) == momenta for c in seen)
    assert len({id(a) for c in seen for a in c.arrays}) == len(seen) * len(start)  # each step's own


def test_unless_told_otherwise_pixels_are_trained_on_once_in_fifties_by_plain_sgd() -> None:
    short = Training(model=PLANS["logistic"].model, lr=0.1)
    said = replace(short, batch_size=50, epochs=1, momentum=0.0, weight_decay=0.0, scale=1 / 255, bits=8)
    assert short == said


def test_a_layer_in_the_place_of_the_first_is_asked_for_each_batch() -> None:
    plan, (samples, labels) = PLANS["mlp"], slice_of(0, 30)
    asked = []

    def own(layer: nn.Module, rows: np.ndarray) -> torch.Tensor:
        asked.append(rows.tolist())
        inputs = torch.from_numpy(samples[rows].astype(np.float32)) * plan.scale
        return nn.functional.linear(inputs.flatten(1), layer.weight, layer.bias)

    start = plan.initial_arrays(0)
    plain, replayed = (plan.train(start, (samples, labels), 9, layer) for layer in (None, own))
    assert asked == [b.tolist() for b in plan.batches(30, 9)]
    for a, b in zip(plain, replayed, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


# What client and server have to agree on, whatever their releases


def test_a_nonce_gives_the_same_batches_everywhere() -> None:
    plan = Training(model=nn.Identity, lr=1.0, batch_size=2, epochs=2)
    assert [b.tolist() for b in plan.batches(5, 7)] == [[2, 0], [4, 1], [3], [0, 1], [4, 3], [2]]


@pytest.mark.parametrize(
    ("nonce", "index", "seed"),
    [
        (0, 0, 7896617691693857887),
        (0, 1, 2918264622725855778),
        (1, 0, 3717377837946358015),
        (2**64, 3, 7899959602297374944),
    ],
)
def test_a_nonce_and_a_step_give_the_same_masks_everywhere(nonce: int, index: int, seed: int) -> None:
    assert step_seed(nonce, index) == seed


@pytest.mark.parametrize(
    ("count", "size", "epochs", "steps", "smallest"),
    [(5, 2, 1, 3, 1), (6, 2, 1, 3, 2), (7, 7, 2, 2, 7), (3, 50, 1, 1, 3), (8, 7, 3, 6, 1), (1, 1, 1, 1, 1)],
)
def test_steps_and_the_smallest_of_them(count: int, size: int, epochs: int, steps: int, smallest: int) -> None:
    plan = Training(model=nn.Identity, lr=1.0, batch_size=size, epochs=epochs)
    sizes = [len(b) for b in plan.batches(count, 0)]
    assert (plan.steps(count), plan.smallest_batch(count)) == (len(sizes), min(sizes)) == (steps, smallest)


# Models


class Shaped(nn.Module):
    """An array, a half-precision one and a counter."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(2, 3))
        self.register_buffer("low", torch.zeros(2, dtype=torch.float16))
        self.register_buffer("count", torch.tensor(0))


def test_a_run_starts_from_arrays_of_the_models_shapes_in_its_dtypes() -> None:
    plan = Training(model=Shaped, lr=1.0, momentum=0.9)
    given = [np.arange(6.0).reshape(2, 3), np.ones(2), np.array(3.0)]
    begun = plan.start(given)
    assert [a.dtype.name for a in begun.arrays] == ["float32", "float16", "int64"]
    assert all((a == b).all() for a, b in zip(begun.arrays, given, strict=True))
    assert [b.tolist() for b in begun.momentum] == [[[0.0] * 3] * 2] and begun.momentum[0].dtype == np.float32
    shapes = re.escape("[(2, 3), (2,), ()], got [(2, 3), (3,), ()]")
    with pytest.raises(ValueError, match=f"^expected the model's arrays, of shapes {shapes}$"):
        plan.start([given[0], np.ones(3), given[2]])
    with pytest.raises(ValueError, match="expected the model's arrays"):
        plan.start(given[:2])
    built = plan.build(begun.arrays)
    assert built.w.tolist() == given[0].tolist() and built.count == 3 and not plan.template.w.any()
    begun.arrays[0][:] = 9
    assert built.w.tolist() == given[0].tolist() and given[0][0, 0] == 0  # nothing is shared


def test_what_is_not_all_there_is_refused() -> None:
    plan = replace(PLANS["mlp"])
    arrays, (samples, labels) = plan.initial_arrays(0), slice_of(0, 4)
    begun = plan.start(arrays)
    for act in (
        lambda: plan.build(arrays[:-1]),
        lambda: plan.step(replace(begun, momentum=begun.momentum[:-1]), (samples, labels), 1, 0),
        lambda: plan.error(arrays, arrays[:-1], arrays),
        lambda: plan.error(arrays, arrays, arrays[:-1]),
    ):
        with pytest.raises(ValueError, match="zip"):
            act()


def test_models_are_made_by_their_seed_and_leave_torchs_generator_alone() -> None:
    plan = PLANS["mlp"]
    before = torch.get_rng_state()
    one, same, other = (plan.initial_arrays(seed) for seed in (1, 1, 2))
    assert (one[0] == same[0]).all() and not (one[0] == other[0]).any()
    assert (to_arrays(plan.blank())[0] == plan.initial_arrays(0)[0]).all()
    assert torch.equal(before, torch.get_rng_state())
    fresh = replace(plan)
    assert fresh.template is fresh.template is not fresh.blank()


@pytest.mark.parametrize(
    ("make", "got"), [(lambda: 3, "int"), (lambda width: width, "TypeError: .*'width'"), (lambda: nn.Linear, "type")]
)
def test_what_makes_no_model_is_refused(make: Callable[..., Any], got: str) -> None:
    plan = Training(model=make, lr=0.1)
    for act in (plan.blank, lambda: plan.initial_arrays(0)):
        with pytest.raises(ValueError, match=rf"^expected model\(\) to return a new torch module, got {got}"):
            act()


def test_arrays_are_copies_row_by_row() -> None:
    layer = nn.Linear(3, 2)
    layer.weight.data = torch.arange(6.0).reshape(3, 2).T
    weight, _ = to_arrays(layer)
    assert weight.flags.c_contiguous and weight.tolist() == [[0, 2, 4], [1, 3, 5]]
    weight[:] = 7
    assert layer.weight[0, 0] == 0


def test_the_first_layer_is_the_first_that_was_registered() -> None:
    inner = nn.Conv2d(1, 1, 1)
    assert find_first_layer(nn.Sequential(nn.ReLU(), nn.Sequential(inner), nn.Linear(2, 2))) is inner
    assert isinstance(find_first_layer(nn.Linear(2, 2)), nn.Linear)
    with pytest.raises(ValueError, match="expected a Linear or Conv2d as the first layer, got Conv1d"):
        find_first_layer(nn.Sequential(nn.Conv1d(1, 1, 1), nn.Linear(2, 2)))


@pytest.mark.parametrize("count", [0, 1, 99, 100, 101, 250, 1000])
def test_predictions_come_in_the_order_of_the_samples(count: int) -> None:
    """In pieces, in evaluation mode, and without a trace in torch's generator."""
    plan = Training(model=Odd, lr=0.1, scale=1 / 16)
    arrays, samples = plan.initial_arrays(0), np.resize(slice_of(0)[0], (count, 1, 8, 8))
    model = plan.build(arrays).eval()
    with torch.no_grad():
        theirs = model(torch.from_numpy(samples.astype(np.float32)) / 16).numpy()
    np.testing.assert_allclose(plan.predict(arrays, samples), theirs, rtol=1e-4, atol=1e-6)


# Errors of a claim


class Sum(nn.Module):
    """Two parameters of two numbers, a float buffer and a counter."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
        self.register_buffer("mean", torch.zeros(1))
        self.register_buffer("count", torch.tensor(0))


@pytest.mark.parametrize(
    ("claimed", "replayed", "error"),
    [
        (([3, 0], [0, 4], [1], 2), ([3, 0], [0, 4], [1], 2), 0.0),
        (([3, 0], [0, 8], [1], 2), ([3, 0], [0, 4], [1], 2), 0.8),
        (([6, 0], [0, 4], [1], 2), ([3, 0], [0, 4], [1], 2), 0.6),
        (([3, 0], [0, 4], [3], 2), ([3, 0], [0, 4], [2], 2), 0.5),  # the larger of both counts
        (([3, 0], [0, 8], [3], 2), ([3, 0], [0, 4], [2], 2), 0.8),
        (([3, 0], [0, 4], [1], 3), ([3, 0], [0, 4], [1], 2), np.inf),
        (([0, 0], [0, 0], [1], 2), ([0, 0], [0, 0], [1], 2), 0.0),
        (([1, 0], [0, 0], [1], 2), ([0, 0], [0, 0], [1], 2), np.inf),
        (([3, 0], [0, 4], [0], 0), ([3, 0], [0, 4], [0], 0), 0.0),
        (([np.nan, 0], [0, 4], [0], 0), ([3, 0], [0, 4], [0], 0), np.inf),
    ],
)
@pytest.mark.parametrize("start", [0.0, 100.0])
def test_an_error_is_relative_to_what_the_replay_changed(
    claimed: Any, replayed: Any, error: float, start: float
) -> None:
    plan = Training(model=Sum, lr=0.1)
    before = [np.full(2, start), np.full(2, start), np.full(1, start), np.array(0)]
    one, other = ([w + np.array(g) for w, g in zip(before, given, strict=True)] for given in (claimed, replayed))
    assert plan.error(before, one, other) == pytest.approx(error)


@pytest.mark.parametrize(
    ("labels", "output", "got"),
    [
        (np.array([0, 9]), (2, 10), None),
        (np.array([0, 10]), (2, 10), "0 to 9, got 0 to 10, int64"),
        (np.array([-1, 9]), (2, 10), "0 to 9, got -1 to 9, int64"),
        (np.array([-100, 1]), (2, 2), "0 to 1, got -100 to 1, int64"),
        (np.array([0, 1], np.uint8), (2, 2), None),
        (np.array([0.0, 1.0]), (2, 2), "0 to 1, got 0.0 to 1.0, float64"),
        (np.array([0.5, 7.0]), (2, 1), None),  # a single output is a number, and any number may be its label
        (np.array([0.5, 7.0]), (2,), None),
        (np.array([0.5, 7.0]), (), None),
        (np.array([3, 2]), (2, 4, 5, 5), None),
        (np.array([4, 2]), (2, 4, 5, 5), "0 to 3, got 2 to 4, int64"),
    ],
)
def test_labels_are_columns_of_the_output(labels: np.ndarray, output: tuple[int, ...], got: str | None) -> None:
    if got is None:
        check_labels(labels, output)
    else:
        with pytest.raises(ValueError, match=f"^expected integer labels from {got}$"):
            check_labels(labels, output)


def test_labels_are_looked_at_in_every_batch() -> None:
    plan, (samples, labels) = PLANS["logistic"], slice_of(0)
    with pytest.raises(ValueError, match="expected integer labels from 0 to 9"):
        plan.train(plan.initial_arrays(0), (samples, np.where(np.arange(40) == 39, -100, labels)), 1)


# torch's global state


def state() -> tuple[int, int, bytes]:
    return torch.get_num_threads(), torch.get_deterministic_debug_mode(), torch.get_rng_state().numpy().tobytes()


@pytest.fixture
def unusual() -> Any:
    """Two threads, and warnings where torch is not deterministic."""
    threads, mode = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    torch.set_num_threads(2)
    torch.set_deterministic_debug_mode("warn")
    yield
    torch.set_num_threads(threads)
    torch.set_deterministic_debug_mode(mode)


@pytest.mark.parametrize("fails", [False, True])
def test_the_contract_holds_inside_and_leaves_nothing_behind(unusual: None, fails: bool) -> None:
    before = state()
    try:
        with contract(7):
            assert (torch.get_num_threads(), torch.get_deterministic_debug_mode()) == (1, 2)
            drawn = torch.rand(3)
            with contract(7):  # and inside itself
                assert torch.equal(torch.rand(3), drawn) and torch.get_num_threads() == 1
            assert torch.get_num_threads() == 1
            if fails:
                raise KeyError
    except KeyError:
        pass
    assert state() == before
    torch.manual_seed(7)
    assert torch.equal(torch.rand(3), drawn)


def test_one_thread_trains_at_a_time() -> None:
    inside, order = threading.Event(), []

    def other() -> None:
        inside.set()
        with contract(0):
            order.append("other")

    with contract(0):
        thread = threading.Thread(target=other)
        thread.start()
        assert inside.wait(5)
        thread.join(0.05)
        order.append("one")
    thread.join(5)
    assert order == ["one", "other"]


@pytest.mark.parametrize(("cores", "calls", "shared"), [(2, 2, True), (3, 2, True), (1, 2, False), (2, 1, False)])
def test_calls_share_the_cores_if_there_are_several_of_both(
    monkeypatch: pytest.MonkeyPatch, unusual: None, cores: int, calls: int, shared: bool
) -> None:
    monkeypatch.setattr(training, "_cores", lambda: cores)

    def where() -> tuple[bool, int, bool]:
        with contract(0):
            return (
                threading.current_thread().name.startswith("faa-steps"),
                torch.get_num_threads(),
                training._SHARED.contract,
            )

    before = state()
    assert side_by_side([where] * calls) == [(shared, 1, shared)] * calls
    assert state() == before and not training._SHARED.contract


def test_the_threads_are_kept() -> None:
    assert training._threads() is training._threads()


def test_who_draws_is_called_again_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "_cores", lambda: 2)
    threads: list[str] = []

    def draw() -> float:
        threads.append(threading.current_thread().name)
        with contract(3):
            return float(torch.rand(()))

    torch.manual_seed(3)
    drawn = float(torch.rand(()))
    assert side_by_side([draw, draw]) == [drawn, drawn]
    assert [name.startswith("faa-steps") for name in threads] == [True, True, False, False]


def test_cores_are_those_that_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2} if pid == 0 else set(), raising=False)
    assert training._cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    for count, cores in ((5, 5), (None, 1)):
        monkeypatch.setattr(os, "cpu_count", lambda count=count: count)
        assert training._cores() == cores
