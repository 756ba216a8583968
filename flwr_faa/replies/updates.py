"""Client replies become a validated batch of updates.

Nothing here trusts a reply. A reply that is not what the round asked for is rejected with its reason and costs its
sender the round; it never raises. What remains is the matrix of updates ``g_i = w_i - w`` (FAA-DL, Eq. 2), one row for
each node, rows sorted by node id, so that nothing downstream can depend on the order of arrival. Only the replies are
kept: the subtraction is done when the updates are read (``rows``).
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from flwr_faa.errors import ArgumentValueError
from flwr_faa.replies import kernels
from flwr_faa.replies.batch import Batch, Reply
from flwr_faa.replies.dtypes import converted
from flwr_faa.replies.kernels import Floats
from flwr_faa.replies.layout import Arrays, Layout, Role
from flwr_faa.replies.rows import Differences, hashed

__all__ = [
    "Arrays", "Batch", "Floats", "Layout", "Reply", "Role", "Weighting", "blank", "complete", "plausible",
    "read_replies", "weigh", "weigh_nodes",
]  # fmt: skip

Weighting = Literal["uniform", "reported", "capped"]

#: How much an array may change, in multiples of the largest of: its own largest entry, the change that is usual among
#: the round's replies, and 1. Beyond that it is no result of training, whatever the model is.
LARGEST = {Role.PARAMETER: 1e6, Role.STATISTIC: 1e3, Role.BOOKKEEPING: 1e3}
#: More examples than this on one device is a lie or a bug.
MAX_EXAMPLES = 10**9
_NOT_FINITE = "{}: expected finite values where the broadcast is finite, got others"
#: ``capped`` weights: no client weighs more than this multiple of the round's median.
CAP = 3.0


def read_replies(
    replies: Sequence[Reply],
    model: Arrays,
    weighting: Weighting = "capped",
    names: Sequence[str] = (),
    key: int = 0,
) -> Batch:
    """Validate replies and turn them into updates.

    An entry that equals the broadcast is valid whatever it is, infinities and NaN included. Arrays in another dtype are
    converted where the model's can hold every value. Arrays that most replies leave out count as unchanged.

    Parameters
    ----------
    replies : sequence of Reply
        In any order. A node that answers twice is rejected: one of the two is forged.
    model : sequence of ndarray
        The global model ``w`` that was broadcast.
    weighting : {"capped", "uniform", "reported"}
        ``uniform``: balanced clients, as in the paper's Eq. 4. ``reported``: FedAvg's, believes ``num_examples``.
        ``capped``: reported, but none above ``CAP`` times the median.
    names : sequence of str, optional
        The arrays' names, where the API has them.
    key : int
        The round's, which no client knows; see :class:`Batch`.

    Returns
    -------
    Batch

    Raises
    ------
    ValueError
        If the model itself cannot be averaged, see :meth:`Layout.of`. No reply can cause it.
    """
    layout = Layout.of(model, names)
    by_node: dict[int, Reply] = {}
    rejected: dict[int, str] = {}
    for reply in replies:
        if reply.node_id in by_node:
            rejected[reply.node_id] = "expected one reply, got two"
        by_node[reply.node_id] = reply
    # Each reply by itself: complete, in the model's shapes and dtypes.
    models: dict[int, Arrays] = {}
    sent = _usually_sent([r for r in by_node.values() if not r.problem and len(r.arrays) == len(model)])
    for node_id, reply in by_node.items():
        try:
            if reply.problem:
                raise ArgumentValueError(reply.problem)
            models[node_id] = _complete(reply.arrays, model, layout, sent)
            _check_examples(reply.num_examples)
        except ValueError as why:
            rejected.setdefault(node_id, str(why))
    coded = {node_id: i for node_id in models if (i := _coded(by_node[node_id].arrays, model, layout)) is not None}
    if 2 * len(coded) > len(models):
        told = "expected floats, got integers from most clients: masked or quantised models cannot be compared"
        rejected = {node_id: f"{layout.called(i)}: {told}" for node_id, i in coded.items()} | rejected
    node_ids = sorted(by_node.keys() - rejected.keys())
    # The differences, and how large they are in each array.
    differences = Differences([models[node_id] for node_id in node_ids], model, layout)
    largest, prints, problems = _survey(differences, [models[node_id] for node_id in node_ids], model, layout, key)
    rejected |= {node_ids[row]: why for row, why in problems.items()}
    below = np.zeros((len(node_ids), len(model)), bool)
    for row, i in itertools.product(range(len(node_ids)), layout.variances):
        array = models[node_ids[row]][i]
        below[row, i] = bool(((array < 0) & (array != model[i])).any())
    # All replies together: what is usual bounds what is possible.
    limits = _limits(largest, model, layout)
    for row, node_id in enumerate(node_ids):
        if node_id not in rejected and (largest[row] > limits).any():
            i = int(np.argmax(largest[row] > limits))
            rejected[node_id] = (
                f"{layout.called(i)}: expected changes up to {limits[i]:.3g}, many times what is usual in this round, "
                f"got {largest[row, i]:.3g}"
            )
    for row, node_id in enumerate(node_ids):
        for i in map(int, np.flatnonzero(below[row])):
            # Without names, what most send below zero was no variance.
            if node_id not in rejected and (layout.named or 2 * below[:, i].sum() <= len(node_ids)):
                told = f"got {np.nanmin(models[node_id][i]):.3g}"
                rejected[node_id] = f"{layout.called(i)}: expected variances of at least 0, {told}"
    rows = [row for row, node_id in enumerate(node_ids) if node_id not in rejected]
    if len(rows) < len(node_ids):
        node_ids, prints = [node_ids[row] for row in rows], [prints[row] for row in rows]
        differences = Differences([models[node_id] for node_id in node_ids], model, layout)
    examples = np.array([float(by_node[i].num_examples) for i in node_ids], np.float64)  # type: ignore[arg-type]
    reasons = {node_id: f"node {node_id}: {why}" for node_id, why in rejected.items()}
    valid = tuple(models[node_id] for node_id in node_ids)
    weights = weigh(examples, weighting)
    parameters = [role is Role.PARAMETER for role in layout.roles]
    tops = largest[rows][:, parameters].max(axis=1, initial=0)
    return Batch(
        tuple(node_ids), differences, weights, layout, reasons, None, valid, key, tuple(prints), tops, tuple(model)
    )


def complete(replies: Sequence[Reply], model: Arrays, names: Sequence[str] = ()) -> dict[int, Arrays]:
    """Return the models of accepted replies by node, as :func:`read_replies` has them in ``Batch.models``."""
    layout, sent = Layout.of(model, names), _usually_sent(replies)
    return {r.node_id: _complete(r.arrays, model, layout, sent) for r in replies}


def plausible(examples: object) -> bool:
    """Return whether this can be a number of examples."""
    try:
        _check_examples(examples)
    except ValueError:
        return False
    return True


def weigh_nodes(examples: Mapping[int, Any], weighting: Weighting) -> dict[int, int | float]:
    """Return the weights of nodes that report these numbers of examples; whole numbers as integers."""
    weights = weigh(np.array([float(v) for v in examples.values()]), weighting).tolist()
    return {node: int(w) if w == int(w) else w for node, w in zip(examples, weights, strict=True)}


def weigh(examples: npt.NDArray[np.float64], weighting: Weighting) -> npt.NDArray[np.float64]:
    """Return the weights, shape (n,), of clients that report these numbers of examples."""
    if weighting == "uniform" or not len(examples):
        return np.ones_like(examples)
    return examples if weighting == "reported" else np.minimum(examples, CAP * np.median(examples))


def blank(records: Sequence[Mapping[str, npt.NDArray[Any]]]) -> dict[str, npt.NDArray[Any]]:
    """Return zeros in the form that most of these models have, to compare with where nothing was broadcast.

    Parameters
    ----------
    records : sequence of mapping
        The clients' models, name to array. Ties go to the larger form, then by its text.
    """
    forms = Counter(tuple((k, a.shape, a.dtype) for k, a in record.items()) for record in records)
    if not forms:
        return {}
    form = max(forms, key=lambda f: (forms[f], len(f), repr(f)))
    return {name: np.zeros(shape, dtype) for name, shape, dtype in form}


def _usually_sent(replies: Sequence[Reply]) -> tuple[bool, ...] | None:
    """Return which arrays most replies hold, of the replies that hold any; a tie goes to more arrays."""
    patterns = Counter(tuple(a is not None for a in r.arrays) for r in replies if _count(r.arrays))
    return max(patterns, key=lambda p: (patterns[p], sum(p), p)) if patterns else None


def _complete(
    arrays: Sequence[npt.NDArray[Any] | None], model: Arrays, layout: Layout, sent: tuple[bool, ...] | None
) -> Arrays:
    """Complete a reply's model: in the model's dtypes, and unsent arrays as they were broadcast."""
    if len(arrays) != len(model):
        raise ArgumentValueError(f"expected {len(model)} arrays, got {len(arrays)}")
    if model and not _count(arrays):
        raise ArgumentValueError(f"expected some of the model's {len(model)} arrays, got none")
    if sent is not None and tuple(a is not None for a in arrays) != sent:
        raise ArgumentValueError(
            f"expected the {sum(sent)} arrays that most replies hold, got {_count(arrays)} of the model's"
        )
    found = []
    for i, (array, w) in enumerate(zip(arrays, model, strict=True)):
        if array is None:
            found.append(w)
            continue
        if array.shape != w.shape:
            raise ArgumentValueError(f"{layout.called(i)}: expected shape {w.shape}, got {array.shape}")
        found.append(converted(array, w, layout.called(i)))
    return found


def _coded(arrays: Sequence[npt.NDArray[Any] | None], model: Arrays, layout: Layout) -> int | None:
    """Return the first float parameter of the model that a reply has changed and holds as integers, or None.

    A single number may be a counter that has no name and that somebody's averaging has made a float.
    """
    for i, (array, w) in enumerate(zip(arrays, model, strict=True)):
        if array is None or array.dtype.kind not in "iub" or w.dtype.kind != "f" or array.size <= 1:
            continue
        if layout.roles[i] is Role.PARAMETER and not np.array_equal(array, w):
            return i
    return None


def _count(arrays: Sequence[npt.NDArray[Any] | None]) -> int:
    return sum(a is not None for a in arrays)


def _survey(
    differences: Differences, models: Sequence[Arrays], model: Arrays, layout: Layout, key: int
) -> tuple[npt.NDArray[np.float64], list[int], dict[int, str]]:
    """Return each row's largest difference in each array, its fingerprint, and invalid rows with reasons.

    One walk over the columns, each piece of a reply subtracted, looked at and hashed while it is in the cache.
    """
    largest, problems = np.zeros((len(models), len(model))), dict[int, str]()
    for row, i in itertools.product(range(len(models)), range(len(model))):
        if layout.roles[i] is Role.BOOKKEEPING and row not in problems:
            try:
                largest[row, i] = _count_steps(models[row][i], model[i], i, layout)
            except ValueError as why:
                problems[row] = str(why)
    fast, turn = kernels.fastest(len(models) * layout.size), Lock()

    def look(columns: slice, part: Floats) -> None:
        for i, _, here in differences.pieces(columns):
            found = fast.largest(part[:, here])
            with turn:
                largest[:, i] = np.maximum(largest[:, i], found)  # NaN comes through

    prints = hashed(differences, range(len(models)), key, look)
    for row, i in zip(*np.nonzero(~np.isfinite(largest)), strict=True):
        problems.setdefault(int(row), _NOT_FINITE.format(layout.called(int(i))))
    largest[list(problems)] = np.inf
    return largest, prints, problems


def _count_steps(array: npt.NDArray[Any], w: npt.NDArray[Any], i: int, layout: Layout) -> float:
    """Return the largest change of a counter, an index or a mask.

    Raises
    ------
    ValueError
        If one changes to or from something that is not finite, or a counter becomes negative.
    """
    changed = (array != w) & ~(np.isnan(array) & np.isnan(w))
    # It may fall: clients that keep their own normalisation count from where they were, not from the average.
    if i in layout.counters and ((array < 0) & changed).any():
        raise ArgumentValueError(f"{layout.called(i)}: expected a counter of at least 0, got {array.min()}")
    # An extended float holds the difference of any two 64-bit integers.
    with np.errstate(invalid="ignore"):
        steps = np.abs(array[changed].astype(np.longdouble) - w[changed].astype(np.longdouble))
    if not np.isfinite(steps).all():
        raise ArgumentValueError(_NOT_FINITE.format(layout.called(i)))
    return float(steps.max(initial=0))


def _limits(largest: npt.NDArray[np.float64], model: Arrays, layout: Layout) -> npt.NDArray[np.float64]:
    """Return the largest change that each array may have, shape (number of arrays,)."""
    if not len(largest):
        return np.full(len(model), np.inf)
    # The lower median: of two replies the smaller counts, so that one outlier cannot vouch for itself.
    usual = np.sort(largest, axis=0)[(len(largest) - 1) // 2]
    limits = []
    for i, w in enumerate(model):
        own = 1.0
        if w.dtype.kind == "f":
            own = max(1.0, float(w.max(initial=1)), -float(w.min(initial=1)))
            if not np.isfinite(own):
                own = float(np.abs(w[np.isfinite(w)].astype(np.float64)).max(initial=1.0))
        limits.append(LARGEST[layout.roles[i]] * max(own, usual[i] if np.isfinite(usual[i]) else 0.0))
    return np.array(limits)


def _check_examples(value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise ArgumentValueError(f"num-examples: expected a number, got {type(value).__name__}")
    if value == 0:
        raise ArgumentValueError(
            "num-examples: expected more than 0, got 0: the client says that it trained on nothing"
        )
    if not 0 < value <= MAX_EXAMPLES:  # false for NaN too; an integer may be too long for a float, or to be printed
        got = "one beyond 64 bits" if isinstance(value, int) and value.bit_length() > 64 else f"{float(value):g}"
        raise ArgumentValueError(f"num-examples: expected a number above 0 and up to {MAX_EXAMPLES:g}, got {got}")
