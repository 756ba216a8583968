"""What a step changes is measured, all of it, and no step that stays closed can have changed much."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apps.lab.clients.spotcheck_kicks import at_step, push, retrace, set_buffer, spin
from apps.lab.clients.spotcheck_tampering import Tampered
from flwr_faa.verification.base import Case, Finding
from flwr_faa.verification.plan import TrainingPlan
from flwr_faa.verification.spotcheck import commitments, merkle
from flwr_faa.verification.spotcheck.commitments import Run, StateLayout
from flwr_faa.verification.spotcheck.first_layer import LARGEST
from flwr_faa.verification.spotcheck.messages import Challenge, Commitment
from flwr_faa.verification.spotcheck.trace import Trace, largest
from flwr_faa.verification.spotcheck.verifier import SpotCheck
from flwr_faa.verification.training import Checkpoint
from flwr_faa.verification.wire import WireError
from tests.helpers.toy import CNN, PLANS, slice_of
from tests.verification.spotcheck.spot import SHAPE, Node

#: Twenty steps an epoch: one that nobody draws is easy to find.
SMALL = {"mlp": replace(PLANS["mlp"], batch_size=2), "cnn": replace(PLANS["cnn"], batch_size=2)}
Change = Callable[[Checkpoint], Checkpoint]


def enrolled(name: str, folder: Path) -> Node:
    node = Node(folder, name)
    node.plan = SMALL[name]
    node.verifier = SpotCheck(
        node.plan, SHAPE, node.verifier.authority, steps=0, max_value=16, allow_convolution=name == "cnn"
    )
    node.enrol()
    return node


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Node]:
    return {name: enrolled(name, tmp_path_factory.mktemp(name)) for name in SMALL}


@pytest.fixture(autouse=True)
def nothing_is_left_open(nodes: dict[str, Node]) -> Iterator[None]:
    yield
    for node in nodes.values():
        node.verifier._pending.clear()


def kicked(node: Node, step: int, change: Change, nonce: int = 5) -> Case:
    return node.train(nonce, plan=Tampered.of(node.plan, kick=at_step(step, change)))


def update_of(case: Case) -> list[np.ndarray]:
    return [a.astype(np.float64) - w for a, w in zip(case.claimed, case.model, strict=True)]


def length(node: Node, arrays: list[np.ndarray]) -> float:
    return float(np.sqrt(sum(np.sum(np.square(arrays[i])) for i in StateLayout.of(node.plan).parameters)))


# What is measured


@pytest.mark.parametrize("name", SMALL)
def test_a_trace_is_what_the_checkpoints_say(name: str, nodes: dict[str, Node]) -> None:
    node = nodes[name]
    case = node.train()
    steps = node.plan.steps(40)
    layout = StateLayout.of(node.plan)
    sent = Commitment.from_bytes(case.commitment, steps, layout.measures)
    run = Run.find(node.plan, node.device.checkpoints, sent.root)
    trace, raw = run.trace(), [np.frombuffer(r, np.uint8) for r in run.read(range(steps + 1))]
    assert run.tree().root == sent.root and trace.digest == sent.trace
    assert trace.differs(Trace.of(layout, np.stack(raw), sent.root)) is None
    rows = [0, 7, 8, steps]
    own = Trace.of(layout, np.stack([raw[i] for i in rows]), sent.root)
    assert Trace(trace.positions[rows], trace.buffers[rows]).differs(own) is None

    states = [layout.decode(r.tobytes()) for r in raw]
    flat = np.array([np.concatenate([s.arrays[i].ravel() for i in layout.parameters]) for s in states], np.float64)
    moved = np.linalg.norm(np.diff(flat, axis=0), axis=1)
    assert np.abs(np.log(sent.moves[:, 0] / moved)).max() < 0.5  # 32 projections: 12% is one standard deviation
    if layout.coast:
        kept = np.array([np.concatenate([m.ravel() for m in s.momentum]) for s in states], np.float64)
        gradients = kept[1:] - node.plan.momentum * kept[:-1]
        wanted = node.plan.lr / (1 - node.plan.momentum) * np.linalg.norm(gradients, axis=1)
        assert np.abs(np.log(sent.moves[:, 1] / wanted)).max() < 0.5  # a step moves v by its own gradient alone
    if layout.buffer_count:
        assert layout.buffer_count == 9 and layout.variances.sum() == 4
        assert (trace.buffers[:, -1] == np.arange(steps + 1)).all()


@settings(max_examples=60)
@given(st.integers(1, 3000), st.integers(1, 30), st.integers(0, 2**32), st.sampled_from([1e-30, 1.0, 1e30]))
def test_projections_keep_lengths_whatever_the_direction(size: int, heavy: int, seed: int, scale: float) -> None:
    """Of few coordinates or many, small or large: nobody can choose a direction that looks short before the root is."""
    rng = np.random.default_rng(seed)
    layout = layout_of(size)
    moved = np.zeros(size, np.float32)
    moved[rng.permutation(size)[:heavy]] = scale * rng.standard_normal(min(heavy, size))
    states = np.stack([np.zeros(4 * size, np.uint8), moved.view(np.uint8)])
    (seen,) = Trace.of(layout, states, rng.bytes(32)).moves()
    true = np.linalg.norm(moved.astype(np.float64))
    assert 0.35 * true <= seen[0] <= 1.8 * true


def layout_of(size: int) -> StateLayout:
    from torch import nn

    return StateLayout.of(TrainingPlan(model=lambda: nn.Linear(size, 1, bias=False), lr=0.1))


# Kicks


def kick_of(name: str, node: Node) -> tuple[Change, str]:
    layout, update = StateLayout.of(node.plan), update_of(node.train(5))
    first = [np.where(i == layout.parameters[0], u, 0.0) for i, u in enumerate(update)]
    frozen = {
        "momentum, -8 times the update": (spin(layout, update, -9.0), ""),
        "parameters, -8 times the update": (push(layout, update, -9.0), ""),
        "parameters, as much as the update": (push(layout, update, -1.0), ""),
        "the first layer alone": (push(layout, first, -2.0), ""),
        "a negative variance": (set_buffer(node.plan, "running_var", -7e6, None), ""),
        "a negative variance in one channel": (set_buffer(node.plan, "running_var", -1e-3, 2), "variance is negative"),
        "a variance that is too large": (set_buffer(node.plan, "running_var", 7e6, None), ""),
        "a variance of one channel": (set_buffer(node.plan, "running_var", 300.0, 1), ""),
        "a mean of one channel": (set_buffer(node.plan, "running_mean", -50.0, 3), ""),
        "a negative counter": (set_buffer(node.plan, "num_batches_tracked", -(2**63), None), ""),
        "a counter that is ahead": (set_buffer(node.plan, "num_batches_tracked", 1000, None), ""),
        "a mean that is none": (set_buffer(node.plan, "running_mean", np.nan, 0), "finite"),
    }
    return frozen[name]


KICKS = {
    "mlp": [
        "momentum, -8 times the update", "parameters, -8 times the update", "parameters, as much as the update",
        "the first layer alone",
    ],
    "cnn": [
        "parameters, -8 times the update", "the first layer alone", "a negative variance",
        "a negative variance in one channel", "a variance that is too large", "a variance of one channel",
        "a mean of one channel", "a negative counter", "a counter that is ahead", "a mean that is none",
    ],
}  # fmt: skip


@pytest.mark.parametrize(("name", "kick"), [(name, kick) for name, kicks in KICKS.items() for kick in kicks])
def test_a_kick_in_any_step_is_found_though_none_is_drawn(name: str, kick: str, nodes: dict[str, Node]) -> None:
    node = nodes[name]
    change, reason = kick_of(kick, node)
    for step in (0, 1, 3, 11, node.plan.steps(40) - 2):
        case = kicked(node, step, change)
        if not Commitment_is_well_formed(node, case):
            continue  # not even a commitment: no evidence
        try:
            finding = node.judge(case)
        except WireError as refused:  # weights that no device answers for: no evidence
            node.verifier._pending.clear()
            assert f"sum to at most {LARGEST}" in str(refused) and "-8 times" in kick
            continue
        assert finding.convicted and reason in finding.reason, (step, finding)


def Commitment_is_well_formed(node: Node, case: Case) -> bool:  # noqa: N802
    try:
        Commitment.from_bytes(case.commitment, node.plan.steps(40), StateLayout.of(node.plan).measures)
    except WireError:
        return False
    return True


def test_a_kick_that_is_small_in_one_measure_is_seen_in_the_other(nodes: dict[str, Node]) -> None:
    """Pushed and spun back, so that v stays; or pushed just before the end and to coast back after it."""
    node = nodes["mlp"]
    layout, update = StateLayout.of(node.plan), update_of(node.train(5))

    def both(checkpoint: Checkpoint) -> Checkpoint:
        return spin(layout, update, 2.0)(push(layout, update, -2.0)(checkpoint))

    case = kicked(node, node.plan.steps(40) - 2, both)
    moves = Commitment.from_bytes(case.commitment, node.plan.steps(40), 2).moves
    assert moves[:, 1].argmax() != node.plan.steps(40) - 2
    assert node.judge(case).convicted


def test_momentum_of_what_is_not_trained_is_state_too(tmp_path: Path) -> None:
    from torch import nn

    def frozen() -> nn.Module:
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.Linear(4, 10))
        model[1].bias.requires_grad = False
        return model

    plan = TrainingPlan(model=frozen, lr=0.1, batch_size=4, momentum=0.9, scale=1 / 16)
    node = Node(tmp_path)
    node.plan, node.verifier = plan, SpotCheck(plan, SHAPE, node.verifier.authority, steps=0, max_value=16)
    node.enrol()
    assert not node.judge(node.train()).convicted

    def change(checkpoint: Checkpoint) -> Checkpoint:
        return replace(checkpoint, momentum=tuple(m + (m.shape == (4,)) * np.float32(5) for m in checkpoint.momentum))

    assert node.judge(kicked(node, 4, change)).convicted


# Lies about the trace


def lied(node: Node, change: Change, step: int, lie: Callable[[Trace], Trace]) -> tuple[Case, Run]:
    """Kicked, and committed to another trace than the run's."""
    case = kicked(node, step, change)
    sent = Commitment.from_bytes(case.commitment, node.plan.steps(40), StateLayout.of(node.plan).measures)
    run = Run.find(node.plan, node.device.checkpoints, sent.root)
    return replace(case, commitment=retrace(run, lie(run.trace()), sent.root).to_bytes()), run


