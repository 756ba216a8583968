"""A device's answer, part by part; and every question that it does not answer, before anything is told."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flwr_faa.authority.information import of_step
from flwr_faa.errors import RunError
from flwr_faa.verification.spotcheck import commitments, enrolment, merkle
from flwr_faa.verification.spotcheck.answer import answer, opened_checkpoints
from flwr_faa.verification.spotcheck.binding.committed import CommittedBinding
from flwr_faa.verification.spotcheck.commitments import Run
from flwr_faa.verification.spotcheck.device import Device
from flwr_faa.verification.spotcheck.first_layer import sizes_of
from flwr_faa.verification.spotcheck.messages import Answer, Challenge, Enrolled
from flwr_faa.verification.wire import WireError
from tests.helpers.toy import PLANS, slice_of
from tests.verification.spotcheck.spot import BINDINGS, Node

#: Six samples in batches of four and two, twice.
SAMPLES = slice_of(0, 6)


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return enrolled(tmp_path)


def enrolled(folder: Path, binding: str = "commitments", name: str = "mlp", **more: Any) -> Node:
    node = Node(folder, name, binding=binding, data=SAMPLES, **more)
    node.plan = replace(node.plan, batch_size=4)
    node.verifier = replace(node.verifier, plan=node.plan)
    node.enrol()
    return node


def asked(node: Node, *steps: int, nonce: int = 23) -> Challenge:
    """A question about these steps of a run."""
    case = node.train(nonce)
    return replace(Challenge.from_bytes(node.verifier.challenge(case)), steps=steps)


def told(node: Node) -> dict[int, int]:
    """How many samples have how many dimensions told."""
    with closing(sqlite3.connect(node.folder / "disclosed.sqlite")) as db:
        if not db.execute("SELECT 1 FROM sqlite_master").fetchone():
            return {}  # what was refused has left no table behind
        found = [known for (known,) in db.execute("SELECT known FROM disclosed")]
    return {known: found.count(known) for known in found}


@pytest.mark.parametrize(
    ("steps", "opened"),
    [((0,), [0, 1]), ((3,), [3, 4]), ((0, 1), [0, 1, 2]), ((0, 2), [0, 1, 2, 3]), ((1, 4, 5), [1, 2, 4, 5, 6])],
)
def test_a_step_is_opened_by_the_checkpoints_at_its_ends_each_once(steps: tuple[int, ...], opened: list[int]) -> None:
    assert opened_checkpoints(steps) == opened


@pytest.mark.parametrize("binding", BINDINGS)
@pytest.mark.parametrize("steps", [(0,), (1, 3), (0, 1, 2, 3)])
def test_an_answer_is_what_was_trained_and_enrolled(binding: str, steps: tuple[int, ...], tmp_path: Path) -> None:
    node = enrolled(tmp_path, binding)
    question = asked(node, *steps)
    found = Answer.from_bytes(node.answer(question.to_bytes()))
    batches = list(node.plan.batches(6, 23))
    assert [len(batch) for batch in batches] == [4, 2, 4, 2]

    # The run.
    run = Run.find(node.plan, node.device.checkpoints, question.run)
    opened, states = opened_checkpoints(steps), run.read(range(5))
    assert [raw.tobytes() for raw in found.checkpoints] == [states[i] for i in opened]
    for i, path in [(0, found.start), *zip(opened, found.checkpoint_paths, strict=True)]:
        assert merkle.verify_path(question.run, 5, i, merkle.leaf(states[i]), path)
    assert np.array_equal(found.positions, run.trace().positions)
    assert np.array_equal(found.buffers, run.trace().buffers)

    # The samples.
    rows = sorted({int(row) for step in steps for row in batches[step]})
    there = enrolment.find(node.device, node.data, question.key)
    assert there is not None
    assert np.array_equal(found.bound, there.bound(rows)) and found.labels.tolist() == SAMPLES[1][rows].tolist()
    for row, raw, label, path in zip(rows, found.bound, found.labels, found.paths, strict=True):
        assert merkle.verify_path(question.data, 6, row, enrolment.sample_leaf(raw, label), path)

    # What is claimed of them, step by step, and what that tells.
    layer, s, known = node.verifier._layer, question.vectors((64,)), dict.fromkeys(range(6), 0)
    outputs = []
    for step in steps:
        kernels = np.concatenate([layer.fixed(run.layout.decode(states[step]).arrays[0]), s])
        outputs.append(node.data[0].reshape(6, 64)[batches[step]].astype(np.int64) @ kernels.T)
        tells = of_step(sizes_of(kernels), 16, 64, len(batches[step]), 16)
        for row in known:
            known[row] += tells.opened * (row in batches[step]) + tells.every * (binding == "encryption")
    assert np.array_equal(found.claims, np.concatenate(outputs))
    assert told(node) == {count: list(known.values()).count(count) for count in known.values()}
    assert found.proofs.shape == (len(steps), node.verifier._binding.sizes(layer)[1])


def test_an_answer_that_the_server_asked_for_clears(node: Node) -> None:
    assert not node.judge(node.train()).convicted


# What is not answered


REFUSED: dict[str, tuple[Callable[[Challenge], Challenge], str]] = {
    "other data": (lambda c: replace(c, data=bytes(32)), "^expected a challenge on the data set that this node trains"),
    "larger data": (lambda c: replace(c, data=b"\xff" * 32), "^expected a challenge on the data set that this node tr"),
    "other parameters": (lambda c: replace(c, key=bytes(32)), "^expected a challenge on the data set that this node t"),
    "another run": (lambda c: replace(c, run=bytes(32)), "^expected the root of a run that is still kept"),
    "a step before": (lambda c: replace(c, steps=(-1, 0)), "^expected steps 0 to 3, got others$"),
    "a step beyond": (lambda c: replace(c, steps=(0, 4)), "^expected steps 0 to 3, got others$"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_question_about_something_else_is_refused_and_tells_nothing(what: str, node: Node) -> None:
    change, reason = REFUSED[what]
    with pytest.raises(WireError, match=reason):
        node.answer(change(asked(node, 0, 3)).to_bytes())
    assert told(node) == {}


def test_a_folder_answers_for_the_last_enrolment_alone(node: Node) -> None:
    question, other = asked(node, 0), slice_of(1, 6)
    request = node.verifier._binding.enrolment(node.node_id, 64).to_bytes()
    enrolment.enrol(node.device, other, request)
    with pytest.raises(WireError, match=r"^expected a challenge on what was enrolled last from this device's folder, "):
        node.answer(question.to_bytes())
    enrolment.enrol(node.device, node.data, request)
    assert node.answer(question.to_bytes())


def test_weights_that_would_tell_too_much_are_refused(node: Node) -> None:
    start = node.plan.initial_arrays(0)
    start[0][3] = 4.5  # 288 over 64 weights
    _, sent = commitments.train(node.plan, start, node.data, 23, node.device.checkpoints)
    with pytest.raises(WireError, match=r"^expected a first layer whose weights' sizes sum to at most 256 in every"):
        node.answer(replace(asked(node, 0), run=sent.root).to_bytes())
    assert told(node) == {}


def test_outputs_that_no_float_holds_are_not_claimed(tmp_path: Path) -> None:
    """Weights of 24 fractional bits, and samples of 31: 250 in a unit are allowed, and outputs are beyond 2^53."""
    plan, device = replace(PLANS["logistic"], bits=24, batch_size=4), Device(tmp_path, 1.0)
    data = np.full((6, 64), 2**31 - 1), SAMPLES[1]
    server = CommittedBinding("arkworks")
    request = server.enrolment(3, 64)
    said = Enrolled.from_bytes(enrolment.enrol(device, data, request.to_bytes())).registration
    start = plan.initial_arrays(0)
    start[0][3] = 250 / 64
    _, sent = commitments.train(plan, start, data, 23, device.checkpoints)
    question = Challenge(sent.root, said.root, server.promise(3, 64)[0], (0,), bytes(32))
    with pytest.raises(WireError, match=r"^expected weights whose outputs stay below 2\^53, got larger ones$"):
        answer(plan, data, device, question.to_bytes())


def test_a_device_tells_what_its_budget_holds_and_nothing_beyond(tmp_path: Path) -> None:
    """A step of two samples tells all of them."""
    node = enrolled(tmp_path)
    question = asked(node, 1).to_bytes()
    for budget, most in ((0.99, 63), (0.5, 32)):
        with pytest.raises(WireError, match=f"^expected at most {most} of 64 dimensions of a sample to be told, got a"):
            answer(node.plan, node.data, replace(node.device, budget=budget), question)
        assert told(node) == {}
    assert answer(node.plan, node.data, node.device, question)


# What a disk has lost


def damaged(path: Path, at: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1
    path.write_bytes(raw)


def test_a_damaged_run_is_its_owners_to_mend(node: Node) -> None:
    question = asked(node, 0, 3)
    run = Run.find(node.plan, node.device.checkpoints, question.run)
    size, whole = run.layout.size, run.path.read_bytes()
    # A byte of an opened checkpoint; and of the hash of one that stays closed.
    for at in (3 * size + 5, 5 * size + 2 * 32 + 1):
        damaged(run.path, at)
        with pytest.raises(RunError, match=r"^/.*: expected the checkpoints that were written, got others$"):
            node.answer(question.to_bytes())
        run.path.write_bytes(whole)
    assert node.answer(question.to_bytes())


def test_damaged_samples_are_their_owners_to_mend(node: Node) -> None:
    question = asked(node, 0, 1)
    there = enrolment.find(node.device, node.data, question.key)
    assert there is not None
    for row in range(6):
        stored = np.load(there.path / "bound.npy")
        for by in (1, -1):
            changed = stored.copy()
            changed[row, 50] = (int(changed[row, 50]) + by) % 256
            np.save(there.path / "bound.npy", changed)
            with pytest.raises(
                RunError, match=r": expected the bound samples that were written, got others: remove it$"
            ):
                node.answer(question.to_bytes())
        np.save(there.path / "bound.npy", stored)
    assert node.answer(question.to_bytes())
