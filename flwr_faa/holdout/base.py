"""Who is averaged, by the loss on data that the server holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy.typing as npt

from flwr_faa import expected
from flwr_faa.errors import ArgumentValueError
from flwr_faa.holdout.losses import Landscape, asked_of
from flwr_faa.holdout.selection import Choice, choose
from flwr_faa.replies.updates import Arrays, Batch

if TYPE_CHECKING:
    import torch
    from torch import nn

Among = Literal["everybody", "suspects"]


@dataclass(frozen=True)
class Holdout:
    """Held-out data that decide who is averaged: the set of updates whose mean has a low loss on them.

    An update that is left out is not guilty: it would have raised the loss in this round. Its outcome is ``LEFT_OUT``,
    without a strike or a ban. Nobody is asked for anything, and any model will do. What does not show in the loss, it
    does not see: a backdoor, for one (``docs/how-to/holdout.md``).

    Parameters
    ----------
    loss : callable
        ``loss(arrays) -> float`` of a model's arrays, in the order in which they are broadcast; lower is better. Or
        Flower's ``evaluate_fn`` of either API: ``(server_round, arrays)``, which returns a ``MetricRecord`` with
        ``"loss"``, or ``(server_round, arrays, config)``, which returns ``(loss, metrics)``. It should give the same
        number whenever it is asked. If it has a method ``gradient(arrays) -> arrays``, many clients cost less.
    among : {"everybody", "suspects"}
        ``everybody``: decides about all whose updates are not convicted, rejected, dropped or missing.
        ``suspects``: only about suspects that were not asked for evidence, because there is no verifier or they could
        not be asked; everybody else takes part.

    Examples
    --------
    >>> import numpy as np
    >>> from flwr_faa import FAADL
    >>> holdout = Holdout(lambda arrays: float(np.square(arrays[0] - 1).sum()))
    >>> FAADL(holdout=holdout).defence.holdout.among
    'everybody'
    """

    loss: Callable[..., Any]
    among: Among = "everybody"

    def __post_init__(self) -> None:
        expected.function("loss", self.loss, "(arrays), or (server_round, arrays) as Flower's evaluate_fn")
        asked_of(self.loss)
        if self.among not in get_args(Among):
            raise ArgumentValueError(f"expected among to be one of {get_args(Among)}, got {self.among!r}")

    @classmethod
    def of(
        cls,
        model: nn.Module,
        samples: npt.NDArray[Any] | torch.Tensor,
        labels: npt.NDArray[Any] | torch.Tensor,
        *,
        loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
        among: Among = "everybody",
    ) -> Holdout:
        """Return one from a torch model and held-out samples with labels.

        Parameters
        ----------
        model : torch.nn.Module
            Of the structure that clients train; its own weights do not matter.
        samples : ndarray or Tensor, shape (m, ...)
            As the model takes them: scaled, in its dtype.
        labels : ndarray or Tensor, shape (m,)
        loss : callable, optional
            ``loss(output, labels) -> scalar tensor``; cross entropy if not given.
        among : {"everybody", "suspects"}
        """
        from flwr_faa.holdout.torch_loss import TorchLoss

        return cls(TorchLoss(model, samples, labels, loss), among)

    @property
    def notes(self) -> tuple[str, ...]:
        """What an operator must know of these data. Logged at start-up."""
        return tuple(getattr(self.loss, "notes", ()))

    def choose(
        self,
        batch: Batch,
        model: Arrays,
        kept: Sequence[int],
        open_rows: Sequence[int],
        doubted: Sequence[int] = (),
        server_round: int = 0,
    ) -> Choice:
        """Decide about some rows of a batch.

        Parameters
        ----------
        batch : Batch
        model : sequence of ndarray
            The global model that was broadcast.
        kept : sequence of int
            Rows that take part whatever the data say.
        open_rows : sequence of int
            Those to decide about.
        doubted : sequence of int
            Those of them that a detector has named.
        server_round : int
            Passed on to an ``evaluate_fn``.

        Raises
        ------
        ValueError
            If the loss cannot be had of the broadcast model itself: a mistake of the server's.
        """
        return choose(Landscape(self.loss, batch, model, server_round), kept, open_rows, doubted)
