"""The client's side of the spot check: open the challenged steps of the committed run."""

from __future__ import annotations

from functools import partial

import numpy as np

from flwr_faa.crypto.backends import open_group
from flwr_faa.errors import RunError
from flwr_faa.verification.spotcheck import enrolment, merkle
from flwr_faa.verification.spotcheck.binding.step_claims import StepClaims
from flwr_faa.verification.spotcheck.commitments import Run
from flwr_faa.verification.spotcheck.device import Device
from flwr_faa.verification.spotcheck.enrolment import sample_leaf
from flwr_faa.verification.spotcheck.first_layer import IntegerLayer, sizes_of
from flwr_faa.verification.spotcheck.messages import Answer, Challenge
from flwr_faa.verification.training import Data, Training
from flwr_faa.verification.wire import WireError


def answer(plan: Training, data: Data, device: Device, request: bytes) -> bytes:
    """Evidence for a spot check.

    Raises
    ------
    WireError
        Malformed; or about another data set or run than this device has; or beyond its disclosure budget.
    """
    asked = Challenge.from_bytes(request)
    samples, labels = data
    enrolled = enrolment.find(device, data, asked.key)
    if enrolled is None or enrolled.root != asked.data:
        raise WireError("expected a challenge on the data set that this node trains on, got one on another")
    if not device.serves(enrolled.path):
        raise WireError(
            "expected a challenge on what was enrolled last from this device's folder, got one on what another client "
            "enrolled: refused; clients on one machine need a folder each"
        )
    bond = enrolled.bond
    bond.check(device, enrolled.registration(device), asked)
    run = Run.find(plan, device.checkpoints, asked.run).whole(plan, data)
    batches = list(plan.batches(len(labels), run.nonce))
    layer = IntegerLayer.of(plan, samples.shape[1:])
    if asked.steps[0] < 0 or asked.steps[-1] >= len(batches):
        raise WireError(f"expected steps 0 to {len(batches) - 1}, got others")
    chosen = [batches[i] for i in asked.steps]
    rows = np.unique(np.concatenate(chosen))
    opened = opened_checkpoints(asked.steps)
    encoded = run.read(opened)

    vectors = asked.vectors(layer.kernel)
    weights = (run.layout.decode(encoded[opened.index(step)]).arrays[layer.weight] for step in asked.steps)
    try:
        kernels = [np.concatenate([layer.quantise(weight), vectors]) for weight in weights]
    except ValueError as error:  # weights that grew without bounds: their outputs would tell too much
        raise WireError(str(error)) from error

    # Only what the run holds is asked for, so this much is disclosed: count it before anything leaves the device.
    told = [partial(layer.told, sizes_of(k), top=enrolled.top) for k in kernels]
    enrolled.spend([(b.tolist(), count) for b, count in zip(chosen, told, strict=True)], device.budget)
    try:
        claims = [
            StepClaims(layer, step, batch.tolist(), k, layer.claim(samples[batch], k))
            for step, batch, k in zip(asked.steps, chosen, kernels, strict=True)
        ]
    except ValueError as error:
        raise WireError(str(error)) from error
    trace = run.trace()
    bound, tree, checkpoints = enrolled.bound(rows.tolist()), enrolled.tree(), run.tree()
    paths = tree.paths(rows.tolist())
    stored = np.load(enrolled.path / "leaves.npy", allow_pickle=False)
    if any(sample_leaf(b, labels[r]) != stored[r].tobytes() for b, r in zip(bound, rows, strict=True)):
        raise RunError(f"{enrolled.path}: expected the bound samples that were written, got others: remove it")
    hashed = [checkpoints.leaves[i] for i in opened]
    if checkpoints.root != asked.run or hashed != [merkle.leaf(raw) for raw in encoded]:
        raise RunError(f"{run.path}: expected the checkpoints that were written, got others")
    by_row = {row: raw.tobytes() for row, raw in zip(rows.tolist(), bound, strict=True)}
    group = open_group(enrolled.group)
    proofs = bond.prove(device, group, asked, claims, samples.reshape(len(labels), enrolled.width), by_row)
    return Answer(
        start=checkpoints.paths([0])[0],
        checkpoints=np.frombuffer(b"".join(encoded), np.uint8).reshape(len(encoded), run.layout.size),
        checkpoint_paths=checkpoints.paths(opened),
        bound=bound,
        paths=paths,
        labels=labels[rows].astype(np.int64),
        claims=np.concatenate([step.claimed for step in claims]),
        proofs=proofs,
        positions=trace.positions,
        buffers=trace.buffers,
    ).to_bytes()


def opened_checkpoints(steps: tuple[int, ...]) -> list[int]:
    """Return the checkpoints before and after each step, ascending, each once."""
    return sorted({i for step in steps for i in (step, step + 1)})
