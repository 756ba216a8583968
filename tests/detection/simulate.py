"""Batches for detection tests: made-up ones, and one real round of 20 clients on scikit-learn's digits, in numpy."""

from functools import cache
from statistics import NormalDist

import numpy as np
from sklearn.datasets import load_digits

from flwr_faa.replies.updates import Batch, Layout, Reply, read_replies

ATTACKS = ("gauss .1", "gauss .5", "flip weights", "flip update", "alie z_max", "alie 1.5", "alie 1.5 jittered")


def batch_of(updates, shapes=None, ids=None) -> Batch:
    """Updates as a batch; ids decide the order of the rows, as they do in a round."""
    updates = np.asarray(updates)
    n, d = updates.shape
    ids = list(range(n)) if ids is None else list(ids)
    rows = np.argsort(ids)
    shapes = shapes or ((d,),)
    layout = Layout(tuple(shapes), (updates.dtype,) * len(shapes))
    return Batch(tuple(sorted(ids)), updates[rows], np.ones(n), layout, {})


def crowd(n=20, seed=0, dtype=np.float32):
    """Updates of a classifier with 3 labels and 4 inputs behind a hidden layer; no attacker."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=35) + 0.5 * rng.normal(size=(n, 35))).astype(dtype)


CROWD_SHAPES = ((4, 5), (3, 4), (3,))


@cache
def honest_round(how: str, seed: int):
    """Model, and what 20 honest clients (72 images, MLP 64-32-10, one epoch of batches of 50) make of it."""
    rng = np.random.default_rng(seed)
    x, y = load_digits(return_X_y=True)
    x, order = (x / 16).astype(np.float32), rng.permutation(len(y))[: 20 * 72]
    if how == "iid":
        parts = [order[i::20] for i in range(20)]
    else:
        shards = np.array_split(order[np.argsort(y[order], kind="stable")], 40)
        parts = [np.concatenate([shards[a], shards[b]]) for a, b in rng.permutation(40).reshape(20, 2)]
    model = [rng.uniform(-1, 1, s).astype(np.float32) / np.float32(8) for s in ((32, 64), (32,), (10, 32), (10,))]
    return model, [train(model, x[p], y[p], rng) for p in parts]


def train(model, x, y, rng):
    w1, b1, w2, b2 = (w.copy() for w in model)
    lr = np.float32(0.1)
    order = rng.permutation(len(y))
    for k in range(0, len(y), 50):
        rows = order[k : k + 50]
        hidden = np.maximum(x[rows] @ w1.T + b1, 0)
        score = hidden @ w2.T + b2
        p = np.exp(score - score.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        p[np.arange(len(rows)), y[rows]] -= 1
        p /= len(rows)
        back = (p @ w2) * (hidden > 0)
        for w, g in ((w1, back.T @ x[rows]), (b1, back.sum(0)), (w2, p.T @ hidden), (b2, p.sum(0))):
            w -= lr * g
    return [w1, b1, w2, b2]


def attacked_round(attack: str, share: float, how: str, seed: int) -> tuple[Batch, set[int]]:
    """A round of which ``share`` is malicious; the batch and the rows of the attackers."""
    model, trained = honest_round(how, seed)
    rng = np.random.default_rng(seed + 1000)
    flat = np.array([np.concatenate([w.ravel() for w in t]) for t in trained])
    w = np.concatenate([w.ravel() for w in model])
    bad = rng.permutation(20)[: round(20 * share)]
    own, n, m = flat[bad] - w, 20, len(bad)
    if m == 0:
        pass
    elif attack.startswith("gauss"):
        own = own + rng.normal(0, float(attack.split()[1]), own.shape)
    elif attack == "flip weights":
        own = -flat[bad] - w
    elif attack == "flip update":
        own = -own
    elif attack.startswith("alie"):
        mean, std = own.mean(axis=0), own.std(axis=0)
        most = NormalDist().inv_cdf((n - m - (n // 2 + 1 - m)) / (n - m))
        own = np.tile(mean - (most if "max" in attack else 1.5) * std, (m, 1))
        own += "jittered" in attack and rng.normal(size=own.shape) * std * 0.5
    flat[bad] = w + own
    ids = rng.permutation(10**6)[:20].tolist()
    ends = np.cumsum([a.size for a in model])[:-1]
    replies = [
        Reply(
            i, [part.reshape(a.shape) for part, a in zip(np.split(f.astype(np.float32), ends), model, strict=True)], 72
        )
        for i, f in zip(ids, flat, strict=True)
    ]
    batch = read_replies(replies, model)
    return batch, {batch.node_ids.index(ids[i]) for i in bad}