def smoothed(step: int, rows: int) -> Callable[[Trace], Trace]:
    """A trace in which the kick of a step is spread over so many steps."""

    def lie(trace: Trace) -> Trace:
        positions = np.array(trace.positions)
        for i in range(step + 1, step + rows):
            share = (i - step) / rows
            positions[i] = (1 - share) * trace.positions[step] + share * trace.positions[step + rows]
        return replace(trace, positions=positions)

    return lie


def test_a_kick_whose_trace_is_smoothed_is_found_in_every_checkpoint_that_lies(nodes: dict[str, Node]) -> None:
    """It is not the longest step any more; but each checkpoint that lies convicts where it is opened."""
    node = nodes["mlp"]
    layout, update, steps = StateLayout.of(node.plan), update_of(node.train(5)), node.plan.steps(40)
    opened, lies, by = {8}, set(range(8, 28)), 1.0
    while opened & lies:  # less and less, until none of the steps that are always opened lies
        case, _ = lied(node, push(layout, update, -by), 8, smoothed(8, 20))
        opened, by = largest(Commitment.from_bytes(case.commitment, steps, 2).moves, 2) | {steps - 1}, 0.8 * by
    assert by > 0.05
    verdicts = {step: judged_at(node, case, tuple(sorted({*opened, step}))).convicted for step in range(steps)}
    assert {step for step, convicted in verdicts.items() if convicted} == lies  # twenty lies for the price of one kick


