"""The first round of many clients: real updates of a logistic regression, a tenth of them from attackers."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from apps.lab.config import load
from apps.lab.running.fleet import Fleet
from flwr_faa.client import NONCE
from flwr_faa.replies.updates import Layout

SETTING = "dataset=mnist5k model=logistic_lomar partition=lambda partition.share=0 partition.size=60 model.lr=0.1"


def updates_of(
    attack: str, clients: int
) -> tuple[npt.NDArray[np.float32], tuple[npt.NDArray[np.intp], ...], npt.NDArray[np.bool_]]:
    """Return the updates, one a row, the columns of each label, and who is an attacker."""
    share = "" if attack == "none" else " attack.share=0.1"
    fleet = Fleet.of(load(f"{SETTING} clients={clients} attack={attack}{share} strategy=fedavg"))
    model = fleet.plan.initial_arrays(fleet.config.seed)
    start = np.concatenate([w.ravel() for w in model])
    updates = np.empty((clients, start.size), np.float32)
    for partition, update in enumerate(updates):
        arrays, _, _ = fleet.client(partition).fit(list(model), {NONCE: 1})
        np.subtract(np.concatenate([a.ravel() for a in arrays]), start, out=update)
    malicious = np.zeros(clients, bool)
    malicious[sorted(fleet.malicious)] = True
    return updates, Layout.of(model).label_blocks, malicious
