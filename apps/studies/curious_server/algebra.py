r"""What the server's view says of a client's samples, as linear equations, and their solution nearest to a prior.

The unknown is ``X``, shape (m, n), with one row per sample. Two kinds of equations are known of it:

* of one sample, ``<y, x_i> = v``: claims Z1 and P of a step it was opened in, and the functions of all keys. The value
  that a key opens is a number of about 2^80 in the exponent, out of reach of a discrete logarithm; the curious server
  is given it all the same, for every sample whose ciphertext it has ever seen.
* of a whole step, ``sum_i delta_i x_i^T = G``, one for every unit of the first layer and every coordinate: checkpoints
  before and after a step show the gradient G, and Z1 lets the server compute the delta. This is what a gradient says in
  federated learning without any verification too, but for the delta, which nobody else knows exactly.

Both are made orthonormal, so that LSQR converges as fast as their angles allow; it starts from the prior's mean and
finds the solution nearest to it, in the prior's metric. The prior is the identity ("exact": nothing is assumed but the
mean of public images), the covariance of public images ("PCA"), or mean and covariance of those with the sample's
label, which is in the clear, and what no pixel can be is ruled out (``constrained``). The integers themselves are for
``lattice.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy.sparse.linalg import LinearOperator, lsqr

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

#: Directions of which the equations say less than this, relative to the most, are rounding (float32 checkpoints).
SMALL = 1e-5
#: The same for the integers of claims and keys, exact but for the squares that float64 loses here.
TINY = 1e-6
#: Share of all samples in the covariance of those with one label.
SHRINK = 0.3


@dataclass
class Equations:
    """Equations known of ``m`` samples of ``n`` values.

    Attributes
    ----------
    functions : dict of int to list of ndarray
        By sample, functions y, shape (k, n), with their values appended as a last column, shape (k, n + 1).
    integers : dict of int to list of (functions, values)
        By sample, those that are exact, shapes (k, n) and (k,).
    deltas, gradients : list of ndarray
        Shapes (k, m) and (k, n): ``deltas @ X = gradients``.
    """

    m: int
    n: int
    functions: dict[int, list[Floats]] = field(default_factory=dict)
    integers: dict[int, list[tuple[Integers, Integers]]] = field(default_factory=dict)
    deltas: list[Floats] = field(default_factory=list)
    gradients: list[Floats] = field(default_factory=list)
    _blocks: dict[Prior, dict[int, tuple[Floats, Floats]]] = field(default_factory=dict, repr=False)

    def tell(self, row: int, functions: Floats, values: Floats) -> None:
        """Add functions of one sample, and their values."""
        size = np.linalg.norm(functions, axis=1, keepdims=True)
        self.functions.setdefault(row, []).append(np.hstack([functions, values[:, None]]) / size)

    def blocks(self, prior: Prior) -> dict[int, tuple[Floats, Floats]]:
        """Return each sample's functions, orthonormal in the prior's metric, and their values less the mean's. Kept."""
        if prior not in self._blocks:
            self._blocks[prior] = {}
            for row, found in self.functions.items():
                every = np.vstack(found)
                y, v = every[:, : self.n], every[:, self.n] - every[:, : self.n] @ prior.mean
                self._blocks[prior][row] = _orthonormal(y @ prior.root, v[:, None], TINY)
        return self._blocks[prior]

    def tell_step(self, rows: Sequence[int], delta: Floats, gradient: Floats) -> None:
        """Add ``delta.T @ X[rows] = gradient``, delta of shape (len(rows), k)."""
        spread = np.zeros((delta.shape[1], self.m))
        spread[:, rows] = delta.T
        self.deltas.append(spread)
        self.gradients.append(gradient)


@dataclass(frozen=True, eq=False)
class Prior:
    """Mean, and a square root of the covariance with its inverse."""

    mean: Floats
    root: Floats
    inverse: Floats

    @classmethod
    def flat(cls, public: Floats) -> Prior:
        """Nothing but the mean."""
        eye = np.eye(public.shape[1])
        return cls(public.mean(0), eye, eye)

    @classmethod
    def pca(cls, public: Floats, besides: Floats | None = None) -> Prior:
        """Return all principal components of public samples; a little spread also in those that never vary.

        ``besides`` are others, for a share of the covariance where there are few samples.
        """
        covariance = _covariance(public)
        if besides is not None:
            covariance = (1 - SHRINK) * covariance + SHRINK * _covariance(besides)
        values, vectors = np.linalg.eigh(covariance)
        spread = np.sqrt(np.maximum(values, 1e-5 * values[-1]))
        return cls(public.mean(0), (vectors * spread) @ vectors.T, (vectors / spread) @ vectors.T)

    @classmethod
    def by_label(cls, public: Floats, labels: npt.NDArray[np.int64]) -> dict[int, Prior]:
        """Return one prior for each label."""
        return {int(label): cls.pca(public[labels == label], public) for label in np.unique(labels)}


