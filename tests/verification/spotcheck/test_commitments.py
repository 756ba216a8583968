"""A committed run on disk: what lies where, which runs are kept, and what is found again of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from flwr_faa.verification.integer_layer import integer_first_layer
from flwr_faa.verification.plan import TrainingPlan
from flwr_faa.verification.spotcheck import commitments, merkle
from flwr_faa.verification.spotcheck.commitments import Run, parameters_of
from flwr_faa.verification.spotcheck.state import StateLayout
from flwr_faa.verification.spotcheck.trace import Trace, trace_size
from flwr_faa.verification.training import Training
from flwr_faa.verification.wire import WireError

DATA = np.random.default_rng(0).integers(0, 256, (7, 5)), np.array([0, 1, 1, 0, 1, 0, 0])


class Model(nn.Module):
    """Eleven arrays, of which six are parameters: a small buffer and a large one come first, the norm has three."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(1))
        self.register_buffer("table", torch.zeros(4097))
        self.fc1, self.norm, self.fc2 = nn.Linear(5, 3), nn.BatchNorm1d(3), nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(torch.tanh(self.norm(self.fc1(x))))


PLAN = TrainingPlan(Model, 0.1, batch_size=4, epochs=2, momentum=0.5)
START = PLAN.initial_arrays(0)


def states(plan: Training = PLAN) -> list[bytes]:
    """The run's checkpoints, without any file."""
    found, layout = [plan.start(START)], StateLayout.of(plan)
    plan.train(START, DATA, 7, integer_first_layer(DATA[0], plan.scale, plan.bits), found.append)
    return [layout.encode(state) for state in found]


@pytest.mark.parametrize("again", [False, True])
def test_a_run_is_its_checkpoints_their_hashes_and_its_trace(again: bool, tmp_path: Path) -> None:
    """With ``again`` its start alone, and the same of the rest."""
    folder, wanted, layout = tmp_path / "device" / "checkpoints", states(), StateLayout.of(PLAN)
    done, sent = commitments.train(PLAN, START, DATA, 7, folder, again)
    assert len(wanted) == 5
    assert all(np.array_equal(a, b) for a, b in zip(done, layout.decode(wanted[-1]).arrays, strict=True))
    leaves = [merkle.leaf(raw) for raw in wanted]
    assert sent.root == merkle.Tree(leaves).root
    trace = Trace.of(layout, np.stack([np.frombuffer(raw, np.uint8) for raw in wanted]), sent.root)
    assert sent.trace == trace.digest and np.array_equal(sent.moves, trace.moves())

    (path,) = folder.iterdir()
    assert path.name == f"7-{sent.root.hex()}" + (".again" if again else "")
    assert folder.stat().st_mode & 0o777 == 0o700 and path.stat().st_mode & 0o777 == 0o600
    kept = wanted[:1] if again else wanted
    assert path.read_bytes() == b"".join([*kept, *leaves]) + trace.to_bytes()
    assert path.stat().st_size == len(kept) * layout.size + 5 * (32 + trace_size(layout))

    run = Run.find(PLAN, folder, sent.root)
    assert (run.nonce, run.path) == (7, path)
    assert run.read([0]) == wanted[:1] and run.read([]) == []
    assert (run.tree().root, run.tree().leaves) == (sent.root, leaves)
    assert run.trace().digest == trace.digest
    whole = run.whole(PLAN, DATA)
    assert whole.read([3, 0, 4, 1]) == [wanted[i] for i in (3, 0, 4, 1)]
    assert (whole is run) != again


def test_a_run_of_one_step_is_read_back(tmp_path: Path) -> None:
    plan = replace(PLAN, batch_size=7, epochs=1)
    for again in (False, True):
        _, sent = commitments.train(plan, START, DATA, 7, tmp_path / str(again), again)
        run = Run.find(plan, tmp_path / str(again), sent.root)
        assert len(run.tree().leaves) == len(run.trace().positions) == 2
        assert run.whole(plan, DATA).read([0, 1]) == states(plan)