def judged_at(node: Node, case: Case, steps: tuple[int, ...]) -> Finding:
    """As if the server had drawn these steps."""
    node.verifier.challenge(case)
    bound = node.verifier._pending[case.node_id]
    asked = replace(bound.challenge, steps=steps)
    node.verifier._pending[case.node_id] = replace(bound, challenge=asked)
    return node.verifier.judge(case, node.answer(asked.to_bytes()))


def test_a_trace_is_what_was_committed_to_and_possible(nodes: dict[str, Node]) -> None:
    node = nodes["cnn"]

    def shifted(trace: Trace) -> Trace:
        buffers = np.array(trace.buffers)
        buffers[5, 0] += 1e-4
        return replace(trace, buffers=buffers)

    case, _ = lied(node, lambda c: c, 3, lambda t: replace(t, positions=t.positions * np.float32(0.5)))
    assert "not what its trace says" in node.judge(case).reason
    case, _ = lied(node, lambda c: c, 3, shifted)
    challenge = Challenge.from_bytes(node.verifier.challenge(case))
    finding = node.verifier.judge(case, node.answer(challenge.to_bytes()))
    assert finding.convicted == bool({4, 5} & set(challenge.steps))  # a lie about what nobody opens, and nothing gained
    case = node.train(5)
    sent = Commitment.from_bytes(case.commitment, node.plan.steps(40), 2)
    finding = node.judge(replace(case, commitment=replace(sent, trace=bytes(32)).to_bytes()))
    assert finding.convicted and "not the one committed to" in finding.reason


