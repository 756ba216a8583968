"""The loss of a model's arrays, from whatever function the operator has."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from logging import getLogger
from typing import Any

import numpy as np
import numpy.typing as npt

from flwr_faa.errors import ArgumentTypeError, ArgumentValueError
from flwr_faa.replies.averaging import apply_update
from flwr_faa.replies.updates import Arrays, Batch

logger = getLogger("flwr")
Vector = npt.NDArray[np.float64]
#: As many numbers of a round's updates are kept at hand (128 MB); of more, each is subtracted when it is asked for.
AT_HAND = 2**25


class Landscape:
    """The held-out loss around a round's global model ``w``: of ``w + u`` for means u of updates.

    Parameters
    ----------
    loss : callable
        See :class:`flwr_faa.Holdout`.
    batch : Batch
    model : sequence of ndarray
        ``w``.
    server_round : int

    Attributes
    ----------
    evaluations, gradients : int
        How often the loss and its gradient were asked for.
    """

    def __init__(self, loss: Callable[..., Any], batch: Batch, model: Arrays, server_round: int) -> None:
        self.batch, self.model, self.evaluations, self.gradients = batch, model, 0, 0
        self._loss, self._asked, self._round = loss, asked_of(loss), server_round
        self._problems: set[str] = set()

    def update(self, row: int) -> npt.NDArray[Any]:
        """Return ``g_i``, shape (d,)."""
        rows = self.batch.rows
        if rows.shape[0] * rows.shape[1] <= AT_HAND:
            return np.asarray(self.batch.updates[row])
        one: npt.NDArray[Any] = np.empty((1, rows.shape[1]), rows.dtype)
        rows.read([row], slice(0, rows.shape[1]), one)
        return np.asarray(one[0])

    def at(self, step: Vector) -> float:
        """Return the loss of ``w + step``; infinite where it is not finite or cannot be had."""
        arrays = apply_update(self.model, step, self.batch.layout)
        try:
            found = self._ask(arrays)
        # The operator's function meets a model that a client had a hand in: what it raises costs that client the round.
        except Exception as error:  # noqa: BLE001
            self._warn("held-out loss", error)
            return math.inf
        return found if math.isfinite(found) else math.inf

    def start(self) -> float:
        """Return the loss of w itself; infinite where it is not finite.

        Raises
        ------
        ValueError
            If it cannot be had.
        """
        try:
            found = self._ask([np.array(w) for w in self.model])
        except Exception as error:
            raise ArgumentValueError(
                f"expected a held-out loss of the model that was broadcast, got {type(error).__name__}: {error}"
            ) from error
        return found if math.isfinite(found) else math.inf

    def slope(self, step: Vector) -> Vector | None:
        """Return the gradient of the loss at ``w + step``, shape (d,); None where there is none."""
        gradient = getattr(self._loss, "gradient", None)
        if gradient is None:
            return None
        self.gradients += 1
        try:
            found = self.batch.layout.flat(gradient(apply_update(self.model, step, self.batch.layout)))
        except Exception as error:  # noqa: BLE001 - as in `at`
            self._warn("gradient of the held-out loss", error)
            return None
        return np.asarray(found, np.float64)

    def _warn(self, what: str, error: Exception) -> None:
        """Say once a round what the operator's function raised."""
        told = f"{what} raised {type(error).__name__}: {error!s:.200}"
        if told not in self._problems:
            self._problems.add(told)
            logger.warning("faa: the %s for a model that a client had a hand in", told)

    def _ask(self, arrays: Sequence[npt.NDArray[Any]]) -> float:
        self.evaluations += 1
        return number_of(self._asked(self._loss, self._round, arrays, self.batch.layout.names))


Ask = Callable[[Callable[..., Any], int, Sequence[npt.NDArray[Any]], Sequence[str]], Any]


def asked_of(loss: Callable[..., Any]) -> Ask:
    """Return how this function wants to be called: with the arrays, or as Flower's ``evaluate_fn`` of either API.

    Raises
    ------
    TypeError
        If it takes no number of arguments that would fit.
    """
    try:
        parameters = inspect.signature(loss).parameters.values()
    except ValueError:  # a function written in C need not say
        return _plain
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    needed = sum(p.default is p.empty for p in positional)
    ways = {1: _plain, 2: _message, 3: _legacy}
    if needed == 0 and (positional or any(p.kind is p.VAR_POSITIONAL for p in parameters)):
        return _plain
    if needed not in ways:
        raise ArgumentTypeError(
            f"expected loss to be a function of (arrays), (server_round, arrays) or (server_round, arrays, config), "
            f"got one that needs {needed} arguments"
        )
    return ways[needed]


def _plain(loss: Callable[..., Any], _: int, arrays: Sequence[npt.NDArray[Any]], names: Sequence[str]) -> Any:
    return loss(list(arrays))


def _message(
    loss: Callable[..., Any], server_round: int, arrays: Sequence[npt.NDArray[Any]], names: Sequence[str]
) -> Any:
    from flwr.app import Array, ArrayRecord

    called = names or [str(i) for i in range(len(arrays))]
    return loss(server_round, ArrayRecord({name: Array(a) for name, a in zip(called, arrays, strict=True)}))


def _legacy(
    loss: Callable[..., Any], server_round: int, arrays: Sequence[npt.NDArray[Any]], names: Sequence[str]
) -> Any:
    return loss(server_round, list(arrays), {})


def number_of(found: Any) -> float:
    """Return the loss in what a function has returned: a number, ``(loss, metrics)``, or metrics with a loss.

    Raises
    ------
    ValueError
        If there is none.
    """
    if isinstance(found, tuple) and found:
        found = found[0]
    if isinstance(found, Mapping):
        named = [key for key in found if str(key).lower().endswith("loss")]
        key = "loss" if "loss" in found else named[0] if len(named) == 1 else None
        if key is None:
            raise ArgumentValueError(f'expected "loss" among the metrics, got {sorted(map(str, found))}')
        found = found[key]
    try:
        return float(found)
    except (TypeError, ValueError) as error:
        raise ArgumentValueError(f"expected the loss as a number, got {type(found).__name__}") from error
