"""What an attack on labels has achieved, and how well scores tell attackers from honest clients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

#: False-positive rates at which a run's ROC curve is kept.
GRID = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)


def cross_entropy(outputs: npt.NDArray[Any], labels: npt.NDArray[Any]) -> float:
    """Return the mean loss of outputs before softmax, at most 1e6: an attack may have blown the model up."""
    from scipy.special import log_softmax

    right = log_softmax(outputs.astype(np.float64), axis=1)[np.arange(len(labels)), labels]
    return float(np.nan_to_num(-np.mean(right), nan=1e6, posinf=1e6).clip(max=1e6))


def by_label(
    predicted: npt.NDArray[Any], labels: npt.NDArray[Any], flips: Sequence[tuple[int, int]]
) -> dict[str, float | None]:
    """Return the accuracies of a global model under a label attack (LoMar, Sec. 4.1.5).

    Parameters
    ----------
    predicted, labels : ndarray, shape (m,)
        Of the test samples.
    flips : sequence of pairs of int
        Source and target labels.

    Returns
    -------
    dict
        ``source``, ``target``: accuracy on the samples of the source labels, which the attack wants to be taken for
        something else, and of the target labels, which it wants them to be taken for. LoMar's "target label accuracy"
        can only be the first: in its table it falls to .078 under a flip of 7 to 1, and ones lose nothing by it.
        ``other``: accuracy on labels that are neither. ``attack_success``: share of the source samples that are taken
        for their target. None where there are no such samples.
    """
    sources, targets = ([pair[side] for pair in flips] for side in (0, 1))
    hit = np.zeros(len(labels), bool)
    for source, target in flips:
        hit |= (labels == source) & (predicted == target)
    right, of_source, of_target = predicted == labels, np.isin(labels, sources), np.isin(labels, targets)
    return {
        "source": _share(right[of_source]),
        "target": _share(right[of_target]),
        "other": _share(right[~of_source & ~of_target]),
        "attack_success": _share(hit[of_source]),
    }


def scores_of(rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Measure how well a run's scores tell attackers from honest clients, and what the defence made of that.

    Parameters
    ----------
    rounds : sequence of mapping
        As in ``rounds.jsonl``, every node annotated with ``malicious``.

    Returns
    -------
    dict
        ``auc``, ``auc_worst``: area under the ROC curve of a round, mean and least over the rounds in which both kinds
        sent a valid update (scores of different rounds are not comparable). ``roc``: the mean true-positive rate at
        each of ``GRID``. ``tpr``, ``fpr``: shares of the malicious and honest updates with a score above the detector's
        threshold, over all rounds. ``tpr_left_out``, ``fpr_left_out``: and of those that were not averaged, for
        whatever reason. None where there is nothing to take a share of.
    """
    from sklearn.metrics import roc_auc_score, roc_curve

    areas, curves = [], []
    above: dict[bool, list[bool]] = {True: [], False: []}
    out: dict[bool, list[bool]] = {True: [], False: []}
    for report in rounds:
        nodes = [n for n in report["nodes"] if n["score"] is not None and n["malicious"] is not None]
        threshold = report["score_threshold"]
        for node in nodes:
            above[node["malicious"]].append(threshold is not None and node["score"] > threshold)
            out[node["malicious"]].append(not node["accepted"])
        truth = [n["malicious"] for n in nodes]
        if len(set(truth)) == 2:
            scores = [n["score"] for n in nodes]
            areas.append(float(roc_auc_score(truth, scores)))
            fpr, tpr, _ = roc_curve(truth, scores, drop_intermediate=False)
            curves.append([float(tpr[fpr <= limit].max()) for limit in GRID])
    return {
        "auc": float(np.mean(areas)) if areas else None,
        "auc_worst": min(areas, default=None),
        "roc": [list(point) for point in zip(GRID, np.mean(curves, axis=0).tolist(), strict=True)] if curves else None,
        "tpr": _share(above[True]),
        "fpr": _share(above[False]),
        "tpr_left_out": _share(out[True]),
        "fpr_left_out": _share(out[False]),
    }


def _share(of: Sequence[bool] | npt.NDArray[Any]) -> float | None:
    return float(np.mean(of)) if len(of) else None