def test_a_small_channel_does_not_hide_behind_a_large_one_in_an_opened_step(nodes: dict[str, Node]) -> None:
    node = nodes["cnn"]
    model = [np.array(a) for a in node.plan.initial_arrays(0)]
    names = list(node.plan.blank().state_dict())
    at = names.index("norm.running_var")
    model[at][0] = 1e6  # one channel whose steps are a million times those of the others
    last = node.plan.steps(40) - 1

    def change(checkpoint: Checkpoint) -> Checkpoint:
        return set_buffer(node.plan, "running_var", float(checkpoint.arrays[at][1]) * 1.5, 1)(checkpoint)

    plan = Tampered.of(node.plan, kick=at_step(last, change))
    for trained, convicted in ((node.plan, False), (plan, True)):
        done, sent = commitments.train(trained, model, node.data, 9, node.device.checkpoints)
        case = Case(9, node.node_id, 9, model, done, 40, sent.to_bytes())
        assert node.judge(case).convicted == convicted


def test_large_buffers_stay_as_they_are(tmp_path: Path) -> None:
    import torch

    class Masked(CNN):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mask", torch.ones(70, 70))

    node = Node(tmp_path, "cnn")
    plan = replace(PLANS["cnn"], model=Masked)
    node.plan = plan
    node.verifier = SpotCheck(plan, SHAPE, node.verifier.authority, steps=0, max_value=16, allow_convolution=True)
    node.enrol()
    assert StateLayout.of(plan).buffer_count == 9
    assert not node.judge(node.train()).convicted
    case = kicked(node, 0, set_buffer(plan, "mask", 0.0, None))
    finding = node.judge(case)
    assert finding.convicted and "too large a buffer" in finding.reason


def test_checkpoints_of_a_run_are_where_they_were(tmp_path: Path) -> None:
    plan = SMALL["cnn"]
    start = plan.initial_arrays(0)
    _, sent = commitments.train(plan, start, slice_of(0), 3, tmp_path)
    run = Run.find(plan, tmp_path, sent.root)
    encoded: list[Any] = run.read([0])
    assert merkle.leaf(encoded[0]) == merkle.leaf(StateLayout.of(plan).encode(plan.start(start)))
