r"""Data bound by commitments: one point a sample, and a proof for each opened step. No trusted third party.

A spot check never decrypts anything. The client *claims* what its first layer did, and what it is bound to only has to
make false claims fail. A Pedersen commitment does that with one point, and nobody needs a trapdoor for it
(``crypto/pedersen.py``, ``crypto/linear.py``).

1. Enrolment: ``C_i = Com(x_i; r_i)``. The r_i are a PRF of the device's secret, so nothing of them is stored.
2. The answer holds the C_i of the opened batches, the claims (``step_claims.py``), and a proof a step.
3. ``T = H(context, step, rows, kernels, C_i, outputs)``. The weights sigma_i and rho are 128 bits each, from T. The
   proof says ``<sum_i sigma_i x_i, L^T rho> = sum_i sigma_i <rho, outputs_i>`` modulo the order.

The outputs of a convolution tell all of a sample, so there the claims are the samples themselves, from which the
server computes the outputs. The proof is an opening: ``sum_i sigma_i r_i``. Nothing more is told, in a two-hundredth
of the bytes.

**Statement proved**: the x_i in the C_i satisfy ``outputs_i = L x_i`` modulo the order. **Assumptions**: discrete
logarithms between the bases are hard; SHA-2 and SHAKE are random oracles. **Soundness**: of a false claim, at most
``t 2^-127`` if a client tries t transcripts offline. The weights are drawn by a hash, so a client may try: this is why
they have 128 bits here, where the encrypted binding, whose server draws them, needs 23. **Hiding** is
perfect but for the r_i: closed samples are as safe as the device's secret and keyed BLAKE2b, also from whoever computes
discrete logarithms, and of an opened one the claims are all that is told.

**The context** must hold whatever else the proof is for: the node, its key, its registered data, and the challenge with
the root of the run. A proof for another round, node, step or challenge then fails.

Values are integers modulo the order. 1/2 and -1 are values like any other there. What excludes them, as far as they
are excluded, is that outputs are integers of at most 53 bits, and the bound on P (``claims.check_range``).
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from flwr_faa.crypto import groups, linear, pedersen
from flwr_faa.crypto.group import Group, Point
from flwr_faa.errors import ArgumentValueError
from flwr_faa.verification.spotcheck.binding.step_claims import StepClaims
from flwr_faa.verification.spotcheck.first_layer import IntegerLayer

Bytes = npt.NDArray[np.uint8]

_TAG = b"flwr-anomaly/commitments/2\n"
_SCALAR = 32  # bytes
_PARAMETERS = struct.Struct(">QI")


def parameters(group: Group, node_id: int, width: int) -> bytes:
    """Return what a node's data are bound under: the curve, whose bases are fixed, the node and the samples' width."""
    return _TAG + _PARAMETERS.pack(node_id, width) + group.curve.encode()


def proof_size(group: Group, layer: IntegerLayer) -> int:
    """Bytes of a proof about a step of that layer."""
    return _SCALAR if layer.spatial else group.point_size + _SCALAR * (layer.width + 2)


def commit(group: Group, secret: bytes, key: bytes, rows: npt.NDArray[np.integer]) -> Bytes:
    """Commit to every sample of a data set.

    Parameters
    ----------
    group : Group
    secret : bytes
        Of the device. Whoever has it and guesses a sample can tell whether it is that sample.
    key : bytes
        SHA-256 of the parameters.
    rows : integers from 0 to ``pedersen.MAX_VALUE``, shape (m, n)

    Returns
    -------
    uint8, shape (m, point_size)

    Raises
    ------
    ValueError
        If the rows are not such integers.
    """
    points = pedersen.commit_rows(group, rows, blindings(group, secret, key, range(len(rows)), rows))
    return np.frombuffer(groups.encode(group, points), np.uint8).reshape(len(rows), group.point_size)


def blindings(
    group: Group, secret: bytes, key: bytes, numbers: Sequence[int], rows: npt.NDArray[np.integer]
) -> list[int]:
    """Return the r_i: keyed BLAKE2b of the parameters, the row's number and the sample itself, modulo the order.

    The sample is in it, so that no r is ever used for two samples, even if two data sets are bound under one key.
    """
    flat = rows.astype("<i8")
    return [
        int.from_bytes(
            hashlib.blake2b(
                key + struct.pack("<Q", n) + row.tobytes(), key=secret, digest_size=64, person=b"faa/blinding"
            ).digest(),
            "big",
        )
        % group.order
        for n, row in zip(numbers, flat, strict=True)
    ]


def prove(
    group: Group, secret: bytes, key: bytes, context: bytes, claims: Sequence[StepClaims],
    samples: npt.NDArray[np.integer], bound: Mapping[int, bytes],
) -> Bytes:  # fmt: skip
    """Prove every step's claims.

    Parameters
    ----------
    group, secret, key
        As for :func:`commit`.
    context : bytes
        What the proofs are for, see above.
    claims : sequence of StepClaims
    samples : integers, shape (m, n)
        All samples of the data set.
    bound : mapping
        Row to encoded commitment, for all rows of the claims.

    Returns
    -------
    uint8, shape (steps, proof_size)

    Raises
    ------
    ValueError
        If a claim is not true, or these are not the samples' commitments in the group.
    """
    proofs = []
    for step in claims:
        rows = samples[step.rows]
        r = blindings(group, secret, key, step.rows, rows)
        if step.layer.spatial:
            sigma = _sigma(_transcript(context, step, bound), step)
            folded = sum(s * b for s, b in zip(sigma, r, strict=True)) % group.order
            proofs.append(folded.to_bytes(_SCALAR, "big"))
            continue
        points = dict(zip(step.rows, _decode(group, step.rows, bound), strict=True))
        proofs.append(linear.prove(_statement(group, context, step, points, bound), rows, r).to_bytes(group))
    return np.frombuffer(b"".join(proofs), np.uint8).reshape(len(proofs), -1)


def equations(
    group: Group, context: bytes, claims: Sequence[StepClaims], bound: Mapping[int, bytes], proofs: Bytes
) -> list[linear.Equation | None]:
    """Return for every step what proves its claims if it holds (``linear.hold``); None for what is no proof already.

    Raises
    ------
    ValueError
        If what should be commitments or proofs are not: points off the curve, outside the group or its identity, and
        scalars that are not below the order.
    """
    rows = sorted({row for step in claims for row in step.rows})
    points = dict(zip(rows, _decode(group, rows, bound), strict=True))
    return [
        _equation(group, context, step, points, bound, raw.tobytes()) for raw, step in zip(proofs, claims, strict=True)
    ]


def _equation(
    group: Group,
    context: bytes,
    step: StepClaims,
    points: Mapping[int, Point],
    bound: Mapping[int, bytes],
    proof: bytes,
) -> linear.Equation | None:
    if not step.layer.spatial:
        read = linear.Proof.from_bytes(group, proof, step.layer.width)
        return linear.equation(_statement(group, context, step, points, bound), read)
    folded = int.from_bytes(proof, "big")
    if folded >= group.order:
        raise ArgumentValueError("expected scalars below the group's order, got a larger one")
    sigma = _sigma(_transcript(context, step, bound), step)
    shown = step.claimed.reshape(len(step.rows), -1)
    return linear.opening(group, [points[row] for row in step.rows], sigma, shown, folded)


def _decode(group: Group, rows: Sequence[int], bound: Mapping[int, bytes]) -> list[Point]:
    return groups.decode(group, b"".join([bound[row] for row in rows]))


def _transcript(context: bytes, step: StepClaims, bound: Mapping[int, bytes]) -> bytes:
    """Return a hash of everything that is said about a step."""
    said: list[bytes | memoryview] = [
        context,
        struct.pack(">Q", step.step),
        np.array(step.rows, "<i8").tobytes(),
        np.ascontiguousarray(step.kernels, "<i8").data,
        b"".join([bound[row] for row in step.rows]),
        np.ascontiguousarray(step.claimed, "<i8").data,
    ]
    digest = hashlib.sha256(_TAG)
    for part in said:
        digest.update(struct.pack(">Q", memoryview(part).nbytes))
        digest.update(part)
    return digest.digest()


def _sigma(transcript: bytes, step: StepClaims) -> list[int]:
    return linear.challenge_weights(transcript, b"sigma", len(step.rows))


def _statement(
    group: Group, context: bytes, step: StepClaims, points: Mapping[int, Point], bound: Mapping[int, bytes]
) -> linear.Statement:
    """Fold a step's claims by weights that are a hash of everything said about it."""
    transcript = _transcript(context, step, bound)
    sigma, rho = _sigma(transcript, step), linear.challenge_weights(transcript, b"rho", len(step.kernels))
    y, value = step.fold(sigma, rho)
    return linear.Statement(group, [points[row] for row in step.rows], sigma, y, value, transcript)
