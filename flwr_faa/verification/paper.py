"""``paper``: FAA-DL's Algorithm 1 as printed. It covers all samples, encrypts the last row, and replays the epoch.

It hides nothing. The rows that the all-or-nothing transform leaves in the clear give the image away by themselves
(``crypto/aont.py``), and the first layer's gradient (Eq. 21) needs the inner product of every sample with every unit
vector, so the server is given keys that open the encrypted row completely. Here it says so, and does just that: the
functions wanted span all ``w`` dimensions of a row, so the keys asked for are those of the unit vectors, and everything
else follows by exact linear algebra. It binds nothing either: a client may choose its data after the challenge.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from flwr_faa import expected
from flwr_faa.authority import Authority, LocalAuthority
from flwr_faa.crypto import aont, ipfe
from flwr_faa.crypto.backends import open_group
from flwr_faa.errors import ArgumentValueError
from flwr_faa.report import DataDisclosure
from flwr_faa.verification.base import Case, Finding
from flwr_faa.verification.refusals import translated
from flwr_faa.verification.replay import judge_data
from flwr_faa.verification.settings import check_authority, check_given
from flwr_faa.verification.training import Data, Training
from flwr_faa.verification.wire import WireError, pack, unpack

REQUEST, EVIDENCE = "paper/request", "paper/evidence"


@dataclass(frozen=True)
class Paper:
    """Verify by functional decryption and replay of the whole epoch (FAA-DL, Algorithm 1).

    Parameters
    ----------
    plan : Training
        The client's.
    sample_shape : tuple of int
        Of one sample, e.g. ``(1, 28, 28)``. The last axis is the width ``w`` of a row, the others are its ``n`` rows;
        a vector is one row, and then all of it is encrypted.
    tau : float
        Relative L2 error above which a suspect is convicted; see :class:`~flwr_faa.verification.replay.Replay`.
    authority : Authority
        In process if not given.
    max_value : int
        Samples are integers from 0 to this; anything else in the ciphertext convicts.

    Raises
    ------
    ValueError
        If M is singular for this shape (3 rows), or the plan's model does something other than reshaping before its
        first layer.
    """

    plan: Training
    sample_shape: tuple[int, ...]
    tau: float = 0.05
    authority: Authority = field(default_factory=LocalAuthority)
    max_value: int = 255
    _shown: dict[int, int] = field(default_factory=dict, init=False, repr=False, compare=False)

    name = "paper"
    simulation_only = False
    notes = ("paper: this mode hides nothing; the server can read every sample of every client it verifies",)

    def __post_init__(self) -> None:
        from flwr_faa.verification.integer_layer import check_plan

        check_given(self.plan)
        check_authority(self.authority)
        expected.integer("max_value", self.max_value, least=1)
        expected.number("tau", self.tau, above=0)
        object.__setattr__(self, "sample_shape", expected.shape("sample_shape", self.sample_shape))
        aont.transform(np.zeros((1, *self._rows), np.int64))
        check_plan(self.plan, self.sample_shape)

    def challenge(self, case: Case) -> bytes:
        n, w = self._rows
        with translated():
            key, group = self.authority.public_key(case.node_id, w), self.authority.group.name
        return pack(REQUEST, {"group": group, "public_key": key.to_bytes(), "rows": n})

    def judge(self, case: Case, evidence: bytes) -> Finding:
        expected = {"clear": np.ndarray, "encrypted": bytes, "labels": np.ndarray}
        fields = unpack(evidence, EVIDENCE, expected)
        clear, labels, (n, w) = fields["clear"], fields["labels"], self._rows
        if labels.dtype != np.int64 or labels.ndim != 1 or not labels.size or clear.dtype != np.int32:
            raise WireError(f"expected int64 labels and int32 rows, got {labels.dtype} {labels.shape}, {clear.dtype}")
        if clear.shape != (len(labels), n - 1, w):
            raise WireError(f"expected rows of shape (m, {n - 1}, {w}), got {clear.shape} with {len(labels)} labels")
        try:
            ciphertexts = ipfe.ciphertexts_from_bytes(self.authority.group, fields["encrypted"])
            if {c.n for c in ciphertexts} != {w} or len(ciphertexts) != len(clear):
                raise ArgumentValueError(f"expected {len(clear)} ciphertexts of width {w}, got others")
        except ValueError as error:
            raise WireError(str(error)) from error
        self._shown[case.node_id] = max(len(labels), self._shown.get(case.node_id, 0))
        with translated():
            keys = self.authority.functional_keys(case.node_id, np.eye(w, dtype=np.int64).tolist())
        try:
            samples = self._open(keys, clear, ciphertexts)
        except ValueError as error:  # well-formed, but no ciphertext of any valid data
            return Finding(True, math.nan, self.tau, f"encrypted rows do not decrypt to samples: {error}")
        return judge_data(self.plan, self.tau, case, (samples, labels), encrypted=True)

    def disclosure(self, node_id: int) -> DataDisclosure | None:
        """Return everything, of every sample ever shown: the clear rows of the transform are enough for that."""
        shown, (n, w) = self._shown.get(node_id), self._rows
        return None if shown is None else DataDisclosure(node_id, "", shown, shown, n * w, n * w, n * w, 0, 0, w)

    def affordable(self, node_id: int) -> float:
        """Nothing is limited where nothing is hidden."""
        return math.inf

    def _open(
        self, keys: list[ipfe.FunctionalKey], clear: npt.NDArray[np.int64], ciphertexts: tuple[ipfe.Ciphertext, ...]
    ) -> npt.NDArray[np.int64]:
        """Open the samples from clear and encrypted rows: unit functionals, then M^-1."""
        n, _ = self._rows
        bound = (n - 1 + aont.LAMBDA) * self.max_value
        last = ipfe.decrypt_rows(ciphertexts, keys, bound)
        samples = aont.inverse(np.concatenate([clear.astype(np.int64), last[:, None, :]], axis=1))
        if samples.min() < 0 or samples.max() > self.max_value:
            raise ArgumentValueError(
                f"expected values from 0 to {self.max_value}, got {samples.min()} to {samples.max()}"
            )
        return samples.reshape(len(samples), *self.sample_shape)

    @property
    def _rows(self) -> tuple[int, int]:
        return math.prod(self.sample_shape[:-1]), self.sample_shape[-1]


def answer(data: Data, request: bytes) -> bytes:
    """Answer for the client: transform every sample, encrypt its last row (Algorithm 1, lines 6-9)."""
    fields = unpack(request, REQUEST, {"group": str, "public_key": bytes, "rows": int})
    samples, labels = data
    try:
        public = ipfe.PublicKey.from_bytes(open_group(fields["group"]), fields["public_key"])
        transformed = aont.transform(samples.astype(np.int64).reshape(len(samples), fields["rows"], public.n))
    except ValueError as error:
        raise WireError(str(error)) from error
    encrypted = ipfe.encrypt_rows(public, transformed[:, -1, :])
    return pack(
        EVIDENCE,
        {
            "clear": transformed[:, :-1, :].astype("<i4"),
            "encrypted": ipfe.ciphertexts_to_bytes(encrypted),
            "labels": labels.astype("<i8"),
        },
    )
