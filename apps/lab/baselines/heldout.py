"""Rules for a server that holds clean samples: FLTrust and Zeno++, and :class:`flwr_faa.Holdout` in the lab."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from flwr_faa import Holdout, TrainingPlan
from flwr_faa.detection.base import Detection, Detector
from flwr_faa.detection.geometry import ranked
from flwr_faa.holdout.base import Among
from flwr_faa.replies.updates import Batch
from flwr_faa.verification.training import Data

Vector = npt.NDArray[np.float64]


class Clean(Protocol):
    """Samples, as integers, and labels that the server holds."""

    @property
    def data(self) -> Data: ...


def holdout(plan: TrainingPlan, heldout: Clean, among: Among = "everybody") -> Holdout:
    """Return held-out data for the model of a plan."""
    return Holdout.of(plan.blank(), *_seen(plan, heldout.data), loss=plan.loss, among=among)


@dataclass(frozen=True)
class FLTrust(Detector):
    """FLTrust (Cao, Fang, Liu and Gong, NDSS 2021, Algorithm 2): weights by the direction of the server's own update.

        g_0 = the server's update: it trains on its samples as a client would
        TS_i = max(0, cos(g_i, g_0));   update = sum_i TS_i ||g_0|| / ||g_i|| g_i / sum_i TS_i

    with the paper's global learning rate of 1. As a detector it suspects whom it gives no weight, as a rule it averages
    the rest. O(n d), and the training of one client.

    Parameters
    ----------
    plan : TrainingPlan
    heldout : Clean
    """

    plan: TrainingPlan
    heldout: Clean

    def detect(self, batch: Batch, seed: int = 0) -> Detection:
        """Score = 1 - the cosine."""
        scores = 1.0 - cosines(batch, self._own(batch))
        suspects = tuple(row for row in ranked(batch, scores) if scores[row] >= 1.0)
        return Detection(scores, 1.0, suspects, tuple(f"FLTrust's cosine {1 - s:.3g}" for s in scores))

    def __call__(self, batch: Batch, rows: Sequence[int]) -> Vector:
        """The mean of the rows' directions by trust, as long as the server's own update."""
        own = self._own(batch)
        trust, total = np.maximum(cosines(batch, own), 0.0), np.zeros(batch.layout.size)
        for row in rows:
            total += trust[row] * _as_long_as(own, batch, row)
        return np.asarray(total / max(float(sum(trust[row] for row in rows)), np.finfo(np.float64).tiny))

    def _own(self, batch: Batch) -> Vector:
        return server_update(self.plan, self.heldout, batch)


@dataclass(frozen=True)
class ZenoPlusPlus(Detector):
    """Zeno++ (Xie, Koyejo and Gupta, ICML 2020, Algorithm 1), with rounds: who does not descend by enough is left out.

        v = the gradient of the held-out loss at w;   u_i = ||v|| g_i / ||g_i||
        score_i = -lr <v, u_i> - rho ||u_i||^2;   accepted where score_i >= -lr epsilon

    Departures: theirs is asynchronous, each accepted gradient is a step; here those of a round are averaged. Their
    workers send single gradients, which are made as long as v; ours send the sum of many steps, so accepted updates are
    made as long as what the server's own training gives, FLTrust's ``g_0``. lr is the plan's. O(n d), one gradient and
    the training of one client.

    Parameters
    ----------
    plan : TrainingPlan
    heldout : Clean
    rho : float (default: 0.002)
    epsilon : float (default: 0.0)
        Theirs is a small positive number, relative to gradients of their model. At 0 it does not depend on the model.
    """

    plan: TrainingPlan
    heldout: Clean
    rho: float = 0.002
    epsilon: float = 0.0

    @cached_property
    def _loss(self) -> Any:
        return holdout(self.plan, self.heldout).loss

    def detect(self, batch: Batch, seed: int = 0) -> Detection:
        """Score = minus Zeno++'s."""
        v = np.asarray(batch.layout.flat(self._loss.gradient(batch.base)), np.float64)
        length = float(v @ v)
        scores = self.plan.lr * length * cosines(batch, v) + self.rho * length
        limit = self.plan.lr * self.epsilon
        suspects = tuple(row for row in ranked(batch, scores) if scores[row] > limit)
        return Detection(scores, limit, suspects, tuple(f"Zeno++'s score {-s:.3g}" for s in scores))

    def __call__(self, batch: Batch, rows: Sequence[int]) -> Vector:
        """The mean of the rows' directions, as long as the server's own update."""
        own, total = server_update(self.plan, self.heldout, batch), np.zeros(batch.layout.size)
        for row in rows:
            total += _as_long_as(own, batch, row)
        return np.asarray(total / len(rows))


def server_update(plan: TrainingPlan, heldout: Clean, batch: Batch) -> Vector:
    """Return what training on the held-out samples as a client gives, shape (d,)."""
    trained = batch.layout.flat(plan.train(batch.base, heldout.data, nonce=0)).astype(np.float64)
    return np.asarray(trained - batch.layout.flat(batch.base))


def cosines(batch: Batch, to: Vector) -> Vector:
    """Return the cosine of each update to a vector, over the parameters; 0 where one is zero."""
    there = batch.layout.parameters
    found = []
    for g in batch.updates:
        lengths = float(np.linalg.norm(g[there].astype(np.float64)) * np.linalg.norm(to[there]))
        found.append(float(g[there].astype(np.float64) @ to[there]) / lengths if lengths else 0.0)
    return np.array(found)


def _as_long_as(own: Vector, batch: Batch, row: int) -> Vector:
    g = batch.updates[row].astype(np.float64)
    length = float(np.linalg.norm(g))
    return np.asarray(g * (np.linalg.norm(own) / length)) if length else g


def _seen(plan: TrainingPlan, data: Data) -> Data:
    """Return samples as the plan's model sees them, and labels."""
    return data[0].astype(np.float32) * np.float32(plan.scale), data[1]
