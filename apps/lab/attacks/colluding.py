"""Attacks made of the attackers' own honest updates: away from their mean, or all behind one of them.

All the papers here let attackers see every honest update. Ours see what the attackers would have sent themselves, which
the papers call partial knowledge: all means and deviations below are those of the ``m`` attackers.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from apps.lab.attacks.base import Attack, Scene, like
from flwr_faa.replies.updates import Arrays, Layout

Vector = npt.NDArray[np.float64]


def flat_update(arrays: Arrays, model: Arrays) -> Vector:
    """Return ``w_i - w`` as one vector, float64; integers count steps, not a direction, and are left out."""
    pairs = zip(arrays, model, strict=True)
    return Layout.of(model).flat([np.subtract(a.astype(np.float64), w.astype(np.float64)) for a, w in pairs])


def fellows_updates(scene: Scene) -> Vector:
    """Return the honest updates of all attackers, shape (m, d)."""
    return np.stack([flat_update(arrays, scene.model) for arrays in scene.fellows])


def send(scene: Scene, update: Vector) -> list[npt.NDArray[Any]]:
    """Return ``w + update``; integer arrays are those that an honest client sends."""
    parts = Layout.of(scene.model).layers
    return [
        like(w + update[part].reshape(w.shape), h) if w.dtype.kind == "f" else h
        for w, h, part in zip(scene.model, scene.honest, parts, strict=True)
    ]


@dataclass(frozen=True)
class Alie(Attack):
    """``mu + z * sigma`` of the attackers' own honest updates, coordinate by coordinate (Baruch et al. 2019, ALIE).

    All attackers send the same vector, unless ``jitter``: then each adds ``sigma * N(0, 1)`` of its own, which is as
    far from the others as an honest update is. ``mu`` and ``sigma`` of the models are those of the updates, moved
    by ``w``.

    Parameters
    ----------
    z : float, optional
        If not given, the largest that still hides among ``n`` clients of which ``m`` attack, from that paper:
        ``s = floor(n / 2 + 1) - m`` honest clients must be won over, so
        ``z_max = PHI^-1((n - m - s) / (n - m))``. At n = 20: 0 for m = 2, .67 for m = 8.
    jitter : bool
    """

    z: float | None = None
    jitter: bool = False

    def craft(self, scene: Scene) -> list[npt.NDArray[Any]]:
        z = z_max(scene.clients, round(self.share * scene.clients)) if self.z is None else self.z
        crafted = []
        for layer in zip(*scene.fellows, strict=True):
            stack = np.stack([a.astype(np.float64) for a in layer])
            mean, deviation = stack.mean(axis=0), stack.std(axis=0)
            noise = scene.rng.normal(size=mean.shape) if self.jitter else 0.0
            crafted.append(like(mean + (z + noise) * deviation, layer[0]))
        return crafted


def z_max(clients: int, attackers: int) -> float:
    """Return the largest z of ALIE, see :class:`Alie`."""
    supporters = clients // 2 + 1 - attackers
    honest = clients - attackers
    return NormalDist().inv_cdf(min(max((honest - supporters) / honest, 0.5), 0.999))


@dataclass(frozen=True)
class Ipm(Attack):
    """Inner-product manipulation (Xie, Koyejo and Gupta, UAI 2020): ``g = -epsilon * mean``.

    Where updates are averaged, ``epsilon > (n - m) / m`` turns the step around; a small one only shortens it, but is
    near the crowd of short updates that distance-based rules like.

    Parameters
    ----------
    epsilon : float
    """

    epsilon: float = 0.1

    def craft(self, scene: Scene) -> list[npt.NDArray[Any]]:
        return send(scene, -self.epsilon * fellows_updates(scene).mean(axis=0))


@dataclass(frozen=True)
class Mimic(Attack):
    """Everybody sends what one of them trained (Karimireddy, He and Jaggi, ICLR 2022, Sec. 3.2 and App. A).

        z = direction of the largest variance of the updates;   i* = argmax_i |<z, g_i - mean>|

    Every update sent is honest; the harm is that one client's data count many times, which hurts where clients differ.
    The one who is mimicked has good evidence, the others have not. The paper finds z over the first rounds and then
    keeps i*; here both are found anew in every round, with z exact instead of by power iteration.
    """

    def craft(self, scene: Scene) -> list[npt.NDArray[Any]]:
        updates = fellows_updates(scene)
        c = updates - updates.mean(axis=0)
        # The n numbers <z, c_i> are the top eigenvector of the Gram matrix, up to a factor.
        along = np.abs(np.linalg.eigh(c @ c.T)[1][:, -1])
        return send(scene, updates[int(along.argmax())])


@dataclass(frozen=True)
class MinMax(Attack):
    """As far from the mean as the farthest two honest updates are apart (Shejwalkar and Houmansadr, NDSS 2021, Eq. 7).

        g = mean + gamma p,   largest gamma with   max_i ||g - g_i|| <= max_ij ||g_i - g_j||

    The paper's p is one of: -std, coordinate by coordinate ("inverse standard deviation"); -mean / ||mean|| ("inverse
    unit vector"); -sign(mean). It finds gamma by halving steps (Algorithm 1); each bound is a parabola in gamma, solved
    here. One attacker alone has nothing to compare with and sends what it trained.

    Parameters
    ----------
    direction : {"std", "unit", "sign"}
    """

    direction: Literal["std", "unit", "sign"] = "std"

    def craft(self, scene: Scene) -> list[npt.NDArray[Any]]:
        updates = fellows_updates(scene)
        mean = updates.mean(axis=0)
        p = perturbation(updates, self.direction)
        size = float(p @ p)
        return send(scene, mean + (self.reach(updates - mean, p, size) if size else 0.0) * p)

    def reach(self, c: Vector, p: Vector, size: float) -> float:
        """Return gamma from the centred updates, p and ||p||^2: for each i it is the larger root of a parabola."""
        along, far = c @ p, np.einsum("ij,ij->i", c, c)
        room = np.maximum(squared_distances(c).max() - far, 0.0)
        return max(0.0, float(np.min(along + np.sqrt(along**2 + size * room))) / size)


@dataclass(frozen=True)
class MinSum(MinMax):
    """MinMax with sums of squared distances instead of the largest distance (the same paper, Eq. 8).

    sum_i ||g - g_i||^2 <= max_i sum_j ||g_i - g_j||^2
    """

    def reach(self, c: Vector, p: Vector, size: float) -> float:
        """Return gamma; the centred updates sum to 0, so the left side is ``sum ||c_i||^2 + m gamma^2 ||p||^2``."""
        room = float(squared_distances(c).sum(axis=1).max() - np.sum(c**2))
        return float(np.sqrt(max(room, 0.0) / (len(c) * size)))


def perturbation(updates: Vector, direction: str) -> Vector:
    """Return the paper's p, shape (d,); 0 where there is none."""
    mean = updates.mean(axis=0)
    if direction == "std":
        return np.asarray(-updates.std(axis=0))
    if direction == "sign":
        return np.asarray(-np.sign(mean))
    if direction == "unit":
        return np.asarray(-mean / (np.linalg.norm(mean) or 1.0))
    raise ValueError(f"expected direction std, unit or sign, got {direction!r}")


def squared_distances(points: Vector) -> Vector:
    """Return the squared distances between all rows."""
    size = np.einsum("ij,ij->i", points, points)
    return np.asarray(np.maximum(size[:, None] + size - 2 * points @ points.T, 0.0))
