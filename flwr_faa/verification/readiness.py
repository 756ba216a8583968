"""What a project must change before its first round, all of it at once: ``TrainingPlan.check``, ``faa-device check``.

The checks are those of verifier and client, tried in order. Where one fails, those that need it are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from flwr_faa.authority import LocalAuthority
from flwr_faa.verification.base import Misconfigured
from flwr_faa.verification.keeping import measure
from flwr_faa.verification.settings import check_given, data_problems
from flwr_faa.verification.spotcheck.device import Device
from flwr_faa.verification.spotcheck.first_layer import IntegerLayer
from flwr_faa.verification.spotcheck.verifier import SpotCheck
from flwr_faa.verification.training import Data, Training, check_labels


def problems(
    plan: Training, data: Data, budget: float, allow_convolution: bool, max_value: int, authority: bool
) -> list[str]:
    """Return what must change before this plan can be verified on these data by ``SpotCheck``; empty if nothing.

    Parameters
    ----------
    plan : Training
    data : tuple of ndarray
        Samples and labels of one client.
    budget : float
        Of the device, and of the authority, if there is one.
    allow_convolution, max_value
        As in :class:`~flwr_faa.SpotCheck`.
    authority : bool
        Whether the server's SpotCheck has one. Its keys tell something of every sample, which is counted.
    """
    found = list(data_problems(data))
    sound = not found
    samples: Any = None
    labels: Any = None
    if isinstance(data, (tuple, list)) and [type(a) for a in data] == [np.ndarray, np.ndarray]:
        samples, labels = data
    shape = samples.shape[1:] if samples is not None and samples.ndim > 1 else None

    def tried(check: Callable[[], Any]) -> Any:
        """Return what a check returns; if it raises, note one more thing to change and return None."""
        try:
            return check()
        except Exception as why:  # noqa: BLE001 - a project's own model or loss may raise anything
            ours = isinstance(why, (Misconfigured, ValueError))
            found.append(str(why) if ours else f"{type(why).__name__}: {why}")
            return None

    layer = tried(lambda: IntegerLayer.of(plan, shape))
    if layer is None:
        return found
    if layer.spatial and not allow_convolution:
        found.append(
            "expected a dense first layer, got a convolution: checking it discloses the image; allow_convolution=True, "
            "at the server and in this check, lets it"
        )
    trusted = LocalAuthority(budget=budget) if authority else None
    verifier = tried(lambda: SpotCheck(plan, shape, trusted, max_value=max_value, allow_convolution=True))
    if verifier is None:
        return found
    blank, start = np.zeros((2, *layer.sample_shape), np.uint8), plan.initial_arrays(0)
    if labels is not None and labels.dtype.kind in "iu" and labels.size:
        before = len(found)
        tried(lambda: check_labels(labels, plan.predict(start, blank).shape))
        sound = sound and len(found) == before
    if sound:
        last = slice(plan.smallest_batch(len(labels)))
        tried(lambda: plan.step(plan.start(start), (samples[last], labels[last]), 0, 0))
        allowed = int(budget * layer.width)
        tried(lambda: verifier.check_affordable(len(labels), max(1, int(samples.max())), allowed))
    return found


def try_plan(
    name: str, file: str, folder: str, budget: float, allow_convolution: bool, max_value: int, authority: bool
) -> tuple[list[str], str]:
    """Return the problems of a plan on the data in an ``.npz`` file; if none, how the device keeps its runs, too.

    Parameters
    ----------
    name : str
        ``module:attribute``.
    file, folder : str
        The data, and the device.
    budget, allow_convolution, max_value, authority
        As for :func:`problems`.
    """
    module, _, attribute = name.partition(":")
    try:
        plan = getattr(import_module(module), attribute)
        check_given(plan)
    except (AttributeError, ImportError, TypeError, ValueError) as why:
        return [f"expected a plan as MODULE:ATTRIBUTE, importable from here, got {name!r}: {why}"], ""
    try:
        with np.load(file, allow_pickle=False) as stored:
            data = stored["samples"], stored["labels"]
    except (BadZipFile, EOFError, KeyError, OSError, ValueError) as why:
        return [f"expected an .npz file with 'samples' and 'labels', got {file}: {why}"], ""
    found = problems(plan, data, budget, allow_convolution, max_value, authority)
    return found, "" if found else str(measure(plan, data, Device(Path(folder))))