def reconstruct(view: Equations, prior: Prior, gradients: bool, iterations: int = 100) -> Floats:
    """Return the samples that fulfil all equations and are nearest to the prior's mean, shape (m, n).

    Parameters
    ----------
    view : Equations
    prior : Prior
    gradients : bool
        Whether to use the equations of whole steps.
    iterations : int
        Of LSQR, at most.
    """
    m, n = view.m, view.n
    blocks = view.blocks(prior)
    mix, known = np.zeros((0, m)), np.zeros((0, n))
    if gradients and view.deltas:
        d, g = np.vstack(view.deltas), np.vstack(view.gradients)
        mix, known = _orthonormal(d, (g - d.sum(1)[:, None] * prior.mean) @ prior.inverse, SMALL)
    ends = np.cumsum([0, *(len(blocks[row][0]) for row in blocks)])
    places = list(zip(blocks, ends[:-1], ends[1:], strict=True))

    def forward(z: Floats) -> Floats:
        z = z.reshape(m, n)
        parts = [blocks[row][0] @ z[row] for row in blocks]
        return np.concatenate([*parts, (mix @ z).ravel()])

    def backward(u: Floats) -> Floats:
        z = mix.T @ u[ends[-1] :].reshape(len(mix), n)
        for row, start, end in places:
            z[row] += u[start:end] @ blocks[row][0]
        return z.ravel()

    target = np.concatenate([*(values[:, 0] for _, values in blocks.values()), known.ravel()])
    operator = LinearOperator((len(target), m * n), matvec=forward, rmatvec=backward, dtype=np.float64)
    z = lsqr(operator, target, atol=1e-10, btol=1e-10, iter_lim=iterations)[0].reshape(m, n)
    return np.asarray(prior.mean + z @ prior.root.T)


def constrained(view: Equations, priors: Sequence[Prior], top: int, rounds: int = 3, iterations: int = 30) -> Floats:
    """Return the nearest samples with a prior for each sample, and no value below 0 or above ``top``.

    After each round what is out of range is cut off, and the next finds the solution nearest to that.
    """
    m, n = view.m, view.n
    groups = {id(p): p for p in priors}
    members = {key: [i for i, p in enumerate(priors) if id(p) == key] for key in groups}
    turned: dict[int, tuple[Floats, Floats, Floats]] = {}  # of a sample: in the prior's metric, functions, values
    for row, found in view.functions.items():
        every = np.vstack(found)
        functions, values = every[:, :n], every[:, n]
        q, turn = _orthonormal(functions @ priors[row].root, np.eye(len(functions)), TINY)
        turned[row] = q, turn @ functions, turn @ values
    mix, sums = np.zeros((0, m)), np.zeros((0, n))
    if view.deltas:
        mix, sums = _orthonormal(np.vstack(view.deltas), np.vstack(view.gradients), SMALL)
    common = np.mean([priors[i].inverse for i in range(m)], axis=0)
    ends = np.cumsum([0, *(len(turned[row][0]) for row in turned)])
    places = list(zip(turned, ends[:-1], ends[1:], strict=True))

    def spread(z: Floats) -> Floats:
        x = np.empty((m, n))
        for key, rows in members.items():
            x[rows] = z[rows] @ groups[key].root
        return x

    def forward(z: Floats) -> Floats:
        z = z.reshape(m, n)
        return np.concatenate([*(turned[row][0] @ z[row] for row in turned), ((mix @ spread(z)) @ common).ravel()])

    def backward(u: Floats) -> Floats:
        z = spread(mix.T @ (u[ends[-1] :].reshape(len(mix), n) @ common))  # roots are symmetric
        for row, start, end in places:
            z[row] += u[start:end] @ turned[row][0]
        return z.ravel()

    near = np.array([p.mean for p in priors])
    for _ in range(rounds):
        misses = [values - functions @ near[row] for row, (_, functions, values) in turned.items()]
        target = np.concatenate([*misses, ((sums - mix @ near) @ common).ravel()])
        operator = LinearOperator((len(target), m * n), matvec=forward, rmatvec=backward, dtype=np.float64)
        z = lsqr(operator, target, atol=1e-9, btol=1e-9, iter_lim=iterations)[0].reshape(m, n)
        near = np.clip(near + spread(z), 0, top)
    return near


def recovered(truth: Floats, guess: Floats, mean: Floats) -> float:
    """Return the share of the samples' variance about the public mean that a guess explains."""
    return 1.0 - float(np.sum((truth - guess) ** 2) / np.sum((truth - mean) ** 2))


def _covariance(samples: Floats) -> Floats:
    centred = samples - samples.mean(0)
    return np.asarray(centred.T @ centred / len(samples))


def _orthonormal(a: Floats, b: Floats, small: float) -> tuple[Floats, Floats]:
    """Return ``a z = b`` as ``q z = c`` with orthonormal rows, without directions that are rounding."""
    squares, left = np.linalg.eigh(a @ a.T)  # ten times as fast as a singular value decomposition of a
    keep = squares > small**2 * squares.max(initial=0.0)
    turn = left[:, keep].T / np.sqrt(squares[keep])[:, None]
    return turn @ a, turn @ b