@pytest.mark.parametrize("units", [2, 3, 9])
def test_a_run_whose_checkpoints_are_small_beside_its_trace_is_read_back(units: int, tmp_path: Path) -> None:
    """Fifteen of them, of 48 bytes, 72 or 216; and 160 more for the hash and the trace of each."""
    plan = TrainingPlan(lambda: nn.Linear(5, units), 0.1, batch_size=1, epochs=2)
    for again in (False, True):
        folder = tmp_path / str(again)
        _, sent = commitments.train(plan, plan.initial_arrays(0), DATA, 7, folder, again)
        run = Run.find(plan, folder, sent.root)
        assert run.tree().root == sent.root and run.trace().digest == sent.trace
        assert len(run.tree().leaves) == len(run.trace().positions) == 15
        last = run.whole(plan, DATA).read([14])[0]
        assert merkle.leaf(last) == run.tree().leaves[14]


def test_runs_of_one_round_are_kept_side_by_side_and_older_ones_are_not(tmp_path: Path) -> None:
    def runs(nonce: int, row: int) -> bytes:
        data = DATA[0] + row, DATA[1]
        return commitments.train(PLAN, START, data, nonce, tmp_path)[1].root

    one, two = runs(7, 0), runs(7, 1)
    assert {path.name for path in tmp_path.iterdir()} == {f"7-{one.hex()}", f"7-{two.hex()}"}
    assert Run.find(PLAN, tmp_path, one).path != Run.find(PLAN, tmp_path, two).path
    later = runs(77, 0)  # a nonce that begins with the same digit is another
    assert {path.name for path in tmp_path.iterdir()} == {f"77-{later.hex()}"}
    runs(7, 0)
    with pytest.raises(
        WireError, match=rf"^expected the root of a run that is still kept, got {two.hex()[:16]}\.\.\.$"
    ):
        Run.find(PLAN, tmp_path, two)


def test_what_another_process_removed_first_is_no_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda path: [*found(path), path / "3-gone"])
    _, sent = commitments.train(PLAN, START, DATA, 7, tmp_path)
    assert Run.find(PLAN, tmp_path, sent.root).nonce == 7


@pytest.mark.parametrize("gone", [False, True])
def test_a_run_that_fails_leaves_nothing_behind_and_says_why(gone: bool, tmp_path: Path) -> None:
    class Fails(TrainingPlan):
        def train(self, *args: Any) -> Any:
            if gone:  # another process trains for another round
                for path in tmp_path.iterdir():
                    path.unlink()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        commitments.train(Fails(Model, 0.1), START, DATA, 7, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_half_written_runs_are_none(tmp_path: Path) -> None:
    _, sent = commitments.train(PLAN, START, DATA, 7, tmp_path)
    (path,) = tmp_path.iterdir()
    path.rename(tmp_path / f"x7-{sent.root.hex()}")
    with pytest.raises(WireError, match="still kept"):
        Run.find(PLAN, tmp_path, sent.root)


def test_a_run_that_is_trained_again_to_something_else_is_lost(tmp_path: Path) -> None:
    _, sent = commitments.train(PLAN, START, DATA, 7, tmp_path, again=True)
    run = Run.find(PLAN, tmp_path, sent.root)
    for other in (DATA[0] + 1, DATA[0] - 1, DATA[0][::-1]):  # roots before and after it
        with pytest.raises(
            WireError, match=r"^expected this device to train the same way twice, got another run: faa-"
        ):
            run.whole(PLAN, (other, DATA[1]))
    assert run.whole(PLAN, DATA).path.name == f"7-{sent.root.hex()}"


def test_what_is_no_buffer_is_trained() -> None:
    names = list(PLAN.template.state_dict())
    trained = [name for name, is_trained in zip(names, parameters_of(PLAN), strict=True) if is_trained]
    assert trained == [name for name, _ in PLAN.template.named_parameters()]
    assert len(names) == 11 and len(trained) == 6
