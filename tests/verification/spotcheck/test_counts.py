"""What a check tells, counted three times: by the device, by the authority, and beforehand by the server.

A server that deviates crafts what it can: the first layer of the model that it sends, and its seed.
"""

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flwr_faa.authority.information import of_step
from flwr_faa.verification.base import Case, Exhausted
from flwr_faa.verification.spotcheck import commitments
from flwr_faa.verification.spotcheck.first_layer import CALM, LARGEST, sizes_of
from flwr_faa.verification.spotcheck.messages import VECTOR_MAX, VECTORS, Answer, Challenge
from flwr_faa.verification.wire import WireError
from tests.helpers.toy import EVERY, OPENED, slice_of
from tests.verification.spotcheck.spot import Node


def train_from(node: Node, weight: np.ndarray, nonce: int = 23) -> Case:
    """A round that starts at a model with this first layer."""
    start = node.plan.initial_arrays(0)
    start[0] = weight.astype(np.float32)
    done, commitment = commitments.train(node.plan, start, node.data, nonce, node.device.checkpoints)
    return Case(nonce, node.node_id, nonce, start, done, len(node.data[1]), commitment.to_bytes())


def packed(units: int, base: int, pixels: int, bits: int) -> np.ndarray:
    """Weights by which each unit is the next few pixels, written behind one another."""
    weight = np.zeros((units, 64))
    for unit in range(units):
        for place in range(pixels):
            weight[unit, (unit * pixels + place) % 64] = base**place / 2**bits
    return weight


def device_count(node: Node) -> int:
    with closing(sqlite3.connect(node.folder / "disclosed.sqlite")) as db:
        return int(db.execute("SELECT max(known) FROM disclosed").fetchone()[0])


def test_the_three_counts_agree(tmp_path: Path) -> None:
    node = Node(tmp_path, "narrow")
    node.enrol()
    assert not node.judge(node.train()).convicted
    known = node.verifier.disclosure(node.node_id).max_rank
    need = node.verifier._need(2, 20, node.verifier.max_value)
    assert device_count(node) == known == need == OPENED + 2 * EVERY


@given(st.integers(0, 2**32), st.integers(1, 12), st.integers(0, 12), st.integers(1, 65536), st.integers(1, 50))
def test_no_weights_that_a_device_answers_for_tell_more_than_the_server_reckons_with(
    seed: int, units: int, bits: int, top: int, batch: int
) -> None:
    from torch import nn

    from flwr_faa.verification.plan import TrainingPlan
    from flwr_faa.verification.spotcheck.first_layer import IntegerLayer

    rng = np.random.default_rng(seed)
    layer = IntegerLayer.of(TrainingPlan(lambda: nn.Linear(30, units), 0.1, bits=bits))
    weight = rng.standard_normal((units, 30)) * 10.0 ** rng.uniform(-3, 1.5)
    s = Challenge(rng.bytes(32), rng.bytes(32), rng.bytes(32), (0,), rng.bytes(32)).vectors((30,))
    assert s.shape == (VECTORS, 30) and (np.abs(s) <= VECTOR_MAX).all() and (s != 0).all()
    try:
        sizes = sizes_of(np.concatenate([layer.quantise(weight), s]))
    except ValueError as refused:
        assert f"at most {LARGEST}" in str(refused)
        assert np.abs(weight).sum(1).max() > LARGEST - 30 * 2.0 ** -(bits + 1) - 1e-6
        return
    most = layer.told(layer.largest(VECTORS, VECTOR_MAX), batch, top)
    told = layer.told(sizes, batch, top)
    assert told == of_step(sizes, units, 30, batch, top)
    assert told.opened <= most.opened and told.every <= most.every


def test_pixels_packed_into_the_outputs_are_read_and_paid_for(tmp_path: Path) -> None:
    """Attack (b): powers of 32. What it reads exactly is no more than what the device counts."""
    node = Node(tmp_path, "mlp")  # 16 units of four pixels each: all 64
    node.plan = replace(node.plan, epochs=1)
    node.verifier = replace(node.verifier, plan=node.plan)
    node.enrol()
    case = train_from(node, packed(16, 32, 4, node.plan.bits))
    case = replace(case, model=node.plan.initial_arrays(0))  # what another server would not refuse to ask about
    challenge = Challenge.from_bytes(node.verifier.challenge(case))
    first = replace(challenge, steps=(0,))
    answer = Answer.from_bytes(node.answer(first.to_bytes()))
    batch = next(iter(node.plan.batches(40, case.nonce)))
    read = np.stack([answer.claims[:, :16] >> (5 * place) & 31 for place in range(4)], axis=2).reshape(len(batch), 64)
    truth = node.data[0].reshape(40, 64)[batch]
    exact = int((read == truth).all(0).sum())
    assert exact == 64
    assert device_count(node) >= exact
    # On a device that lets less than everything be known it reads nothing at all.
    strict = replace(node.device, budget=0.99)
    with pytest.raises(WireError, match="at most 63 of 64 dimensions"):
        _answer(node, strict, first)


def _answer(node: Node, device: object, challenge: Challenge) -> bytes:
    from flwr_faa.verification.spotcheck.answer import answer

    return answer(node.plan, node.data, device, challenge.to_bytes())  # type: ignore[arg-type]


def test_a_device_answers_for_no_weights_beyond_the_limit_and_counts_nothing(tmp_path: Path) -> None:
    node = Node(tmp_path, "logistic")
    node.enrol()
    case = train_from(node, packed(10, 32, 5, node.plan.bits))
    with pytest.raises(
        Exhausted, match=rf"sum to 4[0-9.e+]+ in a unit, expected at most {CALM} .*refuse above {LARGEST}"
    ):
        node.verifier.challenge(case)
    challenge = node.verifier.challenge(replace(case, model=node.plan.initial_arrays(0)))
    with pytest.raises(WireError, match=f"at most {LARGEST} in every unit, got 4228"):
        node.answer(challenge)
    assert not (tmp_path / "disclosed.sqlite").exists()


def test_neither_side_chooses_the_vectors() -> None:
    """They change with the run's root and with the seed, and with nothing that could be chosen afterwards."""
    asked = Challenge(bytes(32), bytes(32), bytes(32), (0, 1), bytes(32))
    other = bytes([1]) * 32
    s = asked.vectors((64,))
    for change in ({"run": other}, {"seed": other}):
        changed = replace(asked, **change).vectors((64,))
        assert (changed == s).mean() < 0.1
    assert (replace(asked, data=other, key=other, steps=(3,)).vectors((64,)) == s).all()
    many = np.concatenate([replace(asked, seed=bytes([i]) * 32).vectors((64,)).ravel() for i in range(200)])
    assert len(np.unique(many)) == 256 and abs(many.mean()) < 2 and abs(np.abs(many).mean() - 64.5) < 1


def test_the_largest_value_is_the_datas_and_signed(tmp_path: Path) -> None:
    node = Node(tmp_path, "logistic", data=(slice_of(0)[0] // 2, slice_of(0)[1]))
    node.enrol()
    registered = node.verifier._registered[node.node_id]
    assert registered.top == 8
    public = node.verifier.authority.public_key(node.node_id, 64).to_bytes()
    registered.check(node.node_id, public)
    with pytest.raises(ValueError, match="signature"):
        replace(registered, top=16).check(node.node_id, public)
